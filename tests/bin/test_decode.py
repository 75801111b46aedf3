"""`asrtts decode`: one shape of output for every head, whatever the batch, and one line for what is wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from asrtts.asr.model import AsrModel
from asrtts.bin import average, decode
from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.experiment import transcription
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.search.hypothesis import Hypothesis
from asrtts.text import tokenizer
from asrtts.text.tokenizer import Tokenizer

METHODS = [
    *(("ctc", "ctc_greedy"), ("ctc", "ctc_prefix_beam"), ("transducer", "transducer_greedy")),
    *(("transducer", "transducer_beam"), ("attention", "attention_beam"), ("hybrid", "joint_beam")),
    *(("hybrid", "attention_beam"), ("hybrid", "ctc_greedy")),
]
KEYS = ["utt_id", "ref", "hyp", "score", "tokens", "nbest", "steps", "seconds", "speaker", "method"]


@pytest.fixture
def run(trained, tmp_path):
    """Gives a copy of a trained run, to be written in."""

    def copy(head: str = "ctc") -> Path:
        shutil.copytree(trained(head), tmp_path / head, dirs_exist_ok=True)
        return tmp_path / head

    return copy


def decoded(folder: Path, tones: Path, *options: str) -> list[dict]:
    decode.main([str(folder), str(tones / "data/test"), "--threads", "1", *options])
    return [json.loads(line) for line in (folder / "decode/test.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("head", "method"), METHODS)
def test_every_head_gives_lines_of_one_shape_in_the_manifests_order(tones, run, head, method):
    folder = run(head)
    lines = decoded(folder, tones, f"method={method}", "beam=4", "nbest=3")
    utterances = list(manifest.read(tones / "data/test"))
    assert [line["utt_id"] for line in lines] == [u.utt_id for u in utterances]
    for line, utterance in zip(lines, utterances, strict=True):
        assert list(line) == KEYS
        assert (line["ref"], line["speaker"], line["seconds"]) == (utterance.text, utterance.speaker, utterance.seconds)
        assert line["method"] == method
        times = [token["time"] for token in line["tokens"]]
        assert times == sorted(times) and all(0 <= time < utterance.seconds for time in times)
        assert all(0 <= token["confidence"] <= 1 for token in line["tokens"])
        pieces = "".join(token["token"] for token in line["tokens"])
        assert pieces.replace("▁", " ").replace("<unk>", "⁇") == line["hyp"]
        assert line["nbest"][0] == {"text": line["hyp"], "score": line["score"]}
        scores = [entry["score"] for entry in line["nbest"]]
        assert scores == sorted(scores, reverse=True) and 1 <= len(scores) <= (1 if "greedy" in method else 3)
    summary = json.loads((folder / "decode/test.summary.json").read_text())
    assert summary["method"] == method and summary["beam"] == (1 if "greedy" in method else 4)
    assert " x " in summary["computer"]
    assert summary["utterances"] == len(lines) and summary["rtf"] > 0 and summary["threads"] == 1


@pytest.mark.parametrize("head", ["ctc", "transducer", "attention", "hybrid"])
def test_the_size_of_a_batch_changes_nothing(tones, run, head):
    one, many = (decoded(run(head), tones, "--batch-seconds", size) for size in ("0.1", "1000"))
    assert [line["hyp"] for line in one] == [line["hyp"] for line in many]
    assert [line["tokens"] for line in one] == [line["tokens"] for line in many] or head != "ctc"
    assert [line["score"] for line in one] == pytest.approx([line["score"] for line in many], abs=1e-3)


def test_what_the_first_search_compiles_is_not_timed(tones, run, monkeypatch):
    """In a fresh installation the real-time factor of CTC was ten times that of the next decoding."""
    real, calls = AsrModel.search, []

    def search(*args):
        calls.append(args)
        time.sleep(1.5 if len(calls) == 1 else 0)
        return real(*args)

    folder = run()  # before: validation searches, too
    monkeypatch.setattr(AsrModel, "search", search)
    decoded(folder, tones)
    summary = json.loads((folder / "decode/test.summary.json").read_text())
    assert len(calls) > 1 and summary["rtf"] * summary["seconds"] < 1.5


def test_a_finished_decoding_is_not_made_again(tones, run, monkeypatch, capsys):
    folder = run()
    first, goal = decoded(folder, tones), folder / "decode/test.jsonl"
    before = goal.stat().st_mtime_ns
    monkeypatch.setattr(decode, "transcribe", lambda *_: 1 / 0)
    assert decoded(folder, tones) == first and goal.stat().st_mtime_ns == before
    assert "test.jsonl: finished before, by the same weights, data and search" in capsys.readouterr().err

    def is_made_again(*options: str) -> None:
        with pytest.raises(ZeroDivisionError):
            decoded(folder, tones, *options)

    for options in (["--restart"], ["beam=3"], ["--batch-seconds", "7"], ["--weights", "snapshots/00000008"]):
        is_made_again(*options)
    lines = goal.read_bytes()
    goal.write_bytes(lines[:-40])  # cut short
    is_made_again()
    goal.write_bytes(lines)
    (folder / "decode/test.summary.json").write_text("{")
    is_made_again()


def counted_searches(monkeypatch, search=None) -> list[int]:
    """The number of utterances of each search."""
    real, calls = AsrModel.search, []

    def counting(self, feats, feat_lens, *rest):
        calls.append(len(feats))
        if search:
            search(feats, calls)
        return real(self, feats, feat_lens, *rest)

    monkeypatch.setattr(AsrModel, "search", counting)
    return calls


def test_a_decoding_that_was_broken_off_resumes(tones, run, monkeypatch):
    folder = run()
    whole = decoded(folder, tones, "--batch-seconds", "0.1")
    (folder / "decode/test.jsonl").unlink()

    def die(feats, calls):
        if len(calls) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        calls = counted_searches(patch, die)
        with pytest.raises(KeyboardInterrupt):
            decoded(folder, tones, "--batch-seconds", "0.1")
    kept = 2  # the first search is not timed and not kept
    with open(folder / "decode/test.jsonl.partial", "a") as partial:
        partial.write('{"rows": [0], "spe')  # half a line, as kill -9 leaves it
    calls = counted_searches(monkeypatch)
    assert decoded(folder, tones, "--batch-seconds", "0.1") == whole
    assert sum(calls[1:]) == len(whole) - kept
    assert sorted(p.name for p in (folder / "decode").iterdir()) == ["test.jsonl", "test.summary.json"]


def test_what_was_decoded_by_another_search_is_not_taken(tones, run, monkeypatch):
    folder = run()

    def die(feats, calls):
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        counted_searches(patch, die)
        with pytest.raises(KeyboardInterrupt):
            decoded(folder, tones, "--batch-seconds", "0.1", "method=ctc_prefix_beam")
    calls = counted_searches(monkeypatch)
    lines = decoded(folder, tones, "--batch-seconds", "0.1")
    assert sum(calls[1:]) == len(lines) and {line["method"] for line in lines} == {"ctc_greedy"}


def test_an_utterance_too_long_for_memory_is_named_and_all_others_are_kept(tones, run, monkeypatch):
    folder = run()
    whole = decoded(folder, tones)
    longest = max(manifest.read(tones / "data/test"), key=lambda u: u.seconds)

    def refuse(feats, calls):
        if feats.shape[1] >= int(longest.seconds * 100) - 2:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"
            )

    (folder / "decode/test.jsonl").unlink()
    with monkeypatch.context() as patch:
        counted_searches(patch, refuse)
        refused(
            rf"out of memory on utterance {longest.utt_id} of {longest.seconds:.1f} s; the other {len(whole) - 1} are",
            *(folder, tones / "data/test", "--threads", "1"),
        )
    assert not (folder / "decode/test.jsonl").exists()
    calls = counted_searches(monkeypatch)
    assert decoded(folder, tones) == whole and sum(calls[1:]) == 1


def test_an_utterance_too_short_for_the_encoder_has_an_empty_hypothesis(tones, run, tmp_path, capsys):
    """One of 60 ms stopped the decoding of a whole test set."""
    utterances = list(manifest.read(tones / "data/test"))
    samples, rate = soundfile.read(utterances[1].audio)
    soundfile.write(tmp_path / "short.wav", samples[: int(0.06 * rate)], rate)
    utterances[1] = replace(utterances[1], audio=str(tmp_path / "short.wav"), seconds=0.06)
    manifest.write(tmp_path / "test.jsonl", utterances)
    folder = run()
    whole = decoded(folder, tones)
    decode.main([str(folder), str(tmp_path / "test"), "--threads", "1"])
    lines = [json.loads(line) for line in (folder / "decode/test.jsonl").read_text().splitlines()]
    assert [line["utt_id"] for line in lines] == [u.utt_id for u in utterances]
    assert lines[1]["hyp"] == "" and lines[1]["tokens"] == [] and list(lines[1]) == KEYS
    assert json.loads((folder / "decode/test.summary.json").read_text())["too_short"] == 1
    assert f"1 of {len(lines)} utterances are too short for one frame of the encoder" in capsys.readouterr().err
    assert [line["hyp"] for n, line in enumerate(lines) if n != 1] == [
        line["hyp"] for n, line in enumerate(whole) if n != 1
    ]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_weights_that_are_not_those_that_were_written_are_one_line(tones, run):
    """A flipped bit in a model or a snapshot went unnoticed."""
    for name, match in (("model", "damaged .*checksum"), ("snapshots/00000008", "damaged .*checksum")):
        folder = run()
        flip(folder / f"{name}.safetensors", -100)
        refused(rf"{name}.safetensors: {match}", folder, tones / "data/test", "--weights", name)
    folder = run()
    shutil.copy(folder / "snapshots/00000008.safetensors", folder / "model.safetensors")  # whole, but another
    refused("model.safetensors: not the file that was written", folder, tones / "data/test")
    run()
    flip(folder / "snapshots/00000012.safetensors", -100)
    with pytest.raises(UserError, match="snapshots/00000012.safetensors: damaged"):
        average.main([str(folder)])


def test_weights_that_are_no_numbers_are_one_line(tones, run):
    folder = run()
    path = folder / "snapshots/00000012.safetensors"
    weights = weights_file.load(path)
    name = next(key for key in weights if key.endswith("projection.weight"))
    weights[name][0, 0] = float("nan")
    weights_file.save(path, weights)
    refused(f"{name} holds NaN or infinity", folder, tones / "data/test", "--weights", "snapshots/00000012")


def test_a_snapshot_can_be_decoded(tones, run):
    folder = run()
    decoded(folder, tones, "--weights", "snapshots/00000008")
    assert json.loads((folder / "decode/test.summary.json").read_text())["weights"] == "snapshots/00000008"


def refused(match: str, *argv: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        decode.main([str(arg) for arg in argv])
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_damaged_or_of_another_model_are_one_line(tones, run):
    folder = run()
    model, test = folder / "model.safetensors", tones / "data/test"
    model.write_bytes(model.read_bytes()[:-100])
    refused("model.safetensors: damaged", folder, test)
    shutil.copy(run("transducer") / "model.safetensors", model)
    refused("model.safetensors: not the file that was written", folder, test)
    shutil.copy(model, folder / "snapshots/00000008.safetensors")
    refused("00000008.safetensors: does not fit .*config.yaml", folder, test, "--weights", "snapshots/00000008")
    model.unlink()
    refused("model.safetensors: no such weights; `asrtts average", folder, test)
    assert not (folder / "decode").exists()


def test_a_folder_that_is_no_run_is_one_line(tones, tmp_path):
    refused("no trained model here", tmp_path / "exp", tones / "data/test")


def test_a_missing_manifest_names_the_nearest(tones, run):
    refused("no such manifest; did you mean 'test'", run(), tones / "data/tset")


def test_damaged_tokens_are_one_line(tones, run):
    folder = run()
    (folder / "tokens/tokens.txt").write_text("<blank> 0\n<unk> 1\nA 2\n")
    refused("tokens: damaged", folder, tones / "data/test")
    shutil.rmtree(folder / "tokens")
    refused("no tokens there", folder, tones / "data/test")


def test_tokens_of_another_run_are_refused_even_if_there_are_as_many(tones, run):
    folder = run()
    own = Tokenizer.load(folder / "tokens")
    tokenizer.make([chr(ord("a") + i) for i in range(own.vocab_size - 2)], "char").save(folder / "tokens")
    refused("ctc/tokens: the tokens of another run", folder, tones / "data/test")


def test_damaged_statistics_are_one_line(tones, run):
    folder = run()
    (folder / "cmvn.json").write_text('{"mean": [1,')
    refused("cmvn.json: no feature statistics", folder, tones / "data/test")


def test_audio_that_moved_is_named_and_nothing_is_written(tones, run, tmp_path):
    lines = [json.loads(line) for line in (tones / "data/test.jsonl").read_text().splitlines()]
    lines[1]["audio"] = "gone/there.wav"
    (tmp_path / "moved.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = run()
    refused("gone/there.wav: the audio of test-1 is gone", folder, tmp_path / "moved")
    assert not list((folder / "decode").iterdir())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["method=ctc_gredy"], "method: there is no 'ctc_gredy'; did you mean 'ctc_greedy'"),
        (["method=joint_beam"], "joint_beam needs a attention head; this model has: ctc"),
        (["beem=4"], "unknown key 'beem'; did you mean 'beam'"),
        (["beam=0"], "beam"),
        (["beam=wide"], "beam"),
        (["--batch-seconds", "0"], "--batch-seconds"),
        (["--threads", "-1"], "--threads -1"),
        (["--threads", "99999999999"], "--threads 99999999999: wanted 1 to 1024"),
        (["beam=99999999999999999999"], "beam holds 9+; it should be less than or equal to 10000"),
        (["--wieghts", "model"], "did you mean '--weights'"),
    ],
)
def test_a_wrong_option_is_one_line(tones, run, options, match):
    refused(match, run(), tones / "data/test", *options)


def test_a_manifest_that_is_not_named_is_all_that_is_missing(run):
    refused("are required: manifest. See asrtts decode --help", run())


def test_a_full_disk_leaves_what_was_decoded_before(tones, run, monkeypatch):
    folder = run()
    before = decoded(folder, tones)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("asrtts.storage.os.replace", full)
    refused("the disk is full", folder, tones / "data/test", "beam=2")
    left = sorted(p.name for p in (folder / "decode").iterdir())
    assert left == ["test.jsonl", "test.jsonl.partial", "test.summary.json"]
    assert [json.loads(line) for line in (folder / "decode/test.jsonl").read_text().splitlines()] == before


def test_an_nbest_list_has_each_text_once(tones: Path) -> None:
    tokens = Tokenizer.load(tones / "data/tokens")
    pieces = tokens.encode("AB")
    ways = ((pieces, -1.0), ([0, *pieces], -2.0), (pieces[:1], -3.0))
    hyps = [Hypothesis(ids, score, list(range(len(ids))), [1.0] * len(ids)) for ids, score in ways]
    line = transcription.record(Utterance("u", "a.wav", "AB"), hyps, tokens, 0.04, "ctc_beam")
    assert line["nbest"] == [{"text": "AB", "score": -1.0}, {"text": "A", "score": -3.0}]
