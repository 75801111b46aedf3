"""What is measured on the models: against formulas, and against what a head is by construction."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from asrtts.asr.heads.attention import Config as Attention
from asrtts.asr.heads.attention import Head as AttentionHead
from asrtts.asr.heads.transducer import Config as Transducer
from asrtts.asr.heads.transducer import Head as TransducerHead
from asrtts.asr.heads.transducer import PredictorConfig
from asrtts.bin import compare, decode, lm
from asrtts.comparison.model_properties import counted, look

torch.set_num_threads(1)
DIM, VOCAB = 16, 7


def heads() -> dict[str, torch.nn.Module]:
    return {
        "attention": AttentionHead(Attention(layers=2, attention_heads=2, feedforward=32), DIM, VOCAB).eval(),
        "stateless": TransducerHead(Transducer(predictor_dim=DIM, joiner_dim=DIM), DIM, VOCAB).eval(),
        "lstm": TransducerHead(
            Transducer(predictor_dim=DIM, joiner_dim=DIM, predictor=PredictorConfig(kind="lstm")), DIM, VOCAB
        ).eval(),
    }


def test_multiply_adds_are_those_of_the_formulas() -> None:
    with torch.no_grad():
        assert counted(torch.nn.Linear(3, 4), torch.randn(7, 3))[0] == 7 * 3 * 4
        assert counted(torch.nn.LSTM(8, 16), torch.randn(5, 1, 8))[0] == 5 * 4 * 16 * (8 + 16)
        assert counted(torch.nn.Conv1d(8, 6, 3), torch.randn(1, 8, 10))[0] == 8 * 6 * 3 * 8
        assert counted(torch.nn.Conv1d(8, 8, 3, groups=8), torch.randn(1, 8, 10))[0] == 8 * 3 * 8


@pytest.mark.parametrize("name", heads())
@torch.no_grad()
def test_an_internal_lm_is_a_distribution_over_real_tokens(name: str) -> None:
    """Over all texts of two tokens the probabilities add up to one, and padding changes nothing."""
    torch.manual_seed(1)
    head = heads()[name]
    texts = torch.cartesian_prod(torch.arange(1, VOCAB), torch.arange(1, VOCAB))
    lens = torch.full((len(texts),), 2)
    log_probs = head.internal_lm(texts, lens)
    assert float(log_probs.sum(1).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    padded = head.internal_lm(torch.nn.functional.pad(texts, (0, 3)), lens)
    torch.testing.assert_close(padded[:, :2], log_probs)


def test_an_internal_lm_learns_the_texts_and_hears_nothing() -> None:
    """Trained on one sentence with noise for sound, the attention decoder knows it where nothing is heard."""
    torch.manual_seed(2)
    head = heads()["attention"]
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    tokens, lens = torch.tensor([[1, 4, 2, 5]]), torch.tensor([4])
    before = float(head.internal_lm(tokens, lens).detach().sum())
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(torch.randn(1, 6, DIM), torch.tensor([6]), tokens, lens)["loss"].backward()
        optimizer.step()
    assert before < -4 and float(head.internal_lm(tokens, lens).detach().sum()) > -1.5


@torch.no_grad()
def test_attention_weights_sum_to_one_on_real_frames() -> None:
    torch.manual_seed(3)
    head = heads()["attention"]
    weights = head.attention(torch.randn(2, 9, DIM), torch.tensor([9, 5]), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 3))  # two layers of two heads
    assert float(weights[1, ..., 5:].sum()) == 0


def test_a_look_by_hand() -> None:
    one_hot, even = torch.eye(4), torch.full((4, 4), 0.25)
    assert look(one_hot[None]) == (3.0, 0.0, 4)
    assert look(one_hot[None, [0, 2, 1, 3]])[0] == 2.0
    assert look(even[None])[1] == pytest.approx(4 * math.log(4))
    assert look(torch.stack([one_hot, even])) == (3.0, pytest.approx(2 * math.log(4)), 4)


def test_steps_are_T_for_ctc_T_plus_U_for_the_transducer_and_U_for_attention(
    trained, tones, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    methods = {"ctc": "ctc_prefix_beam", "transducer": "transducer_greedy", "hybrid": "joint_beam"}
    exps, steps = [], {}
    for head, method in methods.items():
        shutil.copytree(trained(head), tmp_path / head)
        exps.append(head)
        decode.main([head, str(tones / "data/test"), "--threads", "1", f"method={method}", "beam=4"])
        lines = [json.loads(line) for line in (tmp_path / head / "decode/test.jsonl").read_text().splitlines()]
        steps[head] = [(line["steps"], len(line["tokens"])) for line in lines]
    for (frames, _), (edges, tokens), (decisions, words) in zip(*steps.values(), strict=True):
        assert edges == frames + tokens and words < decisions <= frames + 1
    compare.main(
        [*exps, "--test", str(tones / "data/test"), "--out", "out", "--allow", "search", "--allow", "training"]
    )
    found = {s["name"]: s["measures"] for s in json.loads((tmp_path / "out/compare.json").read_text())["systems"]}
    values = {name: {key: measure["value"] for key, measure in of.items()} for name, of in found.items()}
    frames = values["ctc"]["lengths"][0]
    assert values["ctc"]["search_steps"] == pytest.approx(frames)
    assert len({of["encoder_macs"] for of in values.values()}) == 1  # one encoder
    assert values["ctc"]["internal_lm"][0] is None and values["transducer"]["internal_lm"][0] > 1
    assert [of["alignment"][0] for of in values.values()] == ["hard", "hard", "soft"]
    assert values["hybrid"]["alignment"][1] > 1 and 0 <= values["hybrid"]["monotonic"][0] <= 100
    assert all(of[key] > 0 for of in values.values() for key in ("size_mb", "decode_memory_mb", "train_memory_mb"))
    assert all(of["search_macs"] > 0 and of["rtf"] > 0 and of["train_minutes"] >= 0 for of in values.values())


def test_a_language_model_is_counted_in_the_search_and_in_the_size_or_it_is_said_why_not(
    trained, tones, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained("ctc"), "ctc")
    test, given = str(tones / "data/test"), ["--tokens", str(tones / "data/tokens"), "--dev", str(tones / "data/dev")]
    lm.main([str(tones / "data/train"), "ngram", "--order", "2", *given])
    lstm = ["model.dim=8", "model.layers=1", "training.updates=2", "training.threads=1"]
    lm.main([str(tones / "data/train"), "lstm", "--neural", *given, *lstm])
    decode.main(["ctc", test, "--threads", "1", "method=ctc_prefix_beam", "beam=3"])
    for name in ("ngram", "lstm"):
        settings = ["method=ctc_prefix_beam", "beam=3", f"lm={name}", "lm_weight=0.5"]
        decode.main(["ctc", test, "--threads", "1", "--name", name, *settings])
    command = ["ctc", "ctc:ngram", "ctc:lstm", "--test", test, "--out", "out", "--allow", "search.lm"]

    def found() -> list[dict]:
        compare.main(command)
        return [system["measures"] for system in json.loads((tmp_path / "out/compare.json").read_text())["systems"]]

    alone, ngram, neural = ({key: of["value"] for key, of in measures.items()} for measures in found())
    assert alone["search_macs"] == ngram["search_macs"] < neural["search_macs"]  # an n-gram is looked up
    assert alone["encoder_macs"] == ngram["encoder_macs"] == neural["encoder_macs"]
    files = [(tmp_path / file).stat().st_size / 1e6 for file in ("ngram/ngram.arpa", "lstm/model.safetensors")]
    assert [of["size_mb"] - alone["size_mb"] for of in (ngram, neural)] == pytest.approx(files)
    shutil.rmtree("lstm")
    *_, gone = found()
    for key in ("search_macs", "size_mb"):
        assert gone[key]["value"] is None and gone[key]["why"].startswith("lstm: no language model here")
    assert gone["encoder_macs"]["value"] == alone["encoder_macs"] and gone["lengths"]["value"] == alone["lengths"]
    page = Path("out/compare.html").read_text()
    assert "Not drawn against multiply-adds: ctc:lstm: lstm: no language model here" in page
