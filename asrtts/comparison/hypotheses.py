"""What the runs of a comparison decoded, and its alignments to the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from asrtts.comparison.fairness import Member, System
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.metrics import error_rate
from asrtts.metrics.verdict import Outputs
from asrtts.registry import UserError

Lines = dict[str, decodings.Line]  # by utt_id
Decoded = dict[Member, Lines]


def read(
    systems: Sequence[System], name: str, utterances: dict[str, Utterance], some: bool
) -> tuple[Decoded, dict[str, Utterance]]:
    """The lines of every run, and the utterances that are compared: all, or with `some` those that every run has.

    Raises:
        UserError: an utterance is missing (without `some`), or no utterance was decoded by all.
    """
    decoded: Decoded = {}
    for member in (member for system in systems for member in system.members):
        decoded[member] = decodings.lines(member.exp, member.decoding, utterances)
        if not some:
            decodings.refuse_missing(member.exp, member.decoding, utterances, decoded[member])
    common = {u: utterance for u, utterance in utterances.items() if all(u in lines for lines in decoded.values())}
    if not common:
        raise UserError(f"no utterance of {name} was decoded by all of these runs; decode them again (stage 4)")
    return decoded, common


def without_unknown(decoded: Decoded, utterances: dict[str, Utterance]) -> tuple[Decoded, dict[str, Utterance], int]:
    """The same without <unk> in the references, as `error_rate.without_unknown`, and the number of these words."""
    texts = [utterance.text for utterance in utterances.values()]
    count = error_rate.count_unknown(texts)
    if not count:
        return decoded, utterances, 0
    scored: Decoded = {}
    refs = texts
    for member, lines in decoded.items():
        refs, hyps = error_rate.without_unknown(texts, [lines[utt_id].hyp for utt_id in utterances])
        scored[member] = {
            utt_id: lines[utt_id].model_copy(update={"hyp": hyp}) for utt_id, hyp in zip(utterances, hyps, strict=True)
        }
    rest = {
        utt_id: replace(utterance, text=ref) for (utt_id, utterance), ref in zip(utterances.items(), refs, strict=True)
    }
    return scored, rest, count


def outputs(
    systems: Sequence[System], utterances: dict[str, Utterance], decoded: Decoded, split: Callable[[str], Sequence[str]]
) -> list[Outputs]:
    """The alignments of every system at one level."""
    refs = [split(utterance.text) for utterance in utterances.values()]

    def edits(member: Member) -> list[str]:
        return error_rate.align(refs, [split(decoded[member][utt_id].hyp) for utt_id in utterances])

    return [
        Outputs(
            system.name,
            [member.seed for member in system.members],
            [edits(member) for member in system.members],
            [member.exp.resolve() for member in system.members],
            [member.begun for member in system.members],
        )
        for system in systems
    ]
