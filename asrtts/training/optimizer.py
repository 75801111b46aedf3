"""AdamW and the learning rate's course."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from asrtts.config import CountOrNone, Settings

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Config(Settings):
    lr: PositiveFloat = 1e-3  # at the end of the warm-up
    warmup_updates: CountOrNone = 500
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = "cosine"  # of lr after the warm-up
    final_lr: float = Field(0.01, ge=0.0, le=1.0)  # share of lr that cosine and linear end at
    betas: tuple[Share, Share] = (0.9, 0.98)
    eps: PositiveFloat = 1e-9
    weight_decay: float = Field(1e-2, ge=0.0)  # on matrices only: biases, norms and embeddings' scales are left alone


class AdamW(torch.optim.AdamW):
    """torch's own, without what it wraps for torch.compile: the wrappers' import takes a second before update 1."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def build(config: Config, parameters: Iterable[nn.Parameter]) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019) in one fused kernel for all parameters."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(config: Config, update: int, updates: int) -> float:
    """The rate for update 1, 2, ..., `updates`: a linear rise, then the schedule's fall."""
    if update <= config.warmup_updates:
        return config.lr * update / config.warmup_updates
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "inverse_sqrt":  # Vaswani et al. 2017, eq. 3, with the peak given
        return config.lr * math.sqrt(max(1, config.warmup_updates) / update)
    done = min(1.0, (update - config.warmup_updates) / max(1, updates - config.warmup_updates))
    fall = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.lr * (config.final_lr + (1 - config.final_lr) * fall)
