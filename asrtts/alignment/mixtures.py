"""Mixtures of Gaussians with diagonal covariances, one mixture for each kind of HMM state."""

from __future__ import annotations

import numpy as np
import torch

LEAST_VARIANCE = 0.01  # of frames whose variance is 1 over the whole data
LEAST_FRAMES = 10.0  # a component of fewer is dropped
POWER = 0.25  # components go to states as their frames to this power, as in Kaldi's gmm-est
CHUNK = 4096  # frames that are looked at together: of an hour, a matrix would have more than a gigabyte
APART = 0.2  # standard deviations to either side, when a component becomes two


class Mixtures:
    """G components of K mixtures, those of mixture k from first[k] on.

    Args:
        first: (K + 1,) int64. weights: (G,), summing to 1 in each mixture. means, variances: (G, D).
    """

    def __init__(self, first: np.ndarray, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> None:
        self.first, self.weights, self.means, self.variances = first, weights, means, variances
        precise = 1 / variances
        constant = np.log(weights) - 0.5 * (np.log(2 * np.pi * variances) + means**2 * precise).sum(1)
        self._constant = torch.from_numpy(constant.astype(np.float32))
        self._matrix = torch.from_numpy(np.concatenate([means * precise, -0.5 * precise], axis=1).astype(np.float32))

    @classmethod
    def one(cls, mean: np.ndarray, variance: np.ndarray, count: int) -> Mixtures:
        """`count` mixtures of one and the same Gaussian."""
        copies = (np.repeat(values[None].astype(np.float64), count, axis=0) for values in (mean, variance))
        return cls(np.arange(count + 1), np.ones(count), *copies)

    def log_components(self, frames: np.ndarray, components: np.ndarray | slice) -> torch.Tensor:
        """(T, C): log of weight times density of frames (T, D), float32, for some components."""
        given = torch.from_numpy(frames)
        given = torch.cat([given, given.square()], dim=1)
        return torch.addmm(self._constant[components], given, self._matrix[components].T)

    def log_likelihoods(self, frames: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
        """(T, M) float32: frames (T, D) under some of the mixtures (M,)."""
        from asrtts.alignment import viterbi_kernels

        sizes = self.first[mixtures + 1] - self.first[mixtures]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        components = np.arange(bounds[-1]) + np.repeat(self.first[mixtures] - bounds[:-1], sizes)
        found = np.empty((len(frames), len(mixtures)), np.float32)
        for start in range(0, len(frames), CHUNK):
            part = slice(start, start + CHUNK)
            viterbi_kernels.log_sums(self.log_components(frames[part], components).numpy(), bounds, found[part])
        return found

    def improved(self, frames: np.ndarray, of: np.ndarray, total: int) -> Mixtures:
        """One step of expectation and maximization on frames (N, D) that belong to mixtures `of` (N,).

        Afterwards the heaviest components become two, until there are `total` in all, as far as frames allow. A mixture
        without frames remains as it is.
        """
        order = np.argsort(of, kind="stable")
        bounds = np.searchsorted(of[order], np.arange(len(self.first)))
        wanted = _shares(np.diff(bounds), total)
        made = []
        for k, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            old = slice(self.first[k], self.first[k + 1])
            now = self.weights[old], self.means[old], self.variances[old]
            if end - start >= LEAST_FRAMES:
                now = _split(*self._maximized(frames[order[start:end]], old), wanted[k], end - start)
            made.append(now)
        weights, means, variances = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return Mixtures(np.cumsum([0] + [len(w) for w, _, _ in made]), weights, means, variances)

    def _maximized(self, frames: np.ndarray, old: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shares = torch.softmax(self.log_components(frames, old), dim=1).double()  # (n, C)
        given = torch.from_numpy(frames).double()
        counts = shares.sum(0)
        kept = counts >= min(LEAST_FRAMES, counts.max())
        shares, counts = shares[:, kept], counts[kept]
        means = shares.T @ given / counts[:, None]
        variances = shares.T @ given.square() / counts[:, None] - means.square()
        return (counts / counts.sum()).numpy(), means.numpy(), variances.clamp_min(LEAST_VARIANCE).numpy()


def _shares(frames: np.ndarray, total: int) -> np.ndarray:
    """How many of `total` components each mixture gets; one at least."""
    powers = frames.astype(np.float64) ** POWER * (frames > 0)
    return np.maximum(1, np.round(total * powers / max(powers.sum(), 1e-9))).astype(int)


def _split(
    weights: np.ndarray, means: np.ndarray, variances: np.ndarray, wanted: int, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    while len(weights) < wanted and frames * weights.max() > 4 * LEAST_FRAMES:
        i = int(weights.argmax())
        step = APART * np.sqrt(variances[i])
        weights = np.append(weights, weights[i] / 2)
        weights[i] /= 2
        means = np.concatenate([means, (means[i] + step)[None]])
        means[i] = means[i] - step
        variances = np.concatenate([variances, variances[i : i + 1]])
    return weights, means, variances
