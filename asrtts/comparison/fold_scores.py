"""The errors of settings in folds that they were not trained on, all folds together and each alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from asrtts.comparison import measuring
from asrtts.data.folds import Fold
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.metrics import error_rate
from asrtts.metrics.verdict import Outputs

HELD_OUT = "held_out"  # the manifest of a fold that is decoded


class Variant(Protocol):
    """A setting that is tried."""

    conf: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str: ...


def scored(
    variants: Sequence[Variant], division: Sequence[Fold], runs: dict[tuple[Variant, int], Path]
) -> dict[str, Any]:
    """What crossvalidation.json holds of the settings and their pairs: all held-out utterances as one test set."""
    utterances = [u for fold in division for u in fold.held_out]
    fold_of = [number for number, fold in enumerate(division, 1) for _ in fold.held_out]
    hyps = [
        [hyp for number, fold in enumerate(division, 1) for hyp in _hypotheses(runs[variant, number], fold)]
        for variant in variants
    ]
    words, characters = (
        [
            Outputs(v.name, [None], [_edits(utterances, of, split)], [v.name], [v.name])
            for v, of in zip(variants, hyps, strict=True)
        ]
        for split in (error_rate.words, error_rate.characters)
    )
    wer, cer, unit, pairs = measuring.judged(words, characters, utterances)
    systems = [
        {
            **{"name": v.name, "conf": v.conf, "settings": list(v.overrides), "wer": wer[i], "cer": cer[i]},
            "folds": [
                {
                    **{"fold": number, "exp": str(runs[v, number])},
                    **{"wer": _percent(words[i], fold_of, number), "cer": _percent(characters[i], fold_of, number)},
                    "train_minutes": decodings.train_minutes(decodings.facts(runs[v, number])),
                }
                for number in range(1, len(division) + 1)
            ],
        }
        for i, v in enumerate(variants)
    ]
    speakers = {u.speaker for u in utterances}
    return {
        **{"utterances": len(utterances), "words": wer[0]["ref"], "characters": cer[0]["ref"]},
        "speakers": len(speakers) if all(speakers) else None,
        **{"systems": systems, "judged_by": unit, "pairs": pairs},
    }


def _hypotheses(exp: Path, fold: Fold) -> list[str]:
    utterances = {u.utt_id: u for u in fold.held_out}
    found = decodings.lines(exp, HELD_OUT, utterances)
    decodings.refuse_missing(exp, HELD_OUT, utterances, found)
    return [found[utt_id].hyp for utt_id in utterances]


def _edits(utterances: Sequence[Utterance], hyps: Sequence[str], split: Callable[[str], Sequence[str]]) -> list[str]:
    texts = error_rate.without_unknown([u.text for u in utterances], hyps)
    return error_rate.align(*([split(text) for text in side] for side in texts))


def _percent(system: Outputs, fold_of: Sequence[int], number: int) -> float | None:
    """The error rate in one fold."""
    total = error_rate.tally([edit for edit, fold in zip(system.edits[0], fold_of, strict=True) if fold == number])
    return 100 * total.rate if total.ref else None
