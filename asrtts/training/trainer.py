"""The one loop: it trains whatever gives `forward(batch, turn) -> {"loss": ...}`; turns.py says what else it may give.

It knows nothing of corpora, models or tasks. After `kill -9` at any moment the same command continues to bit-equal
losses on a CPU: weights, optimizer, random state and the place in the data are in each checkpoint, and the log is cut
back to it.

Of a batch the trainer reads `place` (its epoch and its number in it), `share` (of the rows of all processes that are
here) and `ids` (the utterances and their lengths); all else is the model's.
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
from asrtts.nn import weights_file
from asrtts.registry import UserError, suggestion
from asrtts.training import checkpoint, journal, parallel, turns
from asrtts.training import optimizer as optimizers
from asrtts.training.journal import LOG, Log
from asrtts.training.memory import is_out_of_memory
from asrtts.training.progress import Progress
from asrtts.training.turns import Turn, Undo

# Changing these does not change what a run computes (threads: beyond rounding), so a resumed run may.
HARMLESS = ("workers", "threads", "checkpoint_minutes", "log_every", "tensorboard", "max_bad_batches")


BAD = "bad_batches.jsonl"
TOLD = 3  # bad batches that are told of on the screen
# Why a batch is left out. A gradient of nothing but zeros: no utterance of the batch can be learned, e.g. each has
# fewer frames than CTC needs for its tokens.
ZERO_GRADIENT = "gradient is zero"
NOT_FINITE = "loss or gradient is NaN or infinite"


class Config(Settings):
    updates: Count = 5000  # optimizer steps: the budget
    optimizer: optimizers.Config = Field(default_factory=optimizers.Config)
    accumulate: Count = 1  # batches for each update
    clip_norm: PositiveFloat = 5.0  # of the gradient
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the chip multiplies it natively
    validate_every: Count = 250  # updates
    select: str = "error"  # the number of a validation whose least value makes a snapshot the best, e.g. loss
    patience: CountOrNone = 0  # validations without a better one before stopping; 0: never stop early
    keep_best: CountOrNone = 5  # weight snapshots kept for averaging
    keep_last: CountOrNone = 10  # of the newest snapshots, the same
    checkpoint_minutes: PositiveFloat = 5.0
    workers: int = Field(1, ge=0, le=1024)  # processes that make batches
    threads: int = Field(0, ge=0, le=1024)  # of the model; 0: as many as there are cores for it
    log_every: Count = 10  # updates
    tensorboard: bool = True
    max_bad_batches: Count = (
        20  # in a row that are left out (NaN, gradient of zero, out of memory); then training stops
    )

    @model_validator(mode="after")
    def _keeps_something(self) -> Config:
        if not self.keep_best and not self.keep_last:
            raise ValueError("keep_best and keep_last are both 0: no weights would be left to average and decode")
        return self


class TooLarge(UserError):
    """There is no memory for a batch."""


class Trainer:
    """Args:
    model: an nn.Module with `forward(batch, turn)`; see turns.Trainable for what else it may have.
    folder: exp/<name>; checkpoints/, snapshots/, train.jsonl, bad_batches.jsonl and tensorboard/ are written in it.
    unit: of the lengths in a batch's `ids`, for messages.
    """

    skips_too_large = True  # leave a batch out for which there is no memory; False: raise TooLarge

    def __init__(
        self, model: nn.Module, config: Config, folder: Path, seed: int, device: torch.device, unit: str = "s"
    ) -> None:
        self.model, self.config, self.folder, self.device = model.to(device), config, Path(folder), device
        self.unit = unit
        self.rank, self.world = parallel.start()
        self.turns = turns.turns_of(model)
        self.optimizers = {
            name: optimizers.build(turn.optimizer or config.optimizer, turn.parameters)
            for name, turn in self.turns.items()
        }
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
        latest = checkpoint.load_latest(self.folder / "checkpoints")
        try:
            if latest is not None:
                self._restore(*latest)
        except (KeyError, RuntimeError, TypeError) as error:
            what = " ".join(str(error).split())
            raise UserError(
                f"{self.folder / 'checkpoints'}: not a checkpoint of this model on this device ({what:.200}); "
                "train into a new folder"
            ) from None
        if self.rank == 0:
            for name in (LOG, BAD):
                journal.cut(self.folder / name, self.update)
        return latest is not None

    def _restore(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        if state["world"] != self.world:
            raise UserError(
                f"{self.folder}: was trained by {state['world']} processes, now there are {self.world}; "
                "the data order would change. Use as many, or train into a new folder"
            )
        turns.load_state(self.model, tensors["model"])
        for name, optim in self.optimizers.items():
            _restore_state(optim, self.names, tensors[f"optimizer-{name}"])
        torch.set_rng_state(tensors["random"][f"cpu-{self.rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random"][f"cuda-{self.rank}"], self.device)
        for key in ("update", "epoch", "batch", "seconds", "snapshots", "done"):
            setattr(self, key, state[key])

    def fit(self, batches: Iterator[dict[str, Any]], validate: Callable[[], dict[str, float]]) -> None:
        """Train until the budget is spent or nothing improves.

        Args:
            batches: endless, from (epoch, batch) on.
            validate: gives {"loss": ..., "error": ...} on held-out data; called on rank 0 alone.

        Raises:
            UserError: nothing is learned any more, the disk is full, or a batch needs more memory than there is.
        """
        config, started, saved = self.config, time.monotonic() - self.seconds, time.monotonic()
        first = self.rank == 0
        log = Log(self.folder if first else None, self.update, config.tensorboard)
        with Progress(config.updates, self.update, first) as progress, log:
            turns.set_training(self.model)
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
            tensors = {"model": turns.state_of(self.model), "random": random}
            for name, optim in self.optimizers.items():
                tensors[f"optimizer-{name}"] = _extract(optim, self.names)
            state = {k: getattr(self, k) for k in ("update", "epoch", "batch", "seconds", "snapshots", "done", "world")}
            checkpoint.save(self.folder / "checkpoints", self.update, tensors, state)
            self._prune()
        parallel.wait()

    def _step(self, batches: Iterator[dict[str, Any]]) -> dict[str, float]:
        """One update: `accumulate` batches through every turn. A bad batch is left out and the next one taken."""
        while True:
            group = [self._to_device(next(batches)) for _ in range(self.config.accumulate)]
            buffers = [(buffer, buffer.clone()) for buffer in turns.changing_buffers(self.model)]
            undone: list[Undo] = []
            logged: dict[str, float] = {}
            now = {name: turn for name, turn in self.turns.items() if self.update + 1 >= turn.first_update}
            reason = None
            for name, turn in now.items():
                try:
                    numbers = self._gradients(name, turn, group)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = self._out_of_memory(group)
                    break
                logged |= numbers if len(self.turns) == 1 else {f"{name}.{key}": v for key, v in numbers.items()}
                # The same in all processes, as the numbers are of all of them. One of several turns may have nothing to
                # learn, e.g. a discriminator that already tells all apart.
                if reason := _why_bad(numbers, zero_is_bad=len(self.turns) == 1):
                    break
                if len(now) > 1:
                    undone.append(Undo(self.optimizers[name]))
                self.optimizers[name].step()
            if reason is None:
                if len(self.turns) > 1:
                    logged = {"loss": sum(logged[f"{name}.loss"] for name in now), **logged}
                self.bad_batches = 0
                self.update += 1
                return logged
            for taken in undone:  # the steps of the turns before the bad one
                taken.restore()
            for buffer, before in buffers:  # batch norm's running statistics have seen the bad batch
                buffer.copy_(before)
            self._skip(group, logged, reason)

    def _gradients(self, name: str, turn: Turn, group: list[dict[str, Any]]) -> dict[str, float]:
        """Forward and backward of a turn, gradients added over processes and clipped; its numbers for the log."""
        optim, config = self.optimizers[name], self.config
        course, begun = turn.optimizer or config.optimizer, turn.first_update - 1
        rate = optimizers.learning_rate(course, self.update + 1 - begun, config.updates - begun)
        for settings in optim.param_groups:
            settings["lr"] = rate
        optim.zero_grad(set_to_none=True)
        numbers: dict[str, float] = {}
        for batch in group:
            share = batch["share"]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                parts = self.model(batch, name)
            (parts["loss"] * (share / len(group))).backward()
            for key, value in parallel.weighted_mean(_numbers(parts), share).items():
                numbers[key] = numbers.get(key, 0.0) + value / len(group)
        parameters = [p for settings in optim.param_groups for p in settings["params"]]
        parallel.add_gradients(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, turn.clip_norm or config.clip_norm))
        return {**numbers, "grad_norm": norm, "lr": rate}

    def _out_of_memory(self, group: list[dict[str, Any]]) -> str:
        """What there was no memory for, to leave it out. Raises TooLarge if other processes wait for this one."""
        lengths = {utt_id: length for batch in group for utt_id, length in batch["ids"].items()}
        longest = max(lengths, key=lengths.__getitem__)
        reason = f"out of memory, its longest utterance is {longest} of {lengths[longest]:.1f} {self.unit}"
        if self.world > 1 or not self.skips_too_large:
            raise TooLarge(
                f"update {self.update + 1}: a batch of {len(lengths)} utterances: {reason}; leave such out "
                "(stage 1: `asrtts prepare --max-seconds`) or make batches smaller (batching.seconds)"
            ) from None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return reason

    def _skip(self, group: list[dict[str, Any]], logged: dict[str, float], reason: str) -> None:
        """Leave out a batch that would harm or that is too large, and name its utterances."""
        self.bad_batches += 1
        ids = [utt_id for batch in group for utt_id in batch["ids"]]
        numbers = {key: str(value) for key, value in logged.items()}
        event = {"update": self.update + 1, "epoch": self.epoch, "utt_ids": ids, "reason": reason, **numbers}
        journal.append(self.folder / BAD, event)
        self._tell(ids, reason)
        if self.bad_batches >= self.config.max_bad_batches:
            last, named = ", ".join(ids[:3]), f"the utterances in {self.folder / BAD}"
            in_a_row = f"{self.bad_batches} batches in a row were left out, the last ({last}, ...) for this: {reason}"
            if reason == ZERO_GRADIENT:
                raise UserError(
                    f"nothing is learned at update {self.update}: {in_a_row}. Look at {named}; `asrtts prepare "
                    "--tokens` tells if their texts are too long for their audio"
                )
            if reason == NOT_FINITE:
                raise UserError(
                    f"training diverged at update {self.update}: {in_a_row}. "
                    f"Lower training.optimizer.lr or look at {named}"
                )
            raise UserError(f"update {self.update + 1}: {in_a_row}. Make batches smaller or look at {named}")

    def _tell(self, ids: list[str], reason: str) -> None:
        """One line on the screen for each of the first batches that are left out, and no flood of them."""
        self.told += 1
        if self.rank or self.told > TOLD:
            return
        last = "; further ones are named there alone" if self.told == TOLD else ""
        warn(
            f"update {self.update + 1}: a batch of {len(ids)} utterances is left out: {reason}: "
            f"{', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''} (all in {self.folder / BAD}){last}"
        )

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        epoch, number = batch["place"]
        self.epoch, self.batch = epoch, number + 1
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
            turns.set_training(self.model)
            measured = {key: round(value, 6) for key, value in measured.items()}
            log.write({"update": self.update, "validation": measured, "took": round(time.monotonic() - started, 1)})
            progress.note(self.update, measured)
            self._keep_snapshot(measured)
        self.done = parallel.first_says(self.done)

    def _keep_snapshot(self, measured: dict[str, float]) -> None:
        """Write the weights for averaging; decide on early stopping."""
        path = self.folder / "snapshots" / f"{self.update:08d}.safetensors"
        select = self.config.select
        if select not in measured:
            raise UserError(f"training.select: a validation gives no number '{select}'{suggestion(select, measured)}")
        weights_file.save(path, turns.weights_of(self.model))
        self.snapshots.append([self.update, measured[select]])
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


def _why_bad(numbers: dict[str, float], zero_is_bad: bool) -> str | None:
    """Why an update with this loss and gradient would harm or teach nothing; None if it would not."""
    if not (math.isfinite(numbers["grad_norm"]) and math.isfinite(numbers["loss"])):
        return NOT_FINITE
    return ZERO_GRADIENT if zero_is_bad and numbers["grad_norm"] == 0 else None


def _numbers(parts: dict[str, Tensor]) -> dict[str, float]:
    return {key: float(value.detach()) for key, value in parts.items() if value.numel() == 1}


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
