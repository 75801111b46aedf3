"""The one loop: resumed to the bit, proof against numbers that are none, and what it keeps of its weights."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asrtts.config import build
from asrtts.registry import UserError
from asrtts.training.trainer import Config, Trainer, best_first

torch.set_num_threads(1)
CPU = torch.device("cpu")


class Model(nn.Module):
    """A trainable with all that can go wrong: dropout, batch norm, and a parameter without a gradient."""

    def __init__(self, dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
        )
        self.unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, batch: dict[str, Any], turn: str) -> dict[str, torch.Tensor]:
        loss = (self.net(batch["feats"]).float() - batch["feats"].sum(1, keepdim=True)).square().mean()
        return {"loss": loss, "square": loss.detach()}


def batch(epoch: int, number: int, rows: int = 4) -> dict[str, Any]:
    feats = torch.randn(rows, 4, generator=torch.Generator().manual_seed(100 * epoch + number))
    ids = {f"utt-{epoch}-{number}-{row}": 1.0 + row for row in range(rows)}
    return {"feats": feats, "ids": ids, "place": (epoch, number), "share": 1.0}


def stream(trainer: Trainer, bad: set[tuple[int, int]] = frozenset(), skip: set = frozenset()) -> Iterator[dict]:
    """Epochs of 5 batches, from the trainer's place on; those of `bad` hold a NaN."""
    epoch, first = trainer.epoch, trainer.batch
    while True:
        for number in range(first, 5):
            made = batch(epoch, number)
            if (epoch, number) in bad:
                made["feats"][1, 2] = math.nan
            if (epoch, number) not in skip:
                yield made
        epoch, first = epoch + 1, 0


def trainer(folder: Path, dropout: float = 0.0, norm: bool = True, **settings: Any) -> Trainer:
    values = {"updates": 12, "validate_every": 4, "log_every": 1, "tensorboard": False, "precision": "float32"}
    values |= {"checkpoint_minutes": 1e-9, "optimizer": {"lr": 0.05, "warmup_updates": 3}}
    folder.mkdir(exist_ok=True)
    return Trainer(Model(dropout, norm), build(Config, {**values, **settings}, "test"), folder, 1, CPU)


def measured(*errors: float):
    """A validation that draws random numbers and gives these errors, one after the other, then 0.5."""
    left = list(errors)

    def measure() -> dict[str, float]:
        torch.rand(13)
        return {"loss": 1.0, "error": left.pop(0) if left else 0.5}

    return measure


def fit(made: Trainer, *errors: float, **where: set) -> Trainer:
    made.resume()
    made.fit(stream(made, **where), measured(*errors))
    return made


def losses(folder: Path) -> list[tuple[int, float, float]]:
    events = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [(e["update"], e["loss"], e["grad_norm"]) for e in events if "loss" in e]


def snapshots(folder: Path) -> list[int]:
    return sorted(int(p.stem) for p in (folder / "snapshots").iterdir())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_that_dies_at_any_update_continues_to_equal_bits(tmp_path, precision):
    whole = fit(trainer(tmp_path / "whole", dropout=0.3, precision=precision))
    assert len(losses(whole.folder)) == 12
    folder = tmp_path / "torn"
    for last in range(1, 12):  # one update more each time, then it dies before the next is saved

        class Dead(Exception):
            pass

        made = trainer(folder, dropout=0.3, precision=precision)
        made.resume()
        assert made.update == last - 1
        real = made.save

        def save(made=made, real=real, last=last):
            if made.update > last:
                raise Dead
            real()

        made.save = save
        with pytest.raises(Dead):
            made.fit(stream(made), measured())
        assert losses(folder)[-1][0] == last + 1
    done = fit(trainer(folder, dropout=0.3, precision=precision))
    assert losses(folder) == losses(whole.folder)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, done.model.state_dict()[name]), name
    assert snapshots(folder) == snapshots(whole.folder)


def test_without_a_checkpoint_the_log_begins_anew(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"update": 1, "loss": 1.0, "grad_norm": 1.0}\n{"update": 2, "lo')
    fit(trainer(tmp_path))
    assert [update for update, *_ in losses(tmp_path)] == list(range(1, 13))


@pytest.mark.parametrize("rest", ['{"update": 9, "loss": 1', "5\n[1]\n{}\n"])
def test_what_is_no_line_of_the_log_is_dropped(tmp_path, rest):
    made = trainer(tmp_path, updates=8)
    fit(made)
    with open(tmp_path / "train.jsonl", "a") as lines:
        lines.write(rest)
    trainer(tmp_path, updates=8).resume()
    assert [update for update, *_ in losses(tmp_path)] == list(range(1, 9))


def test_a_finished_run_is_left_as_it_is(tmp_path):
    fit(trainer(tmp_path))
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*")}
    again = fit(trainer(tmp_path))
    assert again.update == 12
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*")} == before


def test_validation_does_not_change_the_training(tmp_path):
    often = fit(trainer(tmp_path / "often", dropout=0.3, validate_every=1))
    seldom = fit(trainer(tmp_path / "seldom", dropout=0.3, validate_every=12))
    assert losses(often.folder) == losses(seldom.folder)


def test_the_seed_is_the_dropouts(tmp_path):
    found = []
    for seed in (1, 1, 2):
        made = trainer(tmp_path / str(len(found)), dropout=0.3)
        torch.manual_seed(99)
        made = Trainer(made.model, made.config, made.folder, seed, CPU)
        found.append(losses(fit(made).folder))
    assert found[0] == found[1] != found[2]


def test_batches_gathered_for_one_update_are_one_large_batch(tmp_path):
    two = fit(trainer(tmp_path / "two", norm=False, accumulate=2))
    made = trainer(tmp_path / "one", norm=False)
    halves = stream(made)

    def whole() -> Iterator[dict]:
        while True:
            a, b = next(halves), next(halves)
            feats = torch.cat([a["feats"], b["feats"]])
            yield {"feats": feats, "ids": {}, "place": (1, 0), "share": 1.0}

    made.fit(whole(), measured())
    assert losses(made.folder) == [pytest.approx(line, rel=1e-4) for line in losses(two.folder)]


BAD = {(1, 2), (2, 0)}


def test_a_batch_that_gives_no_number_is_left_out_and_named(tmp_path):
    fit(trainer(tmp_path / "bad"), bad=BAD)
    fit(trainer(tmp_path / "without"), skip=BAD)
    assert losses(tmp_path / "bad") == losses(tmp_path / "without")
    named = [json.loads(line) for line in (tmp_path / "bad/bad_batches.jsonl").read_text().splitlines()]
    assert [line["utt_ids"][0] for line in named] == ["utt-1-2-0", "utt-2-0-0"]
    assert all(len(line["utt_ids"]) == 4 and line["loss"] == "nan" for line in named)


def test_a_bad_batch_leaves_no_trace_in_the_weights_nor_in_the_running_statistics(tmp_path):
    bad, without = fit(trainer(tmp_path / "bad"), bad=BAD), fit(trainer(tmp_path / "without"), skip=BAD)
    for name, value in bad.model.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, without.model.state_dict()[name]), name


def test_the_first_bad_batches_are_told_on_the_screen_and_no_more(tmp_path, capsys):
    fit(trainer(tmp_path, updates=12), bad={(epoch, 1) for epoch in range(1, 9)})
    told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert told[0] == (
        "warning: update 2: a batch of 4 utterances is left out: loss or gradient is NaN or infinite: "
        f"utt-1-1-0, utt-1-1-1, utt-1-1-2, ... (all in {tmp_path / 'bad_batches.jsonl'})"
    )
    assert len(told) == 3 and told[-1].endswith("; further ones are named there alone")


def test_a_bad_batch_is_named_once_however_often_the_run_dies(tmp_path):
    made = trainer(tmp_path, checkpoint_minutes=1e9, validate_every=100)
    made.save = lambda: None
    fit(made, bad=BAD)
    fit(trainer(tmp_path), bad=BAD)
    assert len((tmp_path / "bad_batches.jsonl").read_text().splitlines()) == len(BAD)


def test_a_gathered_update_with_one_bad_batch_is_left_out_as_a_whole(tmp_path):
    fit(trainer(tmp_path, accumulate=2, updates=2), bad={(1, 1)})
    named = [json.loads(line) for line in (tmp_path / "bad_batches.jsonl").read_text().splitlines()]
    assert {utt_id[:7] for utt_id in named[0]["utt_ids"]} == {"utt-1-0", "utt-1-1"}
    assert losses(tmp_path)[0][0] == 1 and len(losses(tmp_path)) == 2


def test_too_many_bad_batches_in_a_row_stop_the_training_and_name_utterances(tmp_path):
    everything = {(epoch, number) for epoch in range(1, 9) for number in range(5)}
    with pytest.raises(UserError, match=r"diverged at update 3: 4 batches in a row .*utt-2-1-0, utt-2-1-1"):
        fit(trainer(tmp_path, max_bad_batches=4), bad=everything - {(1, n) for n in range(3)})


class Deaf(Model):
    """Learns from no batch, as CTC does when every text is too long for its audio."""

    def forward(self, batch: dict[str, Any], turn: str) -> dict[str, torch.Tensor]:
        return {"loss": super().forward(batch, turn)["loss"] * 0.0}


def test_batches_that_teach_nothing_stop_the_training_too(tmp_path):
    made = Trainer(Deaf(), build(Config, {"max_bad_batches": 3}, "test"), tmp_path, 1, CPU)
    with pytest.raises(UserError, match=r"nothing is learned at update 0: 3 batches .*utt-1-2-0.*gradient is zero"):
        fit(made)


def test_bad_batches_that_are_not_in_a_row_do_not_stop_it(tmp_path):
    assert fit(trainer(tmp_path, max_bad_batches=2), bad={(e, 1) for e in range(1, 9)}).update == 12


def test_it_stops_when_nothing_improves_and_stays_stopped(tmp_path):
    settings = {"updates": 40, "patience": 2}
    made = fit(trainer(tmp_path, **settings), 0.9, 0.8, 0.85, 0.81)
    assert made.done and made.update == 16
    again = fit(trainer(tmp_path, **settings))
    assert again.done and again.update == 16


def test_an_equal_validation_counts_as_better(tmp_path):
    made = fit(trainer(tmp_path, patience=1), 0.5, 0.5, 0.5)
    assert made.update == 12


def test_a_validation_that_is_no_number_is_the_worst():
    assert best_first([[4, math.nan], [8, 0.3], [12, math.inf], [16, 0.2], [20, 0.2]]) == [
        *([20, 0.2], [16, 0.2], [8, 0.3], [12, math.inf]),
        pytest.approx([4, math.nan], nan_ok=True),
    ]


@pytest.mark.parametrize(
    ("best", "last", "expected"), [(2, 2, [4, 12, 20, 24]), (3, 0, [4, 12, 16]), (0, 3, [16, 20, 24]), (9, 9, None)]
)
def test_the_best_and_the_last_snapshots_are_kept(tmp_path, best, last, expected):
    errors = (0.1, 0.9, 0.2, 0.3, 0.7, 0.8)  # of updates 4, 8, ..., 24
    fit(trainer(tmp_path, updates=24, keep_best=best, keep_last=last), *errors)
    assert snapshots(tmp_path) == (expected or [4, 8, 12, 16, 20, 24])


def test_a_copy_among_the_snapshots_is_left_alone(tmp_path):
    (tmp_path / "snapshots").mkdir()
    copy = tmp_path / "snapshots" / "best so far.safetensors"
    copy.write_bytes(b"")
    fit(trainer(tmp_path, updates=8))
    assert copy.is_file()


def test_no_snapshot_is_removed_before_the_checkpoint_that_says_so(tmp_path):
    made = trainer(tmp_path, keep_best=0, keep_last=1)
    fit(made)
    later = trainer(tmp_path, keep_best=0, keep_last=1, updates=16)

    def dies():
        raise KeyboardInterrupt

    later.save = dies
    with pytest.raises(KeyboardInterrupt):
        later.resume()
        later.config = build(Config, {**later.config.model_dump(), "validate_every": 1}, "test")
        later.fit(stream(later), measured())
    assert 12 in snapshots(tmp_path)


def test_keeping_no_weights_at_all_is_refused():
    with pytest.raises(UserError, match="keep_best and keep_last are both 0"):
        build(Config, {"keep_best": 0, "keep_last": 0}, "conf")


def test_a_checkpoint_of_other_processes_is_refused(tmp_path):
    fit(trainer(tmp_path))
    other = trainer(tmp_path)
    other.world = 2
    with pytest.raises(UserError, match="was trained by 1 processes, now there are 2"):
        other.resume()


def test_a_checkpoint_of_another_model_is_one_line(tmp_path):
    fit(trainer(tmp_path))
    with pytest.raises(UserError, match="not a checkpoint of this model") as error:
        trainer(tmp_path, norm=False).resume()
    assert "\n" not in str(error.value)


def test_a_full_disk_under_the_log_is_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch):
    whole = fit(trainer(tmp_path / "whole"))
    real, folder = open, tmp_path / "full"

    def full(path, mode="r", **options):
        if mode == "a" and path.is_file() and len(path.read_text().splitlines()) >= 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full)
        with pytest.raises(UserError, match="train.jsonl: the disk is full"):
            fit(trainer(folder))
    fit(trainer(folder))
    assert losses(folder) == losses(whole.folder)


def test_tensorboard_shows_what_the_log_holds_and_not_what_a_killed_run_drew(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = trainer(tmp_path, tensorboard=True, checkpoint_minutes=1e9, validate_every=100)
    made.save = lambda: None
    fit(made)  # killed before its first checkpoint
    fit(trainer(tmp_path, tensorboard=True))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    drawn = [(e.step, pytest.approx(e.value, rel=1e-6)) for e in board.Scalars("train/loss")]
    assert drawn == [(update, loss) for update, loss, _ in losses(tmp_path)]
    assert [e.step for e in board.Scalars("validation/error")] == [4, 8, 12]
