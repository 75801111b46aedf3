"""Make a language model of the recognizer's tokens: an n-gram of a text or an ARPA file, or an LSTM."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from asrtts import storage
from asrtts.config import ArgumentParser, Made, utf8_path, whole
from asrtts.data import manifest
from asrtts.lm import arpa, kneser_ney, lm_folder
from asrtts.lm.perplexity import perplexity
from asrtts.registry import UserError
from asrtts.search.language_model import LanguageModel
from asrtts.search.ngram import NgramModel, Ngrams
from asrtts.text.tokenizer import Tokenizer


def parser() -> ArgumentParser:
    options = ArgumentParser("lm", __doc__)
    text = "a manifest, e.g. data/train; a .txt file with one sentence a line; or a .arpa file of these tokens"
    options.add_argument("text", type=Path, help=text)
    options.add_argument("folder", type=utf8_path, help="where the model goes, e.g. exp/lm")
    overrides = "with --neural, e.g. model.dim=512 training.updates=5000"
    options.add_argument("settings", nargs="*", default=[], metavar="key=value", help=overrides)
    options.add_argument("--neural", action="store_true", help="train an LSTM instead of an n-gram")
    options.add_argument("--order", type=whole(1, 100), help="of the n-gram (default: 6)")
    tokens = "those of the recognizer that is to hear it: stage 1's, or exp/<name>/tokens (default: data/tokens)"
    options.add_argument("--tokens", type=Path, default=Path("data/tokens"), help=tokens)
    options.add_argument("--dev", type=Path, default=Path("data/dev"), help="a text as above (default: data/dev)")
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="of --neural")
    return options


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    refuse_options(args)
    if args.neural:
        from asrtts.bin import _lm_training

        _lm_training.settings_of(args.settings)
    if args.text not in made:
        refuse_missing(args.text)
    if args.dev not in made:
        refuse_missing(args.dev)
    made.add(args.folder)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if args.folder.resolve() in (Path.cwd(), *Path.cwd().parents) or (args.folder / "config.yaml").exists():
        raise UserError(f"{args.folder}: is in use by something else; name a new folder, such as exp/lm")
    refuse_options(args)
    tokenizer = Tokenizer.load(args.tokens)
    held_out = sentences(args.dev)
    if args.neural:
        _train(args, tokenizer, held_out)
        return
    made, make = _ngrams(args, tokenizer)
    made |= {"text": str(args.text), "dev_hash": text_hash(held_out), "tokens_hash": tokenizer.fingerprint()}
    if (before := _finished(args.folder, made)) is not None:
        say(f"{args.folder}: finished before, of the same text and tokens")
        say(verdict(args.dev, before))
        return
    ngrams = make()
    about = {**made, **measured(NgramModel(ngrams), held_out, args.dev, tokenizer)}
    lm_folder.save_ngrams(args.folder, ngrams, tokenizer, about)
    counts = ", ".join(f"{len(rows)} {n}-grams" for n, rows in enumerate(ngrams.tokens, 1))
    say(f"{args.folder}: {counts}")
    say(verdict(args.dev, about))


def refuse_options(args: argparse.Namespace) -> None:
    """Raises UserError for options that mean nothing together."""
    if args.neural and (args.text.suffix == ".arpa" or args.order is not None):
        raise UserError("--neural is trained on a text and has no order; leave out one of the two")
    if args.settings and not args.neural:
        raise UserError(f"'{args.settings[0]}' is a setting of --neural; an n-gram has --order alone")
    if args.text.suffix == ".arpa" and args.order is not None:
        raise UserError("--order is for an n-gram that is made here; an ARPA file has its own")


def refuse_missing(text: Path) -> None:
    """Raises UserError for a text or manifest that is not there."""
    if not text.is_file() and text.suffix in (".txt", ".text", ".arpa", ".gz"):
        raise UserError(f"{text}: no such text")
    if not text.is_file():
        manifest.locate(text)


def _train(args: Any, tokenizer: Tokenizer, held_out: list[str]) -> None:
    from asrtts.bin import _lm_training

    text = sentences(args.text)
    tokens, dev = ([tokenizer.encode(line) for line in lines] for lines in (text, held_out))
    with storage.held(args.folder):
        model, made = _lm_training.train(args.folder, args.settings, tokenizer, tokens, dev, args.device)
        about = {**made, "text": str(args.text), "text_hash": text_hash(text)}
        about |= measured(model, held_out, args.dev, tokenizer)
        lm_folder.save_about(args.folder, about)
    say(f"{args.folder}: {about['parameters'] / 1e6:.2f} M parameters, best at update {about['update']}")
    say(verdict(args.dev, about))


def _ngrams(args: Any, tokenizer: Tokenizer) -> tuple[dict[str, Any], Callable[[], Ngrams]]:
    """What lm.json tells of where the model comes from, and what makes it."""
    if args.text.suffix == ".arpa":
        ngrams = arpa.read(args.text, tokenizer.pieces)
        digest = hashlib.sha256(args.text.read_bytes()).hexdigest()[:16]
        return {"order": ngrams.order, "text_hash": digest}, lambda: ngrams
    order = 6 if args.order is None else args.order
    text = sentences(args.text)
    estimate = partial(kneser_ney.estimate, order=order, vocab_size=tokenizer.vocab_size)
    return {"order": order, "text_hash": text_hash(text)}, lambda: estimate(tokenizer.encode(line) for line in text)


def _finished(folder: Path, made: dict[str, Any]) -> dict[str, Any] | None:
    """What lm.json says, if the same model was made before."""
    try:
        before = lm_folder.about(folder)
        Tokenizer.load(folder / "tokens")
    except UserError:
        return None  # none, or a damaged one: it is made anew
    same = before.get("kind") == "ngram" and all(before.get(key) == value for key, value in made.items())
    return before if same and (folder / lm_folder.ARPA).is_file() else None


def sentences(path: Path) -> list[str]:
    """The sentences of a manifest, or of a text file, one a line. Raises UserError if it is neither."""
    if path.suffix not in (".txt", ".text"):
        return [utterance.text for utterance in manifest.read(path)]
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); wanted one sentence a line") from None
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such text") from None


def text_hash(text: list[str]) -> str:
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def measured(model: LanguageModel, text: list[str], path: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """The perplexity on a text, and the share of its tokens that are unknown."""
    tokens = [tokenizer.encode(line) for line in text]
    if not any(tokens):
        raise UserError(f"{path}: holds no text to measure the perplexity of")
    found = perplexity(model, tokens, sum(len(line.split()) for line in text))
    unknown = sum(line.count(1) for line in tokens) / sum(map(len, tokens))
    return {
        "token_perplexity": round(found.token, 3),
        "word_perplexity": round(found.word, 2),
        "unknown_tokens": round(unknown, 5),
    }


def verdict(path: Path, about: dict[str, Any]) -> str:
    unknown = f"; {100 * about['unknown_tokens']:.1f} % of its tokens are unknown" if about["unknown_tokens"] else ""
    return f"{path}: perplexity {about['token_perplexity']} a token, {about['word_perplexity']} a word{unknown}"


def say(message: str) -> None:
    print(message, file=sys.stderr)
