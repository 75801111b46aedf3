"""Messages that quote files: one line, cut, and nothing that a terminal would obey."""

from __future__ import annotations

import pickle

import pytest

from asrtts.config import warn
from asrtts.registry import LONGEST_MESSAGE, UserError, quoted, shortened


@pytest.mark.parametrize(
    "held", ["\0" * 4165, "\x1b[2J\x1b[31m", "a\u2028b\u0085c\rd\ne", "\u202egnp", "\udcff", "x" * 10**6]
)
def test_a_message_is_one_line_whatever_a_file_holds(held, capsys):
    message = str(UserError(f"text:2: found {held}; correct the line"))
    assert message.isprintable() and len(message) < LONGEST_MESSAGE + 9
    assert message.startswith("text:2: found") and message.endswith("; correct the line")
    assert str(pickle.loads(pickle.dumps(UserError(held)))) == str(UserError(held))
    warn(held)
    written = capsys.readouterr().err
    assert written.count("\n") == 1 and written[:-1].isprintable()


def test_a_usual_message_is_as_it_was_written():
    for message in ("wav.scp:2: u1 is here twice", "naïve café: 打开 ▁ — ok"):
        assert str(UserError(message)) == message


def test_words_of_a_file_are_cut_and_escaped():
    assert quoted("a\0b") == "'a\\x00b'" and quoted("it's") == '"it\'s"'
    assert quoted("x" * 100) == "'" + "x" * 60 + "...'"
    assert shortened("utt-1") == "utt-1" and shortened("u\x07") == "'u\\x07'"
