"""How much audio a coded file holds, from its frames' headers alone: FLAC, Ogg and MP3. Nothing is decoded here.

Each of them has a length in its first bytes that may be missing, wrong, or that of the first of several joined files;
libsndfile believes it, or guesses. The frames say how much there is.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from asrtts.data.headers import Extent


def extent(data: bytes) -> Extent | None:
    """The promise of a coded file beside what its frames hold, in samples; None where the format is another.

    Args:
        data: the whole file, e.g. a memory map of it.
    """
    if data[:4] == b"fLaC":
        return _flac(data)
    if data[:4] == b"OggS":
        return _ogg(data)
    if data[:4] not in (b"RIFF", b"FORM") and (frames := mpeg_frames(data)):
        promised = None if frames.promised is None else frames.promised * frames.samples
        held = frames.count * frames.samples
        cut = "a frame" if frames.is_cut and promised is None else ""
        return Extent(promised, held, 0, frames.other, "samples", cut, trimmed=4 * frames.samples)
    return None


# FLAC --------------------------------------------------------------------------------------------------------------

_BLOCKS = {1: 192, **{n: 576 << (n - 2) for n in range(2, 6)}, **{n: 256 << (n - 8) for n in range(8, 16)}}
_TAIL = 1 << 18  # bytes at the end in which the last frame begins; the largest of 16 bit stereo has 64 KiB


def _flac(data: bytes) -> Extent | None:
    info = data[8:42]
    if len(info) < 34 or data[4] & 0x7F:
        return None
    total = (info[13] & 0x0F) << 32 | int.from_bytes(info[14:18], "big")
    joined = max(data.find(b"fLaC\0\0\0\x22", 4), data.find(b"fLaC\x80\0\0\x22", 4), 0)
    held, whole = _flac_samples(data[:joined] if joined else data, info, total)
    if held is None:
        return Extent(total or None, total, 0, joined, "samples")
    if not total:  # a writer to a pipe; a frame that was cut is missed
        patch = bytes([info[13] & 0xF0 | held >> 32 & 0x0F]) + (held & 0xFFFFFFFF).to_bytes(4, "big")
        return Extent(None, held, 0, joined, "samples", "" if whole else "a frame", patches=((21, patch),))
    return Extent(total, min(held, total), max(held - total, 0), joined, "samples")


def _flac_samples(data: bytes, info: bytes, total: int) -> tuple[int | None, bool]:
    """(samples up to the end of the last whole frame, whether the file ends with it), from that frame's header."""
    tail = data[-_TAIL:]
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    offset = len(tail)
    while (offset := tail.rfind(b"\xff", 0, offset)) >= 0:
        header = _flac_header(tail[offset : offset + 16], info)
        if header is None:
            continue
        first, length = header
        if first + length == total or _crc(tail[offset:], 16, 0x8005) == 0:
            return first + length, True
        return first, False  # the last frame was cut; the one before is whole where this one begins
    return None, False


def _flac_header(header: bytes, info: bytes) -> tuple[int, int] | None:
    """(first sample, samples) of the FLAC frame that begins here; None if none does."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8:
        return None
    block, rate, channels, bits = header[2] >> 4, header[2] & 15, header[3] >> 4, header[3] >> 1 & 7
    depth = ((info[12] & 1) << 4 | info[13] >> 4) + 1
    if not block or rate == 15 or channels > 10 or header[3] & 1 or bits == 3:
        return None
    if bits and {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}[bits] != depth:
        return None
    ones = next((n for n in range(8) if not header[4] << n & 0x80), 8)
    extra = max(ones - 1, 0)
    if ones == 1 or ones == 8 or any(byte & 0xC0 != 0x80 for byte in header[5 : 5 + extra]):
        return None
    number = header[4] & (0x7F >> ones)
    for byte in header[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    end = 5 + extra
    length = _BLOCKS.get(block, 0)
    if block in (6, 7):
        length, end = int.from_bytes(header[end : end + block - 5], "big") + 1, end + block - 5
    end += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if len(header) <= end or _crc(header[: end + 1], 8, 0x07):
        return None
    fixed = int.from_bytes(info[2:4], "big")  # the largest block; in a file of fixed blocks frames are numbered
    return (number if header[1] & 1 else number * fixed), length


def _crc(data: bytes, width: int, polynomial: int) -> int:
    """The checksum of FLAC; 0 over data with its checksum at the end."""
    table, mask = _table(width, polynomial), (1 << width) - 1
    value = 0
    for byte in data:
        value = value << 8 & mask ^ table[value >> (width - 8) ^ byte]
    return value


_TABLES: dict[int, list[int]] = {}


def _table(width: int, polynomial: int) -> list[int]:
    if width not in _TABLES:
        table = []
        for value in range(256):
            value <<= width - 8
            for _ in range(8):
                value = (value << 1 ^ (polynomial if value >> (width - 1) & 1 else 0)) & ((1 << width) - 1)
            table.append(value)
        _TABLES[width] = table
    return _TABLES[width]


# Ogg ---------------------------------------------------------------------------------------------------------------


def _ogg(data: bytes) -> Extent:
    """Ogg says no length, but its last page is marked. A first page behind other pages begins another file."""
    offset, last, begun = 0, False, False
    while data[offset : offset + 4] == b"OggS":
        if data[offset + 5] & 2 and begun:
            return Extent(None, 0, 0, offset, "")
        begun = begun or not data[offset + 5] & 2
        table = data[offset + 27 : offset + 27 + data[offset + 26]] if offset + 27 <= len(data) else b""
        end = offset + 27 + len(table) + sum(table)
        last = bool(data[offset + 5] & 4) and end <= len(data)
        offset = end
    return Extent(None, 0, unit="", ends_within="" if last else "a stream of Ogg pages")


# MPEG --------------------------------------------------------------------------------------------------------------

_KBPS = {  # (MPEG-1, layer) -> by the index in a frame's header
    (True, 1): range(0, 480, 32),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by MPEG-1, 2, 2.5


@dataclass(frozen=True)
class MpegFrames:
    """The frames of an MP3 (or layer I or II) file, of all the files that were joined in it."""

    count: int
    samples: int  # of each channel in a frame
    promised: int | None  # frames by the first one's Xing, Info or VBRI header; None: it has none
    stretches: tuple[tuple[int, int], ...]  # of frames with audio: between them are tags and headers
    header: bytes  # of the first frame with audio
    layer: int
    other: int  # where frames of another rate or version begin, in bytes; 0: nowhere
    is_cut: bool  # the file ends within a frame


def mpeg_frames(data: bytes) -> MpegFrames | None:
    """Follow the frames of a file from header to header; None if it is no MPEG audio."""
    offset, count, promised = 0, 0, None
    first, stretches = b"", []
    layer = samples = other = 0
    is_cut = False
    while offset + 4 <= len(data):
        if data[offset] != 0xFF:
            following = _behind_tag(data, offset)
            if following is None and not first:
                return None
            offset = _next_frame(data, offset + 1, first) if following is None else following
            continue
        header = data[offset : offset + 4]
        shape = _mpeg_header(header)
        if shape is None or (first and not _alike(header, first)):
            if not first:
                return None
            if shape and _alike(data[offset + shape[0] : offset + shape[0] + 4].ljust(4, b"\0"), header):
                other = other or offset  # a file of another rate or version
            offset = _next_frame(data, offset + 1, first)
            continue
        size, layer, samples, side = shape
        if offset + size > len(data):  # the decoder does not give it either
            is_cut = True
            break
        is_header, frames = _vbr_header(data, offset, side)
        if is_header:
            promised = frames if not first else promised
            first = first or header
        else:
            first, count = first or header, count + 1
            if stretches and stretches[-1][1] == offset:
                stretches[-1] = (stretches[-1][0], offset + size)
            else:
                stretches.append((offset, offset + size))
        offset += size
    if not count:
        return None
    header = data[stretches[0][0] : stretches[0][0] + 4]
    return MpegFrames(count, samples, promised, tuple(stretches), bytes(header), layer, other, is_cut)


def with_length(data: bytes, frames: MpegFrames) -> list[bytes] | None:
    """The pieces of an MP3 file with a header that says its length; None if it has one, or can have none."""
    if frames.layer != 3 or (frames.promised is not None and frames.promised >= frames.count):
        return None
    head = bytearray(frames.header)
    head[1] |= 1  # no checksum
    for index in range(1, 15):
        head[2] = head[2] & 0x0D | index << 4
        shape = _mpeg_header(bytes(head))
        if shape and shape[0] >= 156:  # room for what a Xing header may hold
            size, _, _, side = shape
            xing = bytes(head) + bytes(side) + b"Xing" + struct.pack(">II", 1, frames.count)
            return [xing.ljust(size, b"\0"), *(data[start:end] for start, end in frames.stretches)]
    return None


def _alike(header: bytes, first: bytes) -> bool:
    """Whether two frames are of one MPEG version, layer and rate."""
    return header[1] & 0xFE == first[1] & 0xFE and header[2] & 0x0C == first[2] & 0x0C


def _mpeg_header(header: bytes) -> tuple[int, int, int, int] | None:
    """(bytes, layer, samples, bytes of side information) of the frame with this header; None if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer, index, rate = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3), header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or index in (0, 15) or rate == 3:
        return None
    hz, kbps = _HZ[version][rate], _KBPS[(version == 3, layer)][index]
    padding = header[2] >> 1 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    size = (12000 * kbps // hz + padding) * 4 if layer == 1 else samples // 8 * 1000 * kbps // hz + padding
    mono = header[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return size, layer, samples, side


def _vbr_header(data: bytes, offset: int, side: int) -> tuple[bool, int | None]:
    """(whether a frame holds no audio but a header for the whole file, the frames that it promises)."""
    position = offset + 4 + side
    if data[position : position + 4] in (b"Xing", b"Info"):
        has_count = data[position + 7 : position + 8] and data[position + 7] & 1
        return True, int.from_bytes(data[position + 8 : position + 12], "big") if has_count else None
    return data[offset + 36 : offset + 40] == b"VBRI", None  # which libsndfile does not read


def _behind_tag(data: bytes, offset: int) -> int | None:
    """Where the file goes on behind a tag (ID3, APE); None if there is none here."""
    if data[offset : offset + 3] == b"ID3" and offset + 10 <= len(data):
        sizes = data[offset + 6 : offset + 10]
        size = sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]
        return offset + 10 + size + (10 if data[offset + 5] & 0x10 else 0)
    if data[offset : offset + 3] == b"TAG":
        return offset + 128
    if data[offset : offset + 8] == b"APETAGEX":
        return offset + 32 + int.from_bytes(data[offset + 12 : offset + 16], "little")
    return None


def _next_frame(data: bytes, offset: int, first: bytes) -> int:
    """The next place of a frame like the first one, or of a tag; the end of the data if there is none."""
    while (sync := data.find(b"\xff", offset)) >= 0:
        header = data[sync : sync + 4]
        shape = _mpeg_header(header)
        if shape and _alike(header, first):
            following = data[sync + shape[0] : sync + shape[0] + 4]
            if not following or _alike(following.ljust(4, b"\0"), first) or _behind_tag(data, sync + shape[0]):
                return sync
        offset = sync + 1
    return len(data)


class Pieces(io.RawIOBase):
    """Pieces of bytes as one file that can be read, for a header that differs from that on the disk."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces, self._place = [memoryview(piece) for piece in pieces], 0
        self._ends = [sum(map(len, self._pieces[: n + 1])) for n in range(len(pieces))]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self._place, self._ends[-1])[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        done = 0
        for piece, end in zip(self._pieces, self._ends, strict=True):
            if self._place < end and done < len(buffer):
                start = self._place - (end - len(piece))
                part = piece[start : start + len(buffer) - done]
                buffer[done : done + len(part)] = part
                done, self._place = done + len(part), self._place + len(part)
        return done
