"""The LSTM language model: the same probabilities one token at a time, a distribution, and what it can learn."""

from __future__ import annotations

import pytest
import torch

from asrtts.lm.perplexity import perplexity
from asrtts.lm.recurrent import Config, RecurrentLm

torch.set_num_threads(1)
CPU = torch.device("cpu")


def made(seed: int = 0, **settings) -> RecurrentLm:
    torch.manual_seed(seed)
    return RecurrentLm(Config(**{"dim": 16, "dropout": 0.0, **settings}), 5).eval()


def batch(rows: list[list[int]], pad: int = 0) -> dict:
    lens = [len(row) for row in rows]
    tokens = torch.tensor([row + [pad] * (max(lens) - len(row)) for row in rows])
    return {"tokens": tokens, "token_lens": torch.tensor(lens)}


@pytest.mark.parametrize("layers", [1, 2])
def test_one_token_at_a_time_gives_what_the_loss_says(layers):
    model, rows = made(layers=layers), [[1, 2, 3], [4], [2, 2, 2, 1]]
    total = 0.0
    for row in rows:
        scores, state = model.start(1, CPU)
        for token in row:
            total += float(scores[0, token])
            scores, state = model.step(torch.tensor([token]), state)
        total += float(scores[0, -1])
        assert float(scores[0, 1:].exp().sum()) == pytest.approx(1, abs=1e-5) and float(scores[0, 0]) == 0
    with torch.no_grad():
        assert float(model(batch(rows))["loss"]) == pytest.approx(-total / 3, abs=1e-4)
        assert float(model(batch(rows, pad=3))["loss"]) == pytest.approx(-total / 3, abs=1e-4)  # padding is not read
    tokens = sum(map(len, rows))
    found = perplexity(model, rows, words=6)
    assert found.token == pytest.approx(2.718281828 ** (-total / (tokens + 3)), rel=1e-4)
    assert found.word == pytest.approx(2.718281828 ** (-total / 9), rel=1e-4)


def test_states_can_be_reordered():
    model = made()
    _, state = model.start(3, CPU)
    _, state = model.step(torch.tensor([1, 2, 3]), state)
    together, _ = model.step(torch.tensor([4, 4]), tuple(x[[2, 0]] for x in state))
    for row, first in zip(together, (3, 1), strict=True):
        _, alone = model.step(torch.tensor([first]), model.start(1, CPU)[1])
        torch.testing.assert_close(model.step(torch.tensor([4]), alone)[0][0], row)


def test_it_learns_a_sentence_by_heart():
    model = made().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch([[1, 2, 3, 4, 4, 1]]))["loss"].backward()
        optimizer.step()
    assert perplexity(model.eval(), [[1, 2, 3, 4, 4, 1]], 1).token < 1.1
