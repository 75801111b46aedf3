"""What one update of a training consists of: turns, each with parameters, an optimizer and an update to begin with.

Most trainables have one turn. A GAN vocoder has two, discriminator and generator; a distillation has one turn and a
frozen teacher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asrtts.training import optimizer


@dataclass(frozen=True)
class Turn:
    """One forward pass, one backward pass and one optimizer step of every update."""

    parameters: list[nn.Parameter]
    optimizer: optimizer.Config | None = None  # None: training.optimizer
    clip_norm: float | None = None  # None: training.clip_norm
    first_update: int = 1  # updates before it leave this turn out


class Trainable(nn.Module):
    """What the trainer trains: `forward(batch, turn) -> {"loss": scalar, ...}`, its turns, weights and frozen parts.

    Any nn.Module with such a `forward` can be trained; the defaults stand here. A subclass overrides what differs.
    """

    def turns(self) -> dict[str, Turn]:
        """The turns of an update by name, in their order. Default: one, of all parameters that require a gradient."""
        return {"model": Turn([p for p in self.parameters() if p.requires_grad])}

    def weights(self) -> dict[str, Tensor]:
        """What a snapshot holds, which is averaged and later loaded: by default the whole state."""
        return self.state_dict()

    def frozen(self) -> list[nn.Module]:
        """Parts that are never trained: they stay in evaluation mode and out of checkpoints. Default: none."""
        return []


def turns_of(model: nn.Module) -> dict[str, Turn]:
    return model.turns() if isinstance(model, Trainable) else Trainable.turns(model)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a snapshot, on the CPU."""
    weights = model.weights() if isinstance(model, Trainable) else model.state_dict()
    return {name: value.detach().cpu() for name, value in weights.items()}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Everything that training changes, on the CPU: the state without that of frozen parts."""
    frozen = _frozen_names(model)
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if name not in frozen}


def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put `state_of` back. Raises RuntimeError if it is the state of another model."""
    frozen = _frozen_names(model)
    kept = {name: value for name, value in model.state_dict().items() if name in frozen}
    model.load_state_dict({**kept, **state})


def set_training(model: nn.Module) -> None:
    """Training mode, except for frozen parts."""
    model.train()
    for part in _frozen(model):
        part.eval()


def changing_buffers(model: nn.Module) -> Iterator[Tensor]:
    """The buffers that a forward pass may change, e.g. running statistics: those outside of frozen parts."""
    frozen = {id(buffer) for part in _frozen(model) for buffer in part.buffers()}
    return (buffer for buffer in model.buffers() if id(buffer) not in frozen)


class Undo:
    """The parameters and optimizer state of a turn before its step, so that a later bad turn can take the step back."""

    def __init__(self, optim: torch.optim.Optimizer) -> None:
        self.optim = optim
        self.parameters = [p for group in optim.param_groups for p in group["params"]]
        self.values = [p.detach().clone() for p in self.parameters]
        self.state = [
            {key: value.clone() if isinstance(value, Tensor) else value for key, value in optim.state[p].items()}
            if p in optim.state
            else None
            for p in self.parameters
        ]

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, value, state in zip(self.parameters, self.values, self.state, strict=True):
            parameter.copy_(value)
            if state is None:
                self.optim.state.pop(parameter, None)
            else:
                self.optim.state[parameter] = state


def _frozen(model: nn.Module) -> list[nn.Module]:
    return model.frozen() if isinstance(model, Trainable) else []


def _frozen_names(model: nn.Module) -> set[str]:
    parts = {id(part) for part in _frozen(model)}
    prefixes = tuple(f"{name}." for name, part in model.named_modules() if id(part) in parts)
    return {name for name in model.state_dict() if name.startswith(prefixes)} if prefixes else set()
