"""What happens to an utterance on its way into a batch: audio, augmentation, features, masks, tokens."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asrtts.data import audio, augmentation, features
from asrtts.data.batching import Index, Request
from asrtts.data.worker import end_with_parent
from asrtts.registry import UserError

Batch = dict[str, Any]


class UtteranceDataset(Dataset):
    """Makes the batch that a Request asks for; nothing in it depends on the worker that makes it.

    Batch: feats (N, T, F), feat_lens (N,), tokens (N, U) padded with 0, token_lens (N,), utt_ids, and the request.
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
            "utt_ids": [u.utt_id for u in utterances],
            "request": request,
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
        forkserver.ensure_running()


def batches(dataset: UtteranceDataset, requests: Iterator[Request], workers: int) -> Iterator[Batch]:
    """The requested batches in their order, made by `workers` processes (0: in this one).

    Raises:
        UserError: an utterance's audio is gone or damaged; a worker died.
    """
    # forkserver: a fork of this process would copy OpenMP's and the progress bar's threads in whatever state they are.
    loader = DataLoader(
        _Guarded(dataset),
        batch_size=None,
        sampler=_Requests(requests),
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else the loader draws from torch's own, and a resumed run has other dropout
        multiprocessing_context="forkserver" if workers else None,
    )
    try:
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise  # the others: the socket, from which a batch's memory is taken, went with the worker
        raise UserError(
            "a process that makes batches died (out of memory?); the same command goes on from the last checkpoint, "
            "with training.workers=0 in one process"
        ) from None


class _Guarded(Dataset):
    """Hands a UserError over as a value: torch would wrap a worker's traceback around the line that the user needs."""

    def __init__(self, dataset: UtteranceDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, request: Request) -> Batch | UserError:
        try:
            return self.dataset[request]
        except UserError as error:
            return error


def _start_worker(_: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)  # the cores belong to the model
