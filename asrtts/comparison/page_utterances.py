"""The utterances on the page of `asrtts compare`: who said what, and which of them are worth hearing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from asrtts.comparison.fairness import Member, System
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.metrics.verdict import Outputs

LISTED = 5000  # utterances with their alignments; a page of more would be slow to open

Row = dict[str, Any]


class SureLine(decodings.Line):
    tokens: list[Any] = []  # not looked into further: there are millions of them

    @property
    def confidence(self) -> float | None:
        """The mean posterior of its tokens, a geometric mean; None where decode did not record it."""
        sure = [token.get("confidence") if isinstance(token, dict) else None for token in self.tokens]
        if not sure or not all(isinstance(value, int | float) for value in sure):
            return None
        return math.exp(statistics.fmean(math.log(max(value, 1e-6)) for value in sure))


def rows(
    systems: Sequence[System],
    utterances: dict[str, Utterance],
    hyps: Sequence[dict[str, str]],
    judged: Sequence[Outputs],
    split: Callable[[str], Sequence[str]],
) -> list[Row]:
    """One record an utterance, in the order of the test set.

    `id`, `speaker`, `seconds`, `ref`, `said` (of every system's first run: [hypothesis, edits], 0 where it is the
    reference), `errors` (of every system, of each run), `sure` (of every system, or null). Tokens stand between blanks.
    """
    sure = [_confidences(system.members[0], utterances) for system in systems]
    found = []
    for number, (utt_id, utterance) in enumerate(utterances.items()):
        ref = " ".join(split(utterance.text))
        said: list[Any] = []
        for hyp, output in zip(hyps, judged, strict=True):
            heard = " ".join(split(hyp[utt_id]))
            said.append(0 if heard == ref else [heard, output.edits[0][number]])
        found.append(
            {
                **{"id": utt_id, "speaker": utterance.speaker, "seconds": round(utterance.seconds, 2), "ref": ref},
                **{"said": said, "errors": [output.errors[number].tolist() for output in judged]},
                "sure": [of.get(utt_id) for of in sure],
            }
        )
    return found


def informative(found: Sequence[Row], count: int) -> list[int]:
    """The rows to look at first: where systems differ most, then with most errors, then the least sure."""

    def interest(number: int) -> tuple[float, float, float]:
        row = found[number]
        errors = [errors[0] for errors in row["errors"]]
        return max(errors) - min(errors), sum(errors), uncertainty(row)

    return sorted(range(len(found)), key=interest, reverse=True)[:count]


def uncertainty(row: Row) -> float:
    known = [1 - value for value in row["sure"] if value is not None]
    return statistics.fmean(known) if known else 0.0


def _confidences(member: Member, utterances: dict[str, Utterance]) -> dict[str, float]:
    found = {}
    for line in decodings.again(member.exp, member.decoding, utterances, SureLine):
        if (confidence := line.confidence) is not None:
            found[line.utt_id] = round(confidence, 4)
    return found
