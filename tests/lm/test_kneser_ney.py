"""Modified Kneser-Ney against the formulas of Chen and Goodman written out with dictionaries, and as a distribution."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from asrtts.lm import kneser_ney
from asrtts.registry import UserError
from asrtts.search.ngram import NgramModel

VOCAB = 6  # the blank and five tokens; 6 is </s>
CPU = torch.device("cpu")


def sentences(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = [int(rng.integers(1, VOCAB - 1))]
        while rng.random() < 0.8:
            words.append(1 + (words[-1] + int(rng.choice([0, 0, 1, 2]))) % (VOCAB - 2))
        found.append(words)
    return [*found, []]


def textbook(text: list[list[int]], order: int):
    """p(word | history), recursively, with dictionaries of tuples."""
    padded = [("<s>", *s, "</s>") for s in text]
    raw = [Counter(s[i : i + n] for s in padded for i in range(len(s) - n + 1)) for n in range(1, order + 1)]
    raw[0].pop(("<s>",))
    counts = []
    for n in range(1, order + 1):
        if n == order:
            counts.append(raw[n - 1])
            continue
        before = defaultdict(set)
        for gram in raw[n]:
            before[gram[1:]].add(gram[0])
        counts.append({g: raw[n - 1][g] if g[0] == "<s>" else len(before[g]) for g in raw[n - 1]})
    discounts = []
    for count in counts:
        n1, n2, n3, n4 = (sum(c == k for c in count.values()) for k in (1, 2, 3, 4))
        found = [0.5, 1.0, 1.5]
        if min(n1, n2, n3):
            y = n1 / (n1 + 2 * n2)
            exact = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            found = exact if min(exact) > 0 else found
        discounts.append(found)

    def probability(word, history):
        history = tuple(history)[max(0, len(history) - order + 1) :]
        count, discount = counts[len(history)], discounts[len(history)]
        after = {g[-1]: c for g, c in count.items() if g[:-1] == history}
        total = sum(after.values())
        if not total:
            return probability(word, history[1:])
        shorter = 1 / VOCAB if not history else probability(word, history[1:])
        taken = sum(discount[min(c, 3) - 1] for c in after.values())
        own = max(after[word] - discount[min(after[word], 3) - 1], 0) if word in after else 0
        return own / total + taken / total * shorter

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [3, 200])
def test_every_probability_is_that_of_the_textbook_and_they_sum_to_one(order, count, capsys):
    text = sentences(count)
    model = NgramModel(kneser_ney.estimate(text, order, VOCAB))
    wanted = textbook(text, order)
    for length in range(order + 1):
        for history in itertools.product(range(1, VOCAB), repeat=length):
            scores, state = model.start(1, CPU)
            for token in history:
                scores, state = model.step(torch.tensor([token]), state)
            probs = scores[0, 1:].double().exp()
            assert float(probs.sum()) == pytest.approx(1, abs=1e-5)
            expected = [wanted(w, ("<s>", *history)) for w in [*range(1, VOCAB), "</s>"]]
            assert probs.tolist() == pytest.approx(expected, rel=1e-4)
            assert float(scores[0, 0]) == 0.0


def test_an_unseen_token_has_a_probability():
    model = NgramModel(kneser_ney.estimate([[1, 2], [2, 1]], 3, 5))
    scores, _ = model.start(1, CPU)
    assert -10 < float(scores[0, 4]) < float(scores[0, 1])


def test_too_little_text_for_the_discounts_is_told_and_enough_is_not(capsys):
    kneser_ney.estimate([[1, 2], [2, 1]], 2, VOCAB)
    err = capsys.readouterr().err
    assert "the discounts of order 1, 2; 0.5, 1, 1.5 are taken" in err and err.count("\n") == 1
    rng = np.random.default_rng(0)
    words = np.minimum(rng.zipf(1.3, size=(2000, 6)), 199).tolist()
    kneser_ney.estimate(words, 2, 200)
    assert capsys.readouterr().err == ""


def test_text_without_a_token_is_refused():
    with pytest.raises(UserError, match="every sentence is empty"):
        kneser_ney.estimate([[], []], 2, VOCAB)


def test_an_order_longer_than_any_sentence_adds_nothing():
    three, nine = (NgramModel(kneser_ney.estimate([[1], [2], [1]], n, VOCAB)) for n in (3, 9))
    assert three.start(1, CPU)[0][0].tolist() == pytest.approx(nine.start(1, CPU)[0][0].tolist())
