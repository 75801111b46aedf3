"""What heads show of an utterance, by what must hold of it."""

from __future__ import annotations

import pytest
import torch

from asrtts.asr.heads.attention import Config as Attention
from asrtts.asr.heads.attention import Head as AttentionHead
from asrtts.asr.heads.ctc import Config as Ctc
from asrtts.asr.heads.ctc import Head as CtcHead
from asrtts.asr.heads.transducer import Config as Transducer
from asrtts.asr.heads.transducer import Head as TransducerHead

DIM, VOCAB, FRAMES = 16, 7, 9
TOKENS = torch.tensor([[3, 1, 3, 5]])


def heads() -> dict[str, torch.nn.Module]:
    torch.manual_seed(4)
    return {
        "ctc": CtcHead(Ctc(), DIM, VOCAB).eval(),
        "attention": AttentionHead(Attention(layers=2, attention_heads=2, feedforward=32), DIM, VOCAB).eval(),
        "transducer": TransducerHead(Transducer(predictor_dim=DIM, joiner_dim=DIM), DIM, VOCAB).eval(),
    }


@pytest.mark.parametrize("name", ["ctc", "attention", "transducer"])
@torch.no_grad()
def test_rows_are_tokens_and_values_are_posteriors(name: str) -> None:
    picture = heads()[name].picture(torch.randn(1, FRAMES, DIM), TOKENS)
    assert picture.values.shape == (len(picture.rows), FRAMES)
    assert float(picture.values.min()) >= 0 and float(picture.values.max()) <= 1 + 1e-5
    rows = {"ctc": [0, 3, 1, 5], "attention": [3, 1, 3, 5], "transducer": [None, 3, 1, 3, 5]}
    assert picture.rows == rows[name]


@torch.no_grad()
def test_every_alignment_passes_each_diagonal_of_the_lattice_once() -> None:
    picture = heads()["transducer"].picture(torch.randn(1, FRAMES, DIM), TOKENS)
    for d in range(FRAMES + TOKENS.shape[1]):
        nodes = [picture.values[u, d - u] for u in range(len(picture.rows)) if 0 <= d - u < FRAMES]
        assert float(sum(nodes)) == pytest.approx(1.0, abs=1e-4)
    assert picture.path[0] == (0, 0) and picture.path[-1] == (FRAMES - 1, TOKENS.shape[1])


@torch.no_grad()
def test_attention_is_spread_over_the_frames() -> None:
    picture = heads()["attention"].picture(torch.randn(1, FRAMES, DIM), TOKENS)
    torch.testing.assert_close(picture.values.sum(1), torch.ones(4))
