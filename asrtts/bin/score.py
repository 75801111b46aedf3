"""Count the word, character and token errors of decoded experiments: sclite's result.txt and one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt

from asrtts import storage
from asrtts.bin import _score_table
from asrtts.config import ArgumentParser, Settings, build, warn
from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.metrics import error_rate, significance
from asrtts.metrics.sclite_report import Scored, report, trn
from asrtts.registry import UserError, suggestion

NO_SPEAKER = "unknown"


class Record(Settings):
    """What other verbs wrote and this one reads: keys that it does not need are theirs."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Line(Record):
    utt_id: str
    hyp: str
    ref: str | None = None


class DecodeSummary(Record):
    method: str | None = None
    beam: NonNegativeInt | None = None
    rtf: NonNegativeFloat | None = None
    lm: str | None = None
    lm_weight: float | None = None


class Run(Record):
    parameters: NonNegativeInt | None = None
    train_minutes: NonNegativeFloat | None = None
    seed: int | None = None
    family: str | None = None  # runs that differ in their seed only share it


def parser() -> ArgumentParser:
    options = ArgumentParser("score", f"{__doc__}\n\nWrites EXP/score/TEST/{{wer,cer,ter}}/result.txt and score.json.")
    options.add_argument("exp", type=Path, nargs="+", metavar="EXP", help="trained and decoded, e.g. exp/ctc")
    options.add_argument(
        "--on", required=True, metavar="TEST", help="the manifest that was decoded; a bare name is looked for in data/"
    )
    options.add_argument(
        "--name",
        action="append",
        metavar="NAME",
        help="of `decode --name`, also several times (default: the manifest's)",
    )
    options.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return options


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    on, utterances = _references(args.on)
    names = list(dict.fromkeys(args.name or [on]))
    # Every mistake is found before the first file is written.
    exps = list(dict.fromkeys(args.exp))
    read = [(exp, name, _hypotheses(exp, name, on, utterances), _settings(exp, name)) for exp in exps for name in names]
    scores = []
    for exp, name, hyps, (summary, run) in read:
        folder, levels = exp / "score" / name, _levels(exp)
        label = _label(exp, exps) + (f" {name}" if len(names) > 1 else "")
        score = {"system": label, "on": on, "name": name, "utterances": len(utterances)}
        score |= {level: _score(exp, folder / level, split, utterances, hyps) for level, split in levels.items()}
        score |= {"decode": summary.model_dump(), "run": run.model_dump()}
        if run.family is not None and len(names) > 1:
            score["run"]["family"] = f"{run.family} {name}"  # a mean is over seeds, not over ways to decode
        storage.write(folder / "score.json", _json(score))
        scores.append(score)
    families = _score_table.families(scores)
    if args.json:
        print(_json({"on": on, "systems": scores, "families": families}), end="")
        return
    _score_table.show(scores, families)
    where = names[0] if len(names) == 1 else "<name>"
    print(f"alignments: {exps[0] if len(exps) == 1 else '<exp>'}/score/{where}/{{{','.join(levels)}}}/result.txt")


def _references(on: str) -> tuple[str, dict[str, Utterance]]:
    """The manifest's name and its utterances: its texts are the references, whatever decode saw."""
    bare = Path(on).name == on and not Path(on).exists() and not Path(f"{on}.jsonl").exists()
    path = manifest.locate(Path("data") / on if bare else on)
    utterances: dict[str, Utterance] = {}
    for utterance in manifest.read(path):
        if utterance.utt_id in utterances:
            raise UserError(f"{path}: utterance '{utterance.utt_id}' stands there twice; make it again (stage 1)")
        utterances[utterance.utt_id] = utterance
    if not utterances:
        raise UserError(f"{path}: holds no utterance; make it again (stage 1)")
    return path.name.removesuffix(".jsonl"), utterances


def _hypotheses(exp: Path, name: str, on: str, utterances: dict[str, Utterance]) -> dict[str, str]:
    """The decoded text of every utterance of the manifest `on`, no more and no less."""
    if not exp.is_dir():
        raise UserError(f"{exp}: no such experiment{suggestion(exp.name, [p.name for p in exp.parent.glob('*/')])}")
    path = exp / "decode" / f"{name}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.jsonl"))) or "nothing"
        raise UserError(f"{path}: not there; decode {name} first (stage 4). Decoded so far: {there}")
    hyps: dict[str, str] = {}
    changed = 0
    with open(path, "rb") as lines:
        for number, text in enumerate(lines, 1):
            line = build(Line, _parse(text, f"{path}:{number}"), f"{path}:{number}")
            if line.utt_id in hyps:
                raise UserError(f"{path}:{number}: utterance '{line.utt_id}' stands there twice; decode it again")
            if line.utt_id not in utterances:
                raise UserError(
                    f"{path}:{number}: utterance '{line.utt_id}' is not in the manifest {on}; decode it again"
                )
            hyps[line.utt_id] = line.hyp
            changed += line.ref is not None and line.ref.split() != utterances[line.utt_id].text.split()
    missing = [utt_id for utt_id in utterances if utt_id not in hyps]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of the {len(utterances)} utterances of {on} are missing, first '{missing[0]}'; "
            "decode it again (stage 4)"
        )
    if changed:
        warn(f"{path}: {changed} references differ from the manifest's text; the manifest's is used")
    return hyps


def _settings(exp: Path, name: str) -> tuple[DecodeSummary, Run]:
    """How it was decoded and trained, as far as that is known."""
    summary, run = exp / "decode" / f"{name}.summary.json", exp / "run.json"
    return build(DecodeSummary, _optional(summary), str(summary)), build(Run, _optional(run), str(run))


def _optional(path: Path) -> dict[str, Any]:
    return _parse(path.read_bytes(), str(path)) if path.is_file() else {}


def _parse(text: bytes, where: str) -> dict[str, Any]:
    return storage.json_object(text, where, "write it again with the stage that made it")


def _levels(exp: Path) -> dict[str, Callable[[str], Sequence[str]]]:
    """What an error is counted in: words, characters and, where the experiment has its tokens with it, tokens."""
    levels: dict[str, Callable[[str], Sequence[str]]] = {"wer": error_rate.words, "cer": error_rate.characters}
    if (exp / "tokens").is_dir():
        from asrtts.text.tokenizer import Tokenizer  # here, since sentencepiece takes its time to import

        tokenizer = Tokenizer.load(exp / "tokens")
        levels["ter"] = lambda text: [tokenizer.pieces[i] for i in tokenizer.encode(text)]
    return levels


def _score(
    exp: Path,
    folder: Path,
    split: Callable[[str], Sequence[str]],
    utterances: dict[str, Utterance],
    hyps: dict[str, str],
) -> dict[str, Any]:
    """Align at one level, write sclite's files, and return the sums."""
    refs = [list(split(u.text)) for u in utterances.values()]
    found = [list(split(hyps[utt_id])) for utt_id in utterances]
    edits = error_rate.align(refs, found)
    scored = [
        Scored(u.utt_id, u.speaker or NO_SPEAKER, ref, hyp, edit)
        for u, ref, hyp, edit in zip(utterances.values(), refs, found, edits, strict=True)
    ]
    storage.write(folder / "ref.trn", trn(scored, "ref"))
    storage.write(folder / "hyp.trn", trn(scored, "hyp"))
    storage.write(folder / "result.txt", report(exp.resolve().name, scored))

    total, counts = error_rate.tally(edits), error_rate.count(edits)
    errors, lengths = counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1)
    speakers = [u.speaker for u in utterances.values()]
    return {
        "percent": 100 * total.errors / total.ref if total.ref else None,
        "interval_95": _percents(significance.interval(errors, lengths)),
        "interval_95_by_speaker": _percents(
            significance.interval(errors, lengths, speakers) if all(speakers) else None
        ),
        **{"ref": total.ref, "corr": total.corr, "sub": total.sub, "del": total.dele, "ins": total.ins},
        "sentences_wrong": total.wrong,
    }


def _percents(interval: tuple[float, float] | None) -> list[float] | None:
    return [100 * bound for bound in interval] if interval else None


def _label(exp: Path, exps: Sequence[Path]) -> str:
    """The folder's name, or its path where two have the same name."""
    names = [e.resolve().name for e in exps]
    return exp.resolve().name if names.count(exp.resolve().name) == 1 else str(exp)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
