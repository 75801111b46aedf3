"""The graph of an utterance and the search through it, against all paths there are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from asrtts.alignment import graph, viterbi_kernels
from asrtts.alignment.graph import Graph

NUMBER = {graph.PAUSE: 0, "spn": 1, "a": 2, "b": 3}


def search(states: Graph, scores: np.ndarray, stay: float, leave: float) -> tuple[np.ndarray, float]:
    """With scores (T, kinds of states)."""
    count = len(states.kind)
    return viterbi_kernels.best_path(
        scores.astype(np.float32),
        states.kind,
        np.full(count, stay),
        states.first_arc,
        states.origin,
        states.chance + leave,
        states.begin,
        states.end + leave,
    )


def likelihood(states: Graph, path: tuple[int, ...], scores: np.ndarray, stay: float, leave: float) -> float:
    """The log-probability of a path, step by step."""
    total = states.begin[path[0]] + scores[0, states.kind[path[0]]]
    for t in range(1, len(path)):
        before, now = path[t - 1 : t + 1]
        arcs = range(states.first_arc[now], states.first_arc[now + 1])
        ways = [states.chance[a] + leave for a in arcs if states.origin[a] == before]
        ways += [stay] if before == now else []
        total += max(ways, default=-math.inf) + scores[t, states.kind[now]]
    return total + states.end[path[-1]] + leave


@pytest.mark.parametrize("words", [[[["a"]]], [[["a"], ["b"]]], [[["a"]], [["b"]]]])
def test_the_search_finds_the_best_of_all_paths(words: list[list[list[str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "STATES", 1)  # or there would be too many paths
    states = graph.build(words, NUMBER)
    rng = np.random.default_rng(0)
    for frames in (1, 2, 4, 5):
        scores = rng.standard_normal((frames, 4)).astype(np.float32)
        stay, leave = math.log(0.7), math.log(0.3)
        every = {
            path: likelihood(states, path, scores, stay, leave)
            for path in itertools.product(range(len(states.kind)), repeat=frames)
        }
        best = max(every.values())
        path, found = search(states, scores, stay, leave)
        assert found == pytest.approx(best, rel=1e-6)
        if best > -math.inf:
            assert every[tuple(path)] == best
        else:
            assert frames < len(words)  # a word needs a frame


def test_all_paths_together_have_probability_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lengths up to 60 nearly so: pauses, pronunciations and durations share what there is."""
    monkeypatch.setattr(graph, "STATES", 1)
    states = graph.build([[["a"], ["b", "a"]], [["b"]]], NUMBER)
    count, stay, leave = len(states.kind), 0.5, 0.5
    step = np.diag(np.full(count, stay))
    for s in range(count):
        for a in range(states.first_arc[s], states.first_arc[s + 1]):
            step[states.origin[a], s] += leave * math.exp(states.chance[a])
    mass, total = np.exp(states.begin), 0.0
    for _ in range(60):
        total += float(mass @ np.exp(states.end)) * leave
        mass = mass @ step
    assert total == pytest.approx(1.0, abs=1e-6)


def test_phones_know_their_words_and_rare_ones_share_a_kind() -> None:
    states = graph.build([[["a", "b"]], [["x"], ["y", "a"]]], NUMBER)
    pause = (graph.PAUSE, -1)
    assert states.nodes == [pause, ("a", 0), ("b", 0), pause, ("x", 1), ("y", 1), ("a", 1), pause]
    kinds = {states.nodes[node][0]: set(states.kind[states.node == node]) for node in states.node}
    assert kinds[graph.PAUSE] == {0} and kinds["x"] == kinds["y"] == {1, 2, 3}
    assert kinds["a"] == {4, 5, 6} and kinds["b"] == {7, 8, 9}
    assert graph.kinds(len(NUMBER)) == 10
    straight = [states.nodes[node] for node in states.node[states.straight][:: graph.STATES]]
    assert straight == [pause, ("a", 0), ("b", 0), ("x", 1), pause]
