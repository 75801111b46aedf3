"""Written text in one form: Unicode, spaces, case, punctuation."""

from __future__ import annotations

import re
import unicodedata

CASES = ("keep", "upper", "lower")

# Han ideographs and kana: scripts that put no spaces between words.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACE_AFTER_UNSPACED = re.compile(rf"(?<=[{_UNSPACED}])\s+(?=[{_UNSPACED}])")
_EACH_UNSPACED = re.compile(rf"([{_UNSPACED}])")


def normalize(text: str, case: str = "keep", punctuation: bool = True) -> str:
    """The text in NFKC (full-width letters become plain ones), with single spaces and none inside Chinese.

    Args:
        case: keep, upper or lower.
        punctuation: False takes it out, except apostrophes inside words and points inside numbers; a hyphen
            becomes a space.
    """
    assert case in CASES, case
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    if case != "keep":
        text = text.upper() if case == "upper" else text.lower()
    if not punctuation:
        text = "".join(_without_punctuation(text, i) for i in range(len(text)))
    return without_cjk_spaces(" ".join(text.split()))


def without_cjk_spaces(text: str) -> str:
    """Chinese and Japanese without the spaces that transcripts put between their words: "开 灯 on" -> "开灯 on"."""
    return _SPACE_AFTER_UNSPACED.sub("", text)


def words(text: str) -> list[str]:
    """The words of a text; in scripts without spaces every character is one."""
    return _EACH_UNSPACED.sub(r" \1 ", text).split()


def _without_punctuation(text: str, i: int) -> str:
    if not unicodedata.category(text[i]).startswith("P"):
        return text[i]
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    if text[i] == "'" and before.isalpha() and after.isalpha():
        return text[i]
    if text[i] in ".," and before.isdigit() and after.isdigit():
        return text[i]
    return " "
