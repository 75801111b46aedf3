"""Text files as other people write them: compressed or not, with a byte order mark, with line ends of any system."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from asrtts import storage
from asrtts.registry import UserError

_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_FOREIGN = {b"PK\x03\x04": "unzip", b"\x28\xb5\x2f\xfd": "zstd -d", b"\x1f\x9d": "uncompress"}
COMPRESSIONS = (".gz", ".bz2", ".xz")


def uncompressed_name(path: Path) -> Path:
    """The path without the ending of a compression: a/text.gz -> a/text."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


@contextmanager
def opened(path: Path, kind: str) -> Iterator[TextIO]:
    """A text file, unpacked and decoded. Its lines end at LF, CR LF or CR and at nothing else.

    Args:
        kind: what the file should be, for a message, e.g. "ARPA file".

    Raises:
        UserError: it is not there, cannot be read, is damaged, packed in a way that is not read, or not Unicode.
    """
    try:
        opener = _opener(path)
        with opener(path, "rb") as file:
            encoding = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with opener(path, "rt", encoding=encoding) as text:
            yield text
    except UnicodeError:
        advice = "convert it, e.g. `iconv -f latin1 -t utf-8`"
        raise UserError(f"{path}: not UTF-8, which a {kind} should be; {advice}") from None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: no such {kind}") from None
    except PermissionError:
        raise storage.unreadable(path) from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged, it cannot be unpacked ({error}); get it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); get it again") from None


def _opener(path: Path) -> Callable[..., IO[Any]]:
    """What opens the file, told by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(8)
    if command := next((command for magic, command in _FOREIGN.items() if head.startswith(magic)), None):
        raise UserError(f"{path}: packed in a way that is not read here; unpack it, e.g. `{command} {path.name}`")
    return next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), open)
