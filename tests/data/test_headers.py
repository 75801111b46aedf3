"""What a header promises, in files that are strange: written to a pipe, damaged, or with chunks before the audio."""

from __future__ import annotations

import io
import struct

import pytest

from asrtts.data.headers import extent

AUDIO = bytes(100)


def wav(length: int, before: bytes = b"", name: bytes = b"RIFF") -> bytes:
    return name + struct.pack("<I", 0) + b"WAVE" + before + struct.pack("<4sI", b"data", length) + AUDIO


def ds64(length: int) -> bytes:
    return struct.pack("<4sIQQQI", b"ds64", 28, 0, length, 0, 0)


def w64(length: int) -> bytes:
    return b"riff".ljust(40, b"x") + b"data".ljust(16, b"x") + struct.pack("<Q", length) + AUDIO


def au(length: int, order: str = ">") -> bytes:
    return (b".snd" if order == ">" else b"dns.") + struct.pack(f"{order}IIIII", 24, length, 3, 16000, 1) + AUDIO


def caf(length: int) -> bytes:
    return b"caff\0\1\0\0" + struct.pack(">4sqI", b"data", length, 0) + AUDIO


def aiff(length: int) -> bytes:
    return b"FORM\0\0\0\0AIFF" + struct.pack(">4sIII", b"SSND", length, 0, 0) + AUDIO


def promised(data: bytes) -> tuple[int | None, int] | None:
    file = io.BytesIO(data)
    found = extent(file)
    assert file.tell() == 0
    return found and (found.promised, found.held)


@pytest.mark.parametrize(
    "data",
    [
        wav(300),
        wav(300, b"LIST\5\0\0\0abcde\0"),
        wav(0xFFFFFFFF, ds64(300), b"RF64"),
        wav(300, ds64(0), b"BW64"),
        w64(324),
        au(300),
        au(300, "<"),
        caf(304),
        aiff(308),
    ],
)
def test_what_is_promised_stands_beside_what_is_there(data):
    assert promised(data) == (300, 100)


@pytest.mark.parametrize(
    "data",
    [
        wav(0xFFFFFFFF),
        wav(0x7FFFF000),
        wav(0xFFFFFFFF, ds64(0xFFFFFFFFFFFFFFFF), b"RF64"),
        w64(0x7FFFFFFFFFFFFFFF),
        au(0xFFFFFFFF),
        au(0xFFFFFFFF, "<"),
        caf(-1),
        aiff(0x7F000008),
        wav(0).replace(AUDIO, b"\x81" * 100),
        au(0).replace(AUDIO, b"\x81" * 100),
    ],
)
def test_a_writer_to_a_pipe_promises_nothing(data):
    assert promised(data) == (None, 100)


@pytest.mark.parametrize("more", [b"LIST\4\0\0\0INFO", b"", bytes(5000), b"\0LIST\4\0\0\0INFO", b"TAG" + b"x" * 125])
def test_chunks_and_zeros_behind_the_audio_are_no_audio(more):
    assert extent(io.BytesIO(wav(100) + more)).behind == 0


def test_what_follows_the_audio_and_is_no_chunk_is_counted():
    assert extent(io.BytesIO(wav(100) + b"\x81" * 77 + bytes(9))).behind == 77
    assert extent(io.BytesIO(wav(100) + b"LIST\4\0\0\0INFO" + b"\x81" * 77)).behind == 77
    assert extent(io.BytesIO(wav(100) + wav(100))).joined == len(wav(100))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b".snd",
        b"FORM\0\0\0\0ILBM" + AUDIO,
        b"riff".ljust(40, b"x") + b"junk".ljust(16, b"x") + bytes(8) + AUDIO,  # a chunk of size 0: not even its head
        b"caff\0\1\0\0" + struct.pack(">4sq", b"desc", -24),
        wav(300, b"ds64\2\0\0\0ab", b"RF64")[:22],
        b"NIST_1A\n   abc\n",
        b"NIST_1A\n   1024\nsample_count -i " + b"9" * 5000,
    ],
)
def test_a_damaged_header_promises_nothing_and_ends(data):
    assert ((promised(data) or (0, 0))[0] or 0) == 0
