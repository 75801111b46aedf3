"""Transducer losses by name: `native`, and other people's where they are installed, for those who want to compare."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from asrtts.losses.rnnt import check, rnnt_loss
from asrtts.registry import UserError

# logits (B, T, U+1, V), tokens, logit_lens, token_lens, blank_id -> (B,)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
HOW_TO_GET = {"warp_rnnt": "run tools/install_warp_rnnt.sh (needs CUDA)", "torchaudio": "pip install torchaudio"}


def rnnt_backend(name: str, device: torch.device) -> Loss:
    """The loss of logits on a device that a name stands for.

    Raises:
        UserError: it is not installed, with the way there, or does not run on this device.
    """
    if name == "native":
        return rnnt_loss
    module = _installed(name)
    if name == "warp_rnnt" and device.type != "cuda":
        raise UserError("loss_backend warp_rnnt runs on CUDA only, this model is on the CPU: set loss_backend: native")
    return {"warp_rnnt": _warp_rnnt, "torchaudio": _torchaudio}[name](module)


def _installed(name: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
        if name == "torchaudio" and not hasattr(torch.ops.torchaudio, "rnnt_loss_forward"):
            raise ImportError("its compiled part does not load")  # as a CUDA build's beside a torch without CUDA
        return module
    except (ImportError, OSError) as error:  # OSError: a CUDA build whose libraries this machine has not
        why = " ".join(str(error).split())
        raise UserError(
            f"loss_backend {name} cannot be imported ({why:.120}): {HOW_TO_GET[name]}, or set loss_backend: native"
        ) from None


def _warp_rnnt(module: ModuleType) -> Loss:
    """1ytic/warp-rnnt: log-probabilities and int32 on a CUDA device."""

    def loss(logits: Tensor, tokens: Tensor, logit_lens: Tensor, token_lens: Tensor, blank_id: int = 0) -> Tensor:
        check(logits.shape, tokens, logit_lens, token_lens, blank_id)
        whole = (x.to(logits.device).int().contiguous() for x in (tokens, logit_lens, token_lens))
        log_probs = logits.float().log_softmax(-1).contiguous()
        return module.rnnt_loss(log_probs, *whole, blank=blank_id, reduction="none")

    return loss


def _torchaudio(module: ModuleType) -> Loss:
    """torchaudio.functional.rnnt_loss: int32, and no padding beyond the longest of the batch."""
    functional = importlib.import_module("torchaudio.functional")

    def loss(logits: Tensor, tokens: Tensor, logit_lens: Tensor, token_lens: Tensor, blank_id: int = 0) -> Tensor:
        check(logits.shape, tokens, logit_lens, token_lens, blank_id)
        frames, count = int(logit_lens.max()), int(token_lens.max())
        cut = logits[:, :frames, : count + 1].float().contiguous()
        whole = (x.to(logits.device).int().contiguous() for x in (tokens[:, :count], logit_lens, token_lens))
        return functional.rnnt_loss(cut, *whole, blank=blank_id, reduction="none")

    return loss
