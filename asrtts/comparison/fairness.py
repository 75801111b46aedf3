"""What `asrtts compare` holds two systems to: everything but the heads, their losses and their searches is equal.

Runs that differ in their seed only are one system; another decoding of them is another. What must be equal has a name,
the key of a setting where it is one; a difference is refused by its name, or stands in the table if that name is
allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asrtts.asr.decoding import Decoding
from asrtts.config import build
from asrtts.experiment import decodings
from asrtts.experiment.run_folder import HASHES, Run
from asrtts.experiment.settings import HARMLESS_KEYS, TaskSettings, family, flat
from asrtts.registry import UserError, suggestion

# Settings whose equality is not asked: what is compared, the seed (below), paths, and what changes no result.
FREE = ("heads.", "decoding.", "data.", "seed")
# What a decoding's summary says of its machine, its test set and its own head; all else is search effort.
NOT_EFFORT = ("method", "ctc_weight", "rtf", "threads", "device", "seconds", "utterances")
NOT_EFFORT += ("peak_memory_mb", "peak_gpu_memory_mb", "computer", "made_from", "files", "lines_hash", "too_short")
NOT_EFFORT += ("length_bonus", "lm_weight", "lodr_weight")  # chosen on dev for each system; which models is effort
# Settings of a head that are effort of its search: equal where two systems have such a head.
EFFORT_OF = {"transducer": ("max_symbols_per_frame",)}
MODELS = ("lm", "lodr")  # what a summary does not name was not there: no older decode had one
# What run.json says, in a reader's words.
FACTS = {
    "data_hash": "training data",
    "dev_hash": "dev data",
    "tokens_hash": "tokens",
    "precision": "precision of the training",
    "average": "rule of the averaging",
}


@dataclass(eq=False)  # a key of what it said
class Member:
    """One decoding of a run."""

    exp: Path
    decoding: str  # its name
    settings: TaskSettings
    facts: dict[str, Any]
    summary: dict[str, Any]

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def begun(self) -> tuple[int, str]:
        """What the run shares with others of its seed: the order of batches, and the weights that it began with."""
        return self.seed, self.facts.get("encoder_hash") or str(self.exp.resolve())

    @property
    def search(self) -> Decoding:
        """The search that was decoded with, as far as that is known."""
        known = {key: self.summary[key] for key in Decoding.model_fields if self.summary.get(key) is not None}
        without = {key: None for key in MODELS if self.summary and key not in known}
        return self.settings.decoding.model_copy(update={**known, **without})


@dataclass
class System:
    """Runs that differ in their seed only."""

    name: str
    members: list[Member]
    labels: list[str]
    conditions: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.conditions = _conditions(self.members)


def read(exp: Path, decoding: str) -> Member:
    """Raises UserError if the folder is no run of ours or has no such decoding."""
    run, facts, summary = Run.open(exp, "recognition"), decodings.facts(exp), decodings.summary(exp, decoding)
    # Whatever else they hold is compared as it stands; these are reckoned with.
    build(decodings.RunCost, facts, f"{exp}/run.json")
    build(decodings.DecodeCost, summary, f"{exp}/decode/{decoding}.summary.json")
    decodings.refuse_undecoded(exp, decoding)
    return Member(exp, decoding, run.settings, facts, summary)


def systems(members: Sequence[Member], test: str) -> list[System]:
    """Runs grouped, each system at the place of its first run, its runs by seed.

    ctc-1 and ctc-2 are `ctc`; other decodings of them than `test`, ctc-1:test_lm and ctc-2:test_lm, are `ctc:test_lm`.
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(_family(member), []).append(member)
    exps = list(dict.fromkeys(member.exp for member in members))
    runs = {exp: decodings.label(exp, exps) for exp in exps}
    taken: set[str] = set()
    found = []
    for group in groups.values():
        group.sort(key=lambda m: m.seed)
        seeds = [m.seed for m in group]
        twice = next((m for m in group if seeds.count(m.seed) > 1), None)
        if twice is not None:
            same = [str(m.exp) for m in group if m.seed == twice.seed]
            raise UserError(f"{' and '.join(same)}: the same settings and the same seed {twice.seed}; name one of them")
        here = [runs[m.exp] for m in group]
        suffix = "" if group[0].decoding == test else f":{group[0].decoding}"
        name = common(here)
        if not name or f"{name}{suffix}" in taken or name in set(runs.values()) - set(here):
            name = here[0]
        taken.add(f"{name}{suffix}")
        found.append(System(f"{name}{suffix}", group, [f"{label}{suffix}" for label in here]))
    return found


def differences(found: Sequence[System]) -> dict[str, dict[str, Any]]:
    """What is not equal: the value of every system, by name. What was not recorded is no difference; see `unknown`."""
    unequal = {}
    for key in _keys(found):
        values = {system.name: system.conditions.get(key) for system in found}
        known = [value for value in values.values() if value is not None]
        if key == "encoder_hash":
            if not _same_starts(known):
                unequal[key] = values
        elif any(value != known[0] for value in known):
            unequal[key] = values
    return unequal


def unknown(found: Sequence[System]) -> dict[str, list[str]]:
    """What could not be checked, since the run of a system does not say it."""
    own = {f"search.{key}" for keys in EFFORT_OF.values() for key in keys}  # another head has nothing of the kind
    missing = {key: [s.name for s in found if s.conditions.get(key) is None] for key in _keys(found) if key not in own}
    return {key: names for key, names in missing.items() if names}


def refuse_unequal(found: Sequence[System], allowed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The differences that were allowed. Raises UserError for one that was not, and for a name that is none."""
    keys = _keys(found)
    for key in allowed:
        if not key.startswith(FREE) and not any(_covers(key, name) for name in keys):
            raise UserError(f"--allow {key}: nothing that must be equal is called so{suggestion(key, _names(keys))}")
    unequal = differences(found)
    refused = {key: values for key, values in unequal.items() if not any(_covers(a, key) for a in allowed)}
    if refused:
        shown = "; ".join(f"{key} ({_listed(values)})" for key, values in list(refused.items())[:5])
        more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise UserError(
            f"these systems differ in what is held equal: {shown}{more}. Make it equal, or allow it and see it in the "
            f"table: {' '.join(f'--allow {key}' for key in _shortest(refused))}"
        )
    return unequal


def _family(member: Member) -> str:
    hashes = {key: member.facts.get(key) for key in HASHES}
    name = member.facts.get("family") or family(member.settings, "+".join(sorted(member.settings.heads)), hashes)
    search = {key: member.summary.get(key) for key in ("method", "ctc_weight")} | _effort(member.summary)
    trained = (name, begun_from(member), member.facts.get("average"))
    return repr((trained, member.decoding, sorted(search.items())))


def begun_from(member: Member) -> str:
    """Whose encoder weights a run began with; which file it was, `encoder_hash` says for every seed."""
    return member.facts.get("init", "random weights").partition(":")[0]


def own_effort(member: Member) -> dict[str, Any]:
    """What the head that was searched with has of its own."""
    head = str(member.summary.get("method")).partition("_")[0]
    settings = member.settings.heads.get(head)
    return {key: getattr(settings, key) for key in EFFORT_OF.get(head, ())} if settings else {}


def _conditions(members: Sequence[Member]) -> dict[str, Any]:
    """What must be equal, of the first run, as the others have the same; what goes with the seed, of each."""
    first = members[0]
    settings = flat(first.settings.model_dump(mode="json"))
    values = {
        key: "none" if value is None else value  # none of it, which is not the same as not recorded
        for key, value in settings.items()
        if not key.startswith(FREE) and key not in HARMLESS_KEYS
    }
    values |= {key: first.facts.get(key) for key in FACTS}
    values["init"] = begun_from(first)
    values |= {f"search.{key}": value for key, value in (_effort(first.summary) | own_effort(first)).items()}
    if not settings["training.patience"]:  # else each run may stop at another update, by the same rule
        updates = {m.facts.get("updates") for m in members}
        values["updates"] = updates.pop() if len(updates) == 1 else sorted(updates, key=str)
    values["seeds"] = [m.seed for m in members]
    starts = {m.seed: m.facts.get("encoder_hash") for m in members}
    values["encoder_hash"] = starts if all(starts.values()) else None
    return values


def _same_starts(known: Sequence[dict[int, str]]) -> bool:
    """Whether the encoders of every seed began alike; seeds of one system alone are a difference of their own."""
    starts: dict[int, set[str]] = {}
    for system in known:
        for seed, digest in system.items():
            starts.setdefault(seed, set()).add(digest)
    return all(len(digests) == 1 for digests in starts.values())


def _effort(summary: dict[str, Any]) -> dict[str, Any]:
    """What a decoding's summary says of its effort; nothing where there is none."""
    found = {key: value for key, value in summary.items() if key not in NOT_EFFORT}
    return found | {key: summary.get(key) or "none" for key in MODELS if summary}


def _keys(found: Sequence[System]) -> list[str]:
    return list(dict.fromkeys(key for system in found for key in system.conditions))


def _covers(allowed: str, key: str) -> bool:
    """`batching` allows all of batching.*"""
    return key == allowed or key.startswith(f"{allowed}.")


def _names(keys: Iterable[str]) -> set[str]:
    return {key.split(".")[0] for key in keys} | {key for key in keys if key.count(".") < 2}


def _shortest(refused: Iterable[str]) -> list[str]:
    """Names that allow all of it: the group where more than three of a group differ."""
    groups: dict[str, list[str]] = {}
    for key in refused:
        groups.setdefault(key.split(".")[0], []).append(key)
    return [name for group, keys in groups.items() for name in ([group] if len(keys) > 3 else keys)]


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{system} {shown(value)}" for system, value in values.items())


def shown(value: Any) -> str:
    """A condition as a reader wants it."""
    if value is None:
        return "not recorded"
    if isinstance(value, dict):
        return " ".join(f"{seed}:{digest}" for seed, digest in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)


def common(labels: Sequence[str]) -> str:
    """ctc-1, ctc-2 -> ctc; ctc-1-dim96, ctc-2-dim96 -> ctc-dim96; a run that stands alone keeps its name."""
    if len(labels) == 1:
        return labels[0]
    parts = [label.split("-") for label in labels]
    if len(set(map(len, parts))) == 1:
        alike = [column[0] for column in zip(*parts, strict=True) if len(set(column)) == 1]
        if alike and alike[0]:
            return "-".join(alike)
    first, last = min(labels), max(labels)
    same = next((i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), min(len(first), len(last)))
    return first[:same].rstrip("-_.")
