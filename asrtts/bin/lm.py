"""Make a language model of the recognizer's tokens: an n-gram of a text or an ARPA file, or an LSTM."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from asrtts import storage
from asrtts.config import ArgumentParser, put_overrides, read_yaml, whole
from asrtts.data.sentences import is_arpa
from asrtts.data.sentences import read as sentences
from asrtts.lm import arpa, kneser_ney, lm_folder
from asrtts.lm.perplexity import perplexity
from asrtts.registry import UserError
from asrtts.search.language_model import LanguageModel
from asrtts.search.ngram import NgramModel, Ngrams
from asrtts.text import coverage
from asrtts.text.tokenizer import Tokenizer


def parser() -> ArgumentParser:
    options = ArgumentParser("lm", __doc__)
    text = "a manifest, e.g. data/train; one sentence a line; a Kaldi text file; or an ARPA file of these tokens"
    options.add_argument("text", type=Path, help=text)
    options.add_argument("folder", type=Path, help="where the model goes, e.g. exp/lm")
    overrides = "with --neural, e.g. model.dim=512 training.updates=5000"
    options.add_argument("settings", nargs="*", default=[], metavar="key=value", help=overrides)
    options.add_argument("--neural", action="store_true", help="train an LSTM instead of an n-gram")
    options.add_argument("--order", type=whole(1, 100), help="of the n-gram (default: 6)")
    tokens = "those of the recognizer that is to hear it: stage 1's, or exp/<name>/tokens (default: data/tokens)"
    options.add_argument("--tokens", type=Path, default=Path("data/tokens"), help=tokens)
    options.add_argument("--dev", type=Path, default=Path("data/dev"), help="a text as above (default: data/dev)")
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="of --neural")
    return options


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    folder = storage.behind_links(args.folder)
    if storage.is_here(folder) or is_of_another_task(folder):
        raise UserError(f"{args.folder}: is in use by something else; name a new folder, such as exp/lm")
    tokenizer = Tokenizer.load(args.tokens)
    held_out = sentences(args.dev)
    dev = [tokenizer.encode(line) for line in held_out]
    coverage.share(args.dev, held_out, dev, tokenizer)
    if args.neural:
        args.folder = folder if args.folder.is_symlink() else args.folder  # the link stays
        if not is_arpa(args.text):
            covered(args.text, sentences(args.text), tokenizer)
        _train(args, tokenizer, held_out)
        return
    if args.settings:
        raise UserError(f"'{args.settings[0]}' is a setting of --neural; an n-gram has --order alone")
    made_from, told, make = _ngrams(args, tokenizer, dev)
    made_from |= {"text": str(args.text), "dev_hash": text_hash(held_out), "tokens_hash": tokenizer.fingerprint()}
    if lm_folder.is_finished(folder, made_from):
        say(f"{args.folder}: finished before, of the same text and tokens")
        say(verdict(args.dev, lm_folder.about(folder)))
        return
    ngrams = make()
    about = {**told, **measured(NgramModel(ngrams), held_out, args.dev, tokenizer)}
    lm_folder.save_ngrams(folder, ngrams, tokenizer, made_from, about)
    counts = ", ".join(f"{len(rows)} {n}-grams" for n, rows in enumerate(ngrams.tokens, 1))
    say(f"{args.folder}: {counts}")
    say(verdict(args.dev, about))


def is_of_another_task(folder: Path) -> bool:
    """Whether the folder is a run of something else than a language model."""
    conf = folder / "config.yaml"
    return conf.exists() and read_yaml(conf).get("task") != "language_model"


def _train(args: Any, tokenizer: Tokenizer, held_out: list[str]) -> None:
    from asrtts.experiment import settings as experiment_settings
    from asrtts.experiment.averaging import average
    from asrtts.experiment.fitting import fit
    from asrtts.experiment.run_folder import Run
    from asrtts.experiment.task_door import open_task
    from asrtts.training import parallel

    if is_arpa(args.text) or args.order is not None:
        raise UserError("--neural is trained on a text and has no order; leave out one of the two")
    data = {"train": str(args.text), "dev": str(args.dev), "tokens": str(args.tokens)}
    values: dict[str, Any] = {"task": "language_model", "data": data}
    put_overrides(values, args.settings)
    settings = experiment_settings.build(values, "asrtts lm")
    if not settings.training.keep_best:
        raise UserError("training.keep_best is 0: the snapshot that is best on dev becomes the model; wanted 1 or more")
    device = parallel.pick_device(args.device)
    parallel.use_threads(settings.training.threads)
    run = Run(args.folder)
    fit(run, settings, open_task(settings, device), device)
    update = average(run, best=1)[0]
    model = run.load()
    card = {"kind": "lstm", "model": settings.model.model_dump()}
    about = {**card, "parameters": sum(p.numel() for p in model.parameters()), "update": update}
    about |= {"text": str(args.text), "text_hash": run.facts()["data_hash"]}
    about |= measured(model, held_out, args.dev, tokenizer)
    lm_folder.save_about(args.folder, about)
    say(f"{args.folder}: {about['parameters'] / 1e6:.2f} M parameters, best at update {update}")
    say(verdict(args.dev, about))


def _ngrams(
    args: Any, tokenizer: Tokenizer, dev: list[list[int]]
) -> tuple[dict[str, Any], dict[str, Any], Callable[[], Ngrams]]:
    """What decides the n-grams, what else lm.json tells of their text, and what makes them."""
    if is_arpa(args.text):
        if args.order is not None:
            raise UserError("--order is for an n-gram that is made here; an ARPA file has its own")
        ngrams, lacking = arpa.read_with_lacking(args.text, tokenizer.pieces)
        coverage.refuse_poor(args.text, lacking, args.dev, dev, tokenizer)
        if lacking:
            say(f"{args.text}: lacks {len(lacking)} of the {tokenizer.vocab_size} tokens; they are as likely as <unk>")
        return {"order": ngrams.order, "text_hash": storage.checksum(args.text)[:16]}, {}, lambda: ngrams
    order = 6 if args.order is None else args.order
    text = sentences(args.text)
    tokens, unknown = covered(args.text, text, tokenizer)
    estimate = partial(kneser_ney.estimate, order=order, vocab_size=tokenizer.vocab_size)
    told = {"unknown_tokens_of_text": round(unknown, 5)}
    return {"order": order, "text_hash": text_hash(text)}, told, lambda: estimate(tokens)


def covered(path: Path, text: list[str], tokenizer: Tokenizer) -> tuple[list[list[int]], float]:
    """The tokens of a text, and the share of unknown ones, which is told. Raises UserError if that is above half."""
    tokens = [tokenizer.encode(line) for line in text]
    unknown = coverage.share(path, text, tokens, tokenizer)
    if unknown:
        say(f"{path}: {_percent(unknown)} of its tokens are unknown")
    return tokens, unknown


def text_hash(text: list[str]) -> str:
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def measured(model: LanguageModel, text: list[str], path: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """The perplexity on a text, and the share of its tokens that are unknown."""
    tokens = [tokenizer.encode(line) for line in text]
    if not any(tokens):
        raise UserError(f"{path}: holds no text to measure the perplexity of")
    found = perplexity(model, tokens, sum(len(line.split()) for line in text))
    unknown = tokenizer.unknown_share(tokens)
    return {
        "token_perplexity": round(found.token, 3),
        "word_perplexity": round(found.word, 2),
        "unknown_tokens": round(unknown, 5),
    }


def verdict(path: Path, about: dict[str, Any]) -> str:
    unknown = f"; {_percent(about['unknown_tokens'])} of its tokens are unknown" if about["unknown_tokens"] else ""
    return f"{path}: perplexity {about['token_perplexity']} a token, {about['word_perplexity']} a word{unknown}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def say(message: str) -> None:
    print(message, file=sys.stderr)
