"""`asrtts average`: the mean of the snapshots that were asked for, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from asrtts.bin import average
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.training import checkpoint

ERRORS = [[10, 0.5], [20, 0.2], [30, 0.4], [40, 0.2], [50, 0.3]]  # update, validation


@pytest.fixture
def run(tones: Path, tmp_path: Path) -> Path:
    """A run with five snapshots whose weights are known."""
    folder = tmp_path / "exp"
    for update, _ in ERRORS:
        weights = {"w": torch.full((3, 2), update + 0.1), "half": torch.full((2,), update / 8).bfloat16()}
        weights["seen"] = torch.tensor(update)
        weights_file.save(folder / f"snapshots/{update:08d}.safetensors", weights)
    checkpoint.save(folder / "checkpoints", 50, {"model": {"w": torch.zeros(1)}}, {"snapshots": ERRORS})
    settings(folder, tones)
    return folder


def settings(folder: Path, tones: Path, **training: int) -> None:
    values = yaml.safe_load((tones / "conf/ctc.yaml").read_text())
    values["training"].update(training)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return weights_file.load(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        (["--last", "2"], [40, 50]),
        (["--last", "5"], [10, 20, 30, 40, 50]),
        (["--best", "1"], [40]),  # of equal ones the later
        (["--best", "3"], [20, 40, 50]),
        ([], [10, 20, 30, 40, 50]),
    ],
)
def test_the_model_is_the_mean_of_what_was_asked_for(run, options, updates, capsys):
    average.main([str(run), *options])
    expected = sum(update + 0.1 for update in updates) / len(updates)
    assert weights(run)["w"].tolist() == [[pytest.approx(expected)] * 2] * 3
    assert weights(run)["half"].dtype == torch.bfloat16 and weights(run)["w"].dtype == torch.float32
    assert int(weights(run)["seen"]) == updates[-1]
    facts = json.loads((run / "run.json").read_text())
    assert facts["averaged"] == updates and facts["average"] == (" ".join(options).strip("-") or "last 10")
    assert f"mean of {len(updates)} snapshots, updates {updates[0]} to {updates[-1]}" in capsys.readouterr().err


def test_one_snapshot_is_its_own_mean_to_the_bit(run):
    average.main([str(run), "--last", "1"])
    snapshot = weights_file.load(run / "snapshots/00000050.safetensors")
    assert all(torch.equal(weights(run)[key], value) for key, value in snapshot.items())


@pytest.mark.parametrize(
    ("kept", "updates"),
    [({"keep_last": 2}, [40, 50]), ({"keep_last": 0, "keep_best": 2}, [20, 40]), ({"keep_last": 99}, None)],
)
def test_what_training_kept_is_averaged_unless_said_otherwise(run, tones, kept, updates):
    settings(run, tones, **kept)
    average.main([str(run)])
    assert json.loads((run / "run.json").read_text())["averaged"] == updates or [10, 20, 30, 40, 50]


def test_a_snapshot_that_was_not_kept_is_named(run):
    (run / "snapshots/00000020.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 of the 4 wanted are not kept \(00000020.safetensors\)"):
        average.main([str(run), "--last", "4"])
    assert not (run / "model.safetensors").exists()


def test_a_damaged_snapshot_leaves_the_model_as_it_was(run):
    average.main([str(run), "--last", "1"])
    before = (run / "model.safetensors").read_bytes()
    (run / "snapshots/00000040.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="00000040.safetensors: damaged"):
        average.main([str(run), "--last", "2"])
    assert (run / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("options", [["--last", "0"], ["--best", "-1"], ["--last", "6"], ["--best", "99"]])
def test_a_number_that_makes_no_sense_is_refused(run, options):
    with pytest.raises(UserError, match=f"{options[0]} {options[1]}: .* has made 5 snapshots"):
        average.main([str(run), *options])


def test_a_run_without_snapshots_says_so(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="no snapshots yet; they are made at each validation of `asrtts train`"):
        average.main([str(run)])


def test_the_average_of_a_training_is_that_of_its_snapshots(trained):
    folder = trained("ctc")
    snapshots = [weights_file.load(path) for path in sorted((folder / "snapshots").glob("*.safetensors"))]
    assert len(snapshots) == 3
    for key, value in weights(folder).items():
        assert torch.allclose(value, torch.stack([s[key] for s in snapshots]).mean(0), atol=1e-7), key
