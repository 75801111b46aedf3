"""The manifest: what is written is read, and a damaged line is named."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, replace

import pytest

from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

WHOLE = Utterance("u1", "wav/ü 1.wav", 'say "seconds": 9, 语音\u2028 {}', "s1", 0.5, 2.25, 16000, 1)


def refusal(work) -> str:
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def train(tmp_path):
    return tmp_path / "data" / "train.jsonl"


def test_what_is_written_is_read(train):
    utterances = [WHOLE, Utterance("u2", "b.wav", "")]
    assert manifest.write(train, utterances) == 2
    assert list(manifest.read(train)) == utterances
    assert list(manifest.read(train.with_suffix(""))) == utterances  # `.jsonl` may be left out


def test_a_killed_write_leaves_the_old_manifest(train):
    manifest.write(train, [WHOLE])

    def dies():
        yield replace(WHOLE, utt_id="other")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manifest.write(train, dies())
    assert list(manifest.read(train)) == [WHOLE]
    assert manifest.write(train, [WHOLE, WHOLE]) == 2
    assert [path.name for path in train.parent.iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize("name", ["trian", "trian.jsonl"])
def test_a_missing_manifest_is_answered_with_the_nearest(train, name):
    manifest.write(train, [WHOLE])
    line = refusal(lambda: manifest.locate(train.with_name(name)))
    assert line.startswith(
        f"{train.with_name('trian.jsonl')}: no such manifest; did you mean 'train'? (choices: train)"
    )


def test_what_prepare_found_is_no_manifest_to_offer(train):
    manifest.write(train.with_name("train.jsonl"), [])
    train.with_name("checks.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"choices: train\)"):
        manifest.locate(train.with_name("cheks"))


def test_a_missing_folder_is_one_line(tmp_path):
    assert "no such manifest" in refusal(lambda: manifest.locate(tmp_path / "nowhere" / "train"))
    assert "no such manifest" in refusal(lambda: manifest.locate(""))
    assert "no such manifest" in refusal(lambda: manifest.locate(tmp_path))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"utt_idd": "x"}, "unknown key 'utt_idd'; did you mean 'utt_id'?"),
        ({"seconds": "2.0"}, "key 'seconds' holds '2.0', which is no number"),
        ({"seconds": True}, "key 'seconds' holds True, which is no number"),
        ({"seconds": float("nan")}, "key 'seconds' holds nan; wanted a number from 0 on"),
        ({"seconds": float("inf")}, "key 'seconds' holds inf; wanted a number from 0 on"),
        ({"start": -1.0}, "key 'start' holds -1.0; wanted a number from 0 on"),
        ({"text": None}, "key 'text' holds None, which is no text"),
        ({"channel": 0.5}, "key 'channel' holds 0.5, which is no whole number"),
        ({"seconds": 10**400}, "key 'seconds' holds 1000"),
        ({"size": 10**30}, "key 'size' holds 1000"),
        ({"text": "a\ud83d"}, r"key 'text' holds 'a\ud83d', with half a character"),
        ({"utt_id": "\ude00"}, r"key 'utt_id' holds '\ude00', with half a character"),
        ({"audio": ["a.wav"]}, "key 'audio' holds ['a.wav'], which is no text"),
    ],
)
def test_a_wrong_value_names_the_line_and_the_key(train, change, said):
    manifest.write(train, [WHOLE])
    with open(train, "a") as lines:
        lines.write(json.dumps({**asdict(WHOLE), **change}) + "\n")
    assert f"{train}:2: {said}" in refusal(lambda: list(manifest.read(train)))


@pytest.mark.parametrize("key", ["utt_id", "audio", "text"])
def test_a_missing_key_is_named(key):
    record = {k: v for k, v in asdict(WHOLE).items() if k != key}
    assert refusal(lambda: manifest.parse(json.dumps(record), "m:7")) == f"m:7: key '{key}' is missing"


@pytest.mark.parametrize(
    "line", [b'{"utt_id": "u', b"\n", b"u1 a.wav text\n", b'{"utt_id": "\xff"}\n', b"[1, 2]\n", b"3\n"]
)
def test_a_line_that_is_no_object_is_named(train, line):
    train.parent.mkdir()
    train.write_bytes(line)
    assert refusal(lambda: list(manifest.read(train))).startswith(f"{train}:1: ")


def written(utterance: Utterance) -> bytes:
    return (json.dumps(asdict(utterance), ensure_ascii=False) + "\n").encode()


@pytest.mark.parametrize("seconds", [2.25, 3, 0.0, 0, 1e-7, 1e22, 12345.678901])
def test_the_short_way_to_the_seconds_is_the_long_one(seconds):
    line = written(replace(WHOLE, seconds=seconds))
    assert manifest.seconds_of(line, "m", 1) == [json.loads(line)["seconds"]]


def test_the_seconds_of_a_line_by_another_hand_are_found():
    assert manifest.seconds_of(b'{"text":"","audio":"a","seconds":4.5,"utt_id":"u"}', "m", 1) == [4.5]
    assert manifest.seconds_of(b'{"utt_id": "u", "audio": "a", "text": "", "seconds": 4.5}\n', "m", 1) == [4.5]
    assert manifest.seconds_of(b'{"utt_id": "u", "audio": "a", "text": "x\\"seconds\\": 3,"}\n', "m", 1) == [0.0]


@pytest.mark.parametrize(
    "line",
    [
        written(WHOLE)[:-20],
        written(WHOLE).replace(b"2.25", b"2.2.5"),
        written(WHOLE).replace(b"2.25", b"-2.25"),
        written(WHOLE).replace(b"2.25", b"NaN"),
        written(WHOLE).replace(b"2.25", b'"2.25"'),
        written(WHOLE).replace(b'"seconds"', b'"secnods"'),
    ],
)
def test_the_short_way_refuses_what_the_long_one_refuses(line):
    assert refusal(lambda: manifest.seconds_of(written(WHOLE) * 2 + line, "m", 1)).startswith("m:3: ")


def test_the_short_way_is_short():
    lines = written(WHOLE) * 2000

    def best(work) -> float:
        times = []
        for _ in range(5):
            start = time.thread_time()
            work()
            times.append(time.thread_time() - start)
        return min(times)

    long_way = best(lambda: [manifest.parse(line, "m:1") for line in lines.splitlines()])
    assert best(lambda: manifest.seconds_of(lines, "m", 1)) < long_way / 4


def test_the_fingerprint_of_the_short_way_is_that_of_the_long_one(train):
    """Which is that of runs that began before there was a short way."""
    plain = [replace(WHOLE, utt_id=f"u{i}", text=f"语音 {i}", start=i / 3, seconds=i * 0.7 + 0.1) for i in range(9)]
    for utterances in (plain, [*plain, WHOLE], [replace(u, offset=512, size=9) for u in plain]):
        manifest.write(train, utterances)
        lines = (f"{u.utt_id}\t{u.text}\t{u.start:.4f}\t{u.seconds:.4f}\n" for u in utterances)
        assert manifest.fingerprint(train) == hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
        assert len(manifest._LINE.findall(train.read_bytes())) == 9


def test_lines_of_shards_take_the_short_way_too(train):
    utterances = [WHOLE, replace(WHOLE, offset=512, size=77, seconds=3.5)]
    manifest.write(train, utterances)
    assert manifest._LINE_END.findall(train.read_bytes()) == [b"2.25", b"3.5"]
    assert list(manifest.read(train)) == utterances


def test_a_text_cannot_look_like_the_end_of_a_line(train):
    sly = '"seconds": 9, "sample_rate": 1, "channel": 0}\n'
    manifest.write(train, [replace(WHOLE, text=sly, utt_id=sly, speaker=sly, audio=sly)])
    assert manifest.seconds_of(train.read_bytes(), train, 1) == [2.25]


def test_the_fingerprint_knows_the_data_and_not_its_place(train, tmp_path):
    def of(*utterances: Utterance) -> str:
        manifest.write(train, utterances)
        return manifest.fingerprint(train)

    other = replace(WHOLE, utt_id="u2")
    before = of(WHOLE, other)
    assert of(replace(WHOLE, audio="/moved/1.wav"), other) == before
    changes = [{"text": "another"}, {"seconds": 2.26}, {"start": 0.0}, {"utt_id": "u3"}]
    assert before not in [of(replace(WHOLE, **change), other) for change in changes]
    assert before not in [of(other, WHOLE), of(WHOLE), of(WHOLE, other, other)]


def test_a_path_that_is_not_utf8_is_the_same_path_again(tmp_path):
    utterance = Utterance("u", os.fsdecode(b"/corpora/gr\xfc\xdfe/0.tar"), "text", seconds=1.0, offset=512, size=9)
    manifest.write(tmp_path / "train.jsonl", [utterance])
    assert list(manifest.read(tmp_path / "train")) == [utterance]
    (tmp_path / "train.jsonl").read_text(encoding="utf-8")
