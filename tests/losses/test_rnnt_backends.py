"""Other people's Transducer losses, where they are installed, agree with ours."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from asrtts.losses.rnnt_backends import rnnt_backend
from asrtts.registry import UserError

DEVICE = {"warp_rnnt": "cuda", "torchaudio": "cpu"}


@pytest.mark.parametrize("name", ["warp_rnnt", "torchaudio"])
def test_an_installed_back_end_agrees(name):
    try:
        other = rnnt_backend(name, torch.device(DEVICE[name]))
    except UserError as error:
        pytest.skip(str(error))
    if DEVICE[name] == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"{name} needs a CUDA device")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 6, 10, generator=generator).to(DEVICE[name])
    tokens = torch.randint(1, 10, (3, 5), generator=generator)
    lengths = torch.tensor([8, 6, 3]), torch.tensor([4, 2, 0])
    results = []
    for loss in (rnnt_backend("native", torch.device(DEVICE[name])), other):
        x = logits.clone().requires_grad_()
        losses = loss(x, tokens.to(x.device), *(n.to(x.device) for n in lengths), 0)
        (losses * torch.tensor([1.0, 2.0, 3.0], device=x.device)).sum().backward()
        results.append((losses.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_torchaudio_without_its_compiled_part_is_no_back_end(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    monkeypatch.setattr(torch.ops, "torchaudio", SimpleNamespace(), raising=False)
    with pytest.raises(UserError, match="compiled part does not load.*pip install torchaudio"):
        rnnt_backend("torchaudio", torch.device("cpu"))


@pytest.mark.parametrize(("name", "way"), [("warp_rnnt", "tools/install_warp_rnnt.sh"), ("torchaudio", "pip install")])
def test_a_missing_back_end_says_the_way(name, way, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # import of None is an ImportError
    with pytest.raises(UserError, match=way):
        rnnt_backend(name, torch.device(DEVICE[name]))


def test_a_back_end_for_another_device_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "warp_rnnt", ModuleType("warp_rnnt"))
    with pytest.raises(UserError, match="warp_rnnt runs on CUDA only"):
        rnnt_backend("warp_rnnt", torch.device("cpu"))
