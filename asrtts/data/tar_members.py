"""Read the members of a tar file whose headers may lie: about their size, their name, or where the archive ends.

Python's tarfile believes headers: it reads a name of any length into memory, and stops without an error at a damaged
header or at the end of the first of several archives that were joined. Here each of these is an error, or is read on.
"""

from __future__ import annotations

import io
import tarfile
import unicodedata
from collections.abc import Iterator
from typing import Any, BinaryIO

LARGEST_HEADER = 1 << 20  # bytes that one member's headers may have together: its name, its PAX records
BLOCK = tarfile.BLOCKSIZE
_STEP = 1 << 20
_BEFORE = 64  # blocks in front of a member in which its extended headers are looked for


class _Watched:
    """A file that tarfile reads from, which counts what is read for one header and how far the reading got."""

    def __init__(self, file: BinaryIO, most: int | None) -> None:
        self._file, self._most = file, most
        self.header_bytes_left: int | None = None  # None: no header is being read
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if self.header_bytes_left is not None:
            self.header_bytes_left -= size
            if size < 0 or self.header_bytes_left < 0:
                raise tarfile.ReadError(f"a header of more than {LARGEST_HEADER >> 20} MiB at byte {self.tell()}")
        self._stop_behind(self.tell() + max(size, 0))
        self.last = self._file.read(size)
        return self.last

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._stop_behind(position)
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _stop_behind(self, position: int) -> None:
        if self._most is not None and position > self._most + _STEP:
            raise TooLarge


class TooLarge(Exception):
    """An archive unpacks to more than it may."""


class _Header(tarfile.TarInfo):
    """A member's header that is read within bounds, and whose damage is an error wherever it stands."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        file: Any = archive.fileobj
        outermost = file.header_bytes_left is None  # an extended header reads the next one by this method, too
        if outermost:
            file.header_bytes_left = LARGEST_HEADER
        start = file.tell()
        try:
            header = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if file.last == bytes(BLOCK):
                raise  # the end of an archive
            if not file.last:
                raise tarfile.ReadError("its end is missing") from None
            raise tarfile.ReadError(f"no header of a member at byte {start}: {error}") from None
        except (ValueError, IndexError, KeyError, OverflowError) as error:  # of tarfile, over records that it believes
            raise tarfile.ReadError(f"a damaged header at byte {start} ({error})") from None
        finally:
            if outermost:
                file.header_bytes_left = None
        if header.size < 0:
            raise tarfile.ReadError(f"{header.name!a:.100} has a size of {header.size} bytes")
        return header


def members(file: BinaryIO, most: int | None = None) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield every member of an archive, and of those that are joined to it (`cat a.tar b.tar`), with its archive.

    Args:
        file: the archive, not compressed or as gzip.open gives it.
        most: bytes that it may unpack to.

    Raises:
        tarfile.ReadError: it is cut short or damaged; a header is larger than LARGEST_HEADER; a size is negative.
        TooLarge: it unpacks to more than `most` bytes.
    """
    watched = _Watched(file, most)
    while True:
        archive = tarfile.TarFile(fileobj=watched, tarinfo=_Header, encoding="utf-8")  # type: ignore[arg-type]
        for member in archive:
            yield archive, member
        following = _after_zeros(watched)
        if following is None:
            return
        watched.seek(following)


def _after_zeros(file: _Watched) -> int | None:
    """The first block from here on that is not zero; None at the end of the file."""
    while block := file.read(_STEP):
        if rest := block.lstrip(b"\0"):
            behind = file.tell() - len(rest)
            return behind - behind % BLOCK
    return None


def name_before(file: BinaryIO, offset: int) -> tuple[str, int] | None:
    """The name and the size of the member whose content begins at `offset`; None if none does.

    A name that is long or not ASCII stands in extended headers (PAX, GNU) in front of the member's own, so these
    are looked for first.
    """
    if offset < BLOCK or offset % BLOCK:
        return None
    first = max(0, offset - _BEFORE * BLOCK)
    file.seek(first)
    before = file.read(offset - first)
    starts = [len(before) - BLOCK]
    # PAX records and a GNU name may follow each other
    while (extended := _extended_before(before, starts[-1])) is not None:
        starts.append(extended)
    for start in reversed(starts):
        watched = _Watched(io.BytesIO(before[start:]), None)
        try:
            header = _Named(fileobj=watched, tarinfo=_Header, encoding="utf-8").first  # type: ignore[arg-type]
        except (tarfile.TarError, ValueError):
            continue
        if start + header.offset_data == len(before):
            return header.name, header.size
    return None


class _Named(tarfile.TarFile):
    """An archive of which only the first header is there."""

    first: tarfile.TarInfo

    def next(self) -> tarfile.TarInfo | None:
        self.first = self.tarinfo.fromtarfile(self)
        return self.first


def _extended_before(blocks: bytes, end: int) -> int | None:
    """Where the extended header begins whose content ends at `end`."""
    for start in range(end - BLOCK, -1, -BLOCK):
        if blocks[start + 156 : start + 157] in (b"x", b"L", b"K"):
            try:
                header = tarfile.TarInfo.frombuf(blocks[start : start + BLOCK], "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                continue
            if start + BLOCK + -(-header.size // BLOCK) * BLOCK == end:
                return start
    return None


def stem(name: str) -> str:
    """What of a member's name is an utterance's id: the file's name without folder and ending, in one Unicode form."""
    return unicodedata.normalize("NFC", name.rpartition("/")[2].rpartition(".")[0])
