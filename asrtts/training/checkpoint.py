"""Checkpoints that survive `kill -9`, a full disk and a stranger.

A checkpoint is a folder of safetensors and JSON: nothing is unpickled, so a file from elsewhere can do no harm. It is
written beside its goal, flushed to the disk, sealed with checksums and renamed. The last two are kept, and a damaged
one is passed over for the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from asrtts.config import warn
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.storage import checksum, parse_json, storage_error, unreadable

KEPT = 2
SEAL = "SHA256SUMS"


def save(folder: Path, update: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write folder/update-00001234/{<name>.safetensors..., state.json, SHA256SUMS} and drop all but the last two.

    Raises:
        UserError: the disk is full; what was there before is untouched.
    """
    goal, beside = folder / f"update-{update:08d}", folder / "writing"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, group in tensors.items():
            weights_file.write(beside / f"{name}.safetensors", group)
        (beside / "state.json").write_text(json.dumps(state), encoding="utf-8")
        files = sorted(p for p in beside.iterdir())
        (beside / SEAL).write_text("".join(f"{checksum(p)}  {p.name}\n" for p in files), encoding="utf-8")
        for path in [*beside.iterdir(), beside]:
            weights_file.flush(path)
        shutil.rmtree(goal, ignore_errors=True)
        os.replace(beside, goal)
        weights_file.flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise storage_error(folder, error) from None
    for path in sorted(folder.glob("update-*")):
        if path > goal:  # damaged, since this run went on from before it: it must not push a whole one out
            shutil.rmtree(path, ignore_errors=True)
    for old in sorted(folder.glob("update-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load_latest(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The tensors and the state of the newest whole checkpoint; None if there is none yet.

    Raises:
        UserError: checkpoints are there but all are damaged, or one must not be read.
    """
    found = sorted(folder.glob("update-*"), reverse=True)
    for path in found:
        try:
            _check_seal(path)
            tensors = {p.stem: load_file(p) for p in sorted(path.glob("*.safetensors"))}
            return tensors, parse_json((path / "state.json").read_text(encoding="utf-8"))
        except PermissionError as error:  # it may be whole: nothing is to be trained again or deleted
            raise unreadable(Path(error.filename)) from None
        except (OSError, ValueError, SafetensorError) as error:
            warn(f"{path} is damaged ({error}); going back to the checkpoint before it")
    if found:
        raise UserError(f"{folder}: every checkpoint in it is damaged; delete the folder to train from the start")
    return None


def _check_seal(path: Path) -> None:
    """Raises ValueError or OSError unless the seal names all files of the folder, and they are what was written."""
    lines = (path / SEAL).read_text(encoding="utf-8").splitlines()
    sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines)}
    others = {p.name for p in path.iterdir()} - {SEAL}
    if sums.keys() != others or "state.json" not in sums:
        raise ValueError(f"{SEAL} and the files differ: {', '.join(sorted(sums.keys() ^ others)) or 'no state.json'}")
    for name, expected in sums.items():
        if checksum(path / name) != expected:
            raise ValueError(f"{name} is not what was written")
