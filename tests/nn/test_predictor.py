"""The stateless predictor is the convolution that it says it is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from asrtts.nn.predictor import StatelessPredictor


@pytest.mark.parametrize("context", [1, 2, 3])
def test_it_is_a_causal_depthwise_convolution_and_steps_alike(context):
    torch.manual_seed(0)
    predictor = StatelessPredictor(7, 12, context, 0.0)
    tokens = torch.randint(1, 7, (3, 5))
    embedded = predictor.embedding(F.pad(tokens, (context, 0))).mT
    expected = F.relu(F.conv1d(embedded, predictor.conv.weight, groups=12)).mT
    out = predictor(tokens)
    torch.testing.assert_close(out, expected)
    state = predictor.start(3, tokens.device)
    for u in range(5):
        one, state = predictor.step(tokens[:, u], state)
        torch.testing.assert_close(one, out[:, u + 1])


def test_bf16_autocast_never_reaches_the_librarys_convolution(monkeypatch):
    """Its depthwise kernel for bf16 now and then does not return."""
    predictor = StatelessPredictor(7, 12, 2, 0.1)
    monkeypatch.setattr(F, "conv1d", None)
    monkeypatch.setattr(torch.nn.Conv1d, "forward", None)
    with torch.autocast("cpu", torch.bfloat16):
        predictor(torch.randint(1, 7, (3, 5))).sum().backward()
    assert predictor.conv.weight.grad is not None
