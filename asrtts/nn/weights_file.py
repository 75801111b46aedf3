"""One safetensors file of weights, with a checksum in it: whole, or refused where it is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asrtts.registry import UserError
from asrtts.storage import checksum, refuse_unreadable, remove, storage_error

DIGEST = "sha256"  # key of the metadata
AGAIN = "copy it again from where it was made, or make it again (`asrtts average`, stage 3)"


def save(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file beside its goal and rename it. Its metadata has a checksum of the weights."""
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside, weights, {**(metadata or {}), DIGEST: digest(weights)})
        flush(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        remove(beside)
        raise storage_error(path, error) from None


def load(path: Path, expected: str | None = None) -> dict[str, Tensor]:
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


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write the tensors, readable for all whom the umask lets read. Raises OSError or SafetensorError."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # safetensors lets nobody else read; a model is shared as any other file


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
