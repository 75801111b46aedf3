"""Find when each word of the manifests is spoken, and write it as CTM files and, if wanted, TextGrids.

    asrtts align data/test --learn data/train

trains the built-in aligner on both and writes data/alignment/test.ctm. Words are spelled out, or pronounced as a
lexicon or espeak-ng says (--lexicon, --lang). docs/aligning.md says more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from asrtts import __version__, registry, storage
from asrtts.alignment import intervals, textgrid
from asrtts.alignment.intervals import Alignment, Unaligned
from asrtts.config import ArgumentParser, Made, warn
from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.text import espeak, normalization, phones
from asrtts.text.phones import Lexicon
from asrtts.training import parallel

ABOUT = "align.json"
MOST_WAYS = 100  # to say a word, of which a search can keep count


def parser() -> ArgumentParser:
    options = ArgumentParser("align", __doc__)
    add = options.add_argument
    add("manifest", nargs="+", type=Path, help="what is aligned, e.g. data/test")
    learn = "recordings to learn from too, that are not aligned; repeatable. Those that are aligned may be too few"
    add("--learn", action="append", default=[], type=Path, metavar="MANIFEST", help=learn)
    add("--aligner", default="hmm", help=f"{', '.join(registry.names('asrtts.alignment.aligners'))} (default: hmm)")
    add("--lexicon", type=Path, help="a Kaldi lexicon.txt or CMU dictionary; without it words are spelled out")
    add("--lang", help="the language in which espeak-ng pronounces the words, e.g. en-us")
    add(
        "--textgrid",
        action="store_true",
        help="write a TextGrid of each utterance too, DIR/<manifest>/<utt_id>.TextGrid",
    )
    out = "default: alignment beside the first manifest, e.g. data/alignment"
    add("--out", type=Path, metavar="DIR", help=out)
    add("--threads", type=int, default=0, help="default: all cores")
    return options


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    parallel.refuse_threads(args.threads)
    refuse_options(args)
    for path in (*args.manifest, *args.learn):
        if path not in made:
            manifest.locate(path)
    made.add(out_of(args))


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    refuse_options(args)
    parallel.use_threads(args.threads)
    aligner = registry.find("asrtts.alignment.aligners", args.aligner)
    paths = {path.stem: path for path in map(manifest.locate, args.manifest)}
    if len(paths) < len(args.manifest):
        raise UserError("two of the manifests have one name; align them apart, each with an --out of its own")
    read = {name: nameable(path, args.textgrid) for name, path in paths.items()}
    aligned = {path.resolve() for path in paths.values()}
    given = {path.resolve(): path for path in map(manifest.locate, args.learn)}
    learnt = [path for place, path in given.items() if place not in aligned]
    everyone = [*chain.from_iterable(read.values()), *chain.from_iterable(map(lasting, learnt))]
    lexicon = pronunciations(args.lexicon, args.lang, everyone)
    out = out_of(args)
    about = {"aligner": args.aligner, "manifests": {name: manifest.fingerprint(path) for name, path in paths.items()}}
    about |= {"learn": [manifest.fingerprint(path) for path in learnt]}
    about |= {"pronunciations": phones.fingerprint(lexicon)}
    with storage.held(out):
        begun = is_begun(out, about)
        refuse_others(out, read, args.textgrid, begun)
        if not begun:
            aligner.train(everyone, lexicon, out, shown)
            storage.write(out / ABOUT, json.dumps({"asrtts": __version__, **about}, indent=1) + "\n")
        for name, utterances in read.items():
            if (out / f"{name}.ctm").is_file() and ((out / name).is_dir() or not args.textgrid):
                say(f"{out / name}.ctm: finished before, of the same recordings and pronunciations")
                continue
            write(out, name, utterances, aligner.align(utterances, lexicon, out, shown), args.textgrid)


def refuse_options(args: argparse.Namespace) -> None:
    """Raises UserError for an aligner, a lexicon or a language that is not there."""
    registry.find("asrtts.alignment.aligners", args.aligner)
    if args.lexicon and args.lang:
        raise UserError("--lexicon and --lang both say how words are pronounced; leave one of them out")
    if args.lexicon:
        phones.read_bytes(args.lexicon)
    if args.lang:
        espeak.phones("a", args.lang)


def out_of(args: argparse.Namespace) -> Path:
    """The folder of the alignments."""
    return args.out or args.manifest[0].parent / "alignment"


def nameable(path: Path, grids: bool) -> list[Utterance]:
    """The utterances of a manifest.

    Raises UserError if one has a name that a CTM cannot hold, or two would have the same, there or in `grids`.
    """
    found: dict[str, Utterance] = {}
    for utterance in lasting(path):
        utt_id = utterance.utt_id
        if utt_id.split() != [utt_id] or "\0" in utt_id:
            raise UserError(f"{path}: the utt_id {utt_id!r} cannot stand in a CTM; wanted one word without blanks")
        name = textgrid.file_name(utt_id) if grids else utt_id
        if name in found:
            raise UserError(f"{path}: utterances '{found[name].utt_id}' and '{utt_id}' would have one name; rename one")
        found[name] = utterance
    return list(found.values())


def lasting(path: Path) -> Iterator[Utterance]:
    """The utterances of a manifest. Raises UserError if the duration of one is not known: times would end at it."""
    for utterance in manifest.read(path):
        if not utterance.seconds:
            raise UserError(
                f"{path}: utterance '{utterance.utt_id}' lasts 0 s; `asrtts prepare` (stage 1) fills that in"
            )
        yield utterance


def pronunciations(lexicon: Path | None, lang: str | None, utterances: Sequence[Utterance]) -> Lexicon:
    """Of the words that are spoken, as far as there are any; a lexicon may have them in other letters."""
    vocabulary = Counter(word for utterance in utterances for word in normalization.words(utterance.text))
    if lang:
        return phones.spoken_lexicon(vocabulary, lang)
    if not lexicon:
        return phones.spelled_lexicon(vocabulary)
    given = phones.read_lexicon(lexicon)
    folded = {word.casefold(): said for word, said in given.items()}
    found = {word: said for word in vocabulary if (said := given.get(word) or folded.get(word.casefold()))}
    if many := next((word for word, said in found.items() if len(said) > MOST_WAYS), None):
        raise UserError(f"{lexicon}: {len(found[many])} pronunciations of {many}; wanted at most {MOST_WAYS}")
    if absent := [word for word, _ in vocabulary.most_common() if word not in found]:
        count, few = sum(vocabulary[word] for word in absent), ", ".join(absent[:3])
        if not found:
            raise UserError(f"{lexicon}: has none of the {len(absent)} words, e.g. {few}; is it of this corpus?")
        warn(f"{lexicon}: {len(absent)} words ({count} times) are missing and aligned as noise, e.g. {few}")
    return found


def is_begun(out: Path, about: dict[str, Any]) -> bool:
    """Whether the folder holds a model of these recordings. Raises UserError if it is one of others."""
    path = out / ABOUT
    if not path.is_file():
        return False
    before = storage.json_object(path.read_bytes(), str(path), "delete the folder")
    for key, value in about.items():
        if before.get(key) != value:
            other = {"manifests": "recordings or texts", "learn": "recordings to learn from"}.get(key, key)
            raise UserError(f"{out}: holds an alignment of other {other}; delete it, or name another folder with --out")
    return True


def refuse_others(out: Path, names: Iterable[str], grids: bool, begun: bool) -> None:
    """Raises UserError for files that are not ours, which would be taken for finished or, in a folder, be deleted."""
    for name in names:
        folder, other = out / name, None
        if not begun and (out / f"{name}.ctm").exists():
            other = f"{name}.ctm"
        elif grids and folder.exists():
            ours = begun and folder.is_dir() and all(path.suffix == ".TextGrid" for path in folder.iterdir())
            other = None if ours else name
        if other:
            raise UserError(f"{out / other}: is there and not of this alignment; name another folder with --out")


def write(
    out: Path, name: str, utterances: Sequence[Utterance], found: Iterable[Alignment | Unaligned], grids: bool
) -> None:
    """OUT/<name>.ctm in the manifest's order and, with `grids`, a TextGrid of each; says what was left out."""
    lines: dict[str, str] = {}  # all that is kept: of a large manifest the phones would be gigabytes
    words, missing, beside = 0, [], out / f"{name}.part"
    if grids:
        beside.mkdir(exist_ok=True)
    for each in found:
        if isinstance(each, Unaligned):
            missing.append(each)
            continue
        lines[each.utt_id] = "".join(intervals.ctm(each))
        words += len(each.words)
        if grids:
            storage.write(beside / textgrid.file_name(each.utt_id), textgrid.text(each))
    if missing:
        first = missing[0]
        warn(f"{name}: {len(missing)} of {len(utterances)} utterances are left out, e.g. {first.utt_id}: {first.why}")
    if grids:
        if (out / name).exists():
            shutil.rmtree(out / name)
        os.replace(beside, out / name)
    storage.write(out / f"{name}.ctm", "".join(lines.get(u.utt_id, "") for u in utterances))
    say(f"{out / name}.ctm: {words} words in {len(lines)} utterances" + f"; TextGrids in {out / name}" * grids)


def shown(these: Sequence[Any], doing: str) -> Iterable[Any]:
    return track(these, doing, console=Console(stderr=True), transient=True)


def say(message: str) -> None:
    print(message, file=sys.stderr)
