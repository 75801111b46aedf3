"""Count the word, character and token errors of decoded experiments: sclite's result.txt and one table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asrtts import storage
from asrtts.comparison import score_table
from asrtts.config import ArgumentParser, Made, build
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.metrics import error_rate, significance
from asrtts.metrics.sclite_report import Scored, report, trn


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


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    decodings.refuse_absent(args.on, made)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    on, utterances = decodings.references(args.on)
    names = list(dict.fromkeys(args.name or [on]))
    # Every mistake is found before the first file is written.
    exps = list(dict.fromkeys(args.exp))
    read = [(exp, name, _hypotheses(exp, name, utterances), *_settings(exp, name)) for exp in exps for name in names]
    scores = []
    for exp, name, hyps, summary, run in read:
        refs = [utterance.text for utterance in utterances.values()]
        unknown = error_rate.count_unknown(refs)
        texts = error_rate.without_unknown(refs, [hyps[utt_id] for utt_id in utterances])
        folder, levels = exp / "score" / name, _levels(exp)
        label = decodings.label(exp, exps) + (f":{name}" if len(names) > 1 and name != on else "")  # as compare has it
        score = {"system": label, "on": on, "name": name, "utterances": len(utterances)}
        score |= {"unknown_words": unknown}
        score |= {level: _score(exp, folder / level, split, utterances, *texts) for level, split in levels.items()}
        score |= {"decode": summary.model_dump(), "run": run.model_dump()}
        if run.family is not None and len(names) > 1:
            score["run"]["family"] = f"{run.family} {name}"  # a mean is over seeds, not over ways to decode
        storage.write(folder / "score.json", _json(score))
        scores.append(score)
    families = score_table.families(scores)
    if args.json:
        print(_json({"on": on, "systems": scores, "families": families}), end="")
        return
    score_table.show(scores, families)
    where = names[0] if len(names) == 1 else "<name>"
    print(f"alignments: {exps[0] if len(exps) == 1 else '<exp>'}/score/{where}/{{{','.join(levels)}}}/result.txt")


def _hypotheses(exp: Path, name: str, utterances: dict[str, Utterance]) -> dict[str, str]:
    """The decoded text of every utterance of the manifest, no more and no less."""
    lines = decodings.lines(exp, name, utterances)
    decodings.refuse_missing(exp, name, utterances, lines)
    return {utt_id: line.hyp for utt_id, line in lines.items()}


def _settings(exp: Path, name: str) -> tuple[decodings.DecodeSummary, decodings.RunFacts]:
    """How it was decoded and trained, as far as that is known."""
    summary = build(decodings.DecodeSummary, decodings.summary(exp, name), f"{exp}/decode/{name}.summary.json")
    return summary, build(decodings.RunFacts, decodings.facts(exp), f"{exp}/run.json")


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
    refs: Sequence[str],
    hyps: Sequence[str],
) -> dict[str, Any]:
    """Align at one level, write sclite's files, and return the sums."""
    sides = [[list(split(text)) for text in texts] for texts in (refs, hyps)]
    edits = error_rate.align(*sides)
    scored = [
        Scored(u.utt_id, u.speaker or decodings.NO_SPEAKER, ref, hyp, edit)
        for u, ref, hyp, edit in zip(utterances.values(), *sides, edits, strict=True)
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


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
