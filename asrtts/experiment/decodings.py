"""What `asrtts decode` wrote into a run folder, and what run.json says, as `score` and `compare` read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt

from asrtts import storage
from asrtts.config import Made, Settings, build, warn
from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError, suggestion

NO_SPEAKER = "unknown"


class Record(Settings):
    """What other verbs wrote and this one reads: keys that it does not need are theirs."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Timed(Record):
    token: str
    time: float  # seconds from the start of the utterance


class Line(Record):
    utt_id: str
    hyp: str
    ref: str | None = None
    steps: NonNegativeInt | None = None  # of the search, one after another


class TimedLine(Line):
    tokens: list[Timed] = []


class DecodeSummary(Record):
    method: str | None = None
    beam: NonNegativeInt | None = None
    rtf: NonNegativeFloat | None = None
    lm: str | None = None
    lm_weight: float | None = None
    lodr: str | None = None
    lodr_weight: float | None = None


class DecodeCost(DecodeSummary):
    threads: NonNegativeInt | None = None
    device: str | None = None
    weights: str = "model"
    peak_memory_mb: NonNegativeFloat | None = None
    peak_gpu_memory_mb: NonNegativeFloat | None = None


class RunFacts(Record):
    parameters: NonNegativeInt | None = None
    train_minutes: NonNegativeFloat | None = None
    seed: int | None = None
    family: str | None = None  # runs that differ in their seed only share it


class RunCost(RunFacts):
    updates: NonNegativeInt | None = None
    encoder_hash: str | None = None
    init: str = "random weights"
    init_minutes: NonNegativeFloat = 0.0
    peak_memory_mb: NonNegativeFloat | None = None
    peak_gpu_memory_mb: NonNegativeFloat | None = None


Kind = TypeVar("Kind", bound=Line)


def named(text: str, test: str) -> tuple[Path, str]:
    """The run and the name of its decoding: `EXP` is that of the test manifest, `EXP:NAME` another of the same.

    A folder may have a colon in its name: what exists is a folder, and so is what goes on with a slash.
    """
    exp, _, name = text.rpartition(":")
    if not exp or not name or "/" in name or Path(text).is_dir():
        return Path(text), test
    return Path(exp), name


def located(on: str) -> Path:
    """The manifest's file; a bare name is looked for in data/."""
    bare = Path(on).name == on and not Path(on).exists() and not Path(f"{on}.jsonl").exists()
    return manifest.locate(Path("data") / on if bare else on)


def refuse_absent(on: str, made: Made) -> None:
    """Raises UserError for a manifest that is not there and that no earlier command of a recipe makes."""
    if on not in made and Path("data") / on not in made:
        located(on)


def references(on: str) -> tuple[str, dict[str, Utterance]]:
    """The manifest's name and its utterances: its texts are the references, whatever decode saw."""
    path = located(on)
    utterances: dict[str, Utterance] = {}
    for utterance in manifest.read(path):
        if utterance.utt_id in utterances:
            raise UserError(f"{path}: utterance '{utterance.utt_id}' stands there twice; make it again (stage 1)")
        utterances[utterance.utt_id] = utterance
    if not utterances:
        raise UserError(f"{path}: holds no utterance; make it again (stage 1)")
    return path.name.removesuffix(".jsonl"), utterances


def lines(exp: Path, name: str, utterances: dict[str, Utterance], kind: type[Kind] = Line) -> dict[str, Kind]:
    """The decoded lines by utterance, none of them of another test set; see `refuse_missing`."""
    refuse_undecoded(exp, name)
    path = decoded(exp, name)
    found: dict[str, Kind] = {}
    changed = 0
    for number, line in _numbered(path, utterances, kind):
        if line.utt_id in found:
            raise UserError(f"{path}:{number}: utterance '{line.utt_id}' stands there twice; decode it again")
        if line.utt_id not in utterances:
            raise UserError(
                f"{path}:{number}: utterance '{line.utt_id}' is not in the manifest; name that of this decoding, "
                "or decode it again"
            )
        found[line.utt_id] = line
        changed += line.ref is not None and line.ref.split() != utterances[line.utt_id].text.split()
    if changed:
        warn(f"{path}: {changed} references differ from the manifest's text; the manifest's is used")
    return found


def again(exp: Path, name: str, utt_ids: Iterable[str], kind: type[Kind]) -> Iterator[Kind]:
    """Once more, with more of each line: those that `lines` found to be sound."""
    yield from (line for _, line in _numbered(decoded(exp, name), utt_ids, kind))


def _numbered(path: Path, utt_ids: Iterable[str], kind: type[Kind]) -> Iterator[tuple[int, Kind]]:
    """The lines with their numbers, each with its utt_id as the manifest spells it.

    A letter with an accent has two forms in Unicode.
    """
    own = set(utt_ids)
    composed = {unicodedata.normalize("NFC", utt_id): utt_id for utt_id in own}
    with open(path, "rb") as texts:
        for number, text in enumerate(texts, 1):
            if not text.strip():
                continue
            line = build(kind, _parse(text, f"{path}:{number}"), f"{path}:{number}")
            if line.utt_id not in own:
                utt_id = composed.get(unicodedata.normalize("NFC", line.utt_id), line.utt_id)
                line = line.model_copy(update={"utt_id": utt_id})
            yield number, line


def refuse_undecoded(exp: Path, name: str) -> None:
    """Raises UserError if there is no such experiment, or it has no decoding of this name."""
    if not exp.is_dir():
        raise UserError(f"{exp}: no such experiment{suggestion(exp.name, [p.name for p in exp.parent.glob('*/')])}")
    path = decoded(exp, name)
    if not path.is_file():
        there = [p.name.removesuffix(".jsonl") for p in path.parent.glob("*.jsonl")]
        raise UserError(f"{exp}: no decoding '{name}'{suggestion(name, there)}; `asrtts decode` makes it (stage 4)")


def refuse_missing(exp: Path, name: str, utterances: dict[str, Utterance], found: dict[str, Line]) -> None:
    """Raises UserError if an utterance of the manifest was not decoded."""
    missing = [utt_id for utt_id in utterances if utt_id not in found]
    if missing:
        raise UserError(
            f"{decoded(exp, name)}: {len(missing)} of the {len(utterances)} utterances of the manifest are missing, "
            f"first '{missing[0]}'; decode it again (stage 4)"
        )


def decoded(exp: Path, name: str) -> Path:
    return exp / "decode" / f"{name}.jsonl"


def summary(exp: Path, name: str) -> dict[str, Any]:
    """How it was decoded, as far as that is known."""
    return _optional(exp / "decode" / f"{name}.summary.json")


def facts(exp: Path) -> dict[str, Any]:
    """How it was trained, as far as that is known."""
    return _optional(exp / "run.json")


def train_minutes(facts: dict[str, Any]) -> float | None:
    """With those of the run that it began with; None if its own training has not ended."""
    own = facts.get("train_minutes")
    return None if own is None else own + facts.get("init_minutes", 0)


def search(summaries: Sequence[dict[str, Any]]) -> str:
    """How the runs of a system were searched: "joint_beam 10 + lm 0.4", a dash where it was not recorded.

    Weights that were chosen for each run are told from the least to the most: "lm 0.2 to 0.4".
    """
    first = summaries[0]
    said = first.get("method") or "-"
    if (first.get("beam") or 1) > 1:
        said += f" {first['beam']}"
    for sign, lm in (("+", "lm"), ("-", "lodr")):
        if first.get(lm):
            weights = sorted(summary.get(f"{lm}_weight") or 0.0 for summary in summaries)
            ends = dict.fromkeys(f"{weight:g}" for weight in (weights[0], weights[-1]))
            said += f" {sign} {Path(first[lm]).name} {' to '.join(ends)}"
    return said


def label(exp: Path, exps: list[Path]) -> str:
    """The folder's name, or its path where two have the same name."""
    names = [e.resolve().name for e in exps]
    return exp.resolve().name if names.count(exp.resolve().name) == 1 else str(exp)


def _optional(path: Path) -> dict[str, Any]:
    return _parse(path.read_bytes(), str(path)) if path.is_file() else {}


def _parse(text: bytes, where: str) -> dict[str, Any]:
    return storage.json_object(text, where, "write it again with the stage that made it")
