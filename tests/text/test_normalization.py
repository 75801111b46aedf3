"""Written text in one form."""

import pytest

from asrtts.text.normalization import invisible, normalize, plain, without_cjk_spaces, without_invisible, words


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("la col·lecció", "la col·lecció"),
        ("la co\u0140lecció", "la col·lecció"),  # NFKC writes the ligature as two letters
        ("卡尔·马克思", "卡尔马克思"),
        (
            "\u056b\u0576\u0579\u0578\u055e\u0582 \u0579\u0565\u057d",
            "\u056b\u0576\u0579\u0578\u0582 \u0579\u0565\u057d",
        ),
        ("\u057b\u056b\u055b\u055e\u0576", "\u057b\u056b\u0576"),  # two Armenian marks on one letter
        ('\u05e6\u05d4\u05f4\u05dc \u05e6\u05d4"\u05dc', "\u05e6\u05d4\u05dc \u05e6\u05d4\u05dc"),
        ("\u05d2\u05f3\u05d9\u05e8\u05e4\u05d4", "\u05d2'\u05d9\u05e8\u05e4\u05d4"),
        ("da de\u0331'e\u0331 big", "da de\u0331'e\u0331 big"),
        ("l`heure d\u00b4été", "l'heure d'été"),
        ("u\u00a8ber \u00af x", "\u00fcber x"),
        ("\u30ab\u309b\u30b9", "\u30ac\u30b9"),
        ("EU:n jäsen: on", "EUn jäsen on"),
        ("f*ck * that", "fck that"),
        ("the '90's, 1'000", "the 90's 1'000"),
        ("\u0915\u093f\u0970\u092e\u0940\u0970", "\u0915\u093f\u092e\u0940"),
        ("\u0f56\u0f7c\u0f51\u0f0b\u0f61\u0f72\u0f42\u0f0b\u0f0d", "\u0f56\u0f7c\u0f51\u0f0b\u0f61\u0f72\u0f42"),
        ("\u0663\u066b\u0665", "\u0663\u066b\u0665"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("<unk>, he said [UNK]", "<unk> he said <unk>"),
    ],
)
def test_a_mark_inside_a_word_does_not_cut_it_in_two(text, expected):
    assert normalize(text, punctuation=False) == expected
    assert normalize(expected, punctuation=False) == expected


@pytest.mark.parametrize("case", ["upper", "lower"])
def test_unicode_cuts_no_word_in_two(case):
    assert len(normalize("d\u00b4été co\u0140lecció na\u00a8ive", case).split()) == 3


def test_the_unknown_word_has_no_case():
    assert normalize("<unk> on", "upper") == "<unk> ON"


def test_invisible_marks_go_and_joiners_stay():
    text = "play\u200bthe \u200fnext\u200e so\u00adng\ufeff \u0645\u06cc\u200c\u062e \u0915\u094d\u200d\u0937"
    seen = "playthe next song \u0645\u06cc\u200c\u062e \u0915\u094d\u200d\u0937"
    assert without_invisible(text) == plain(text) == normalize(text) == seen
    assert invisible(text) == ["\u200b", "\u200f", "\u200e", "\u00ad", "\ufeff"]
    assert without_invisible("two  blanks\tstay") == "two  blanks\tstay" and invisible("two  blanks") == []
    assert without_invisible("<s> HELLO  THERE </s>") == "HELLO THERE" and invisible("<s> A") == ["<s>"]


def test_the_plain_form_is_one():
    for text in ("cafe\u0301\u3000▁ x ", "[UNK]  \u034fa\u0301", "<s> <unk> \x1c", "b▁<s>"):
        assert plain(plain(text)) == plain(text)
    assert plain("cafe\u0301\u3000▁ x ") == "café x"
