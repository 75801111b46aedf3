"""What compare.json holds of the systems, their pairs and their measures; docs/comparing.md explains its keys."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from asrtts.comparison import measuring, model_properties
from asrtts.comparison.fairness import Member, System
from asrtts.comparison.hypotheses import Decoded, Lines
from asrtts.comparison.measuring import Missing
from asrtts.data.utterance import Utterance
from asrtts.metrics import emission
from asrtts.metrics.verdict import Outputs


def compare(
    systems: Sequence[System],
    utterances: dict[str, Utterance],
    decoded: Decoded,
    words: Sequence[Outputs],
    characters: Sequence[Outputs],
) -> dict[str, Any]:
    """The error rates of the systems, and the pairs."""
    speakers = [utterance.speaker for utterance in utterances.values()]
    wer, cer, unit, pairs = measuring.judged(words, characters, list(utterances.values()))
    rows = [
        {
            "name": system.name,
            "runs": [
                _run(label, member, decoded[member], utterances)
                for label, member in zip(system.labels, system.members, strict=True)
            ],
            **{"wer": wer[i], "cer": cer[i]},
            "sentences_wrong_percent": 100 * wer[i]["sentences_wrong"] / len(utterances),
            **measuring.described(system),
        }
        for i, system in enumerate(systems)
    ]
    return {
        **{"utterances": len(utterances), "words": wer[0]["ref"], "characters": cer[0]["ref"]},
        "speakers": len(set(speakers)) if all(speakers) else None,
        **{"systems": rows, "judged_by": unit, "pairs": pairs},
    }


def measures(
    system: System,
    judged: Outputs,
    split: Callable[[str], Sequence[str]],
    utterances: dict[str, Utterance],
    decoded: Decoded,
    ends: dict[str, emission.Ends | None] | None,
    quick: bool,
) -> measuring.Measured:
    """What a system costs and how it decodes.

    What is measured on models is that of the first run: all runs of a system have one shape.
    """
    measured = measuring.recorded(system)
    steps = [measuring.search_steps([decoded[member][u] for u in utterances]) for member in system.members]
    measured["search_steps"] = measuring.joined(steps, statistics.fmean)
    left_out = Missing("left out by --quick")
    measured |= measuring.measured(
        left_out if quick else model_properties.measure(system.members[0], list(utterances.values()))
    )
    measured["emission_delay_ms"] = measuring.emission_delay(system, judged, split, utterances, ends)
    return measured


def _run(label: str, member: Member, lines: Lines, utterances: dict[str, Utterance]) -> dict[str, Any]:
    empty = sum(not lines[u].hyp.split() and bool(utterance.text.split()) for u, utterance in utterances.items())
    facts = {key: member.facts.get(key) for key in ("family", "encoder_hash", "updates", "averaged", "computer")}
    facts["decoded_on"] = member.summary.get("computer")
    which = {"run": label, "exp": str(member.exp), "decoding": member.decoding, "seed": member.seed}
    return {**which, "empty_hypotheses": empty, **facts}
