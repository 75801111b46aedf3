"""`asrtts plan`: what it says is near what a training takes, and a batch that does not fit is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asrtts.bin import plan
from asrtts.data.augmentation import NONE
from asrtts.experiment.cost_plan import plan as plan_of
from asrtts.experiment.settings import load
from asrtts.registry import UserError
from asrtts.training.cost_model import Costs

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def planned(tones, tmp_path_factory) -> dict:
    report = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.main([str(tones / "conf/transducer.yaml"), "--json", str(report), "--device", "cpu"])
    return json.loads(report.read_text())


def test_the_memory_is_that_of_the_training(tones, planned, tmp_path):
    """Twice as much or half of it would be wrong; and the smallest tests of all see most of what torch itself takes."""
    code = "import resource, sys; from asrtts.cli import main; main(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == 'darwin' else 10))"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(tones / "conf/transducer.yaml"), str(tmp_path / "exp")],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=True,
    )
    really = int(done.stdout.splitlines()[-1]) / 1e9
    assert really / 2 < planned["as_set"]["peak_gb"] < really * 2


def test_the_updates_of_an_epoch_are_those_of_the_training(planned):
    as_set = planned["as_set"]
    assert as_set["batch_seconds"] == 2.5 and as_set["updates_per_epoch"] == 4  # 12 utterances of 0.5 to 0.8 s
    assert as_set["hours_per_epoch"] * 3600 == pytest.approx(4 * as_set["seconds_per_update"])
    assert as_set["hours"] * 3600 == pytest.approx(12 * as_set["seconds_per_update"])
    assert 1e-4 < as_set["seconds_per_update"] < 10


def test_the_largest_batch_is_never_more_than_the_corpus(planned):
    assert planned["as_set"]["batch_seconds"] < planned["largest"]["batch_seconds"] <= 12 * 0.8
    assert planned["largest"]["peak_gb"] <= planned["share"] * planned["memory_gb"]


def test_a_batch_that_does_not_fit_is_refused_with_numbers(tones, capsys):
    with pytest.raises(UserError, match=r"batching.seconds=2.5 takes 0\.\d\d GB at its peak; 0.02 GB can be used"):
        plan.main([str(tones / "conf/ctc.yaml"), "--memory-gb", "0.02", "--device", "cpu"])
    assert "hours per epoch" in capsys.readouterr().out


def test_processes_of_torchrun_share_a_batch_and_the_memory_of_the_machine(tones, planned, tmp_path, monkeypatch):
    """A batch that torchrun cuts in four is updated with as often, and a process tries a quarter of it."""
    report = tmp_path / "plan.json"
    argv = [str(tones / "conf/transducer.yaml"), "--json", str(report), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        assert plan.parser().parse_args(argv).processes == 2
        patch.setenv("RANK", "1")
        plan.main(argv)
        assert not report.exists()
    plan.main([*argv, "--processes", "2"])
    found = json.loads(report.read_text())
    assert found["processes"] == 2 and planned["processes"] == 1
    alone, shared = planned["as_set"], found["as_set"]
    assert shared["batch_seconds"] == 2.5 and shared["updates_per_epoch"] == alone["updates_per_epoch"]
    assert max(trial["padded"] for trial in found["trials"]) < 2.5 / 2 + 0.85
    assert shared["peak_gb"] > 1.5 * alone["peak_gb"]  # both stand in the memory of this machine
    # A GPU is each process's own, and of a batch of one process it takes as much as of twice the batch of two.
    settings, seconds = load(tones / "conf/transducer.yaml"), np.full(40, 0.5)
    settings = settings.model_copy(update={"augmentation": NONE})
    costs = Costs(*(np.array(weights) for weights in ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1e9, 1e8, 0.0, 0.0])))
    one, two = (plan_of(settings, seconds, costs, size, 0.0, many) for size, many in ((2.5, 1), (5.0, 2)))
    assert (one.seconds_per_update, one.peak_gb) == (two.seconds_per_update, two.peak_gb)
    assert one.hours_per_epoch == pytest.approx(2 * two.hours_per_epoch) and one.hours == two.hours


@pytest.mark.parametrize(
    "words, said",
    [
        (["--processes", "0"], "--processes: found '0', wanted a whole number from 1 to 4096"),
        (["nowhere/train"], "nowhere/train.jsonl: no such manifest"),
        (["--memory-gb", "0"], "--memory-gb 0: wanted a number above 0"),
        (["batching.second=3"], "unknown key 'batching.second'"),
    ],
)
def test_a_mistake_is_one_line(tones, words, said):
    with pytest.raises(UserError, match=said):
        plan.main([str(tones / "conf/ctc.yaml"), *words])


def test_what_the_trying_process_refuses_is_one_line_here(tones, tmp_path):
    with pytest.raises(UserError, match=r"empty: no tokens|empty"):
        plan.main([str(tones / "conf/ctc.yaml"), f"data.tokens={tmp_path / 'empty'}", "--device", "cpu"])


def test_nothing_is_written_unless_asked(tones, planned):
    assert sorted(path.name for path in tones.iterdir()) == ["conf", "data", "wav"]
