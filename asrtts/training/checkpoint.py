"""Checkpoints that survive `kill -9`, a full disk and a stranger.

A checkpoint is a folder of safetensors and JSON: nothing is unpickled, so a file from elsewhere can do no harm. It is
written beside its goal, flushed to the disk, sealed with checksums and renamed. The last two are kept, and a damaged
one is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from asrtts.config import warn
from asrtts.registry import UserError
from asrtts.storage import checksum, parse_json, refuse_unreadable, remove, storage_error, unreadable

KEPT = 2
DIGEST = "sha256"  # key of the metadata
AGAIN = "copy it again from where it was made, or make it again (`asrtts average`, stage 3)"
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
            _write(beside / f"{name}.safetensors", group)
        (beside / "state.json").write_text(json.dumps(state), encoding="utf-8")
        files = sorted(p for p in beside.iterdir())
        (beside / SEAL).write_text("".join(f"{checksum(p)}  {p.name}\n" for p in files), encoding="utf-8")
        for path in [*beside.iterdir(), beside]:
            _flush(path)
        shutil.rmtree(goal, ignore_errors=True)
        os.replace(beside, goal)
        _flush(folder)
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


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file beside its goal and rename it. Its metadata has a checksum of the weights."""
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(beside, weights, {**(metadata or {}), DIGEST: digest(weights)})
        _flush(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        remove(beside)
        raise storage_error(path, error) from None


def load_weights(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, checked.

    Args:
        expected: SHA-256 of the file, where something recorded it.

    Raises:
        UserError: the file must not be read, is damaged, not the one that was recorded, or holds NaN or infinity.
    """
    refuse_unreadable(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}); make it again") from None
    if DIGEST in metadata and metadata[DIGEST] != digest(weights):
        raise UserError(f"{path}: damaged (its weights differ from their checksum); {AGAIN}")
    if expected is not None and checksum(path) != expected:
        raise UserError(
            f"{path}: not the file that was written (its SHA-256 differs from the one recorded beside it); {AGAIN}"
        )
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"{path}: {name} holds NaN or infinity, so that nothing can be computed with it; average other "
                "snapshots or train again"
            )
    return weights


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values."""
    total = hashlib.sha256()
    for name, value in sorted(weights.items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # safetensors lets nobody else read; a model is shared as any other file


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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
