"""What a long verb has finished so far, kept line by line: a rerun resumes, also after kill -9 or a full disk."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from asrtts.registry import UserError
from asrtts.storage import make_folder, parse_json, remove, storage_error


class PartialResults:
    """The file GOAL.partial: a line that says what the results are made from, then one JSON object a result.

    Used as a context manager, it holds the file's lock. It is deleted by `close`, when the goal is written; after an
    error it stays for the next call with the same `made_from`.

    Attributes:
        kept: the results of earlier calls, in their order.

    Raises:
        UserError: another process works on the same goal, or the disk refuses.
    """

    def __init__(self, goal: Path, made_from: Mapping[str, Any]) -> None:
        self.path = goal.with_name(goal.name + ".partial")
        self.header = {"made_from": json.loads(json.dumps(dict(made_from)))}
        self.kept: list[dict[str, Any]] = []
        self.added = 0
        self.file: Any = None

    def __enter__(self) -> PartialResults:
        try:
            make_folder(self.path.parent)
            self.file = self._locked()
            self.kept, whole = self._read()
            self.file.seek(whole)
            self.file.truncate()
            if not whole:
                self._write(self.header)
        except OSError as error:
            raise storage_error(self.path, error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.file is not None:
            if not self.kept and not self.added:
                remove(self.path)
            with suppress(OSError):  # a full disk has been told of already
                self.file.close()

    def append(self, result: Mapping[str, Any]) -> None:
        try:
            self._write(result)
            self.added += 1
        except OSError as error:
            raise storage_error(self.path, error) from None

    def close(self) -> None:
        """The goal is written: nothing is left to resume."""
        remove(self.path)

    def _locked(self) -> Any:
        while True:
            file = open(self.path, "a+b")  # noqa: SIM115 - closed by __exit__
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise UserError(
                    f"{self.path}: another process is making it; wait for it, or give the result another name"
                ) from None
            except OSError:  # a file system without locks
                pass
            if self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                return file
            file.close()  # the process that held it has finished and deleted it

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """The results that are kept, and the bytes of whole lines; none if they are made from something else."""
        self.file.seek(0)
        results: list[dict[str, Any]] = []
        whole = 0
        for line in self.file:
            try:
                value = parse_json(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict) or (not whole and value != self.header):
                break  # half a line, written as the process was killed; or another origin
            if whole:
                results.append(value)
            whole += len(line)
        return results, whole

    def _write(self, value: Mapping[str, Any]) -> None:
        self.file.write((json.dumps(value) + "\n").encode())
        self.file.flush()
