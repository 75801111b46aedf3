"""The folder exp/lm that holds a whole language model: lm.json, tokens/, and ngram.arpa or model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from asrtts import config, storage
from asrtts.lm import arpa
from asrtts.lm.recurrent import Config, RecurrentLm
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.search.language_model import LanguageModel
from asrtts.search.ngram import NgramModel, Ngrams
from asrtts.text.tokenizer import Tokenizer

ABOUT, ARPA, WEIGHTS = "lm.json", "ngram.arpa", "model.safetensors"
MEND = "make it again with `asrtts lm` (stage 3)"


def save_ngrams(
    folder: Path, ngrams: Ngrams, tokenizer: Tokenizer, made_from: dict[str, Any], about: dict[str, Any]
) -> None:
    """Write a whole folder; lm.json, the record that ends it, last. A symbolic link to a folder stays.

    Args:
        made_from: what decides the n-grams, for `is_finished`.
        about: more that lm.json is to tell.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = storage.behind_links(folder)
    storage.remove(folder / ABOUT)
    tokenizer.save(folder / "tokens")
    arpa.write(folder / ARPA, ngrams, tokenizer.pieces)
    storage.finish(folder / ABOUT, made_from, [folder / ARPA], kind="ngram", **made_from, **about)


def is_finished(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether the folder holds a whole n-gram model that was made from the same."""
    try:
        Tokenizer.load(Path(folder) / "tokens")
    except UserError:
        return False  # none, or damaged ones: it is made again
    before = storage.finished(Path(folder) / ABOUT, made_from)
    return before is not None and before.get("kind") == "ngram"


def save_about(folder: Path, about: dict[str, Any]) -> None:
    """Write lm.json of a neural model, whose weights are in the folder. Raises UserError if that cannot be done."""
    storage.finish(Path(folder) / ABOUT, {}, [Path(folder) / WEIGHTS], **about)


def about(folder: Path) -> dict[str, Any]:
    """What lm.json says. Raises UserError if there is no language model in the folder."""
    path = Path(folder) / ABOUT
    if not path.is_file():
        there = sorted(p.parent.name for p in Path(folder).parent.glob(f"*/{ABOUT}"))
        hint = f"; {Path(folder).parent} holds: {', '.join(there)}" if there else ""
        raise UserError(f"{folder}: no language model here ({ABOUT} is missing){hint}. Make one: `asrtts lm` (stage 3)")
    return storage.json_object(path.read_bytes(), str(path), MEND)


def model_file(folder: str | Path) -> Path:
    """The file of its probabilities or weights. Raises UserError if there is no language model in the folder."""
    return Path(folder) / (WEIGHTS if about(Path(folder)).get("kind") == "lstm" else ARPA)


def load(folder: str | Path, tokenizer: Tokenizer, device: torch.device) -> LanguageModel:
    """The language model in a folder, for a recognizer with these tokens; a neural one on `device`.

    Raises:
        UserError: no language model there, a damaged one, or one of other tokens.
    """
    folder = Path(folder)
    told = about(folder)
    own = _tokens(folder)
    if own.fingerprint() != tokenizer.fingerprint():
        raise UserError(
            f"{folder}: a language model of {own.vocab_size} {own.kind} tokens ({own.fingerprint()}); the recognizer "
            f"has {tokenizer.vocab_size} {tokenizer.kind} tokens ({tokenizer.fingerprint()}). Make one of its tokens: "
            "`asrtts lm ... --tokens`"
        )
    _refuse_altered(folder, told)
    if told.get("kind") == "lstm":
        return _neural(folder, told, own.vocab_size).to(device)
    return NgramModel(arpa.read(model_file(folder), own.pieces))


def _tokens(folder: Path) -> Tokenizer:
    try:
        return Tokenizer.load(folder / "tokens")
    except UserError:
        raise UserError(f"{folder / 'tokens'}: missing or damaged; {MEND}") from None


def _refuse_altered(folder: Path, told: dict[str, Any]) -> None:
    """Raises UserError for a file that is not as it was written. A record of before has no checksums."""
    for name in told.get(storage.FILES) or {}:
        storage.refuse_unreadable(folder / name)
    if (path := storage.altered(folder, told)) is not None:
        what = "damaged: its checksum is not the one in" if path.is_file() else "not there, but named in"
        raise UserError(f"{path}: {what} {ABOUT}; {MEND}")


def _neural(folder: Path, told: dict[str, Any], vocab_size: int) -> RecurrentLm:
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: not there; {MEND}")
    try:
        model = RecurrentLm(config.build(Config, told.get("model", {}), f"{folder / ABOUT}: model"), vocab_size)
        model.load_state_dict(weights_file.load(path))
    except RuntimeError as error:
        reason = storage.lines(str(error).strip())[-1].strip()
        raise UserError(f"{path}: damaged, or of another model than {ABOUT} says ({reason}); {MEND}") from None
    return model.eval()
