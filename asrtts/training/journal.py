"""What a training writes down as it goes: train.jsonl, one line an event, and TensorBoard beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asrtts.config import warn
from asrtts.storage import parse_json, storage_error, write

LOG = "train.jsonl"


class Log:
    """Args:
    folder: exp/<name>; None writes nothing.
    start: the update that the run goes on from.
    """

    def __init__(self, folder: Path | None, start: int, tensorboard: bool) -> None:
        self.folder, self.start, self.tensorboard, self.writer = folder, start, tensorboard, None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.writer:
                self.writer.close()
        except OSError as error:
            warn(f"{self.folder}/tensorboard: not written to the end ({error})")

    def write(self, event: dict[str, Any]) -> None:
        """An event has an `update` and numbers, or `validation` with its numbers."""
        if self.folder is None:
            return
        append(self.folder / LOG, event)
        if self.tensorboard:
            try:
                self._draw(event)
            except OSError as error:
                raise storage_error(self.folder / "tensorboard", error) from None

    def _draw(self, event: dict[str, Any]) -> None:
        if self.writer is None:  # here: its import takes seconds that the first update need not wait for
            from torch.utils.tensorboard import SummaryWriter

            # purge_step: what a killed run drew after its checkpoint is not shown
            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
        prefix, numbers = ("validation/", event["validation"]) if "validation" in event else ("train/", event)
        for key, value in numbers.items():
            self.writer.add_scalar(prefix + key.replace(".", "/"), value, event["update"])


def append(path: Path, event: dict[str, Any]) -> None:
    """Add one JSON line. Raises UserError if the disk is full."""
    try:
        with open(path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(event) + "\n")
    except OSError as error:
        raise storage_error(path, error) from None


def cut(path: Path, update: int) -> None:
    """Drop what was written after an update: those that follow are made again."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    kept = [line for line in lines if _update(line) <= update]
    if len(kept) < len(lines):
        write(path, "".join(line + "\n" for line in kept))


def _update(line: str) -> int:
    try:
        return int(parse_json(line)["update"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # half a line, written as the process was killed, or no line of ours
