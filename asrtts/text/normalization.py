"""Written text in one form: Unicode, blanks, invisible marks, names of tokens; on request case and punctuation."""

from __future__ import annotations

import re
import unicodedata

CASES = ("keep", "upper", "lower")
BLANK = "<blank>"  # the token of CTC and Transducer that stands for nothing
UNKNOWN = "<unk>"  # a word that the transcriber did not understand; also the token of what no token stands for
SHOWN_UNKNOWN = "⁇"  # what <unk> decodes to: one character, so that it counts as one error in CER
BOUNDARY = "▁"  # the token of a blank

# Han ideographs and kana: scripts that put no spaces between words.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACE_AFTER_UNSPACED = re.compile(rf"(?<=[{_UNSPACED}])\s+(?=[{_UNSPACED}])")
_EACH_UNSPACED = re.compile(rf"([{_UNSPACED}])")

_USUAL = re.compile(r"[!-;=-Z\\-~]+(?: [!-;=-Z\\-~]+)*")  # plain already; has neither < nor [
_UNKNOWNS = re.compile(rf"<unk>|\[unk\]|{SHOWN_UNKNOWN}", re.IGNORECASE)
_NAMES = re.compile(r"(?<!\S)(<blank>|<blk>|<eps>|<pad>|<s>|</s>|<sos>|<eos>|<sos/eos>)(?!\S)", re.IGNORECASE)
# Control characters that are no blanks, soft hyphens, zero-width blanks and joiners, marks of direction, variation
# selectors, fillers, annotations and tags. The zero-width non-joiner and joiner (U+200C, U+200D) stay: they are
# spelling in Persian and in scripts of India.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)

# Apostrophes: the straight one, quotes, a grave accent that stands alone, the prime, the Armenian and the Hebrew one.
_APOSTROPHES = frozenset("'\u2018\u2019\u201b`\u2032\u055a\u05f3")
_MIDDLE_DOTS = frozenset("\u00b7\u2027")
_TSHEGS = frozenset("\u0f0b\u0f0c")  # between the syllables of a Tibetan word
# Other marks that stand inside words: the colon of Finnish and Swedish, the Hebrew gershayim, which is often typed as a
# quote, Armenian marks of emphasis, exclamation, pause, question and abbreviation, signs of abbreviation of India, the
# Mongolian nirugu, ties, and an asterisk in place of a letter.
_ABOVE_LETTERS = frozenset("\u055a\u055b\u055c\u055d\u055e\u055f\u05f3\u05f4")
_INSIDE = frozenset(':"*\u201c\u201d\u0970\u09fd\u0a76\u0af0\u180a\u203f\u2040') | _ABOVE_LETTERS
_SPOKEN = frozenset("\u104c\u104d\u104e\u104f")  # Burmese words of one sign, which Unicode counts as punctuation
_IN_NUMBERS = frozenset(".,\u00b7\u066b\u066c")
_JOINERS = "\u200c\u200d"

# Accents that stand alone: NFKC makes a space and an accent of each, and the space would cut a word in two.
_AS_APOSTROPHE = dict.fromkeys(map(ord, "\u2019\u00b4\u0384\u1fbd\u1fbf\u1ffd"), "'") | {0x2033: '"'}
_ACCENT = re.compile(
    "[\u00a8\u00af\u00b8\u02d8-\u02dd\u037a\u0385\u1fc0\u1fc1\u1fcd-\u1fcf\u1fdd-\u1fdf\u1fed\u1fee\u1ffe\u2017\u203e"
    "\u309b\u309c\ufc5e-\ufc63\ufe49-\ufe4c\ufe70\ufe72\ufe74\ufe76\ufe78\ufe7a\ufe7c\ufe7e\uffe3]"
)


def plain(text: str) -> str:
    """The text as every kind of token, every language model and every check of `asrtts prepare` takes it.

    It is in NFC. A blank of any kind (tab, no-break or ideographic space, line separator, the token ▁) is one space,
    with none at the ends. Invisible marks and names of tokens are left out; <unk> and [unk] are one '⁇'.
    """
    if _USUAL.fullmatch(text):
        return text
    text = _UNKNOWNS.sub(SHOWN_UNKNOWN, without_invisible(text.replace(BOUNDARY, " ")))
    return " ".join(unicodedata.normalize("NFC", text).split())


def clean(text: str) -> str:
    """The text as it goes into a manifest: as the corpus has it, but in NFC and without invisible marks."""
    return unicodedata.normalize("NFC", without_invisible(text))


def without_invisible(text: str) -> str:
    """Without zero-width, direction and control characters, and without words that are names of tokens (<s>, <blank>).

    A text that has none of them is returned as it is, whatever blanks it has.
    """
    seen = _INVISIBLE.sub("", text)
    return " ".join(_NAMES.sub("", seen).split()) if _NAMES.search(seen) else seen


def invisible(text: str) -> list[str]:
    """What `without_invisible` takes out: characters and names, each once, in the order of the text."""
    return list(dict.fromkeys([*_INVISIBLE.findall(text), *_NAMES.findall(_INVISIBLE.sub("", text))]))


def normalize(text: str, case: str = "keep", punctuation: bool = True) -> str:
    """The text in NFKC (full-width letters become plain ones), with single spaces and none inside Chinese.

    <unk> stays as it is, whatever case and punctuation are asked for.

    Args:
        case: keep, upper or lower.
        punctuation: False takes it out. Between words a mark becomes a space, and so do hyphens, points and slashes
            wherever they stand. Other marks inside a word do not cut it in two: apostrophes and the middle dot of
            Catalan stay, the Hebrew gershayim, the Armenian question mark and the like are removed. Points and commas
            inside numbers stay.
    """
    assert case in CASES, case
    parts = [_normalized(part, case, punctuation) for part in _UNKNOWNS.split(without_invisible(text))]
    return without_cjk_spaces(" ".join(without_invisible(UNKNOWN.join(parts)).split()))


def without_cjk_spaces(text: str) -> str:
    """Chinese and Japanese without the spaces that transcripts put between their words: "开 灯 on" -> "开灯 on"."""
    return _SPACE_AFTER_UNSPACED.sub("", text)


def words(text: str) -> list[str]:
    """The words of a text in its `plain` form; in scripts without spaces every character is one."""
    return _EACH_UNSPACED.sub(r" \1 ", plain(text)).split()


def _normalized(text: str, case: str, punctuation: bool) -> str:
    text = _ACCENT.sub(_onto_the_letter, text.translate(_AS_APOSTROPHE))
    text = unicodedata.normalize("NFKC", text)
    if case != "keep":
        text = text.upper() if case == "upper" else text.lower()
    return text if punctuation else "".join(_without_punctuation(text, i) for i in range(len(text)))


def _onto_the_letter(accent: re.Match[str]) -> str:
    """An accent that stands alone as one of the letter before it; nothing where no letter is."""
    is_behind_a_letter = _is_letter(accent.string[: accent.start()][-1:])
    return unicodedata.normalize("NFKC", accent[0]).lstrip(" ") if is_behind_a_letter else ""


def _without_punctuation(text: str, i: int) -> str:
    mark = text[i]
    if mark != "`" and (mark in _SPOKEN or not unicodedata.category(mark).startswith("P")):
        return mark
    before, after = _neighbour(text, i, -1), _neighbour(text, i, 1)
    between_letters = _is_letter(before) and _is_letter(after)
    if mark in _IN_NUMBERS and before.isdigit() and after.isdigit():
        return mark
    if mark in _APOSTROPHES and (between_letters or (before + after).isalnum() and len(before + after) == 2):
        return "'"
    if mark in _MIDDLE_DOTS and between_letters:
        return "" if re.search(f"[{_UNSPACED}]", before + after) else "\u00b7"
    if mark in _TSHEGS and between_letters:
        return mark
    return "" if mark in _INSIDE and between_letters else " "


def _neighbour(text: str, i: int, step: int) -> str:
    """The character beside position i; the marks that Armenian and Hebrew write above letters are passed over."""
    i += step
    while 0 <= i < len(text) and text[i] in _ABOVE_LETTERS:
        i += step
    return text[i] if 0 <= i < len(text) else ""


def _is_letter(character: str) -> bool:
    """Whether it is a letter, an accent that is written on one, or a joiner between two."""
    return character != "" and (character in _JOINERS or unicodedata.category(character)[0] in "LM")
