"""What every search returns, whatever the head."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Hypothesis:
    """One entry of an n-best list."""

    tokens: list[int]
    score: float  # natural logarithm; comparable only within one utterance and one method
    frames: list[int] = field(default_factory=list)  # encoder frame at which each token was emitted
    confidences: list[float] = field(default_factory=list)  # posterior of each token where it was emitted, 0 to 1
    steps: int = (
        0  # of the search of this utterance, each of which waits for the one before: frames, or tokens, or both
    )
