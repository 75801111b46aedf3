"""Two processes over gloo give what one gives with the same batches, and always take the same turn."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as processes

from asrtts.bin import train
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.training import parallel
from asrtts.training.trainer import Trainer

# Batches of one to three utterances: some have fewer rows than there are processes.
PLAIN = ["augmentation.spec_augment=null", "encoder.dropout=0", "encoder.attention_dropout=0", "batching.seconds=1.45"]
PLAIN += ["encoder.position_dropout=0", "heads.ctc.dropout=0", "training.updates=10", "training.validate_every=5"]
PLAIN += ["training.optimizer.eps=1e-3"]  # Adam's own would make steps of the rounding of gradients that are zero
GATHERED = [*PLAIN, "training.accumulate=3"]


def argv(tones: Path, folder: Path, *options: str) -> list[str]:
    return [str(tones / "conf/ctc.yaml"), str(folder), *options]


def process(rank: int, port: int, tones: Path, folder: Path) -> None:
    """All that is to be seen of two processes, in one start of them, since a start takes seconds."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    parallel.start()
    parallel_stop, parallel.stop = parallel.stop, lambda: None  # several runs, one group
    train.main(argv(tones, folder / "plain", *PLAIN))
    train.main(argv(tones, folder / "gathered", *GATHERED))

    # One process gets a NaN: both leave the batch out.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_to_device", spoiled(Trainer._to_device, rank))
        train.main(argv(tones, folder / "bad", *PLAIN))

    # Killed after update 7, whose checkpoint is not written: both go on from update 5, with dropout of their own.
    noisy = ["training.updates=10", "training.validate_every=5"]
    train.main(argv(tones, folder / "noisy", *noisy))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", stopping(Trainer._step))
        with pytest.raises(ZeroDivisionError):
            train.main(argv(tones, folder / "torn", *noisy))
    train.main(argv(tones, folder / "torn", *noisy))

    said = {"first_says": parallel.first_says(rank == 0), "cores": parallel.cores()}
    said["mean"] = parallel.weighted_mean({"a": float(rank), "b": 1.0}, 0.25 if rank else 0.75)
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    if rank == 0:
        parameters[0].grad = torch.ones(3)  # the other has none: it counts as zero
    parallel.BUCKET = 2
    parallel.add_gradients(parameters)
    said["gradients"] = [p.grad.tolist() for p in parameters]
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    parallel.wait()
    parallel_stop()


def spoiled(real, rank: int):
    def to_device(self, batch):
        if rank == 1 and batch["place"] == (1, 1):
            batch["feats"][0, 3, 3] = math.nan
        return real(self, batch)

    return to_device


def stopping(real):
    def step(self, batches):
        if self.update == 7:
            raise ZeroDivisionError
        return real(self, batches)

    return step


@pytest.fixture(scope="module")
def two(tones, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(process, (port, tones, folder), nprocs=2)
    return folder


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in events(folder) if "loss" in event]


@pytest.mark.parametrize(("name", "options"), [("plain", PLAIN), ("gathered", GATHERED)])
def test_two_processes_give_the_losses_and_weights_of_one(tones, tmp_path, two, monkeypatch, name, options):
    rows = set()
    real = Trainer._to_device
    monkeypatch.setattr(Trainer, "_to_device", lambda self, b: (rows.add(len(b["ids"])), real(self, b))[1])
    train.main(argv(tones, tmp_path / "one", *options))
    assert {1, 2} <= rows  # of one: fewer rows than processes
    assert losses(two / name) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    norms = [[e["grad_norm"] for e in events(f) if "loss" in e] for f in (two / name, tmp_path / "one")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    one = weights_file.load(tmp_path / "one/snapshots/00000010.safetensors")
    for key, weight in weights_file.load(two / name / "snapshots/00000010.safetensors").items():
        assert torch.allclose(weight, one[key], atol=1e-5), key


def test_a_batch_that_is_bad_in_one_process_is_left_out_by_both(two):
    assert [e["update"] for e in events(two / "bad") if "loss" in e] == list(range(1, 11))
    assert all(math.isfinite(loss) for loss in losses(two / "bad"))
    named = [json.loads(line) for line in (two / "bad/bad_batches.jsonl").read_text().splitlines()]
    assert len(named) == 2 and {line["update"] for line in named} == {2}  # a line from each, with its own rows
    weights = weights_file.load(two / "bad/snapshots/00000010.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_two_processes_that_die_continue_to_equal_bits(two):
    assert losses(two / "torn") == losses(two / "noisy") and len(losses(two / "noisy")) == 10


def test_processes_agree(two):
    first, second = (json.loads((two / f"said-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["first_says"] is True and first["mean"] == {"a": 0.25, "b": 1.0}
    assert first["gradients"] == [[1.0] * 3, [[0.0] * 2] * 2]


def test_another_number_of_processes_is_refused(tones, two):
    with pytest.raises(UserError, match="was trained by 2 processes, now there are 1"):
        train.main(argv(tones, two / "plain", *PLAIN))


def test_alone_nothing_waits():
    assert parallel.start() == (0, 1)
    parallel.wait()
    assert parallel.first_says(False) is False and parallel.weighted_mean({"a": 2.0}, 1.0) == {"a": 2.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    assert parallel.pick_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="--device cuda: this torch sees no CUDA device"):
        parallel.pick_device("cuda")


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    alone = parallel.cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(alone))
    assert parallel.cores() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(100 * alone))
    assert parallel.cores() == 1
