"""The written units: characters, and the pieces of sentencepiece (bpe, unigram)."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence

from asrtts.registry import UserError
from asrtts.text.normalization import BOUNDARY as SPACE
from asrtts.text.normalization import SHOWN_UNKNOWN

# Texts are given in the form of `normalization.plain`; '⁇' in them stands for a word that nobody understood.


class Characters:
    """Every character is a piece, a space is '▁'. Chinese text has no spaces, hence no '▁'."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def split(self, text: str) -> list[str]:
        return list(text.replace(" ", SPACE))

    def join(self, pieces: Sequence[str]) -> str:
        return _written(pieces)

    def uncovered(self, text: str, known: set[str]) -> set[str]:
        return set(self.split(text)) - known - {SHOWN_UNKNOWN}


class Pieces:
    """The pieces of a sentencepiece model. A model is bytes here: nothing but `sentencepiece` reads it."""

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self.files = {"sentencepiece.model": model}
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        # With full coverage every character of the training text is a piece of its own or inside one.
        self._covered = {c for i in range(len(self._processor)) for c in self._processor.id_to_piece(i)}

    def split(self, text: str) -> list[str]:
        return self._processor.encode(text, out_type=str)

    def join(self, pieces: Sequence[str]) -> str:
        return _written(pieces)

    def uncovered(self, text: str, known: set[str]) -> set[str]:
        lost = {c for piece in self.split(text) if piece not in known for c in piece}
        return lost - {SPACE, SHOWN_UNKNOWN}


def most_frequent(texts: Sequence[str], count: int | None) -> list[str]:
    """The characters of the texts in code point order; of too many, the most frequent."""
    split = Characters().split
    counted = Counter(c for text in texts for c in split(text) if c != SHOWN_UNKNOWN)
    return sorted(sorted(counted, key=lambda c: (-counted[c], c))[:count])


def train_sentencepiece(texts: Sequence[str], kind: str, size: int) -> tuple[bytes, list[str]]:
    """A sentencepiece model and its pieces, so many that <blank>, <unk> and they are `size`.

    Raises:
        UserError: the text has more characters than `size`, or too little text for so many pieces.
    """
    import sentencepiece

    texts = [_without_unknown(text) for text in texts]
    least = len({SPACE, *"".join(texts)} - {" "}) + 2
    if size < least:
        raise UserError(f"--size {size} is too small: with the characters alone there are {least} {kind} tokens")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text for text in texts if text),
            model_writer=model,
            model_type=kind,
            vocab_size=size - 1,  # its <unk> is ours, <blank> is not in the model
            character_coverage=1.0,
            normalization_rule_name="identity",  # the text is trained on and scored as it is written
            max_sentence_length=1 << 20,  # bytes; the default 4192 leaves long lines out without a word
            num_threads=1,  # with more, the order of sums and so the pieces may differ
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(_why_not(str(error), kind, size)) from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return model.getvalue(), [processor.id_to_piece(i) for i in range(1, len(processor))]


def _without_unknown(text: str) -> str:
    """Without the words that hold '⁇': no piece is to be made of it."""
    return " ".join(word for word in text.split(" ") if SHOWN_UNKNOWN not in word) if SHOWN_UNKNOWN in text else text


def _written(pieces: Sequence[str]) -> str:
    return " ".join("".join(pieces).replace(SPACE, " ").split())


def _why_not(error: str, kind: str, size: int) -> str:
    most = re.search(r"<= (\d+)", error)
    if most:
        return f"--size {size} is too large: this text allows at most {int(most[1]) + 1} {kind} tokens"
    return f"sentencepiece could not make {size} {kind} tokens: {' '.join(error.split())}"
