"""What happens to an utterance on its way into a batch: audio, augmentation, features, masks, tokens."""

from __future__ import annotations

import errno
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing import forkserver
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from asrtts.data import audio, augmentation, features
from asrtts.data.batching import Index, Request
from asrtts.data.worker import end_with_parent
from asrtts.registry import UserError

Batch = dict[str, Any]
# What torch says of a worker that is gone; "Caught ..." is an error in our code, whose traceback is wanted.
LOST_WORKER = r"^(?!Caught ).*(DataLoader worker \(pid|exited unexpectedly|shared memory)"
PATIENCE = 30 * 60  # seconds for one batch; a worker that is silent for longer has stopped


class UtteranceDataset(Dataset):
    """Makes the batch that a Request asks for; nothing in it depends on the worker that makes it.

    Batch: feats (N, T, F), feat_lens (N,), tokens (N, U) padded with 0, token_lens (N,), and what the trainer reads:
    place (epoch, number in it), share (of the rows of all processes), ids (utt_id: seconds).
    With `views` 2 the rows are doubled: N = 2B, the second half another masking of the first (CR-CTC).
    T is a multiple of `round_frames`.
    """

    def __init__(
        self,
        index: Index,
        feature: features.Config,
        statistics: features.Statistics,
        encode: Callable[[str], list[int]],
        *,
        augment: augmentation.Config = augmentation.NONE,
        views: int = 1,
        seed: int = 0,
        round_frames: int = 1,
    ) -> None:
        self.index, self.feature, self.statistics, self.encode = index, feature, statistics, encode
        self.augment, self.views, self.seed, self.round_frames = augment, views, seed, round_frames
        augmentation.check(augment)

    def __getitem__(self, request: Request) -> Batch:
        rate = self.feature.sample_rate
        utterances = [self.index[i] for i in request.indices]
        rngs = [np.random.default_rng([self.seed, request.epoch, i]) for i in request.indices]
        waves = [
            augmentation.augment_wave(self.augment, audio.read(u, rate), speed, rate, rng)
            for u, speed, rng in zip(utterances, request.speeds, rngs, strict=True)
        ]
        feats, feat_lens = features.fbank(self.feature, waves)
        feats = F.pad(self.statistics.normalize(feats, feat_lens), (0, 0, 0, -feats.shape[1] % self.round_frames))
        feats = self._masked_views(feats, feat_lens, rngs)
        tokens = [self.encode(u.text) for u in utterances]
        return {
            "feats": feats,
            "feat_lens": feat_lens.repeat(len(feats) // len(feat_lens)),
            "tokens": pad(tokens).repeat(len(feats) // len(feat_lens), 1),
            "token_lens": torch.tensor([len(t) for t in tokens]).repeat(len(feats) // len(feat_lens)),
            "ids": {u.utt_id: u.seconds for u in utterances},
            "place": request.place,
            "share": request.share,
        }

    def _masked_views(self, feats: Tensor, feat_lens: Tensor, rngs: list[np.random.Generator]) -> Tensor:
        """Warp once, then mask each view apart: CR-CTC compares views of equal length frame by frame."""
        config = self.augment.spec_augment
        if config is None:
            return feats.repeat(self.views, 1, 1)
        for row, (frames, rng) in enumerate(zip(feat_lens.tolist(), rngs, strict=True)):
            augmentation.warp_features(config, feats[row], frames, rng)
        feats = feats.repeat(self.views, 1, 1)
        for view in range(self.views):
            for row, (frames, rng) in enumerate(zip(feat_lens.tolist(), rngs, strict=True)):
                augmentation.mask_features(config, feats[view * len(rngs) + row], frames, rng)
        return feats


def pad(tokens: list[list[int]]) -> Tensor:
    """(B, U) int64, padded with 0.  [[7, 8], [9]] -> [[7, 8], [9, 0]]"""
    longest = max((len(t) for t in tokens), default=0)
    return torch.tensor([t + [0] * (longest - len(t)) for t in tokens], dtype=torch.int64).reshape(len(tokens), longest)


class _Requests:
    """A sampler that can be asked for its requests once; the DataLoader hands each one to a worker, in order."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[Request]:
        return self.requests


def start_early(workers: int) -> None:
    """Let the process that workers are forked from import what they need, while the caller reads and builds."""
    if workers:
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "asrtts.data.fbank_kernels"])
        with suppress(OSError):  # no file or process left: `batches` says so
            forkserver.ensure_running()


def batches(dataset: UtteranceDataset, requests: Iterator[Request], workers: int) -> Iterator[Batch]:
    """The requested batches in their order, made by `workers` processes (0: in this one).

    Raises:
        UserError: an utterance's audio is gone or damaged; a worker died, cannot be started or stopped answering.
    """
    try:
        with closing(_Watched(_loader(dataset, requests, workers))) as loader:
            for packed in loader:
                if isinstance(packed, UserError):
                    raise packed
                yield _with_tensors(packed) if workers else packed
    except (RuntimeError, OSError, EOFError) as error:
        if not workers or (isinstance(error, RuntimeError) and not re.search(LOST_WORKER, str(error))):
            raise
        raise UserError(_why_no_batches(error)) from None


# An iterator whose workers cannot be started is deleted half made, which torch's __del__ does not expect.
_MultiProcessingDataLoaderIter._shutdown = True


class _Watched:
    """A loader's batches. Workers that answer nothing for PATIENCE seconds are killed, which torch then notices: it
    looks whether they are alive, not whether they work."""

    def __init__(self, loader: DataLoader) -> None:
        self.batches = iter(loader)
        self.waiting_since: float | None = None
        self.ended = threading.Event()
        if loader.num_workers:
            threading.Thread(target=self._watch, daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.waiting_since = time.monotonic()
            try:
                batch = next(self.batches)
            except StopIteration:
                return
            finally:
                self.waiting_since = None
            yield batch

    def _watch(self) -> None:
        while not self.ended.wait(min(5.0, PATIENCE / 4)):
            since = self.waiting_since
            if since is not None and time.monotonic() - since > PATIENCE:
                for worker in self.batches._workers:
                    worker.kill()
                return

    def close(self) -> None:
        """End the workers now, and not when the last reference to the iterator goes."""
        self.ended.set()
        if hasattr(self.batches, "_shutdown_workers"):
            self.batches._shutdown_workers()


def _loader(dataset: UtteranceDataset, requests: Iterator[Request], workers: int) -> DataLoader:
    # forkserver: a fork of this process would copy OpenMP's and the progress bar's threads in whatever state they are.
    return DataLoader(
        _Guarded(dataset),
        batch_size=None,
        sampler=_Requests(requests),
        num_workers=workers,
        worker_init_fn=_start_worker,
        collate_fn=_as_it_is,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else the loader draws from torch's own, and a resumed run has other dropout
        multiprocessing_context="forkserver" if workers else None,
    )


def _why_no_batches(error: Exception) -> str:
    """One line for a worker that died, could not be started, or stopped answering."""
    again = "the same command resumes from the last checkpoint; training.workers=0 makes batches in this process"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files for processes that make batches; raise `ulimit -n` above 64; {again}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN):
        return (
            f"a process that makes batches cannot be started ({error.strerror}): /dev/shm, memory or the number of "
            f"processes is exhausted; in a container raise --shm-size; {again}"
        )
    return (
        f"a process that makes batches died (out of memory?) or did not answer for {PATIENCE / 60:g} minutes; {again}"
    )


class _Guarded(Dataset):
    """Hands a UserError over as a value: torch would wrap a worker's traceback around the line that the user needs.

    A worker's batch goes through the pipe as arrays. As tensors it would go through /dev/shm, one open file a tensor:
    where that is full (64 MB in a container) or files are few, the worker's sending thread dies and the parent waits
    for ever.
    """

    def __init__(self, dataset: UtteranceDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, request: Request) -> Batch | UserError:
        try:
            batch = self.dataset[request]
        except UserError as error:
            return error
        except MemoryError:
            return UserError(
                f"out of memory while a batch of {len(request.indices)} utterances was made; make batches smaller "
                "(batching.seconds), or leave out the longest utterances (`asrtts prepare --max-seconds`, stage 1)"
            )
        return batch if get_worker_info() is None else _with_arrays(batch)


def _with_arrays(batch: Batch) -> Batch:
    return {key: value.numpy() if isinstance(value, Tensor) else value for key, value in batch.items()}


def _with_tensors(batch: Batch) -> Batch:
    """Copies, which are aligned as torch's own tensors are, so that sums are of the same bits."""
    return {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)  # the cores belong to the model
