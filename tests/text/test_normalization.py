"""Written text in one form."""

import pytest

from asrtts.text.normalization import normalize, without_cjk_spaces, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Turn \t the\u3000light on ", "Turn the light on"),
        ("ＡＢＣ１２", "ABC12"),
        ("don\u2019t", "don't"),
        ("甲 乙 丙", "甲乙丙"),
        ("我 用 WORD 写 字", "我用 WORD 写字"),
    ],
)
def test_the_form_is_one(text, expected):
    assert normalize(text) == expected
    assert normalize(expected) == expected


def test_case_is_chosen():
    assert normalize("Straße one", "upper") == "STRASSE ONE"
    assert normalize("Turn ON", "lower") == "turn on"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "Hello world"),
        ("'tis the o'clock, don't", "tis the o'clock don't"),
        ("well-known (twice)", "well known twice"),
        ("3.5 and 1,000.", "3.5 and 1,000"),
        ("你好，世界。", "你好世界"),
        ("...", ""),
    ],
)
def test_punctuation_goes_and_words_and_numbers_stay(text, expected):
    assert normalize(text, punctuation=False) == expected


def test_spaces_go_only_between_chinese_characters():
    assert without_cjk_spaces("打开 灯 now please 谢 谢") == "打开灯 now please 谢谢"


def test_every_chinese_character_is_a_word():
    assert words("play 音乐 now") == ["play", "音", "乐", "now"]
