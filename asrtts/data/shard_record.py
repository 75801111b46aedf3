"""The record beside a folder's shards: what they were made from, how many utterances and how many bytes they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RECORD, MANIFEST = "shards.json", "manifest.jsonl"  # in the folder of the shards
SIZES, COUNT = "shards", "utterance_count"  # keys of the record: bytes of each shard by its name; of all together


def damage(folder: Path, record: dict[str, Any]) -> str | None:
    """The first shard of a record that is missing or has another size, as a sentence; None if all are whole.

    Sizes are compared and not checksums, which would read terabytes to find what a copy that broke off shows as well.
    """
    sizes = record.get(SIZES)
    for name, size in (sizes if isinstance(sizes, dict) else {}).items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes instead of {size}"
    return None
