"""The sentences that a language model is made of or measured on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from asrtts.data import manifest
from asrtts.registry import UserError


def read(path: Path) -> list[str]:
    """The sentences of a manifest, or of a text file, one a line. Raises UserError if it is neither."""
    if path.suffix not in (".txt", ".text"):
        return [utterance.text for utterance in manifest.read(path)]
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); wanted one sentence a line") from None
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such text") from None


def text_hash(text: list[str]) -> str:
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]
