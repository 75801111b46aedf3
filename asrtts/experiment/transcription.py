"""Search the utterances of a manifest with a trained recognizer; what is finished is kept for a rerun."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from asrtts.asr.decoding import Decoding
from asrtts.config import warn
from asrtts.data import batching
from asrtts.data.batching import Request
from asrtts.data.utterance import Utterance
from asrtts.partial_results import PartialResults
from asrtts.registry import UserError
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.language_model import LanguageModel
from asrtts.text.tokenizer import Tokenizer
from asrtts.training.memory import is_out_of_memory


@dataclass(frozen=True)
class Transcript:
    """What decoding a manifest gave."""

    records: list[dict[str, Any]]  # one for each utterance, in the manifest's order
    spent: float  # seconds, of all that is done between an audio file and its hypothesis
    too_short: int  # utterances without an encoder frame, whose hypothesis is empty


def transcribe(
    recognizer: Any,
    index: batching.Index,
    decoding: Decoding,
    device: torch.device,
    cut: batching.Config,
    lms: Sequence[tuple[LanguageModel, float]],
    partial: PartialResults,
) -> Transcript:
    """Decode every utterance of a manifest that `partial` does not have yet.

    The time that is counted is all of the way from the audio file to the hypothesis: reading, features, encoder and
    search, but not what is compiled or loaded once.

    Args:
        recognizer: of tasks/recognition, its model on `device`.

    Raises:
        UserError: an utterance needs more memory than there is; all others are decoded and kept then.
    """
    model, method = recognizer.model, recognizer.model.method(decoding)
    dataset, long_enough = recognizer.dataset(index), recognizer.has_frames(index.seconds)
    records = {row: made for batch in partial.kept for row, made in zip(batch["rows"], batch["records"], strict=True)}
    spent = sum(batch["spent"] for batch in partial.kept)

    def search(rows: list[int]) -> list[list[Hypothesis]]:
        batch = dataset[Request.plain(rows)]
        return model.search(batch["feats"].to(device), batch["feat_lens"].to(device), decoding, lms)

    def keep(rows: list[int], nbests: list[list[Hypothesis]], seconds: float) -> None:
        made = [
            record(index[row], nbest, recognizer.tokenizer, recognizer.frame_seconds, method)
            for row, nbest in zip(rows, nbests, strict=True)
        ]
        partial.append({"rows": rows, "spent": seconds, "records": made})
        records.update(zip(rows, made, strict=True))

    short = [row for row in np.flatnonzero(~long_enough).tolist() if row not in records]
    if short:
        keep(short, [[Hypothesis([], 0.0)] for _ in short], 0.0)
    plan = [
        [row for row in request.indices if row not in records] for request in batching.plain_batches(cut, index.seconds)
    ]
    plan = [rows for rows in plan if rows]
    if plan:  # not timed: in a fresh installation the first search compiles for seconds
        search([min(np.flatnonzero(long_enough).tolist(), key=lambda row: index.seconds[row])])
    too_large: list[int] = []
    for rows in track(plan, "decoding", console=Console(stderr=True), transient=True):
        waiting = [rows]
        while waiting:
            some = waiting.pop()
            began = time.perf_counter()
            try:
                nbests = search(some)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(some) > 1:  # one by one: only the longest may be too long
                    waiting += [[row] for row in some]
                else:
                    too_large += some
                continue
            took = time.perf_counter() - began
            spent += took
            keep(some, nbests, took)
    if too_large:
        raise UserError(_too_large(index, too_large, partial))
    count = int((~long_enough).sum())
    if count:
        first = int(np.flatnonzero(~long_enough)[0])
        warn(
            f"{index.path}: {count} of {len(index)} utterances are too short for one frame of the encoder, so their "
            f"hypothesis is empty, e.g. {index[first].utt_id} of {index.seconds[first]:.3f} s"
        )
    return Transcript([records[row] for row in range(len(index))], spent, count)


def _too_large(index: batching.Index, rows: list[int], partial: PartialResults) -> str:
    longest = max(rows, key=lambda row: index.seconds[row])
    others = f" and {len(rows) - 1} others" if len(rows) > 1 else ""
    return (
        f"{index.path}: out of memory on utterance {index[longest].utt_id} of {index.seconds[longest]:.1f} s{others}; "
        f"the other {len(index) - len(rows)} are decoded and kept in {partial.path}. Free memory and give the same "
        "command again: it resumes. Or cut the recording into shorter utterances (stage 1)"
    )


def record(
    utterance: Utterance, nbest: list[Hypothesis], tokenizer: Tokenizer, frame_seconds: float, method: str
) -> dict[str, Any]:
    """The output line of one utterance; times are seconds from its start."""
    best, texts = nbest[0], dict[str, float]()
    for hypothesis in nbest:  # different tokens may be one text
        texts.setdefault(tokenizer.decode(hypothesis.tokens), hypothesis.score)
    return {
        "utt_id": utterance.utt_id,
        "ref": utterance.text,
        "hyp": tokenizer.decode(best.tokens),
        "score": round(best.score, 5),
        "tokens": [
            {
                "token": tokenizer.pieces[token],
                "time": round(frame * frame_seconds, 3),
                "confidence": round(confidence, 4),
            }
            for token, frame, confidence in zip(best.tokens, best.frames, best.confidences, strict=True)
        ],
        "nbest": [{"text": text, "score": round(score, 5)} for text, score in texts.items()],
        "steps": best.steps,
        "seconds": utterance.seconds,
        "speaker": utterance.speaker,
        "method": method,
    }
