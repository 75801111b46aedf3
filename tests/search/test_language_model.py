"""Fusion in every search: against all sequences there are, weight 0 against no language model, a batch against one."""

from __future__ import annotations

import itertools

import pytest
import test_ctc_prefix as ctc
import test_joint_beam as joint
import test_transducer_searches as transducer
import torch

from asrtts.lm import kneser_ney
from asrtts.search.attention_beam import attention_beam
from asrtts.search.ctc_prefix import ctc_prefix_beam
from asrtts.search.joint_beam import joint_beam
from asrtts.search.language_model import Fusion
from asrtts.search.ngram import NgramModel
from asrtts.search.transducer_beam import transducer_beam
from asrtts.search.transducer_greedy import transducer_greedy

torch.set_num_threads(1)
CPU = torch.device("cpu")


def ngram(vocab: int, order: int = 3, seed: int = 0) -> NgramModel:
    rows = torch.randint(1, vocab, (30, 6), generator=torch.Generator().manual_seed(seed)).tolist()
    return NgramModel(kneser_ney.estimate([row[: 1 + i % 6] for i, row in enumerate(rows)], order, vocab))


def said(model: NgramModel, tokens) -> float:
    """Log-probability of a whole sentence, its end included."""
    total, (scores, state) = 0.0, model.start(1, CPU)
    for token in tokens:
        total += float(scores[0, token])
        scores, state = model.step(torch.tensor([token]), state)
    return total + float(scores[0, -1])


def fusion(vocab: int, weight: float = 0.7, bonus: float = 0.0, lodr: float = 0.0) -> Fusion:
    low = [(ngram(vocab, 2, 1), -lodr)] if lodr else []
    return Fusion(vocab, [(ngram(vocab), weight), *low], bonus)


def added(lm: Fusion, tokens) -> float:
    """What fusion adds to a whole hypothesis, from the models alone."""
    return sum(weight * said(model, tokens) for model, weight in lm.models) + float(lm.bonus[1]) * len(tokens)


FUSIONS = [{}, {"weight": 2.0}, {"bonus": 1.5}, {"lodr": 0.4}, {"weight": 1.0, "bonus": -0.5, "lodr": 0.6}]


@pytest.mark.parametrize("given", FUSIONS)
def test_a_wide_prefix_beam_finds_the_best_fused_scores_of_all_sequences(given):
    lm, log_probs = fusion(4, **given), ctc.random_posteriors(1, 5, 4)
    [found] = ctc_prefix_beam(log_probs, torch.tensor([5]), beam=2000, nbest=8, lm=lm)
    every = ctc.all_sequences(log_probs[0])
    expected = sorted(((score + added(lm, y), y) for score, y in every), reverse=True)[:8]
    assert [tuple(h.tokens) for h in found] == [y for _, y in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


@pytest.mark.parametrize("beam", [1, 3, 10])
def test_weight_zero_gives_the_same_bits_as_no_language_model(beam):
    log_probs, lens = ctc.random_posteriors(3, 40, 8, sharp=1.0), torch.tensor([40, 0, 23])
    with_zero = ctc_prefix_beam(log_probs, lens, beam, beam, lm=fusion(8, weight=0.0))
    assert with_zero == ctc_prefix_beam(log_probs, lens, beam, beam)


def test_a_narrow_fused_prefix_beam_of_a_batch_is_that_of_each_alone():
    lm, log_probs, lens = fusion(6, bonus=0.3), ctc.random_posteriors(3, 20, 6, sharp=1.0), torch.tensor([20, 0, 11])
    together = ctc_prefix_beam(log_probs, lens, 4, 4, lm=lm)
    for b, n in enumerate(lens.tolist()):
        assert together[b] == ctc_prefix_beam(log_probs[b : b + 1, :n], lens[b : b + 1], 4, 4, lm=lm)[0]


@pytest.mark.parametrize("given", FUSIONS)
def test_a_wide_transducer_beam_finds_the_best_fused_scores_of_all_sequences(given):
    model, lm = transducer.Model(3, 1, sharpness=1.0), fusion(3, **given)
    enc, lens = transducer.frames([4, 2, 0])
    found = transducer_beam(
        enc, lens, model.predict, model.join, model.start(3), beam=64, nbest=40, max_symbols_per_frame=1, lm=lm
    )
    for b, entries in enumerate(found):
        every = [list(y) for n in range(lens[b] + 1) for y in itertools.product([1, 2], repeat=n)]
        scored = ((model.log_prob(enc[b, : lens[b]], y) if lens[b] else 0.0, y) for y in every)
        wanted = sorted(((score + added(lm, y), y) for score, y in scored), reverse=True)
        assert [e.tokens for e in entries] == [y for _, y in wanted]
        assert [e.score for e in entries] == pytest.approx([score for score, _ in wanted], abs=1e-4)
        assert all(0 < c <= 1 for e in entries for c in e.confidences)


def test_fused_greedy_transducer_search_is_that_of_one_step_at_a_time():
    model, lm = transducer.Model(4, 2), fusion(4, weight=1.5, bonus=0.8)
    enc, lens = transducer.frames([40, 17, 1, 8, 0])
    found = transducer_greedy(enc, lens, model.predict, model.join, model.start(5), lm=lm)
    for b, (best,) in enumerate(found):
        tokens, score = [], 0.0
        pred, state = model.predict(torch.tensor([0]), model.start(1))
        ahead, told = lm.start(1, CPU)
        for frame in enc[b, : lens[b]]:
            for spoken in range(6):
                fused = model.join(frame[None], pred)[0].log_softmax(-1) + ahead[0, :-1]
                token = int(fused.argmax()) if spoken < 5 else 0
                score += float(fused[token])
                if token == 0:
                    break
                tokens.append(token)
                pred, state = model.predict(torch.tensor([token]), state)
                ahead, told = lm.step(torch.tensor([token]), told)
        assert best.tokens == tokens
        assert best.score == pytest.approx(score + float(ahead[0, -1]), abs=1e-3)


@pytest.mark.parametrize("search", [transducer_greedy, transducer_beam])
def test_weight_zero_changes_no_bit_of_a_transducer_search(search):
    model = transducer.Model(6, 3, silence=2.0)
    given = (*transducer.frames([12, 7, 0]), model.predict, model.join, model.start(3))
    assert search(*given, lm=fusion(6, weight=0.0)) == search(*given)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_fused_transducer_beam_of_a_batch_is_that_of_each_alone(beam):
    model, lm = transducer.Model(6, 2, silence=3.0), fusion(6, bonus=0.4, lodr=0.3)
    enc, lens = transducer.frames([15, 4, 9])
    together = transducer_beam(enc, lens, model.predict, model.join, model.start(3), beam=beam, nbest=beam, lm=lm)
    for b, entries in enumerate(together):
        one = enc[b : b + 1, : lens[b]], lens[b : b + 1], model.predict, model.join, model.start(1)
        [alone] = transducer_beam(*one, beam=beam, nbest=beam, lm=lm)
        assert [(e.tokens, e.frames) for e in entries] == [(e.tokens, e.frames) for e in alone]
        assert [e.score for e in entries] == pytest.approx([e.score for e in alone], abs=1e-4)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.4])
@pytest.mark.parametrize("given", FUSIONS)
def test_a_wide_attention_beam_finds_the_best_fused_scores_of_all_sequences(given, ctc_weight):
    head, enc, lens, posteriors = joint.tiny(0)
    lm = fusion(joint.VOCAB, **given)
    for b, n in enumerate(lens.tolist()):
        every = joint.exhaustive(head, enc[b, :n], posteriors[b, :n], ctc_weight, 0.2)
        expected = sorted(((score + added(lm, y), y) for score, y in every), reverse=True)[:5]
        one = enc[b : b + 1], lens[b : b + 1]
        [found] = head.search(*one, 100, 5, 0.2, posteriors[b : b + 1], ctc_weight, lm)
        assert [h.tokens for h in found] == [y for _, y in expected]
        assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


@pytest.mark.parametrize("search", ["attention", "joint"])
def test_weight_zero_changes_no_bit_of_an_attention_search_and_a_batch_is_that_of_each(search):
    head, _, _, _ = joint.tiny(0, vocab=12)
    torch.manual_seed(5)
    enc, lens = torch.randn(4, 15, 4), torch.tensor([15, 3, 9, 12])
    posteriors = (2 * torch.randn(4, 15, 12)).log_softmax(-1)

    def found(rows, lm):
        decoder, n = head.decoder.start(enc[rows], lens[rows]), lens[rows]
        if search == "attention":
            return attention_beam(decoder, n, 12, 4, 4, lm=lm)
        return joint_beam(decoder, posteriors[rows], n, 12, 4, 4, lm=lm)

    assert found(slice(0, 4), fusion(12, weight=0.0)) == found(slice(0, 4), None)
    lm = fusion(12, weight=0.5, lodr=0.2)
    for b, entries in enumerate(found(slice(0, 4), lm)):
        [alone] = found(slice(b, b + 1), lm)
        assert [h.tokens for h in entries] == [h.tokens for h in alone]
        assert [h.score for h in entries] == pytest.approx([h.score for h in alone], abs=1e-4)


def test_models_are_asked_for_new_prefixes_alone():
    lm, asked = fusion(5), []
    step = lm.step
    lm.step = lambda tokens, state: asked.append(len(tokens)) or step(tokens, state)
    sure = torch.full((1, 50, 5), -20.0)
    sure[0, :, 0] = 0.0
    sure[0, [10, 30], 0], sure[0, 10, 2], sure[0, 30, 3] = -20.0, 0.0, 0.0
    [[best]] = ctc_prefix_beam(sure.log_softmax(-1), torch.tensor([50]), beam=2, lm=lm)
    assert best.tokens == [2, 3] and sum(asked) < 50


def test_fusion_is_the_weighted_sum_and_its_states_can_be_reordered():
    lm = fusion(5, weight=0.5, bonus=0.2, lodr=0.3)
    ahead, state = lm.start(3, CPU)
    history = [[1, 2, 3], [4, 4, 1], [2, 1, 1]]
    for step in range(3):
        ahead, state = lm.step(torch.tensor([row[step] for row in history]), state)
    for row, expected in zip(ahead, history, strict=True):
        for token in range(1, 5):
            grown = added(lm, [*expected, token]) - added(lm, expected)
            ends = sum(w * (said(m, [*expected, token]) - said(m, expected)) for m, w in lm.models)
            assert grown == pytest.approx(ends + 0.2, abs=1e-4)
        assert float(row[0]) == 0.0
    swapped, _ = lm.step(torch.tensor([3, 3]), tuple(x[[2, 0]] for x in state))
    one, _ = lm.step(torch.tensor([3]), tuple(x[[2]] for x in state))
    assert torch.equal(swapped[0], one[0])
    assert list(itertools.chain(swapped.shape)) == [2, 6]
