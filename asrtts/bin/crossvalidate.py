"""Compare settings on the training data alone: what each gets wrong in folds that it was not trained on.

Training and dev data together are divided into folds, by speaker. For every setting and every fold a model is trained
on the other folds, averaged and decoded; the hypotheses of all folds together are scored. A setting is a file, with
changes behind commas where there are any:

    asrtts crossvalidate conf/ctc.yaml conf/ctc.yaml,encoder.dropout=0.2 training.updates=2000 --out exp/folds

`key=value` alone is of all. What is finished is not done again, also when settings are added. Test data is not read.
With

    --encoder conf/pretraining.yaml exp/folds/encoder

a model begins with an encoder trained on the same folds, exp/folds/encoder-fold1. docs/choosing_settings.md says more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrtts import __version__, storage
from asrtts.comparison import fold_table
from asrtts.comparison.fold_scores import HELD_OUT, scored
from asrtts.config import ArgumentParser, warn, whole
from asrtts.data import folds, manifest
from asrtts.data.folds import Fold
from asrtts.data.utterance import Utterance
from asrtts.experiment import first_encoder
from asrtts.experiment import jobs as series
from asrtts.experiment.jobs import Job
from asrtts.experiment.run_folder import HASHES
from asrtts.experiment.settings import load
from asrtts.registry import UserError
from asrtts.training import parallel

BY = ("speaker", "utterance")


@dataclass(frozen=True)
class Variant:
    """A setting that is tried: `conf/ctc.yaml,encoder.dropout=0.2`."""

    conf: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return series.named(Path(self.conf).stem, self.overrides)


def parser() -> ArgumentParser:
    args = ArgumentParser("crossvalidate", __doc__)
    add = args.add_argument
    add("settings", nargs="+", metavar="CONF[,key=value...]|key=value", help="what is compared, or set in all of it")
    add("--folds", type=whole(2, 1000), default=3, help="in how many parts the data is divided (default: 3)")
    seed = "of the division (default: 1); that of the trainings is a setting, seed=2"
    add("--seed", type=whole(0, (1 << 32) - 1), default=1, help=seed)
    add("--by", default="speaker", choices=BY, help="what is not torn apart (default: speaker)")
    first_encoder.add_option(args)
    add("--out", type=Path, default=Path("exp/folds"), metavar="DIR", help="of folds, runs and result (exp/folds)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    device = parallel.pick_device(args.device)
    variants, common = read(args.settings)
    data = one_data(variants, [load(v.conf, (*common, *v.overrides)) for v in variants])
    utterances = pooled(data, args.by == "speaker")
    division = folds.divide(utterances, args.folds, args.seed, args.by == "speaker")
    about = {"data_hash": manifest.fingerprint(data.train), "dev_hash": manifest.fingerprint(data.dev)}
    about |= {"folds": args.folds, "seed": args.seed, "by": args.by}
    runs = {(v, number): args.out / f"{v.name}-fold{number}" for number in range(1, args.folds + 1) for v in variants}
    jobs = [job(v, common, args.out, number, exp, args.encoder) for (v, number), exp in runs.items()]
    first_encoder.check(jobs)
    write(args.out, division, about)
    series.check(jobs, device)
    series.run(jobs, args.device)

    found = {"asrtts": __version__, **about, "common": common, "encoder": args.encoder and args.encoder[0]}
    found |= scored(variants, division, runs)
    found["notes"] = fold_table.notes(found)
    storage.write(args.out / "crossvalidation.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    storage.write(args.out / "crossvalidation.md", fold_table.markdown(found))
    fold_table.show(found)
    print(", ".join(f"{args.out}/crossvalidation.{kind}" for kind in ("json", "md")))


# What is compared -------------------------------------------------------------------------------------------------


def read(words: Sequence[str]) -> tuple[list[Variant], list[str]]:
    """The settings to compare, and what is set in all of them."""
    variants: list[Variant] = []
    common: list[str] = []
    for word in words:
        first, *changes = series.split(word)
        if "=" not in first:
            variants.append(Variant(first, tuple(changes)))
        elif not changes:
            common.append(word)
        else:
            key = first.partition("=")[0]
            raise UserError(
                f"'{word}': several values of {key}; name a setting for each, e.g. conf/ctc.yaml,{first} "
                f"conf/ctc.yaml,{key}={changes[0]}"
            )
    if not variants:
        raise UserError(f"'{common[0]}' is set in all, but of what? Name a file of settings, e.g. conf/ctc.yaml")
    twice = [name for name, count in Counter(v.name for v in variants).items() if count > 1]
    if twice:
        raise UserError(f"two of the settings are both called {twice[0]}; leave one out, or give a file another name")
    return variants, common


def one_data(variants: Sequence[Variant], loaded: Sequence[Any]) -> Any:
    """The data of all settings. Raises UserError for settings that are the same, for other data and for a test set."""
    first = loaded[0].data
    for number, (variant, settings) in enumerate(zip(variants, loaded, strict=True)):
        if settings in loaded[:number]:
            same = variants[loaded.index(settings)].name
            raise UserError(f"{same} and {variant.name} are the same settings; leave one of them out")
        if settings.data != first:
            raise UserError(
                f"{variants[0].name} and {variant.name} are of other data ({first} and {settings.data}); folds of the "
                "same data are compared"
            )
    for path in (first.train, first.dev):
        if Path(path).stem.startswith("test"):
            raise UserError(f"{path}: this is a test set; settings are chosen on data.train and data.dev alone")
    return first


# The folds --------------------------------------------------------------------------------------------------------


def pooled(data: Any, by_speaker: bool) -> list[Utterance]:
    """All utterances of train and dev."""
    utterances = [*manifest.read(data.train), *manifest.read(data.dev)]
    twice = [utt_id for utt_id, count in Counter(u.utt_id for u in utterances).items() if count > 1]
    if twice:
        raise UserError(
            f"utterance '{twice[0]}' stands twice in {data.train} and {data.dev}; make them again (stage 1)"
        )
    unknown = sum(not u.speaker for u in utterances)
    if unknown and by_speaker:
        warn(f"{unknown} of {len(utterances)} utterances have no speaker, so theirs may be in several folds")
    return utterances


def write(out: Path, division: Sequence[Fold], about: dict[str, Any]) -> None:
    """OUT/division.json and the manifests. Raises UserError if another division is there."""
    record = out / "division.json"
    if record.is_file():
        before = storage.json_object(record.read_bytes(), str(record), "delete it: it is written anew")
        for key, value in about.items():
            if before.get(key) != value:
                what = HASHES.get(key, key)
                raise UserError(
                    f"{out}: is divided with {what} {before.get(key)}, now it is {value}; name another folder with "
                    "--out, or delete this one"
                )
    parts = []
    for number, fold in enumerate(division, 1):
        for name, utterances in (("train", fold.train), ("dev", fold.dev), (HELD_OUT, fold.held_out)):
            manifest.write(place(out, number, name), utterances)
            speakers = {u.speaker for u in utterances if u.speaker}
            counts = {"utterances": len(utterances), "speakers": len(speakers)}
            seconds = round(sum(u.seconds for u in utterances), 2)
            parts.append({"fold": number, "part": name, **counts, "seconds": seconds})
    storage.write(record, json.dumps({**about, "parts": parts}, indent=1) + "\n")  # last: the division is whole


def place(out: Path, number: int, name: str) -> Path:
    return out / f"fold{number}" / f"{name}.jsonl"


def job(
    variant: Variant, common: Sequence[str], out: Path, number: int, exp: Path, encoder: Sequence[str] | None
) -> Job:
    """The run of a fold; its encoder hears the same fold, since it is told the same data."""
    data = [f"data.{name}={place(out, number, name)}" for name in ("train", "dev")]
    run = Job(variant.conf, (*common, *variant.overrides, *data), exp, place(out, number, HELD_OUT))
    return first_encoder.begun(run, encoder, variant.overrides, f"-fold{number}")
