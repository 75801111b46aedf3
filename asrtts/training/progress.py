"""How far the training is: a live bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 30.0
FIRST_SECONDS = 20.0  # the first estimate of what remains is given within the first minute


class Progress:
    """Context manager; `advance` after each update, `note` after each validation."""

    def __init__(self, updates: int, start: int, active: bool) -> None:
        self.updates, self.start, self.active = updates, start, active
        self.console = Console(stderr=True, highlight=False)
        self.live = active and self.console.is_terminal
        self.began, self.began_at, self.printed = time.monotonic(), start, 0.0

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
        now = time.monotonic()
        if update == self.start + 5:  # the first updates warm caches up and would spoil the estimate
            self.began, self.began_at = now, update
        left = self._left(update, now)
        if self.live:
            self.bar.update(self.task, completed=update, left=f"loss {parts['loss']:.3f}, {left}")
        elif update == self.start + 1:
            print(f"update {update}: loss {parts['loss']:.3f}", file=sys.stderr, flush=True)
        elif now - self.began > FIRST_SECONDS and now - self.printed > LINE_SECONDS:
            self.printed = now
            done = f"update {update}/{self.updates}"
            print(f"{done}: loss {parts['loss']:.3f}, lr {parts['lr']:.2e}, {left}", file=sys.stderr, flush=True)

    def note(self, update: int, measured: dict[str, float]) -> None:
        if not self.active:
            return
        shown = ", ".join(f"{key} {value:.4g}" for key, value in measured.items())
        self.console.print(f"update {update}: validation {shown}", soft_wrap=True)

    def _left(self, update: int, now: float) -> str:
        if update <= self.began_at:
            return "estimating the time left"
        seconds = (now - self.began) / (update - self.began_at) * (self.updates - update)
        minutes, hours = seconds / 60, seconds / 3600
        return (
            f"{hours:.1f} h left" if hours >= 1 else f"{minutes:.0f} min left" if minutes >= 1 else "under 1 min left"
        )
