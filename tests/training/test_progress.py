"""The time that is left: said within the first minute, not spoiled by slow first updates."""

from __future__ import annotations

import re

import pytest

from asrtts.training.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(capsys, updates: int, seconds: list[float], start: int = 0) -> list[tuple[float, str]]:
    """(time, line) of what is printed when updates take `seconds` each."""
    clock, said = Clock(), []
    with Progress(updates, start, active=True, clock=clock) as progress:
        for number, took in enumerate(seconds, start + 1):
            clock.now += took
            progress.advance(number, {"loss": 1.0, "lr": 1e-3})
            said += [(clock.now, line) for line in capsys.readouterr().err.splitlines()]
    return said


@pytest.mark.parametrize("took", [0.05, 0.9, 4.0, 9.0, 14.0, 25.0])
def test_the_estimate_comes_within_the_first_minute(capsys, took):
    said = lines(capsys, 1000, [took] * (1 + int(70 / took)))
    first = next((at, line) for at, line in said if line.endswith("left"))
    assert first[0] <= 60
    minutes = re.search(r"([\d.]+) (min|h) left", first[1])
    left = float(minutes[1]) * (60 if minutes[2] == "min" else 3600) if minutes else 30
    assert left == pytest.approx(1000 * took - first[0], rel=0.15, abs=60)


def test_a_slow_first_update_does_not_spoil_it(capsys):
    said = lines(capsys, 121, [15.0] + [1.0] * 60)
    assert "2 min left" in next(line for _, line in said if "left" in line)


def test_lines_in_a_file_are_few(capsys):
    assert len(lines(capsys, 10000, [0.1] * 3000)) <= 12  # five minutes


def test_a_resumed_run_counts_from_where_it_goes_on(capsys):
    said = lines(capsys, 1000, [1.0] * 30, start=900)
    assert re.search(r"update 92\d/1000: .* 1 min left", said[1][1])


def test_another_process_of_many_is_silent(capsys):
    with Progress(10, 0, active=False) as progress:
        progress.advance(1, {"loss": 1.0, "lr": 1.0})
        progress.note(1, {"loss": 1.0})
    assert capsys.readouterr().err == ""
