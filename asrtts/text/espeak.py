"""espeak-ng, from the `espeakng-loader` package (GPL-3, hence an extra): a text spoken, or as phones."""

from __future__ import annotations

import ctypes
import functools
import re
import tempfile
from pathlib import Path

import numpy as np

from asrtts.registry import UserError

# Numbers of espeak-ng's speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_IPA = 2
_SEPARATOR = "_"
_NOT_PHONES = re.compile(r"\([a-z-]+\)|[ˈˌ]")  # a change of language, e.g. (en); stress
_LONGEST_PATH = 120  # bytes; espeak-ng keeps the data folder in a buffer of 160 and fails without a word above it
_ALIASES = {"en": "en-us", "en-gb": "en", "zh": "cmn"}  # what people write -> the names of the voice files


def speak(text: str, voice: str, pitch: int = 50, words_per_minute: int = 175, liveliness: int = 50) -> np.ndarray:
    """The text spoken: samples (S,), int16, at `sample_rate()` Hz.

    The library keeps state from one call to the next: the same calls in a fresh process give the same samples, but
    what was spoken before moves them a little.

    Args:
        voice: a language and a variant, e.g. "en-us+f2".
        pitch, liveliness: 0 to 100; the height of the voice and the range of its melody.
    """
    library = _library()
    _choose(library, voice)
    for parameter, value in ((_RATE, words_per_minute), (_VOLUME, 80), (_PITCH, pitch), (_RANGE, liveliness)):
        library.espeak_SetParameter(parameter, value, 0)
    _heard.clear()
    data = text.encode()
    if library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None) != 0:
        raise UserError(f"espeak-ng could not speak {text!r} with voice {voice}")
    library.espeak_Synchronize()
    return np.concatenate(_heard) if _heard else np.zeros(0, np.int16)


def sample_rate() -> int:
    """Of `speak`, in Hz."""
    _library()
    return _started[0]


def phones(text: str, lang: str) -> list[str]:
    """The IPA phones of a word, with tones and without stress. Raises UserError for an unknown language."""
    library = _library()
    _choose(library, lang)
    rest = ctypes.c_char_p(text.encode())
    spoken: list[str] = []
    while rest.value:
        clause = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA | ord(_SEPARATOR) << 8)
        spoken += re.split(rf"[{_SEPARATOR}\s]+", _NOT_PHONES.sub(_SEPARATOR, clause.decode()))
    return [phone for phone in spoken if phone]


_heard: list[np.ndarray] = []
_started: list[int] = []
_short: list[tempfile.TemporaryDirectory] = []  # holds a link to a data folder whose path is too long


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
def _listen(samples, count, _events):  # noqa: ANN001, ANN202
    if samples and count > 0:
        _heard.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
    return 0


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "espeak-ng is not installed (optional, GPL-3): pip install espeakng-loader, or pip install -e '.[mini]'"
        ) from None
    data = Path(espeakng_loader.get_data_path())
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise UserError(
            f"espeak-ng cannot be loaded ({error}); pip install --force-reinstall espeakng-loader"
        ) from None
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    if len(str(data).encode()) > _LONGEST_PATH:
        _short.append(tempfile.TemporaryDirectory(prefix="espeak-"))
        link = Path(_short[0].name, data.name)
        link.symlink_to(data)
        data = link
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DONT_EXIT)
    if rate <= 0:
        raise UserError(f"espeak-ng does not start with the voices in {data}; reinstall espeakng-loader")
    library.espeak_SetSynthCallback(_listen)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breathy voices draw noise, otherwise seeded by the clock
    _started[:] = [rate]
    return library


def _choose(library: ctypes.CDLL, voice: str) -> None:
    lang, plus, variant = voice.partition("+")
    if library.espeak_SetVoiceByName(f"{_ALIASES.get(lang, lang)}{plus}{variant}".encode()) != 0:
        raise UserError(f"espeak-ng has no voice '{voice}'; examples: en-us, en-gb, cmn, de, fr")
