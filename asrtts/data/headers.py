"""What the header of an audio file promises, which libsndfile does not tell.

It quietly shortens a file to what is there, so that its frame count never shows a lost end. FLAC, Ogg and MP3 are not
read here: they break off where they are decoded.
"""

from __future__ import annotations

import os
import struct
from contextlib import nullcontext
from dataclasses import dataclass
from typing import BinaryIO

# A writer to a pipe cannot know the size, and claims a huge one: sox 0x7FFFF000 for wav, 0x7F000000 for AIFF.
STREAMED = {4: 0x7EFF0000, 8: 1 << 62}  # by the bytes that the size stands in


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


def promise(source: str | BinaryIO) -> tuple[int, int] | None:
    """(bytes of audio that the header promises, bytes that follow it); None where the format does not say so."""
    with open(source, "rb") if isinstance(source, str) else nullcontext(source) as file:
        size, magic = file.seek(0, os.SEEK_END), file.seek(0) or file.read(12)
        found = None
        if magic.startswith(b"NIST_1A"):
            found = _sphere(file, size)
        elif magic[:4] in (b".snd", b"dns."):
            found = _au(file, size, ">" if magic[:4] == b".snd" else "<")
        elif chunks := KNOWN.get((magic[:4], magic[8:])) or KNOWN.get((magic[:4], b"")):
            found = _chunked(file, size, chunks)
        file.seek(0)
    return found


def _chunked(file: BinaryIO, size: int, chunks: Chunks) -> tuple[int, int] | None:
    long = None  # the size of the audio in RF64, where the chunk's own field is too short for it
    file.seek(chunks.first)
    while len(head := file.read(struct.calcsize(chunks.head))) == struct.calcsize(chunks.head):
        name, length = struct.unpack(chunks.head, head)
        place = file.tell()
        if name == b"ds64":
            long = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name.startswith(chunks.name):
            wide = 4 if len(head) == 8 else 8
            if long is not None and length == 0xFFFFFFFF:
                length, wide = long, 8
            audio, there = length - chunks.own - chunks.before, size - place - chunks.before
            return (max(audio, 0), max(there, 0)) if length < STREAMED[wide] else None
        if not chunks.own <= length <= size:  # damaged; W64 would send us back to where we were
            return None
        file.seek(place + length - chunks.own + -length % chunks.grid)
    return None


def _au(file: BinaryIO, size: int, order: str) -> tuple[int, int] | None:
    file.seek(4)
    offset, length = struct.unpack(f"{order}II", file.read(8).ljust(8, b"\0"))
    return (length, max(size - offset, 0)) if length < STREAMED[4] else None


def _sphere(file: BinaryIO, size: int) -> tuple[int, int] | None:
    file.seek(8)
    length = int(file.read(8).strip() or 0)
    file.seek(0)
    fields = {}
    for line in file.read(length).decode("latin-1").split("\n"):
        name, _, rest = line.partition(" ")
        fields[name] = rest.partition(" ")[2]
    if "shorten" in fields.get("sample_coding", "") or not fields.get("sample_count", "").isdigit():
        return None  # compressed: the count says nothing about bytes
    per_frame = int(fields.get("sample_n_bytes", 2)) * int(fields.get("channel_count", 1))
    return int(fields["sample_count"]) * per_frame, size - length
