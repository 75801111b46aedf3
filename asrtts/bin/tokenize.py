"""Make the token list of a manifest: characters, bpe, unigram or phones."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from asrtts.config import ArgumentParser, whole
from asrtts.data import manifest
from asrtts.registry import UserError
from asrtts.text import coverage, normalization, phones, tokenizer

RARE = 3  # a token seen less often is hardly learnt


def parser() -> ArgumentParser:
    options = ArgumentParser("tokenize", __doc__)
    options.add_argument("manifest", type=Path, help="the training manifest, e.g. data/train")
    options.add_argument("folder", type=Path, help="where the tokens go, e.g. data/tokens")
    options.add_argument("--kind", default="char", help=f"{', '.join(tokenizer.KINDS)} (default: char)")
    size = "number of tokens, <blank> and <unk> included: of bpe and unigram; of char the most, rarer ones are <unk>"
    options.add_argument("--size", type=whole(1, 1_000_000), help=size)
    options.add_argument("--lexicon", type=Path, help="phone: a Kaldi lexicon.txt or CMU dictionary")
    options.add_argument("--lang", help="phone without --lexicon: the language that espeak-ng pronounces, e.g. en-us")
    return options


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if args.kind in tokenizer.KINDS and args.kind != "phone" and (args.lexicon or args.lang):
        raise UserError(f"--lexicon and --lang are for --kind phone, not for {args.kind}")
    texts = [normalization.plain(utterance.text) for utterance in manifest.read(args.manifest)]
    settings = _settings(args, texts)
    if tokenizer.is_finished(args.folder, settings):
        tokens = tokenizer.Tokenizer.load(args.folder)
        print(f"{args.folder}: finished before, {tokens.vocab_size} {args.kind} tokens of the same text")
        return
    tokenizer.refuse_others(args.folder)  # before sentencepiece takes its minutes
    tokens = tokenizer.make(texts, args.kind, args.size, _lexicon(args, texts))
    encoded = [tokens.encode(text) for text in texts]
    coverage.share(args.manifest, texts, encoded, tokens)
    tokens.save(args.folder, settings)
    print(f"{args.folder}: {summary(tokens, encoded)}")


def summary(tokens: tokenizer.Tokenizer, encoded: list[list[int]]) -> str:
    """How many tokens, which are most and least frequent in the texts, and how many are rare."""
    counted = Counter(dict.fromkeys(range(2, tokens.vocab_size), 0))
    counted.update(i for ids in encoded for i in ids)
    unknown = counted.pop(1, 0)
    order = sorted(counted, key=lambda i: (-counted[i], i))
    most, least = ([f"{tokens.pieces[i]} {counted[i]}" for i in some] for some in (order[:3], order[-3:]))
    rare = sum(count < RARE for count in counted.values())
    line = f"{tokens.vocab_size} {tokens.kind} tokens; most frequent {', '.join(most)}; least {', '.join(least)}"
    return line + f"; {rare} seen fewer than {RARE} times" + (f"; <unk> {unknown} times" if unknown else "")


def _settings(args: Any, texts: list[str]) -> dict[str, Any]:
    settings = {"kind": args.kind, "size": args.size, "lang": args.lang}
    settings["text"] = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    if args.lexicon:
        settings["lexicon"] = hashlib.sha256(phones.read_bytes(args.lexicon)).hexdigest()[:16]
    return settings


def _lexicon(args: Any, texts: list[str]) -> phones.Lexicon | None:
    if args.lexicon:
        return phones.read_lexicon(args.lexicon)
    if args.lang:
        return phones.spoken_lexicon(_vocabulary(texts), args.lang)
    return None


def _vocabulary(texts: list[str]) -> set[str]:
    """The words that can be pronounced."""
    return {word for text in texts for word in normalization.words(text) if normalization.SHOWN_UNKNOWN not in word}
