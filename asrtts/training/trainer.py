"""The one loop: it trains whatever gives `forward(batch, turn) -> {"loss": ...}` and `turns`.

It knows nothing of corpora or models. After `kill -9` at any moment the same command continues to bit-equal losses on
a CPU: weights, optimizer, random state and the place in the data are in each checkpoint, and the log is cut back to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from asrtts.config import Count, CountOrNone, Settings, warn
from asrtts.registry import UserError
from asrtts.training import checkpoint, journal, parallel
from asrtts.training import optimizer as optimizers
from asrtts.training.journal import LOG, Log
from asrtts.training.progress import Progress

# Changing these does not change what a run computes (threads: beyond rounding), so a resumed run may.
HARMLESS = ("workers", "threads", "checkpoint_minutes", "log_every", "tensorboard", "max_bad_batches")


BAD = "bad_batches.jsonl"
TOLD = 3  # bad batches that are told of on the screen


class Config(Settings):
    updates: Count = 5000  # optimizer steps: the budget
    optimizer: optimizers.Config = Field(default_factory=optimizers.Config)
    accumulate: Count = 1  # batches for each update
    clip_norm: PositiveFloat = 5.0  # of the gradient
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the chip multiplies it natively
    validate_every: Count = 250  # updates
    select: Literal["error", "loss"] = "error"  # what makes a snapshot the best
    patience: CountOrNone = 0  # validations without a better one before stopping; 0: never stop early
    keep_best: CountOrNone = 5  # weight snapshots kept for averaging
    keep_last: CountOrNone = 10  # of the newest snapshots, the same
    checkpoint_minutes: PositiveFloat = 5.0
    workers: int = Field(1, ge=0, le=1024)  # processes that make batches
    threads: int = Field(0, ge=0, le=1024)  # of the model; 0: as many as there are cores for it
    log_every: Count = 10  # updates
    tensorboard: bool = True
    max_bad_batches: Count = 20  # in a row that teach nothing or give numbers that are none; then training stops

    @model_validator(mode="after")
    def _keeps_something(self) -> Config:
        if not self.keep_best and not self.keep_last:
            raise ValueError("keep_best and keep_last are both 0: no weights would be left to average and decode")
        return self


class Trainer:
    """Args:
    model: an nn.Module with `turns` and `forward(batch, turn)`.
    folder: exp/<name>; checkpoints/, snapshots/, train.jsonl, bad_batches.jsonl and tensorboard/ are written in it.
    """

    def __init__(self, model: nn.Module, config: Config, folder: Path, seed: int, device: torch.device) -> None:
        self.model, self.config, self.folder, self.device = model.to(device), config, Path(folder), device
        self.rank, self.world = parallel.start()
        self.optimizers = {turn: optimizers.build(config.optimizer, ps) for turn, ps in model.turns.items()}
        self.names = {p: name for name, p in model.named_parameters()}
        self.autocast = wants_bf16(config.precision, device)
        self.update, self.epoch, self.batch = 0, 1, 0  # batch: the next one of the epoch
        self.bad_batches, self.told, self.seconds, self.snapshots, self.done = 0, 0, 0.0, [], False
        torch.manual_seed(seed * 1000 + self.rank)  # dropout; each process draws its own

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint; False if there is none.

        Raises:
            UserError: every checkpoint is damaged, or of another model, device or number of processes.
        """
        found = checkpoint.load_latest(self.folder / "checkpoints")
        try:
            if found is not None:
                self._restore(*found)
        except (KeyError, RuntimeError, TypeError) as error:
            what = " ".join(str(error).split())
            raise UserError(
                f"{self.folder / 'checkpoints'}: not a checkpoint of this model on this device ({what:.200}); "
                "train into a new folder"
            ) from None
        if self.rank == 0:
            for name in (LOG, BAD):
                journal.cut(self.folder / name, self.update)
        return found is not None

    def _restore(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        if state["world"] != self.world:
            raise UserError(
                f"{self.folder}: was trained by {state['world']} processes, now there are {self.world}; "
                "the data order would change. Use as many, or train into a new folder"
            )
        self.model.load_state_dict(tensors["model"])
        for turn, optim in self.optimizers.items():
            _restore_state(optim, self.names, tensors[f"optimizer-{turn}"])
        torch.set_rng_state(tensors["random"][f"cpu-{self.rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random"][f"cuda-{self.rank}"], self.device)
        for key in ("update", "epoch", "batch", "seconds", "snapshots", "done"):
            setattr(self, key, state[key])

    def fit(self, batches: Iterator[dict[str, Any]], validate: Callable[[], dict[str, float]]) -> None:
        """Train until the budget is spent or nothing improves.

        Args:
            batches: endless, from (epoch, batch) on; each carries the `request` that says which it is.
            validate: gives {"loss": ..., "error": ...} on held-out data; called on rank 0 alone.
        """
        config, started, saved = self.config, time.monotonic() - self.seconds, time.monotonic()
        first = self.rank == 0
        log = Log(self.folder if first else None, self.update, config.tensorboard)
        with Progress(config.updates, self.update, first) as progress, log:
            self.model.train()
            while self.update < config.updates and not self.done:
                parts = self._step(batches)
                self.seconds = time.monotonic() - started
                progress.advance(self.update, parts)
                if self.update % config.log_every == 0 or self.update == 1:
                    log.write({"update": self.update, "epoch": self.epoch, **parts, "seconds": round(self.seconds, 1)})
                if self.update % config.validate_every == 0 or self.update == config.updates:
                    self._validate(validate, log, progress)
                elif not parallel.first_says(time.monotonic() - saved > 60 * config.checkpoint_minutes):
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
            self._prune()
        parallel.wait()

    def _step(self, batches: Iterator[dict[str, Any]]) -> dict[str, float]:
        """One update: `accumulate` batches through every turn. A bad batch is left out and the next one taken."""
        config = self.config
        while True:
            group = [self._to_device(next(batches)) for _ in range(config.accumulate)]
            buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
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
                    (parts["loss"] * (share / len(group))).backward()
                    for key, value in parallel.weighted_mean(_numbers(parts), share).items():
                        logged[key] = logged.get(key, 0.0) + value / len(group)
                parameters = [p for settings in optim.param_groups for p in settings["params"]]
                parallel.add_gradients(parameters)
                norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
                logged.update(grad_norm=norm, lr=rate)
                # Both numbers are of all processes, so all of them take the same turn. A gradient of nothing but zeros:
                # no utterance of the batch can be learned, e.g. each has fewer frames than CTC needs for its tokens.
                if not (math.isfinite(norm) and math.isfinite(logged["loss"])) or norm == 0:
                    break
                optim.step()
            else:
                self.bad_batches = 0
                self.update += 1
                return logged
            for buffer, before in buffers:  # batch norm's running statistics have seen the bad batch
                buffer.copy_(before)
            self._skip(group, logged)

    def _skip(self, group: list[dict[str, Any]], logged: dict[str, float]) -> None:
        """Leave out a batch whose loss or gradient is no number, or whose gradient is zero, and name its utterances."""
        self.bad_batches += 1
        ids = [utt_id for batch in group for utt_id in batch["utt_ids"]]
        numbers = {key: str(value) for key, value in logged.items()}
        event = {"update": self.update + 1, "epoch": self.epoch, "utt_ids": ids, **numbers}
        journal.append(self.folder / BAD, event)
        self._tell(ids, logged)
        if self.bad_batches >= self.config.max_bad_batches:
            last, named = ", ".join(ids[:3]), f"the utterances in {self.folder / BAD}"
            if logged["grad_norm"] == 0:
                raise UserError(
                    f"nothing is learned at update {self.update}: {self.bad_batches} batches in a row gave a gradient "
                    f"of zero (the last: {last}, ...). Look at {named}; `asrtts prepare --tokens` tells if their "
                    "texts are too long for their audio"
                )
            raise UserError(
                f"training diverged at update {self.update}: {self.bad_batches} batches in a row gave a loss or "
                f"gradient that is no number (the last: {last}, ...). "
                f"Lower training.optimizer.lr or look at {named}"
            )

    def _tell(self, ids: list[str], logged: dict[str, float]) -> None:
        """One line on the screen for each of the first batches that are left out, and no flood of them."""
        self.told += 1
        if self.rank or self.told > TOLD:
            return
        what = "gradient is zero" if logged["grad_norm"] == 0 else "loss or gradient is no number"
        last = "; further ones are named there alone" if self.told == TOLD else ""
        warn(
            f"update {self.update + 1}: a batch of {len(ids)} utterances is left out, its {what}: "
            f"{', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''} (all in {self.folder / BAD}){last}"
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
        self.done = parallel.first_says(self.done)

    def _keep_snapshot(self, measured: dict[str, float]) -> None:
        """Write the weights for averaging; decide on early stopping."""
        path = self.folder / "snapshots" / f"{self.update:08d}.safetensors"
        checkpoint.save_weights(path, _weights(self.model))
        self.snapshots.append([self.update, measured[self.config.select]])
        best = best_first(self.snapshots)[0]
        since = sum(s[0] > best[0] for s in self.snapshots)
        self.done = bool(self.config.patience and since >= self.config.patience)

    def _prune(self) -> None:
        """Keep the best snapshots and the last; after the checkpoint that names them, for a run killed in between."""
        config = self.config
        last = self.snapshots[max(0, len(self.snapshots) - config.keep_last) :]
        kept = {s[0] for s in best_first(self.snapshots)[: config.keep_best] + last}
        for path in (self.folder / "snapshots").glob("*.safetensors"):
            if path.stem.isdecimal() and int(path.stem) not in kept:  # others are somebody's copies
                path.unlink()


def best_first(snapshots: list[list[float]]) -> list[list[float]]:
    """[update, validation], ... by validation; of equal ones the later is the better, no number is the worst."""
    return sorted(snapshots, key=lambda s: (math.isnan(s[1]), s[1], -s[0]))


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether to multiply in bf16: asked for, or `auto` on a chip with bf16 instructions."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _numbers(parts: dict[str, Tensor]) -> dict[str, float]:
    return {key: float(value.detach()) for key, value in parts.items() if value.numel() == 1}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in model.state_dict().items()}


def _extract(optim: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: `exp_avg/encoder.blocks.0...`."""
    return {f"{key}/{names[p]}": value.cpu() for p, state in optim.state.items() for key, value in state.items()}


def _restore_state(optim: torch.optim.Optimizer, names: dict[nn.Parameter, str], tensors: dict[str, Tensor]) -> None:
    places = {names[p]: p for settings in optim.param_groups for p in settings["params"]}
    for name, value in tensors.items():
        key, _, parameter = name.partition("/")
        place = places[parameter]
        # A copy: a tensor from load_file may be a view of the file, which is removed when it is the third newest.
        optim.state[place][key] = value.to(place.device, copy=True)
