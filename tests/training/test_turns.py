"""Trainings of more than one turn and with frozen parts: a toy GAN and a toy distillation through the real trainer."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asrtts.config import build
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.training import checkpoint
from asrtts.training.optimizer import Config as OptimizerConfig
from asrtts.training.trainer import Config, Trainer
from asrtts.training.turns import Trainable, Turn

torch.set_num_threads(1)
CPU = torch.device("cpu")


class Gan(Trainable):
    """A discriminator turn and a generator turn that begins at update 3; snapshots hold the generator alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))
        self.discriminator = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def turns(self) -> dict[str, Turn]:
        fast = OptimizerConfig(lr=0.02, warmup_updates=0, betas=(0.5, 0.9))
        return {
            "discriminator": Turn(list(self.discriminator.parameters()), fast, clip_norm=1.0),
            "generator": Turn(list(self.generator.parameters()), first_update=3),
        }

    def weights(self) -> dict[str, torch.Tensor]:
        return self.generator.state_dict()

    def forward(self, batch: dict[str, Any], turn: str) -> dict[str, torch.Tensor]:
        made, real = self.generator(batch["feats"]), batch["feats"]
        if turn == "discriminator":
            loss = (self.discriminator(real) - 1).square().mean() + self.discriminator(made.detach()).square().mean()
        else:
            loss = (self.discriminator(made) - 1).square().mean() * (math.nan if batch["bad"] else 1.0)
        return {"loss": loss}


class Distillation(Trainable):
    """A student that learns from a frozen teacher with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.teacher = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))
        self.student = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 2))
        self.modes: set[tuple[bool, bool]] = set()

    def turns(self) -> dict[str, Turn]:
        return {"student": Turn(list(self.student.parameters()))}

    def weights(self) -> dict[str, torch.Tensor]:
        return self.student.state_dict()

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def forward(self, batch: dict[str, Any], turn: str) -> dict[str, torch.Tensor]:
        self.modes.add((self.teacher.training, self.student.training))
        with torch.no_grad():
            goal = self.teacher(batch["feats"])
        return {"loss": (self.student(batch["feats"]) - goal).square().mean()}


def stream(trainer: Trainer, bad: set[int] = frozenset()) -> Iterator[dict[str, Any]]:
    number = trainer.batch
    while True:
        feats = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
        yield {"feats": feats, "bad": number in bad, "ids": {f"u{number}": 2.5}, "place": (1, number), "share": 1.0}
        number += 1


def made(folder: Path, model: nn.Module, **settings: Any) -> Trainer:
    values = {"updates": 12, "validate_every": 4, "log_every": 1, "tensorboard": False, "precision": "float32"}
    values |= {"checkpoint_minutes": 1e-9, "optimizer": {"lr": 0.01, "warmup_updates": 3}, "select": "distance"}
    folder.mkdir(exist_ok=True)
    return Trainer(model, build(Config, {**values, **settings}, "test"), folder, 1, CPU)


def measure() -> dict[str, float]:
    return {"loss": 1.0, "distance": 0.5}


def fit(trainer: Trainer, bad: set[int] = frozenset()) -> Trainer:
    trainer.resume()
    trainer.fit(stream(trainer, bad), measure)
    return trainer


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in ("seconds", "took")} for line in lines]


@pytest.mark.parametrize("kind", [Gan, Distillation])
def test_killed_at_any_update_it_resumes_to_equal_bits(tmp_path, kind):
    whole, folder = fit(made(tmp_path / "whole", kind())), tmp_path / "torn"
    for last in (2, 3, 7):  # before the generator's first update, in it, and later
        pid = os.fork()
        if pid == 0:
            trainer = made(folder, kind())
            step = trainer._step

            def dying(batches, step=step, trainer=trainer, last=last):
                logged = step(batches)
                if trainer.update > last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return logged

            trainer._step = dying
            fit(trainer)
            os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    torn = fit(made(folder, kind()))
    assert events(folder) == events(whole.folder)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, torn.model.state_dict()[name]), name


def test_a_turn_begins_at_its_update_and_has_its_own_optimizer(tmp_path):
    trainer = made(tmp_path, Gan())
    before = {name: value.clone() for name, value in trainer.model.generator.named_parameters()}
    batches = stream(trainer)
    logged = [trainer._step(batches) for _ in range(2)]
    assert all("generator.loss" not in numbers for numbers in logged)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.generator.named_parameters())
    numbers = trainer._step(batches)
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.generator.named_parameters())
    assert numbers["loss"] == pytest.approx(numbers["discriminator.loss"] + numbers["generator.loss"])
    assert numbers["discriminator.lr"] == pytest.approx(0.02, rel=0.2)
    assert numbers["generator.lr"] == pytest.approx(0.01 / 3)  # the first update of its own warm-up
    assert trainer.optimizers["discriminator"].param_groups[0]["betas"] == (0.5, 0.9)


def test_a_bad_turn_takes_back_the_steps_of_the_turns_before_it(tmp_path):
    """A generator's NaN must not leave the discriminator one step ahead."""
    bad, without = made(tmp_path / "bad", Gan()), made(tmp_path / "without", Gan())
    for trainer in (bad, without):
        for module in trainer.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # the bad batch draws random numbers
    fit(bad, bad={4, 6})
    leave = stream(without)
    without.fit((batch for batch in leave if batch["place"][1] not in (4, 6)), measure)
    for name, value in bad.model.state_dict().items():
        assert torch.isfinite(value).all() and torch.equal(value, without.model.state_dict()[name]), name
    for name, optim in bad.optimizers.items():
        for mine, other in zip(optim.state.values(), without.optimizers[name].state.values(), strict=True):
            assert all(torch.equal(mine[key], other[key]) for key in mine)
    named = [json.loads(line) for line in (bad.folder / "bad_batches.jsonl").read_text().splitlines()]
    assert [line["utt_ids"] for line in named] == [["u4"], ["u6"]]


def test_a_frozen_part_stays_in_evaluation_mode_and_out_of_snapshots_and_checkpoints(tmp_path):
    model = Distillation()
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    trainer = fit(made(tmp_path, model))
    assert model.modes == {(False, True)}
    assert all(torch.equal(value, before[name]) for name, value in model.teacher.state_dict().items())
    snapshot = weights_file.load(tmp_path / "snapshots/00000012.safetensors")
    assert snapshot.keys() == model.student.state_dict().keys()  # a student's own names: it is loaded alone
    tensors, _ = checkpoint.load_latest(tmp_path / "checkpoints")
    assert tensors["model"].keys() == {f"student.{name}" for name in snapshot}
    assert trainer.snapshots[-1] == [12, 0.5]


def test_a_snapshot_of_a_gan_is_the_generator(tmp_path):
    trainer = fit(made(tmp_path, Gan()))
    snapshot = weights_file.load(tmp_path / "snapshots/00000012.safetensors")
    assert all(torch.equal(value, trainer.model.generator.state_dict()[name]) for name, value in snapshot.items())
    tensors, _ = checkpoint.load_latest(tmp_path / "checkpoints")
    assert any(name.startswith("discriminator.") for name in tensors["model"])


def test_select_names_a_number_of_the_validation(tmp_path):
    with pytest.raises(UserError, match="a validation gives no number 'mcd'.*distance"):
        fit(made(tmp_path, Gan(), select="mcd"))


class Greedy(Gan):
    """There is no memory for the batch of utterance u5."""

    def forward(self, batch: dict[str, Any], turn: str) -> dict[str, torch.Tensor]:
        if "u5" in batch["ids"]:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
            )
        return super().forward(batch, turn)


def test_a_batch_without_memory_is_left_out_and_its_longest_utterance_is_named(tmp_path, capsys):
    trainer = fit(made(tmp_path, Greedy()))
    assert trainer.update == 12
    (named,) = [json.loads(line) for line in (tmp_path / "bad_batches.jsonl").read_text().splitlines()]
    assert named["utt_ids"] == ["u5"] and named["reason"] == "out of memory, its longest utterance is u5 of 2.5 s"
    assert "is left out: out of memory, its longest utterance is u5 of 2.5 s" in capsys.readouterr().err
