"""The folder exp/lm that holds a whole language model: lm.json, tokens/, and ngram.arpa or model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from asrtts import config, storage
from asrtts.lm import arpa
from asrtts.lm.recurrent import Config, RecurrentLm
from asrtts.registry import UserError
from asrtts.search.language_model import LanguageModel
from asrtts.search.ngram import NgramModel, Ngrams
from asrtts.text.tokenizer import Tokenizer

ABOUT, ARPA, WEIGHTS = "lm.json", "ngram.arpa", "model.safetensors"
MEND = "make it again with `asrtts lm` (stage 3)"


def save_ngrams(folder: Path, ngrams: Ngrams, tokenizer: Tokenizer, about: dict[str, Any]) -> None:
    """Raises UserError if the folder cannot be written."""
    folder = Path(folder)
    storage.remove(folder / ABOUT)  # last of all it is written: it says that the rest is whole
    tokenizer.save(folder / "tokens")
    arpa.write(folder / ARPA, ngrams, tokenizer.pieces)
    save_about(folder, {"kind": "ngram", **about})


def save_about(folder: Path, about: dict[str, Any]) -> None:
    storage.write(Path(folder) / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


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
    own = Tokenizer.load(folder / "tokens")
    if own.fingerprint() != tokenizer.fingerprint():
        raise UserError(
            f"{folder}: a language model of {own.vocab_size} {own.kind} tokens ({own.fingerprint()}); the recognizer "
            f"has {tokenizer.vocab_size} {tokenizer.kind} tokens ({tokenizer.fingerprint()}). Make one of its tokens: "
            "`asrtts lm ... --tokens`"
        )
    if told.get("kind") == "lstm":
        return _neural(folder, told, own.vocab_size).to(device)
    return NgramModel(arpa.read(model_file(folder), own.pieces))


def _neural(folder: Path, told: dict[str, Any], vocab_size: int) -> RecurrentLm:
    path = folder / WEIGHTS
    storage.refuse_unreadable(path)
    try:
        model = RecurrentLm(config.build(Config, told.get("model", {}), f"{folder / ABOUT}: model"), vocab_size)
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {MEND}") from None
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path}: damaged, or of another model than {ABOUT} says ({reason}); {MEND}") from None
    return model.eval()
