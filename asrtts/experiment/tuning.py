"""Try settings of a search on a manifest: the points that are tried, and the errors of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from asrtts.asr.decoding import GREEDY_CTC, JOINT, Decoding
from asrtts.data import batching
from asrtts.metrics import error_rate
from asrtts.registry import UserError, suggestion
from asrtts.search.language_model import LanguageModel
from asrtts.training import memory

# What is tried where it means something; --try says otherwise. Of equally good points the first is taken.
TRIED = {
    "lm_weight": (0.0, 0.2, 0.4, 0.7, 1.0),
    "length_bonus": (0.0, 1.0, 2.0, 3.0),
    "ctc_weight": (0.3, 0.5),
    "lodr_weight": (0.0, 0.1, 0.2),
}
OWN = ("length_bonus", "ctc_weight")  # of which a run's own value is tried, too
RATES = {"words": ("wer", "cer"), "characters": ("cer", "wer")}  # what a point is chosen by, and which of equal ones


def grid(tried: Sequence[str], given: Sequence[str], full: Decoding, method: str) -> list[dict[str, float]]:
    """Every combination of the values of every key; a key that was given has its value.

    Raises:
        UserError: a key that is given and tried, or of which nothing can be tried.
    """
    given = [setting.partition("=")[0] for setting in given]
    values: dict[str, Any] = {}
    for option in tried:
        key, _, listed = option.partition("=")
        if key not in TRIED:
            raise UserError(f"--try {option}: no such key{suggestion(key, TRIED)}")
        if key in given:
            raise UserError(
                f"--try {option}: {key} is given as a setting of every point, too; leave out one of the two"
            )
        try:
            values[key] = [float(value) for value in listed.split(",")]
        except ValueError:
            raise UserError(f"--try {option}: wanted numbers, e.g. {key}=0,0.5,1") from None
    means = {
        "lm_weight": full.lm is not None,
        "lodr_weight": full.lodr is not None,
        "length_bonus": method != GREEDY_CTC,
        "ctc_weight": method == JOINT,
    }
    for key in values:
        if not means[key]:
            raise UserError(f"--try {key}: it changes nothing in {method}; name what it weighs, e.g. lm=exp/lm")
    for key, default in TRIED.items():
        if key == "length_bonus" and method.startswith("transducer"):
            continue  # its blanks weigh every token; with a bonus some models speak without end, and slowly
        if means[key] and key not in given:
            own = {getattr(full, key)} - {0.0} if key in OWN else set()
            values.setdefault(key, sorted({*default, *own}))
    if not any(values.values()):
        raise UserError(f"{method} has nothing to tune; name a language model, e.g. lm=exp/lm")
    ordered = {key: values[key] for key in TRIED if key in values}
    return [dict(zip(ordered, point, strict=True)) for point in itertools.product(*ordered.values())]


@dataclass(frozen=True)
class Encoded:
    """A batch behind the encoder."""

    rows: list[int]  # of the manifest
    enc: Tensor  # (B, T, D)
    enc_lens: Tensor  # (B,)


@torch.no_grad()
def encode(recognizer: Any, index: batching.Index, cut: batching.Config) -> Iterator[Encoded]:
    """What the encoder gives for a manifest; utterances without an encoder frame are left out.

    Args:
        recognizer: of tasks/recognition.
    """
    dataset, model = recognizer.dataset(index), recognizer.model
    device, long_enough = next(model.parameters()).device, recognizer.has_frames(index.seconds)
    plan = [
        [row for row in request.indices if long_enough[row]] for request in batching.plain_batches(cut, index.seconds)
    ]
    for rows in track([rows for rows in plan if rows], "encoding", console=Console(stderr=True), transient=True):
        ids = {index[row].utt_id: float(index.seconds[row]) for row in rows}
        with memory.told(ids, "lower --batch-seconds, or cut such recordings into shorter utterances (stage 1)"):
            batch = dataset[batching.Request.plain(rows)]
            encoded = model.encoder(batch["feats"].to(device), batch["feat_lens"].to(device))
        yield Encoded(rows, *encoded)


def errors(
    recognizer: Any,
    index: batching.Index,
    encoded: Sequence[Encoded],
    decoding: Decoding,
    loaded: dict[str, LanguageModel],
) -> tuple[dict[str, float], str]:
    """Word and character error rate in percent, as `asrtts score` counts them, and by which of them to judge.

    Args:
        encoded: of `encode`; the hypothesis of an utterance that is not in it is empty.
        loaded: the language models by their folders.
    """
    model, tokenizer = recognizer.model, recognizer.tokenizer
    lms = [(loaded[folder], weight) for folder, weight in decoding.lms]
    refs, hyps = [utterance.text for utterance in index], [""] * len(index)
    for batch in encoded:
        nbests = model.search_encoded(batch.enc, batch.enc_lens, decoding, lms)
        for row, nbest in zip(batch.rows, nbests, strict=True):
            hyps[row] = tokenizer.decode(nbest[0].tokens)
    refs, hyps = error_rate.without_unknown(refs, hyps)
    rates = {}
    for rate, split in (("wer", error_rate.words), ("cer", error_rate.characters)):
        total = error_rate.tally(error_rate.align([split(r) for r in refs], [split(h) for h in hyps]))
        rates[rate] = round(100 * total.errors / max(total.ref, 1), 4)
    return rates, error_rate.judged_by(refs)
