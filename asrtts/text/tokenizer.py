"""Text to token ids and back: characters, sentencepiece pieces (bpe, unigram) or phones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from asrtts import storage
from asrtts.registry import UserError, quoted, suggestion
from asrtts.text import normalization, phones, pieces
from asrtts.text.normalization import BLANK, BOUNDARY, SHOWN_UNKNOWN, UNKNOWN

KINDS = ("char", "bpe", "unigram", "phone")
VERSION = 1
RECORD = "tokenizer.json"


class Splitter(Protocol):
    """How one kind cuts a text, in the form of `normalization.plain`, into pieces.

    A piece that the token list lacks becomes <unk>; so does '⁇', which stands for <unk> in a text.
    """

    files: dict[str, bytes]  # what it needs beside the token list, by file name

    def split(self, text: str) -> list[str]: ...
    def join(self, pieces: Sequence[str]) -> str: ...
    def uncovered(self, text: str, known: set[str]) -> set[str]: ...


class Tokenizer:
    """A token list and the way to cut a text into it.

    Ids: 0 <blank>, 1 <unk>, then the pieces. sos/eos are no tokens: the attention head adds its own.
    """

    def __init__(self, kind: str, pieces: Sequence[str], splitter: Splitter) -> None:
        assert tuple(pieces[:2]) == (BLANK, UNKNOWN), pieces[:2]
        self.kind = kind
        self.pieces = list(pieces)
        self._splitter = splitter
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        assert len(self._ids) == len(self.pieces), "a piece occurs twice"

    @property
    def vocab_size(self) -> int:
        """Number of tokens, <blank> and <unk> included."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text; never 0. Every kind takes the same form of it: see `normalization.plain`."""
        return [self._ids.get(piece, 1) for piece in self._splitter.split(self._form(text))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; blanks are left out and <unk> is shown as one '⁇'."""
        return self._splitter.join([self.pieces[i] if i != 1 else SHOWN_UNKNOWN for i in ids if i != 0])

    def uncovered(self, text: str) -> set[str]:
        """The characters (kind phone: the words) of a text that would become <unk>; <unk> itself is covered."""
        return self._splitter.uncovered(self._form(text), set(self.pieces[2:]))

    def _form(self, text: str) -> str:
        """The text as it is cut: Chinese with blanks between its words has none where no token stands for them."""
        text = normalization.plain(text)
        return text if BOUNDARY in self._ids else normalization.without_cjk_spaces(text)

    def unknown_share(self, sentences: Iterable[Sequence[int]]) -> float:
        """The share of <unk> among the tokens of encoded sentences, without those that stand for blanks; 0 to 1."""
        space = self._ids.get(BOUNDARY)
        counted = Counter(i for ids in sentences for i in ids if i != space)
        return counted[1] / max(1, counted.total())

    def fingerprint(self) -> str:
        """16 hex digits that change with any token, id, piece model or pronunciation."""
        return _fingerprint(self.kind, self._files())

    def save(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        """Write tokens.txt, tokenizer.json and what the kind needs into a new folder, which replaces an old one.

        Args:
            folder: a symbolic link stays, and the folder that it leads to is written.
            settings: how the tokens were made, for `is_finished`.

        Raises:
            UserError: the folder holds something else, or the disk is full or must not be written; it is as it was.
        """
        refuse_others(folder)
        goal = storage.behind_links(folder)
        old = goal.with_name(f".{goal.name}.old")  # hidden: a folder tokens.old may be what somebody has put by
        record = {"version": VERSION, "kind": self.kind, "vocab_size": self.vocab_size}
        record |= {"fingerprint": self.fingerprint(), storage.MADE_FROM: settings or {}}
        try:
            with storage.staged(goal) as beside:
                for name, data in self._files().items():
                    (beside / name).write_bytes(data)
                record[storage.FILES] = storage.sums(beside, [beside / name for name in self._files()])
                (beside / RECORD).write_bytes((json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode())
                shutil.rmtree(old, ignore_errors=True)
                if goal.exists():
                    os.replace(goal, old)
                os.replace(beside, goal)
        except OSError as error:
            if old.is_dir() and not goal.exists():
                os.replace(old, goal)
            raise storage.storage_error(folder, error) from None
        shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: no tokens there, or files that are damaged or of different runs.
        """
        folder = Path(folder)
        record = _record(folder)
        kind = record["kind"]
        names = ["tokens.txt", *_FILES[kind]]
        lost = [name for name in names if not (folder / name).is_file()]
        if lost:
            raise UserError(f"{folder}: {lost[0]} is missing from the {kind} tokens; {_AGAIN}")
        files = {name: (folder / name).read_bytes() for name in names}
        fingerprint = _fingerprint(kind, files)
        if fingerprint != record["fingerprint"]:
            raise UserError(
                f"{folder}: damaged, or files of two runs: {RECORD} says {quoted(record['fingerprint'])}, "
                f"the files beside it are {fingerprint}; {_AGAIN}"
            )
        listed = files.pop("tokens.txt").decode().split("\n")[:-1]
        return cls(kind, [line.rsplit(" ", 1)[0] for line in listed], _splitter(kind, files))

    def _files(self) -> dict[str, bytes]:
        listed = "".join(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))
        return {"tokens.txt": listed.encode(), **self._splitter.files}


def make(texts: Sequence[str], kind: str, size: int | None = None, lexicon: phones.Lexicon | None = None) -> Tokenizer:
    """The tokenizer of a training text; the same text gives the same tokens.

    Args:
        size: number of tokens, <blank> and <unk> included; wanted for bpe and unigram. For char it keeps the
            most frequent characters, None keeps them all.
        lexicon: for phone, words and their pronunciations.

    Raises:
        UserError: an unknown kind, no text, or a size that the text does not allow.
    """
    if kind not in KINDS:
        raise UserError(f"no token kind is named '{kind}'{suggestion(kind, KINDS)}")
    texts = [normalization.plain(text) for text in texts]
    if not any(text.replace(SHOWN_UNKNOWN, "").strip() for text in texts):
        raise UserError("no text to make tokens from: every transcript is empty")
    if size is not None and size < 3:
        raise UserError(f"--size {size} is too small: <blank> and <unk> are two of the tokens")
    if kind == "char":
        listed = pieces.most_frequent(texts, None if size is None else size - 2)
        files: dict[str, bytes] = {}
    elif kind == "phone":
        if lexicon is None:
            raise UserError("phone tokens need a lexicon: give --lexicon FILE, or --lang LANG for espeak-ng")
        if size is not None:
            raise UserError("--size is not for phone tokens: there is one for each phone of the lexicon")
        count = Counter(word for text in texts for word in normalization.words(text))
        listed, files = phones.inventory(lexicon), {"lexicon.txt": phones.dump(lexicon, count)}
    else:
        if size is None:
            raise UserError(f"{kind} tokens need --size N, the number of tokens")
        model, listed = pieces.train_sentencepiece(texts, kind, size)
        files = {"sentencepiece.model": model}
    if taken := {BLANK, UNKNOWN}.intersection(listed):
        raise UserError(
            f"{taken.pop()} would be a piece of the text, and is a token already; take it out of the transcripts"
        )
    return Tokenizer(kind, [BLANK, UNKNOWN, *listed], _splitter(kind, files))


def refuse_others(folder: Path) -> None:
    """Raises UserError if the folder holds what is no token file, for `save` would take it away."""
    goal = storage.behind_links(folder)
    own = {"tokens.txt", RECORD, ".DS_Store", *(name for names in _FILES.values() for name in names)}
    others = sorted({path.name for path in goal.iterdir()} - own) if goal.is_dir() else []
    held = f"holds {others[0]}" if others else "is a file" if goal.is_file() else ""
    if held or storage.is_here(goal):
        held = held or "is the folder you are in"
        raise UserError(f"{folder}: {held}, which tokens would replace; name a folder of their own, e.g. data/tokens")


def is_finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds whole tokens that were made with these settings."""
    try:
        Tokenizer.load(folder)
    except UserError:
        return False
    return storage.finished(Path(folder) / RECORD, settings) is not None


_AGAIN = "make them again with `asrtts tokenize` (stage 1)"
_FILES = {"char": [], "bpe": ["sentencepiece.model"], "unigram": ["sentencepiece.model"], "phone": ["lexicon.txt"]}


def _splitter(kind: str, files: dict[str, bytes]) -> Splitter:
    if kind == "char":
        return pieces.Characters()
    return phones.Phones(files["lexicon.txt"]) if kind == "phone" else pieces.Pieces(files["sentencepiece.model"])


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{folder}: no tokens there (no {RECORD}); {_AGAIN.replace('them again', 'them')}")
    try:
        record = storage.parse_json(path.read_bytes())
        version, kind = record["version"], record["kind"]
        record["fingerprint"]  # noqa: B018 - a missing key is damage, too
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; {_AGAIN}") from None
    if version != VERSION or kind not in KINDS:
        raise UserError(f"{path}: kind {quoted(kind)}, version {quoted(version)} is not known here; {_AGAIN}")
    return record


def _fingerprint(kind: str, files: dict[str, bytes]) -> str:
    digest = hashlib.sha256(f"{VERSION} {kind}".encode())
    for name, data in sorted(files.items()):
        digest.update(f"\n{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]
