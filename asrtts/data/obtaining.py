"""How a published corpus comes to `downloads/<corpus>`: a link to what is there already, or an archive, unpacked."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from asrtts import storage
from asrtts.data.archive import is_unfinished, unpack
from asrtts.data.corpus_layout import packed
from asrtts.data.fetching import Archive, Report, fetch
from asrtts.registry import UserError

_EVERY = 10.0  # seconds between two lines in a log

Find = Callable[[Path, str], Path | None]  # (folder, part) -> where that part of the corpus lies unpacked


def openslr(number: int) -> tuple[str, ...]:
    """The folder of a resource on openslr.org and its mirrors in the USA, Europe (two) and China."""
    hosts = ("www.openslr.org", "us.openslr.org", "openslr.trmal.net", "openslr.elda.org", "openslr.magicdatatech.com")
    return tuple(f"https://{host}/resources/{number}" for host in hosts)


def obtain(
    root: Path,
    corpus: str,
    parts: Mapping[str, Archive],
    find: Find,
    *,
    source: Path | None = None,
    trust: str = "",
    inner: str = "",
    every: bool = True,
) -> Path:
    """Make `root/<corpus>` hold the parts of a corpus; a part that is there is left alone. Returns that folder.

    `source` (a corpus, or a folder of corpora) is never written to: a tree in it gets a link, an archive is unpacked
    from where it lies. Where `source` is not given, ASRTTS_CORPORA is asked before the network is.

    Args:
        inner: as in `unpack`.
        every: a tree in `source` must hold all parts; else one of them is enough.

    Raises:
        UserError: `source` has nothing of the corpus, or as `fetch` and `unpack` do.
    """
    goal, shelf = Path(root) / corpus, source or _shelf()
    if shelf and not shelf.is_dir():
        raise UserError(f"{shelf}: no such folder (named by {'--corpus' if source else 'ASRTTS_CORPORA'})")
    if not _lacking(root, goal, parts, find):
        print(f"{corpus}: already in {find(root, next(iter(parts)))}")
        return goal
    trees = {part: tree for part in parts if shelf and (tree := find(shelf, part))}
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        if trees and (source or _vacant(goal)):
            if every and trees.keys() != parts.keys():
                raise UserError(f"{shelf}: {corpus} is there without {', '.join(parts.keys() - trees.keys())}")
            return _link(goal, next(iter(trees.values())), corpus)
        _refuse_link(goal, parts)
        with storage.held(goal):
            lacking = _lacking(root, goal, parts, find)  # another process may have brought them meanwhile
            files = _bring_all(goal, corpus, lacking, shelf, source is not None, trust, inner)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{error.filename}: {error.strerror}; name a folder that can be written") from None
    for part in lacking:
        if find(root, part) is None:
            raise UserError(f"{goal}: {parts[part].name} was unpacked but holds no {part}; is it another archive?")
    print(f"{corpus}: unpacked {files} files in {goal}")
    return goal


def _lacking(root: Path, goal: Path, parts: Mapping[str, Archive], find: Find) -> dict[str, Archive]:
    """The parts that are not there, or of which a killed run may have brought only some files."""
    return {
        part: archive
        for part, archive in parts.items()
        if find(root, part) is None or is_unfinished(goal, archive.name)
    }


def _shelf() -> Path | None:
    """The folder of corpora that the environment names."""
    return Path(os.environ["ASRTTS_CORPORA"]) if os.environ.get("ASRTTS_CORPORA") else None


def _vacant(goal: Path) -> bool:
    """Nothing would be lost if a link stood here."""
    return goal.is_symlink() or not goal.exists() or (goal.is_dir() and not any(goal.iterdir()))


def _link(goal: Path, tree: Path, corpus: str) -> Path:
    """Use a corpus where it lies: it may be large, and its folder may be read-only."""
    if not _vacant(goal):
        raise UserError(f"{goal}: is in the way of a link to {tree}; move it away, or leave out --corpus")
    if not goal.is_symlink():
        try:
            with storage.held(goal):  # or another process that unpacks into it would write into the linked corpus
                _put_link(goal, tree)
        except UserError:
            if not _is_linked_soon(goal, tree):
                raise
    elif not _is_linked(goal, tree):
        _put_link(goal, tree)
    print(f"{corpus}: used in place, {goal} -> {tree}")
    return goal


def _put_link(goal: Path, tree: Path) -> None:
    beside = goal.with_name(f".{goal.name}.{uuid.uuid4().hex[:12]}.link")
    beside.symlink_to(tree, target_is_directory=True)
    try:
        if goal.exists() and not goal.is_symlink():
            goal.rmdir()
        os.replace(beside, goal)
    finally:
        beside.unlink(missing_ok=True)


def _is_linked(goal: Path, tree: Path) -> bool:
    return goal.is_symlink() and goal.exists() and goal.samefile(tree)


def _is_linked_soon(goal: Path, tree: Path) -> bool:
    """Whether another process makes the same link at this moment."""
    for _ in range(20):
        if _is_linked(goal, tree):
            return True
        time.sleep(0.05)
    return False


def _refuse_link(goal: Path, parts: Mapping[str, Archive]) -> None:
    """Raises UserError where `place` is a link to a corpus; takes away one that leads nowhere."""
    if goal.is_symlink():
        if goal.exists():
            raise UserError(
                f"{goal}: is a link to {goal.resolve()}, which lacks {', '.join(parts)}; remove the link to have a "
                "folder of its own, or add to that corpus yourself"
            )
        goal.unlink(missing_ok=True)


def _bring_all(
    goal: Path, corpus: str, parts: Mapping[str, Archive], shelf: Path | None, only_there: bool, trust: str, inner: str
) -> int:
    """Unpack every part, from an archive in `there` or from the network; returns the number of files."""
    archives = {part: packed(shelf, corpus, archive) if shelf else None for part, archive in parts.items()}
    if only_there and None in archives.values():
        names = ", ".join(parts[part].name for part, path in archives.items() if path is None)
        raise UserError(f"{shelf}: holds neither {corpus} unpacked nor {names}; without --corpus it is downloaded")
    return sum(_bring(goal, archive, archives[part], trust, inner) for part, archive in parts.items())


def _bring(goal: Path, archive: Archive, shelf: Path | None, trust: str, inner: str) -> int:
    if shelf:
        with meter(f"unpacking {shelf}") as report:
            return unpack(shelf, goal, inner, report)
    with meter(f"downloading {archive.name}") as report:
        fetched = fetch(archive, goal, trust=trust, report=report)
    with meter(f"unpacking {archive.name}") as report:
        count = unpack(fetched, goal, inner, report)
    fetched.unlink()  # the tree is whole now
    return count


@contextmanager
def meter(title: str) -> Iterator[Report]:
    """A bar with speed and time left on a terminal; elsewhere (a log) a line now and then."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def _lines(title: str) -> Report:
    begun = reported = time.monotonic()
    first = -1  # bytes that were there before; they say nothing about the speed

    def report(done: int, total: int) -> None:
        nonlocal reported, first
        first = done if first < 0 else first
        now = time.monotonic()
        if total and now - reported > _EVERY and done > first:
            reported = now
            minutes = (now - begun) * (total - done) / (done - first) / 60
            print(f"{title}: {done / 1e6:.0f} of {total / 1e6:.0f} MB, {minutes:.0f} minutes left", file=sys.stderr)

    return report
