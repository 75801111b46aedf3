"""How far the training is: a live bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 30.0
FIRST_SECONDS = 20.0  # the first estimate of what remains is given within the first minute
WARM_UPDATES, WARM_SECONDS = 5, 10.0  # the first updates warm caches up and would spoil the estimate


class Progress:
    """Context manager; `advance` after each update, `note` after each validation."""

    def __init__(self, updates: int, start: int, active: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.updates, self.start, self.active, self.clock = updates, start, active, clock
        self.console = Console(stderr=True, highlight=False)
        self.live = active and self.console.is_terminal
        self.opened = self.counted = clock()  # the estimate is made of what is done since `counted`
        self.counted_at, self.printed = start, -math.inf

    def __enter__(self) -> Progress:
        if self.live:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Bar(*columns, TextColumn("{task.fields[left]}"), console=self.console)
            self.bar.start()
            self.task = self.bar.add_task("training", total=self.updates, completed=self.start, left="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bar.stop()

    def advance(self, update: int, parts: dict[str, float]) -> None:
        if not self.active:
            return
        now = self.clock()
        first = update == self.start + 1
        if first or (update == self.start + WARM_UPDATES and now - self.opened < WARM_SECONDS):
            self.counted, self.counted_at = now, update
        left = self._left(update, now)
        if self.live:
            self.bar.update(self.task, completed=update, left=f"loss {parts['loss']:.3f}, {left}")
        elif first:
            print(f"update {update}: loss {parts['loss']:.3f}", file=sys.stderr, flush=True)
        elif now - self.opened > FIRST_SECONDS and now - self.printed > LINE_SECONDS and update > self.counted_at:
            self.printed = now
            done = f"update {update}/{self.updates}"
            print(f"{done}: loss {parts['loss']:.3f}, lr {parts['lr']:.2e}, {left}", file=sys.stderr, flush=True)

    def note(self, update: int, measured: dict[str, float]) -> None:
        if not self.active:
            return
        shown = ", ".join(f"{key} {value:.4g}" for key, value in measured.items())
        self.console.print(f"update {update}: validation {shown}", soft_wrap=True)

    def _left(self, update: int, now: float) -> str:
        if update <= self.counted_at:
            return "estimating the time left"
        seconds = (now - self.counted) / (update - self.counted_at) * (self.updates - update)
        minutes, hours = seconds / 60, seconds / 3600
        return (
            f"{hours:.1f} h left" if hours >= 1 else f"{minutes:.0f} min left" if minutes >= 1 else "under 1 min left"
        )
