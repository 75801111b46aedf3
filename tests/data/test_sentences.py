"""Texts for a language model, as other people write them."""

from __future__ import annotations

import gzip

import pytest

from asrtts.data import manifest, sentences
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

LINES = ["turn the light on", "turn it off"]


@pytest.mark.parametrize("blank", ["\x0c", "\u2028", "\x85", "\x1c", "\x0b", "\t", "\u00a0", "\u3000"])
def test_only_line_ends_end_a_line(tmp_path, blank):
    path = tmp_path / "a.txt"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(end.join(line.replace(" ", blank, 1) for line in LINES).encode())
        assert sentences.read(path) == LINES


def test_packed_marked_and_kaldis_files_are_read(tmp_path, capsys):
    plain, ids = "\n".join(LINES) + "\n", "".join(f"u{n} {line}\n" for n, line in enumerate(LINES))
    files = {
        "a.txt": plain.encode("utf-8-sig"),
        "a.TXT": plain.encode(),
        "a.txt.gz": gzip.compress(plain.encode()),
        "packed.txt": gzip.compress(plain.encode("utf-8-sig")),
        "wide.txt": plain.encode("utf-16"),
        "train/text": ids.encode("utf-8-sig"),
        "packed/text.gz": gzip.compress(ids.encode()),
    }
    (tmp_path / "train").mkdir()
    (tmp_path / "packed").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert sentences.read(tmp_path / name) == LINES, name
    assert sentences.read(tmp_path / "train") == LINES
    assert capsys.readouterr().err == ""


def test_a_manifest_is_read_by_any_name(tmp_path):
    manifest.write(tmp_path / "m.jsonl", [Utterance(f"u{n}", "a.wav", line) for n, line in enumerate(LINES)])
    (tmp_path / "other").write_bytes(gzip.compress((tmp_path / "m.jsonl").read_bytes()))
    for name in ("m", "m.jsonl", "other"):
        assert sentences.read(tmp_path / name) == LINES


@pytest.mark.parametrize(
    "lines", [["BAC009S0002W0122 {}", "BAC009S0002W0123 {}"], ["1089-134686-0000 {}", "1089-134686-0001 {}"]]
)
def test_ids_of_other_toolkits_are_cut_off_and_told(tmp_path, lines, capsys):
    path = tmp_path / "lm_train.txt"
    path.write_text("".join(line.format(text) + "\n" for line, text in zip(lines, LINES, strict=True)))
    assert sentences.read(path) == LINES
    assert f"every line begins with another word, such as {lines[0].split()[0]}" in capsys.readouterr().err


def test_ids_behind_a_sentence_and_marks_of_its_ends_are_cut_off(tmp_path, capsys):
    (tmp_path / "an4.txt").write_text("".join(f"<s> {line} </s> (an{n})\n" for n, line in enumerate(LINES)))
    assert sentences.read(tmp_path / "an4.txt") == LINES
    assert "ends with another id, such as (an0)" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [["3 cats", "4 dogs"], ["one two", "three four"], ["u1 a", "u1 b"]])
def test_sentences_are_not_taken_for_ids(tmp_path, lines):
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert sentences.read(tmp_path / "a.txt") == lines


def test_an_arpa_file_is_known_by_its_content(tmp_path):
    (tmp_path / "lm.gz").write_bytes(gzip.compress(b"a comment\n\n\\data\\\nngram 1=1\n"))
    assert sentences.is_arpa(tmp_path / "lm.gz") and sentences.is_arpa(tmp_path / "none.ARPA.gz")
    with pytest.raises(UserError, match="lm.gz: an ARPA file, where a text is wanted"):
        sentences.read(tmp_path / "lm.gz")
    (tmp_path / "a.txt").write_text("data\n")
    assert not sentences.is_arpa(tmp_path / "a.txt") and not sentences.is_arpa(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9\n", "a.txt: not UTF-8, which a text should be; convert it"),
        (b"ab\ncd\0\0\n", "a.txt:2: a zero byte"),
        (gzip.compress(b"turn the light on")[:-9], "a.txt: damaged, it cannot be unpacked"),
        (b"PK\x03\x04abcdefgh", "a.txt: packed in a way that is not read here; unpack it, e.g. `unzip a.txt`"),
    ],
)
def test_a_file_that_is_no_text_is_one_line(tmp_path, content, said):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        sentences.read(tmp_path / "a.txt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.txt.gz", "none.txt.gz: no such text"),
        ("none.arpa.gz", "none.arpa.gz: no such ARPA file"),
        ("trian", "no such manifest; did you mean 'train'"),
    ],
)
def test_a_file_that_is_not_there_is_named(tmp_path, name, said):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(UserError, match=said):
        sentences.read(tmp_path / name)
