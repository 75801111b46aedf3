"""The one loop: it trains whatever gives `forward(batch, turn) -> {"loss": ...}` and `turns`.

It knows nothing of corpora or models. After `kill -9` at any moment the same command continues to bit-equal losses on
a CPU: weights, optimizer, random state and the place in the data are in each checkpoint, and the log is cut back to it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from asrtts.config import Settings
from asrtts.registry import UserError
from asrtts.training import checkpoint, parallel
from asrtts.training import optimizer as optimizers
from asrtts.training.progress import Progress

# Changing these does not change what a run computes, so a resumed run may.
HARMLESS = ("workers", "threads", "checkpoint_minutes", "log_every", "tensorboard")


class Config(Settings):
    updates: PositiveInt = 5000  # optimizer steps: the budget
    optimizer: optimizers.Config = Field(default_factory=optimizers.Config)
    accumulate: PositiveInt = 1  # batches for each update
    clip_norm: PositiveFloat = 5.0
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the chip multiplies it natively
    validate_every: PositiveInt = 250  # updates
    select: Literal["error", "loss"] = "error"  # what makes a snapshot the best
    patience: int = Field(0, ge=0)  # validations without a better one before stopping; 0: never stop early
    keep_best: int = Field(5, ge=0)  # weight snapshots kept for averaging
    keep_last: int = Field(10, ge=0)
    checkpoint_minutes: PositiveFloat = 5.0
    workers: int = Field(1, ge=0)  # processes that make batches
    threads: int = Field(0, ge=0)  # of the model; 0: as many as there are cores
    log_every: PositiveInt = 10  # updates
    tensorboard: bool = True
    max_bad_batches: PositiveInt = 20  # in a row with a loss or gradient that is no number; then training stops


class Trainer:
    """Args:
    model: an nn.Module with `turns` and `forward(batch, turn)`.
    folder: exp/<name>; checkpoints/, snapshots/, train.jsonl and tensorboard/ are written in it.
    """

    def __init__(self, model: nn.Module, config: Config, folder: Path, seed: int, device: torch.device) -> None:
        self.model, self.config, self.folder, self.device = model.to(device), config, Path(folder), device
        self.rank, self.world = parallel.start()
        self.optimizers = {turn: optimizers.build(config.optimizer, ps) for turn, ps in model.turns.items()}
        self.names = {p: name for name, p in model.named_parameters()}
        self.autocast = wants_bf16(config.precision, device)
        self.update, self.epoch, self.batch = 0, 1, 0  # batch: the next one of the epoch
        self.bad_batches, self.seconds, self.snapshots, self.done = 0, 0.0, [], False
        torch.manual_seed(seed * 1000 + self.rank)  # dropout; each process draws its own
        self.log_path = self.folder / "train.jsonl"

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint; False if there is none."""
        found = checkpoint.load_latest(self.folder / "checkpoints")
        if found is None:
            return False
        tensors, state = found
        if state["world"] != self.world:
            raise UserError(
                f"{self.folder}: was trained by {state['world']} processes, now there are {self.world}; "
                "the data order would change. Use as many, or train into a new folder"
            )
        self.model.load_state_dict(tensors["model"])
        for turn, optim in self.optimizers.items():
            _restore(optim, self.names, tensors[f"optimizer-{turn}"])
        torch.set_rng_state(tensors["random"][f"cpu-{self.rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random"][f"cuda-{self.rank}"], self.device)
        for key in ("update", "epoch", "batch", "seconds", "snapshots", "done"):
            setattr(self, key, state[key])
        if self.rank == 0:
            self._cut_log()
        return True

    def fit(self, batches: Iterator[dict[str, Any]], validate: Callable[[], dict[str, float]]) -> None:
        """Train until the budget is spent or nothing improves.

        Args:
            batches: endless, from (epoch, batch) on; each carries the `request` that says which it is.
            validate: gives {"loss": ..., "error": ...} on held-out data; called on rank 0 alone.
        """
        config, started, saved = self.config, time.monotonic() - self.seconds, time.monotonic()
        with Progress(config.updates, self.update, self.rank == 0) as progress, Log(self, config.tensorboard) as log:
            self.model.train()
            while self.update < config.updates and not self.done:
                parts = self._step(batches)
                self.seconds = time.monotonic() - started
                progress.advance(self.update, parts)
                if self.update % config.log_every == 0 or self.update == 1:
                    log.write({"update": self.update, "epoch": self.epoch, **parts, "seconds": round(self.seconds, 1)})
                if self.update % config.validate_every == 0 or self.update == config.updates:
                    self._validate(validate, log, progress)
                elif time.monotonic() - saved < 60 * config.checkpoint_minutes:
                    continue
                self.save()
                saved = time.monotonic()

    def save(self) -> None:
        """Write a checkpoint; all processes call it, the first writes."""
        random = {f"cpu-{r}": s for r, s in enumerate(parallel.gather(torch.get_rng_state()))}
        if self.device.type == "cuda":
            states = parallel.gather(torch.cuda.get_rng_state(self.device))
            random.update({f"cuda-{r}": s for r, s in enumerate(states)})
        if self.rank == 0:
            tensors = {"model": _weights(self.model), "random": random}
            for turn, optim in self.optimizers.items():
                tensors[f"optimizer-{turn}"] = _extract(optim, self.names)
            state = {k: getattr(self, k) for k in ("update", "epoch", "batch", "seconds", "snapshots", "done", "world")}
            checkpoint.save(self.folder / "checkpoints", self.update, tensors, state)
        parallel.wait()

    def _step(self, batches: Iterator[dict[str, Any]]) -> dict[str, float]:
        """One update: `accumulate` batches through every turn. A bad batch is left out and the next one taken."""
        config = self.config
        while True:
            group = [self._to_device(next(batches)) for _ in range(config.accumulate)]
            logged: dict[str, float] = {}
            for turn, optim in self.optimizers.items():
                rate = optimizers.learning_rate(config.optimizer, self.update + 1, config.updates)
                for settings in optim.param_groups:
                    settings["lr"] = rate
                optim.zero_grad(set_to_none=True)
                for batch in group:
                    request = batch["request"]
                    share = len(request.indices) / request.total
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                        parts = self.model(batch, turn)
                    (parts["loss"] / len(group)).backward()
                    for key, value in parallel.weighted_mean(_numbers(parts), share).items():
                        logged[key] = logged.get(key, 0.0) + value / len(group)
                parameters = [p for settings in optim.param_groups for p in settings["params"]]
                parallel.add_gradients(parameters, share)
                norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
                logged.update(grad_norm=norm, lr=rate)
                if not (_finite(norm) and _finite(logged["loss"])):
                    break
                optim.step()
            else:
                self.bad_batches = 0
                self.update += 1
                return logged
            self._skip(group, logged)

    def _skip(self, group: list[dict[str, Any]], logged: dict[str, float]) -> None:
        """Leave out a batch whose loss or gradient is no number, and name its utterances."""
        self.bad_batches += 1
        ids = [utt_id for batch in group for utt_id in batch["utt_ids"]]
        with open(self.folder / "bad_batches.jsonl", "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"update": self.update, "utt_ids": ids, **{k: str(v) for k, v in logged.items()}}))
            lines.write("\n")
        if self.bad_batches >= self.config.max_bad_batches:
            raise UserError(
                f"training diverged at update {self.update}: {self.bad_batches} batches in a row gave a loss or "
                f"gradient that is no number (the last: {', '.join(ids[:3])}, ...). "
                f"Lower training.optimizer.lr or look at the utterances in {self.folder / 'bad_batches.jsonl'}"
            )

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.epoch, self.batch = batch["request"].epoch, batch["request"].batch + 1
        if self.device.type == "cpu":
            return batch
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _validate(self, validate: Callable[[], dict[str, float]], log: Log, progress: Progress) -> None:
        if self.rank == 0:
            started = time.monotonic()
            self.model.eval()
            random = torch.get_rng_state()  # validation must not move the dropout of what follows
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                measured = validate()
            torch.set_rng_state(random)
            self.model.train()
            measured = {key: round(value, 6) for key, value in measured.items()}
            log.write({"update": self.update, "validation": measured, "took": round(time.monotonic() - started, 1)})
            progress.note(self.update, measured)
            self._keep_snapshot(measured)
        flag = torch.tensor([self.done], dtype=torch.uint8)
        self.done = bool(parallel.gather(flag)[0][0])

    def _keep_snapshot(self, measured: dict[str, float]) -> None:
        """Keep the weights for averaging if they are among the best or the last; decide on early stopping."""
        config, folder = self.config, self.folder / "snapshots"
        checkpoint.save_weights(folder / f"{self.update:08d}.safetensors", _weights(self.model))
        self.snapshots.append([self.update, measured[config.select]])
        best = sorted(self.snapshots, key=lambda s: (s[1], -s[0]))
        kept = {s[0] for s in best[: config.keep_best] + self.snapshots[len(self.snapshots) - config.keep_last :]}
        for path in folder.glob("*.safetensors"):
            if int(path.stem) not in kept:
                path.unlink()
        since = sum(s[0] > best[0][0] for s in self.snapshots)
        self.done = bool(config.patience and since >= config.patience)

    def _cut_log(self) -> None:
        """Drop what was logged after the checkpoint: those updates are made again."""
        if not self.log_path.is_file():
            return
        lines = [
            line for line in self.log_path.read_text(encoding="utf-8").splitlines() if _update(line) <= self.update
        ]
        beside = self.log_path.with_name("train.jsonl.part")
        beside.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        os.replace(beside, self.log_path)


class Log:
    """train.jsonl, one line an event, and TensorBoard beside it."""

    def __init__(self, trainer: Trainer, tensorboard: bool) -> None:
        self.active, self.writer = trainer.rank == 0, None
        self.path, self.board = trainer.log_path, trainer.folder / "tensorboard" if tensorboard else None

    def __enter__(self) -> Log:
        self.lines = open(self.path, "a", encoding="utf-8") if self.active else None  # noqa: SIM115
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.lines, self.writer):
            if file:
                file.close()

    def write(self, event: dict[str, Any]) -> None:
        if not self.lines:
            return
        try:
            self.lines.write(json.dumps(event) + "\n")
            self.lines.flush()
        except OSError as error:
            raise checkpoint.storage_error(self.path, error) from None
        if self.board:
            if self.writer is None:  # here: its import takes seconds that the first update need not wait for
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(self.board))
            prefix, numbers = ("validation/", event["validation"]) if "validation" in event else ("train/", event)
            for key, value in numbers.items():
                self.writer.add_scalar(prefix + key.replace(".", "/"), value, event["update"])


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether to multiply in bf16: asked for, or `auto` on a chip with bf16 instructions."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _numbers(parts: dict[str, Tensor]) -> dict[str, float]:
    return {key: float(value.detach()) for key, value in parts.items() if value.numel() == 1}


def _finite(value: float) -> bool:
    return value - value == 0.0


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in model.state_dict().items()}


def _extract(optim: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: `exp_avg/encoder.blocks.0...`."""
    return {f"{key}/{names[p]}": value.cpu() for p, state in optim.state.items() for key, value in state.items()}


def _restore(optim: torch.optim.Optimizer, names: dict[nn.Parameter, str], tensors: dict[str, Tensor]) -> None:
    places = {names[p]: p for settings in optim.param_groups for p in settings["params"]}
    for name, value in tensors.items():
        key, _, parameter = name.partition("/")
        place = places[parameter]
        optim.state[place][key] = value.to(place.device) if key != "step" else value


def _update(line: str) -> int:
    try:
        return json.loads(line)["update"]
    except (json.JSONDecodeError, KeyError):
        return 1 << 62  # half a line, written as the process was killed
