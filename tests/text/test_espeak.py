"""espeak-ng spoken to through its C interface."""

import numpy as np
import pytest

from asrtts.registry import UserError
from asrtts.text import phones

espeak = pytest.importorskip("asrtts.text.espeak")
pytest.importorskip("espeakng_loader")


def test_speech_has_sound_and_a_longer_text_lasts_longer():
    short, long = espeak.speak("on", "en-us+f1"), espeak.speak("turn the kitchen light on please", "en-us+f1")
    assert short.dtype == np.int16
    assert np.abs(short).max() > 3000
    assert 0.8 < len(long) / espeak.sample_rate() < 4
    assert len(long) > 1.5 * len(short)


def test_words_have_phones_without_stress():
    assert espeak.phones("kitchen", "en-us") == ["k", "ɪ", "tʃ", "ə", "n"]


def test_a_change_of_language_is_no_phone():
    assert espeak.phones("chinese", "ru") == ["tʃ", "aɪ", "n", "iː", "z"]


def test_mandarin_phones_carry_their_tone():
    lexicon = phones.spoken_lexicon(["妈", "马"], "zh")
    assert lexicon["妈"][0][0] == lexicon["马"][0][0] == "m"
    assert lexicon["妈"] != lexicon["马"]


def test_an_unknown_language_is_named():
    with pytest.raises(UserError, match="no voice 'qq'; examples: en-us"):
        espeak.phones("one", "qq")


def test_a_word_that_cannot_be_said_is_named():
    with pytest.raises(UserError, match="says nothing for the word"):
        phones.spoken_lexicon(["\u2060"], "en-us")
