"""What a head shows of an utterance: how it comes from frames to tokens, for a page that knows no head by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """Rows over the encoder's frames."""

    caption: str  # what a value is
    drawn: Literal["curves", "map"]  # a curve for each row, the first in thin dots; or shades of a matrix
    rows: list[int | None]  # the token of each row; None: the start, before the first token
    values: Tensor  # (rows, T), 0 to 1
    path: list[tuple[int, int]] = field(default_factory=list)  # of a map: (frame, row), the best way through
