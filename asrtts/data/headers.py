"""What the header of an audio file promises, which libsndfile does not tell: wav, AIFF, AU, CAF, SPHERE and their kin.

libsndfile shortens a file to what is there and leaves out what follows, both without an error. Nothing is decoded here.
`coded_frames` does the same for FLAC, Ogg and MP3.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

# A writer to a pipe cannot know the size, and claims a huge one: sox 0x7FFFF000 for wav, 0x7F000000 for AIFF.
STREAMED = {4: 0x7EFF0000, 8: 1 << 62}  # by the bytes that the size stands in


@dataclass(frozen=True)
class Extent:
    """How much audio a file promises, and how much it holds; in bytes, or in samples of each channel."""

    promised: int | None  # None: the header leaves it open, as a writer to a pipe must
    held: int  # what the file holds of the promised; all that it holds where nothing is promised
    behind: int = 0  # what it holds beyond the promised that is no chunk of the format
    joined: int = 0  # where a second file begins that was joined to the first one, in bytes; 0: there is none
    unit: str = "bytes"  # or "samples"
    ends_within: str = ""  # "a frame" where the file ends in the middle of one, so that its end is lost
    trimmed: int = 0  # of these, what a decoder may leave out at both ends: an encoder's delay and padding
    patches: tuple[tuple[int, bytes], ...] = ()  # (offset, bytes) that make the header say what is held


@dataclass(frozen=True)
class Chunks:
    """How a format writes the chunks that it is made of: a name, a size, what is in it."""

    head: str  # struct of name and size
    name: bytes  # of the chunk with the audio, or how that begins: W64 has 16 bytes for it
    first: int = 12  # where the first chunk stands
    grid: int = 2  # chunks begin at multiples of so many bytes from the one before
    own: int = 0  # bytes of the head that the size counts
    before: int = 0  # bytes between the head and the audio


WAV, RIFX = Chunks("<4sI", b"data"), Chunks(">4sI", b"data")
AIFF, SVX = Chunks(">4sI", b"SSND", before=8), Chunks(">4sI", b"BODY")
W64 = Chunks("<16sQ", b"data", first=40, grid=8, own=24)
CAF = Chunks(">4sQ", b"data", first=8, grid=1, before=4)

# (the first bytes, bytes 8 to 12 or b"" for any) -> the chunks
KNOWN = {
    (b"RIFF", b"WAVE"): WAV,
    (b"RIFX", b"WAVE"): RIFX,
    (b"RF64", b"WAVE"): WAV,
    (b"BW64", b"WAVE"): WAV,
    (b"FORM", b"AIFF"): AIFF,
    (b"FORM", b"AIFC"): AIFF,
    (b"FORM", b"8SVX"): SVX,
    (b"FORM", b"16SV"): SVX,
    (b"riff", b""): W64,
    (b"caff", b""): CAF,
}


TAGS = (b"TAG", b"ID3", b"APETAGEX")  # which players append to any file
_OFF = 64  # bytes around the promised end in which chunks may begin
FIRST = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"riff", b"caff")  # a file that begins where a chunk should


def extent(file: BinaryIO) -> Extent | None:
    """The promise of a file's header beside what is there; None where the format is another, or damaged."""
    size, magic = file.seek(0, os.SEEK_END), file.seek(0) or file.read(12)
    result = None
    if magic.startswith(b"NIST_1A"):
        result = _sphere(file, size)
    elif magic[:4] in (b".snd", b"dns."):
        result = _au(file, size, ">" if magic[:4] == b".snd" else "<")
    elif chunks := KNOWN.get((magic[:4], magic[8:])) or KNOWN.get((magic[:4], b"")):
        result = _chunked(file, size, chunks)
    file.seek(0)
    return result


def _chunked(file: BinaryIO, size: int, chunks: Chunks) -> Extent | None:
    long, long_place = None, 0  # the size of the audio in RF64, where the chunk's own field is too short for it
    head_size = struct.calcsize(chunks.head)
    file.seek(chunks.first)
    while len(head := file.read(head_size)) == head_size:
        name, length = struct.unpack(chunks.head, head)
        offset = file.tell()
        if name == b"ds64":
            long, long_place = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0], offset + 8
        if name.startswith(chunks.name):
            wide = 4 if head_size == 8 else 8
            if long is not None and length == 0xFFFFFFFF:
                length, wide = long, 8
            in_long = long_place if wide == 8 and head_size == 8 else 0
            audio, held = max(length - chunks.own - chunks.before, 0), max(size - offset - chunks.before, 0)
            end = offset + length - chunks.own + -length % chunks.grid
            behind, joined = (0, 0) if length >= STREAMED[wide] else _behind(file, size, end, chunks)
            if length >= STREAMED[wide] or (not audio and behind and not joined):  # a stream, or a recorder was killed
                return Extent(None, held, patches=_patch(chunks, offset, held, in_long))
            patches = _patch(chunks, offset, held, in_long) if audio > held else ()
            return Extent(audio, min(audio, held), behind, joined, patches=patches)
        if not chunks.own <= length <= size:  # damaged; W64 would send us back to where we were
            return None
        file.seek(offset + length - chunks.own + -length % chunks.grid)
    return None


def _behind(file: BinaryIO, size: int, end: int, chunks: Chunks) -> tuple[int, int]:
    """(bytes behind the audio that are neither chunks nor zeros, where a second file begins or 0)."""
    rest, joined = _after_chunks(file, size, end, chunks)
    if joined or not (behind := _not_zero(file, rest, size)):
        return size - rest if joined else 0, joined
    # not all writers fill up an odd size, or count right
    near = [_after_chunks(file, size, offset, chunks) for offset in range(max(end - _OFF, 0), min(end + _OFF, size))]
    if second := next((joined for _, joined in near if joined), 0):
        return size - second, second
    return (0 if (size, 0) in near else behind), 0


def _after_chunks(file: BinaryIO, size: int, offset: int, chunks: Chunks) -> tuple[int, int]:
    """(where the chunks end that begin at `offset`, where a second file begins or 0)."""
    head_size = struct.calcsize(chunks.head)
    while offset < size:
        file.seek(offset)
        head = file.read(head_size)
        if head[:4] in FIRST:
            return offset, offset
        if head.startswith(TAGS):
            return size, 0
        name, length = struct.unpack(chunks.head, head) if len(head) == head_size else (b"", -1)
        if not name[:4].isascii() or not name[:4].decode("ascii").isprintable() or not chunks.own <= length:
            break
        if offset + head_size + length - chunks.own > size:
            break
        offset += head_size + length - chunks.own + -length % chunks.grid
    return min(offset, size), 0


def _behind_samples(file: BinaryIO, end: int, size: int) -> int:
    """What follows the audio of a format without chunks, but for zeros and tags."""
    file.seek(end)
    return 0 if file.read(8).startswith(TAGS) else _not_zero(file, end, size)


def _not_zero(file: BinaryIO, start: int, size: int) -> int:
    """The bytes from `start` to the last that is not zero: what is zero is padding, or silence."""
    file.seek(start)
    last = start
    while block := file.read(1 << 20):
        if kept := block.rstrip(b"\0"):
            last = file.tell() - len(block) + len(kept)
    return max(last - start, 0)


def _patch(chunks: Chunks, offset: int, held: int, in_long: int) -> tuple[tuple[int, bytes], ...]:
    """The size of the audio as it is, for the header's field; in RF64 that is at `in_long`."""
    length = held + chunks.own + chunks.before
    if in_long:
        return ((in_long, struct.pack("<Q", length)),)
    kind = chunks.head[0] + chunks.head[-1]
    if length >= 1 << 8 * struct.calcsize(kind):
        return ()
    return ((offset - struct.calcsize(kind), struct.pack(kind, length)),)


def _au(file: BinaryIO, size: int, order: str) -> Extent:
    file.seek(4)
    offset, length = struct.unpack(f"{order}II", file.read(8).ljust(8, b"\0"))
    held = max(size - offset, 0)
    behind = _behind_samples(file, offset + length, size) if length < STREAMED[4] else 0
    if length >= STREAMED[4] or (not length and behind):
        return Extent(None, held, patches=((8, struct.pack(f"{order}I", min(held, STREAMED[4]))),))
    return _whole_tail(file, Extent(length, min(length, held), behind), offset + length, (b".snd", b"dns."))


def _whole_tail(file: BinaryIO, result: Extent, end: int, magics: tuple[bytes, ...]) -> Extent:
    file.seek(end)
    if not result.behind or file.read(4) not in magics:
        return result
    return Extent(result.promised, result.held, result.behind, end)


def _sphere(file: BinaryIO, size: int) -> Extent | None:
    file.seek(8)
    field = file.read(8).strip()
    length = int(field) if field.isdigit() else 0
    file.seek(0)
    fields = {}
    for line in file.read(min(length, 1 << 16)).decode("latin-1").split("\n"):
        name, _, rest = line.partition(" ")
        fields[name] = rest.partition(" ")[2]
    numbers = [fields.get("sample_count", ""), fields.get("sample_n_bytes", "2"), fields.get("channel_count", "1")]
    if "shorten" in fields.get("sample_coding", "") or not all(n.isdigit() and len(n) < 16 for n in numbers):
        return None  # compressed: the count says nothing about bytes
    count, width, channels = map(int, numbers)
    promised, held = count * width * channels, max(size - length, 0)
    behind = _behind_samples(file, length + promised, size)
    if not promised and behind:
        return Extent(None, held)
    return _whole_tail(file, Extent(promised, min(promised, held), behind), length + promised, (b"NIST",))
