"""The states that an utterance may pass through: its words in order, each in one of its pronunciations, pauses between.

Every phone is STATES states from left to right. A pause is as many, of one kind: so many frames it lasts at least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STATES = 3
PAUSE = "<pause>"  # the phone that may stand between words; its number is 0
RARE = 1  # the number of every phone that has none of its own
BEGINNING = -1  # of an utterance, where a state would lead on
HALF = math.log(0.5)  # of a pause, and of none


def kind(phone: int, place: int) -> int:
    """The kind of a state, by the number of its phone: 0 in a pause, then three for each phone."""
    return 0 if phone == 0 else STATES * (phone - 1) + place + 1


def kinds(phones: int) -> int:
    """How many kinds of states so many phones have, the pause among them."""
    return STATES * (phones - 1) + 1


@dataclass(frozen=True, eq=False)
class Graph:
    """S states and the arcs between them; those into state s are `origin[first_arc[s] : first_arc[s + 1]]`."""

    kind: np.ndarray  # (S,) int32: of states that share a mixture
    node: np.ndarray  # (S,) int32: the states of one phone have one number
    nodes: list[tuple[str, int]]  # by that number: the phone, and the number of its word in the utterance; -1: a pause
    first_arc: np.ndarray  # (S + 1,) int32
    origin: np.ndarray  # (A,) int32
    chance: np.ndarray  # (A,) log-probability to come here of all that leave the state
    begin: np.ndarray  # (S,) log-probability
    end: np.ndarray  # (S,)
    straight: np.ndarray  # the states of the first pronunciations, with pauses at both ends alone


Ends = list[tuple[int, float]]  # states that lead on, or BEGINNING, and the log-probabilities to do so


class _Builder:
    def __init__(self, number: Mapping[str, int]) -> None:
        self.number = number
        self.kind: list[int] = []
        self.node: list[int] = []
        self.nodes: list[tuple[str, int]] = []
        self.arcs: list[Ends] = []  # into each state

    def add(self, phones: Sequence[str], word: int, behind: Ends, chance: float) -> Ends:
        """Phones one behind the other, entered from `behind`; returns where they end."""
        for phone in phones:
            for place in range(STATES):
                self.kind.append(kind(self.number.get(phone, RARE), place))
                self.node.append(len(self.nodes))
                self.arcs.append([(state, log + chance) for state, log in behind])
                behind, chance = [(len(self.kind) - 1, 0.0)], 0.0
            self.nodes.append((phone, word))
        return behind

    def pause(self, behind: Ends) -> Ends:
        """One that may be left out."""
        return [(state, log + HALF) for state, log in behind] + self.add([PAUSE], -1, behind, HALF)


def build(words: Sequence[Sequence[Sequence[str]]], number: Mapping[str, int]) -> Graph:
    """The graph of an utterance, each of whose words has pronunciations of one or more phones.

    Args:
        number: of the phones that have one; that of PAUSE is 0.
    """
    made = _Builder(number)
    ends = made.pause([(BEGINNING, 0.0)])
    straight = list(range(STATES))
    for at, pronunciations in enumerate(words):
        straight += range(len(made.kind), len(made.kind) + STATES * len(pronunciations[0]))
        chance = -math.log(len(pronunciations))
        ends = made.pause([end for phones in pronunciations for end in made.add(phones, at, ends, chance)])
    straight += range(len(made.kind) - STATES, len(made.kind))

    begin, end = (np.full(len(made.kind), -np.inf) for _ in range(2))
    for state, log in ends:
        end[state] = log
    for state, into in enumerate(made.arcs):
        if into and into[0][0] == BEGINNING:
            begin[state] = into.pop(0)[1]
    first_arc = np.cumsum([0] + [len(into) for into in made.arcs]).astype(np.int32)
    arcs = [arc for into in made.arcs for arc in into]
    origin, chances = np.array([o for o, _ in arcs], np.int32), np.array([log for _, log in arcs])
    states = (np.array(column, np.int32) for column in (made.kind, made.node))
    return Graph(*states, made.nodes, first_arc, origin, chances, begin, end, np.array(straight, np.int32))
