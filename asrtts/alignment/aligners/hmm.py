"""The built-in aligner: hidden Markov models of single phones, trained on the very recordings that are aligned.

Each phone is three states, each state a mixture of Gaussians over cepstra and their first and second differences (Young
et al., The HTK Book, chapter 8). Training begins with the frames divided evenly among the states (a flat start), then
aligns and estimates in turn (Viterbi training) while mixtures grow, as Kaldi's monophone recipe does. No other corpus,
recognizer or package is needed.

Departures from Kaldi: a pause is one mixture in three states, phones too rare to be learnt share one model, and every
search is exact.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from asrtts import storage
from asrtts.alignment import graph
from asrtts.alignment.graph import Graph
from asrtts.alignment.intervals import Alignment, Interval, Unaligned
from asrtts.alignment.mixtures import Mixtures
from asrtts.data import audio, features
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.text import normalization
from asrtts.text.phones import Lexicon

MODEL = "hmm.npz"
ROUNDS = 30  # of training
FIXED = range(11, 29, 2)  # rounds in which mixtures alone change: most of the alignment stands by then
GROWING = 24  # rounds in which mixtures grow
GAUSSIANS = 1000  # in all, as in Kaldi's recipe; fewer where there is little data
DYNAMIC = 2.3  # log energy, 10 dB: speech with pauses has more between its loud and its quiet frames
SHORTEST_PAUSE = 10  # frames; a stop within a word is shorter
FRAMES_EACH = 60  # for a Gaussian, at least
TRAINED_HOURS = 3.0  # of the shortest utterances: more would hardly move a boundary
LEAST_RATE = 1000  # Hz; a manifest that says less has kilohertz
RARE = 10  # a phone heard less often has no model of its own
SPOKEN_NOISE = "spn"  # the phone of words without pronunciation; rare phones share its model
CEPSTRA, BINS = 13, 26
WINDOW = 1  # frames to either side, over which differences are taken
GROUP = 200  # utterances of a speaker whose mean is taken together
LARGEST = 400_000_000  # bytes of a search; an hour in one piece would take more

Words = Sequence[Sequence[Sequence[str]]]  # of an utterance: word, pronunciation, phone
Report = Callable[[Sequence[Any], str], Iterable[Any]]  # shows progress: yields these; what is done with them


@dataclass(frozen=True, eq=False)
class Model:
    """What is trained: mixtures by kind of state, and how long states last."""

    number: dict[str, int]  # of every phone
    mixtures: Mixtures
    log_stay: np.ndarray  # (kinds of states,)
    log_leave: np.ndarray
    scale: np.ndarray  # (D,) float32, what frames are multiplied with
    sample_rate: int

    def save(self, path: Path) -> None:
        """Written beside its goal and renamed. Raises UserError if the disk is full."""
        arrays = {name: getattr(self.mixtures, name) for name in ("first", "weights", "means", "variances")}
        arrays |= {"log_stay": self.log_stay, "log_leave": self.log_leave, "scale": self.scale}
        phones, numbers = np.array(list(self.number)), np.array(list(self.number.values()))
        beside = path.with_name(path.name + ".part")
        try:
            with open(beside, "wb") as file:
                np.savez(file, phones=phones, numbers=numbers, sample_rate=self.sample_rate, **arrays)
            os.replace(beside, path)
        except OSError as error:
            storage.remove(beside)
            raise storage.storage_error(path, error) from None

    @classmethod
    def load(cls, path: Path) -> Model:
        """Raises UserError if the file is damaged or gone."""
        try:
            with np.load(path, allow_pickle=False) as held:
                number = dict(zip(held["phones"].tolist(), held["numbers"].tolist(), strict=True))
                mixtures = Mixtures(held["first"], held["weights"], held["means"], held["variances"])
                rest = held["log_stay"], held["log_leave"], held["scale"], int(held["sample_rate"])
        except (OSError, ValueError, KeyError, BadZipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read ({error}); delete {path.parent} and align again") from None
        return cls(number, mixtures, *rest)


# Training ---------------------------------------------------------------------------------------------------------


def train(utterances: Sequence[Utterance], lexicon: Lexicon, folder: Path, report: Report) -> list[Path]:
    """Train on the utterances and keep the model in the folder. The same call gives the same model.

    Returns the files that it wrote.

    Args:
        lexicon: the pronunciations of words; a word that it lacks is spoken noise.
        report: shows progress: report(these, what is done with them) yields these.

    Raises:
        UserError: no utterance has words, or none has frames enough for them; audio cannot be read.
    """
    chosen = _shortest([u for u in utterances if u.text.split()])
    words = [pronounced(utterance, lexicon) for utterance in chosen]
    number = numbers(words)
    graphs = [graph.build(each, number) for each in words]
    rate = _rate(chosen)
    heard = [each for group in report(groups(chosen), "reading") for each in hear(group, rate)]
    paths = [_evenly(states, loudness) for states, (_, loudness) in zip(graphs, heard, strict=True)]
    frames = [of for of, _ in heard]
    every = np.concatenate(frames)
    scale = 1 / np.maximum(every.std(axis=0), 1e-6)
    every *= scale
    frames = np.split(every, np.cumsum([len(of) for of in frames])[:-1])

    kinds = graph.kinds(len(number))
    most = max(kinds, min(GAUSSIANS, len(every) // FRAMES_EACH))
    flat = Mixtures.one(np.zeros(every.shape[1]), np.ones(every.shape[1]), kinds)
    model = Model(number, flat, np.log(np.full(kinds, 0.5)), np.log(np.full(kinds, 0.5)), scale, rate)
    for turn in report(range(ROUNDS), "training"):
        if turn and turn not in FIXED:
            paths = [search(model, states, of) for states, of in zip(graphs, frames, strict=True)]
        if all(path is None for path in paths):
            if long := [u for u, s, of in zip(chosen, graphs, frames, strict=True) if is_too_large(s, of)]:
                raise UserError(
                    f"{long[0].utt_id}: {_in_one_piece(long[0])}, and no other utterance is there to learn from"
                )
            raise UserError(
                f"none of {len(chosen)} utterances, e.g. {chosen[-1].utt_id}, is long enough for its words; is the "
                "text that of the recordings?"
            )
        model = _estimated(model, graphs, every, frames, paths, round(kinds + (most - kinds) * min(1, turn / GROWING)))
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / MODEL)
    return [folder / MODEL]


def _estimated(
    model: Model,
    graphs: Sequence[Graph],
    every: np.ndarray,
    frames: Sequence[np.ndarray],
    paths: Sequence[np.ndarray | None],
    gaussians: int,
) -> Model:
    """The model after its mixtures and durations were estimated from these paths."""
    of = [np.full(len(f), -1) if p is None else s.kind[p] for s, f, p in zip(graphs, frames, paths, strict=True)]
    stays = [
        np.zeros(len(f), bool) if p is None else np.diff(p, append=-1) == 0 for f, p in zip(frames, paths, strict=True)
    ]
    kinds, stayed = np.concatenate(of), np.concatenate(stays)
    heard = kinds >= 0
    count = np.bincount(kinds[heard], minlength=len(model.log_stay))
    share = (np.bincount(kinds[heard], stayed[heard], len(count)) + 1) / (count + 2)
    mixtures = model.mixtures.improved(every[heard], kinds[heard], gaussians)
    return Model(model.number, mixtures, np.log(share), np.log1p(-share), model.scale, model.sample_rate)


def _shortest(utterances: Sequence[Utterance]) -> list[Utterance]:
    """A flat start finds its way most easily in them. By speaker, as `groups` wants them."""
    if not utterances:
        raise UserError("no utterance has words to align")
    order = sorted(utterances, key=lambda u: (u.seconds, u.utt_id))
    before = accumulate((u.seconds for u in order), initial=0.0)
    chosen = [u for u, seconds in zip(order, before, strict=False) if seconds < 3600 * TRAINED_HOURS]
    return sorted(chosen, key=lambda u: (u.speaker, u.utt_id))


def _rate(utterances: Sequence[Utterance]) -> int:
    """The lowest of their sample rates, as far as they are known. Raises UserError if it is none of speech."""
    slowest = min(utterances, key=lambda u: u.sample_rate or features.Config().sample_rate)
    if 0 < slowest.sample_rate < LEAST_RATE:
        wanted = f"wanted {LEAST_RATE} Hz at least; `asrtts prepare` (stage 1) sees what the file has"
        raise UserError(f"utterance '{slowest.utt_id}' has sample_rate {slowest.sample_rate} in its manifest; {wanted}")
    return min(features.Config().sample_rate, slowest.sample_rate or features.Config().sample_rate)


def numbers(words: Sequence[Words]) -> dict[str, int]:
    """Of phones: the pause, spoken noise, then those that are common enough; the others have spoken noise's."""
    count = Counter(phone for utterance in words for said in utterance for phone in said[0])
    common = sorted(
        phone for phone, times in count.items() if times >= RARE and phone not in (graph.PAUSE, SPOKEN_NOISE)
    )
    return {phone: number for number, phone in enumerate([graph.PAUSE, SPOKEN_NOISE, *common])}


def _evenly(states: Graph, loudness: np.ndarray) -> np.ndarray | None:
    """Frames divided evenly among the states of the first pronunciations, but for quiet stretches, which are pauses.

    None if there are fewer frames than states. Pauses among the words have no states of their own here: with them it is
    no way through the graph, but all that is wanted of it is which frames belong to which kind of state.

    Args:
        loudness: (T,), as of `hear`.
    """
    way, path = states.straight[graph.STATES : -graph.STATES], np.zeros(len(loudness), np.int64)  # state 0: a pause
    loud = ~_quiet(loudness)
    if loud.sum() < len(way):
        loud[:] = True
    if loud.sum() < len(way):
        return None
    path[loud] = way[np.arange(loud.sum()) * len(way) // loud.sum()]
    return path


def _quiet(loudness: np.ndarray) -> np.ndarray:
    """Which frames (T,) are in a long stretch that is nearer to the quietest frames than to the loudest."""
    if len(loudness) == 0:
        return np.zeros(0, bool)
    low, high = np.quantile(loudness, (0.05, 0.95))
    quiet = (loudness < (low + high) / 2) & (high - low > DYNAMIC)
    for _, run in groupby(range(len(quiet)), lambda t: quiet[t]):
        frames = list(run)
        if len(frames) < SHORTEST_PAUSE:
            quiet[frames] = False
    return quiet


# Aligning ---------------------------------------------------------------------------------------------------------


def align(
    utterances: Sequence[Utterance], lexicon: Lexicon, folder: Path, report: Report
) -> Iterator[Alignment | Unaligned]:
    """The alignment of each utterance, or why it has none, by the model that `train` left in the folder.

    In the order of speakers. Arguments and errors as of `train`.
    """
    model = Model.load(folder / MODEL)
    ordered = sorted(utterances, key=lambda u: (u.speaker, u.utt_id))  # or GROUPs would depend on the manifest's order
    for group in report(groups(ordered), "aligning"):
        for utterance, (frames, _) in zip(group, hear(group, model.sample_rate), strict=True):
            yield _aligned(model, utterance, frames * model.scale, lexicon)


def _aligned(model: Model, utterance: Utterance, frames: np.ndarray, lexicon: Lexicon) -> Alignment | Unaligned:
    words = normalization.words(utterance.text)
    if not words:
        return Alignment(utterance.utt_id, utterance.seconds, [], [])
    states = graph.build(pronounced(utterance, lexicon), model.number)
    if is_too_large(states, frames):
        return Unaligned(utterance.utt_id, _in_one_piece(utterance))
    path = search(model, states, frames)
    if path is None:
        return Unaligned(utterance.utt_id, f"{utterance.seconds:.2f} s are too short for its {len(words)} words")
    hop = features.Config(sample_rate=model.sample_rate).hop / model.sample_rate  # at 11,025 Hz not quite 10 ms
    phones: list[Interval] = []
    ends: dict[int, tuple[float, float]] = {}  # of each word, by its number
    for node, run in groupby(enumerate(states.node[path].tolist()), lambda at: at[1]):
        at = [frame for frame, _ in run]
        phone, word = states.nodes[node]
        if word >= 0:  # no pause between words
            phones.append(Interval(phone, at[0] * hop, min((at[-1] + 1) * hop, utterance.seconds)))
            ends[word] = ends.get(word, phones[-1][1:])[0], phones[-1].end
    return Alignment(
        utterance.utt_id, utterance.seconds, [Interval(words[n], *times) for n, times in ends.items()], phones
    )


def search(model: Model, states: Graph, frames: np.ndarray) -> np.ndarray | None:
    """The likeliest state of each frame (T,); None if there are too few frames for the words, or too many in all."""
    from asrtts.alignment import viterbi_kernels

    if not len(frames) or is_too_large(states, frames):
        return None
    kinds, column = np.unique(states.kind, return_inverse=True)
    scores = model.mixtures.log_likelihoods(frames, kinds)
    leave = model.log_leave[states.kind]
    path, score = viterbi_kernels.best_path(
        scores,
        column.astype(np.int32),
        model.log_stay[states.kind],
        states.first_arc,
        states.origin,
        states.chance + leave[states.origin],
        states.begin,
        states.end + leave,
    )
    return path if score > -np.inf else None


def is_too_large(states: Graph, frames: np.ndarray) -> bool:
    return len(frames) * len(states.kind) > LARGEST


def _in_one_piece(utterance: Utterance) -> str:
    words = len(normalization.words(utterance.text))
    return f"{utterance.seconds:.0f} s and {words} words in one piece; cut it up"


# What both hear ---------------------------------------------------------------------------------------------------


def pronounced(utterance: Utterance, lexicon: Lexicon) -> Words:
    return [lexicon.get(word, [(SPOKEN_NOISE,)]) for word in normalization.words(utterance.text)]


def groups(ordered: Iterable[Utterance]) -> list[list[Utterance]]:
    """Neighbours of one speaker; one whose speaker is unknown is alone."""
    found: list[list[Utterance]] = []
    for speaker, same in groupby(ordered, lambda u: u.speaker):
        while chunk := list(islice(same, GROUP if speaker else 1)):
            found.append(chunk)
    return found


def hear(group: Sequence[Utterance], sample_rate: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames and loudness of each utterance.

    Frames (T, 39) float32 are mel cepstra, less their mean over the utterances, and their first and second differences;
    loudness (T,) is the log of the energy of all bands.

    Raises UserError for audio that cannot be read, or whose samples are no numbers.
    """
    bands = [_bands(u, sample_rate) for u in group]  # one by one: the samples of a speaker may be gigabytes
    static = [each @ _cosines() for each in bands]
    mean = np.concatenate(static).sum(axis=0) / max(1, sum(map(len, static)))
    loudness = [np.logaddexp.reduce(each, axis=1) for each in bands]
    return [(_with_differences(each - mean), loud) for each, loud in zip(static, loudness, strict=True)]


def _bands(utterance: Utterance, sample_rate: int) -> np.ndarray:
    """(T, BINS), log energies."""
    wave = audio.read(utterance, sample_rate)
    if not np.isfinite(wave).all():
        wrong = f"the audio of {utterance.utt_id} has samples that are no numbers"
        raise UserError(f"{utterance.audio}: {wrong}; replace the file")
    return features.fbank(features.Config(sample_rate=sample_rate, num_bins=BINS), [wave])[0][0].numpy()


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """(BINS, CEPSTRA), the orthonormal discrete cosine transform of type II."""
    places = np.pi / BINS * (np.arange(BINS) + 0.5)
    table = np.cos(places[:, None] * np.arange(CEPSTRA)) * np.sqrt(2 / BINS)
    table[:, 0] *= np.sqrt(0.5)
    return table.astype(np.float32)


def _with_differences(static: np.ndarray) -> np.ndarray:
    first = _differences(static)
    return np.concatenate([static, first, _differences(first)], axis=1)


def _differences(values: np.ndarray) -> np.ndarray:
    """The slope of a line through 2 WINDOW + 1 frames (The HTK Book, equation 5.16)."""
    padded = np.pad(values, ((WINDOW, WINDOW), (0, 0)), mode="edge" if len(values) else "constant")
    count, steps = len(values), range(1, WINDOW + 1)
    slope = sum(n * (padded[WINDOW + n :][:count] - padded[WINDOW - n :][:count]) for n in steps)
    return slope / (2 * sum(n * n for n in steps))
