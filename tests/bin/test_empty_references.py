"""An utterance in which nothing was said: its insertions are counted, from decode to compare, and training goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from asrtts.bin import average, compare, decode, score, train
from asrtts.data import manifest


@pytest.fixture
def silent(tones, tmp_path):
    """The manifests of the tones, with the first text of each empty."""
    for split in ("train", "dev", "test"):
        first, *rest = manifest.read(tones / f"data/{split}")
        manifest.write(tmp_path / f"data/{split}.jsonl", [replace(first, text=""), *rest])
    return tmp_path / "data"


def test_it_is_decoded_scored_and_compared(trained, silent, tmp_path):
    test, nothing = silent / "test", silent / "nothing"
    manifest.write(nothing.with_suffix(".jsonl"), list(manifest.read(test))[:1])
    runs = [shutil.copytree(trained(head), tmp_path / head) for head in ("ctc", "transducer")]
    for place, words in ((test, 3), (nothing, 0)):
        for run in runs:
            decode.main([str(run), str(place), "--threads", "1", "method=auto"])
        lines = [json.loads(line) for line in (runs[0] / f"decode/{place.name}.jsonl").read_text().splitlines()]
        assert lines[0]["ref"] == ""
        score.main([*map(str, runs), "--on", str(place)])
        errors = json.loads((runs[0] / f"score/{place.name}/score.json").read_text())["wer"]
        assert errors["ref"] == words and errors["ins"] >= len(lines[0]["hyp"].split())
        compare.main([*map(str, runs), "--test", str(place), "--out", str(tmp_path / "compared"), "--quick"])


@pytest.mark.parametrize("head", ["transducer", "hybrid"])
def test_it_can_be_trained_and_validated_on(tones, silent, tmp_path, head):
    data = [f"data.{split}={silent / split}" for split in ("train", "dev")]
    train.main([str(tones / f"conf/{head}.yaml"), str(tmp_path / head), *data])
    average.main([str(tmp_path / head)])
    rows = [json.loads(line) for line in (tmp_path / head / "train.jsonl").read_text().splitlines()]
    assert not (tmp_path / head / "bad_batches.jsonl").exists(), rows
