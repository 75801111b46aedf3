"""The folder that `asrtts align` writes: a model, a CTM file for each manifest and, if wanted, its TextGrids.

align.json       what the alignment was made from, and the checksum of every file; `storage.finish` writes it
hmm.npz          what the aligner learnt
test.ctm         the words of data/test
test/*.TextGrid  words and phones of each utterance
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrtts import __version__, storage
from asrtts.alignment import intervals, textgrid
from asrtts.alignment.intervals import Alignment, Unaligned
from asrtts.config import warn
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

RECORD = "align.json"
INPUTS = {"manifests": "recordings or texts", "learn": "recordings to learn from"}  # of the record, for a reader


@dataclass(frozen=True)
class Written:
    """What `AlignmentFolder.write` wrote of a manifest."""

    utterances: int
    words: int
    left_out: list[Unaligned]


class AlignmentFolder:
    """Lock the folder (`storage.held`) before you open it, and as long as you use it.

    Args:
        made_from: everything that decides the times: aligner, hashes of recordings and pronunciations.

    Raises:
        UserError: it holds an alignment that was made from something else, or its record is damaged.
    """

    def __init__(self, folder: Path, made_from: dict[str, Any]) -> None:
        self.folder, self.made_from = folder, made_from
        path = folder / RECORD
        self.record: dict[str, Any] | None = None
        if path.is_file():
            storage.refuse_unreadable(path)
            self.record = storage.json_object(path.read_bytes(), str(path), "delete the folder")
            if storage.MADE_FROM not in self.record:
                raise UserError(f"{folder}: an older asrtts wrote it; delete it, or name another folder with --out")
            if difference := storage.changed(self.record, made_from):
                other = INPUTS.get(difference[0], difference[0])
                raise UserError(
                    f"{folder}: holds an alignment of other {other}; delete it, or name another folder with --out"
                )
        self.sums: dict[str, str] = self._of_record(storage.FILES, dict)  # of files, by path
        self.own: list[str] = self._of_record("own", list)  # paths that this alignment wrote, or was about to write
        self.done: list[str] = self._of_record("done", list)  # those that are written
        self.model: list[str] = self._of_record("model", list)

    def _of_record(self, key: str, kind: type) -> Any:
        value = (self.record or {}).get(key)
        return value if isinstance(value, kind) else kind()

    def has_model(self) -> bool:
        """Whether the aligner's files are there and are as it wrote them."""
        return self.record is not None and self._are_whole(self.model)

    def keep_model(self, files: Iterable[Path]) -> None:
        """Record the files that the aligner wrote."""
        self.model = [str(path.relative_to(self.folder)) for path in files]
        self._save(files)

    def is_finished(self, name: str, grids: bool) -> bool:
        """Whether the alignment of a manifest is there and is as it was written."""
        return all(
            path in self.done and (self.folder / path).exists() and self._are_whole(self._files_of(path))
            for path in _paths(name, grids)
        )

    def refuse_others(self, names: Iterable[str], grids: bool) -> None:
        """Raises UserError for what somebody else left at the places of ours: it is not overwritten."""
        for path in (path for name in names for path in _paths(name, grids)):
            if (self.folder / path).exists() and path not in self.own:
                raise UserError(
                    f"{self.folder / path}: is there and not of this alignment; name another folder with --out"
                )

    def write(
        self, name: str, utterances: Sequence[Utterance], alignments: Iterable[Alignment | Unaligned], grids: bool
    ) -> Written:
        """NAME.ctm in the order of the manifest and, with `grids`, a TextGrid of each utterance below NAME."""
        paths = _paths(name, grids)
        for path in paths:
            self._put_aside(path)
        # A process that is killed below leaves files that the next one may overwrite.
        self.own = list(dict.fromkeys([*self.own, *paths]))
        self.done = [path for path in self.done if path not in paths]
        for file in [file for path in paths for file in self._files_of(path)]:
            del self.sums[file]
        self._save([])

        lines: dict[str, str] = {}  # all that is kept: of a large manifest the phones would be gigabytes
        words, left_out = 0, []
        goal = self.folder / name
        with storage.staged(goal) as beside:
            for each in alignments:
                if isinstance(each, Unaligned):
                    left_out.append(each)
                    continue
                lines[each.utt_id] = "".join(intervals.ctm(each))
                words += len(each.words)
                if grids:
                    storage.write(beside / textgrid.file_name(each.utt_id), textgrid.text(each))
            if grids:
                try:
                    if goal.is_dir():
                        shutil.rmtree(goal)
                    os.replace(beside, goal)
                except OSError as error:
                    raise storage.storage_error(goal, error) from None
        ctm = self.folder / f"{name}.ctm"
        storage.write(ctm, "".join(lines.get(u.utt_id, "") for u in utterances))
        self.done += paths
        self._save([ctm, *(sorted(goal.iterdir()) if grids else [])])
        return Written(len(lines), words, left_out)

    def _save(self, written: Iterable[Path]) -> None:
        """Write the record, as `storage.finish` does; files that are not among these keep their checksums."""
        self.sums |= storage.sums(self.folder, written)
        self.record = {"asrtts": __version__, "own": self.own, "done": self.done, "model": self.model}
        self.record |= {storage.MADE_FROM: self.made_from, storage.FILES: self.sums}
        storage.write_json(self.folder / RECORD, self.record)

    def _files_of(self, path: str) -> list[str]:
        return [file for file in self.sums if file == path or file.startswith(f"{path}/")]

    def _are_whole(self, files: Iterable[str]) -> bool:
        return storage.altered(self.folder, {storage.FILES: {file: self.sums.get(file) for file in files}}) is None

    def _put_aside(self, path: str) -> None:
        """Keep what somebody changed by hand, such as TextGrids corrected in Praat, under another name."""
        goal = self.folder / path
        files = [goal] if goal.is_file() else list(filter(Path.is_file, goal.rglob("*")))
        changed = [file for file in files if self._is_of_others(file, path)]
        if not changed:
            return
        kept = goal.with_name(f"{goal.name}.changed")
        if kept.exists():
            raise UserError(f"{changed[0]}: is not as it was written, and {kept} is there too; delete one of the two")
        warn(f"{changed[0]}: is not as it was written; {goal} is kept as {kept.name} and written again")
        os.replace(goal, kept)

    def _is_of_others(self, file: Path, path: str) -> bool:
        if file.suffix not in (".ctm", textgrid.SUFFIX):
            return True
        expected = self.sums.get(str(file.relative_to(self.folder)))
        if expected is None:  # a process that was killed left it, but for where all were recorded
            return path in self.done
        return storage.checksum(file) != expected


def _paths(name: str, grids: bool) -> list[str]:
    return [f"{name}.ctm", *[name] * grids]
