"""Attention and joint beam search against every token sequence there is, batches, padding, the end of the sentence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from asrtts.asr.heads.attention import Config, Head
from asrtts.registry import UserError
from asrtts.search.attention_beam import attention_beam
from asrtts.search.joint_beam import joint_beam

torch.set_num_threads(1)
VOCAB = 3  # blank and two tokens; 3 is the end of the sentence


def tiny(seed, vocab=VOCAB):
    torch.manual_seed(seed)
    head = Head(Config(layers=1, attention_heads=2, feedforward=8, dropout=0.0), 4, vocab).eval()
    head.decoder.output.weight.data *= 5  # far from uniform
    lens = torch.tensor([4, 2, 3])
    enc = torch.randn(3, 4, 4)
    ctc = (2 * torch.randn(3, 4, vocab)).log_softmax(-1)
    return head, enc, lens, ctc


@torch.no_grad()
def exhaustive(head, enc, ctc, weight, bonus):
    """Every sequence of at most T tokens with its joint score, best first."""
    frames, found = len(enc), []
    for count in range(frames + 1):
        tokens = torch.tensor(list(itertools.product(range(1, VOCAB), repeat=count)), dtype=torch.long)
        n, eos = len(tokens), torch.full((len(tokens), 1), head.eos)
        lens, counts = torch.full((n,), frames), torch.full((n,), count)
        log_probs = head.decoder(torch.cat([eos, tokens], 1), enc.expand(n, -1, -1), lens).log_softmax(-1)
        scores = (1 - weight) * log_probs.gather(2, torch.cat([tokens, eos], 1)[:, :, None]).sum((1, 2))
        if weight:
            each = F.ctc_loss(ctc[:, None].expand(-1, n, -1), tokens, lens, counts, reduction="none")
            scores = scores - weight * each
        scores = scores + bonus * (count + 1)
        found += [(s, t) for s, t in zip(scores.tolist(), tokens.tolist(), strict=True) if s > -math.inf]
    return sorted(found, reverse=True)


@pytest.mark.parametrize("weight, bonus", [(0.0, 0.0), (0.3, 0.0), (1.0, 0.0), (0.0, 0.7), (0.5, -0.4), (0.3, 1.5)])
def test_a_wide_beam_finds_what_trying_everything_finds(weight, bonus):
    for seed in range(3):
        head, enc, lens, ctc = tiny(seed)
        for b, n in enumerate(lens.tolist()):
            expected = exhaustive(head, enc[b, :n], ctc[b, :n], weight, bonus)[:5]
            [found] = head.search(enc[b : b + 1], lens[b : b + 1], 100, 5, bonus, ctc[b : b + 1], weight)
            assert [h.tokens for h in found] == [tokens for _, tokens in expected]
            assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_batch_of_many_equals_batch_of_one_and_padding_is_not_read(weight):
    head, enc, _, _ = tiny(0, vocab=12)
    torch.manual_seed(5)
    enc, lens = torch.randn(4, 15, 4), torch.tensor([15, 3, 9, 12])
    ctc = (2 * torch.randn(4, 15, 12)).log_softmax(-1)
    together = head.search(enc, lens, 4, 3, 0.0, ctc, weight)
    for b, n in enumerate(lens.tolist()):
        [alone] = head.search(enc[b : b + 1, :n], lens[b : b + 1], 4, 3, 0.0, ctc[b : b + 1, :n], weight)
        assert [(h.tokens, h.frames) for h in together[b]] == [(h.tokens, h.frames) for h in alone]
        assert [h.score for h in together[b]] == pytest.approx([h.score for h in alone], abs=1e-4)


def test_joint_results_carry_a_rising_frame_and_a_confidence_for_each_token():
    head, enc, lens, ctc = tiny(1)
    for found in head.search(enc, lens, 10, 3, 0.0, lambda _: ctc, 0.5):
        for h in found:
            assert len(h.frames) == len(h.confidences) == len(h.tokens)
            assert h.frames == sorted(set(h.frames))
            assert all(0 <= c <= 1 for c in h.confidences)


class Script:
    """A decoder whose next-token probabilities are a table of the number of tokens so far."""

    def __init__(self, probs):
        self.log_probs, self.steps = torch.tensor(probs).log(), 0

    def step(self, tokens, parents):
        row = self.log_probs[min(self.steps, len(self.log_probs) - 1)]
        self.steps += 1
        return row.expand(*tokens.shape, -1).clone(), torch.full_like(tokens, self.steps)

    def keep(self, utterances):
        pass


class Wish:
    """CTC that wants one token and nothing else."""

    def __init__(self, token):
        self.token, self.so_far = token, torch.zeros(1, 1)

    def candidates(self, options):
        return self.so_far[:, :, None] + torch.where(options == self.token, 0.0, -20.0)

    def advance(self, parents, tokens):
        self.so_far = self.so_far.gather(1, parents)
        self.so_far = self.candidates(tokens[:, :, None])[:, :, 0]

    def keep(self, utterances):
        pass


@pytest.mark.parametrize("weight", [0.5, 1.0])
@pytest.mark.parametrize("token", [3, 4])
def test_ctc_is_asked_of_the_tokens_that_the_decoder_likes_best_unless_it_is_alone(weight, token):
    # beam 2: three tokens are asked of, and token 4 is the decoder's fourth
    script = Script([[0.0, 0.4, 0.3, 0.2, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    [[best]] = attention_beam(script, torch.tensor([1]), eos=5, beam=2, ctc=Wish(token), ctc_weight=weight)
    assert (best.tokens == [token]) is (token == 3 or weight == 1.0)


def test_the_search_stops_when_nothing_that_grows_can_win():
    script = Script([[0.0, 0.9, 0.1, 0.0], [0.0, 0.05, 0.05, 0.9]])
    [[best]] = attention_beam(script, torch.tensor([50]), eos=3, beam=2)
    assert best.tokens == [1] and best.frames == [1]
    assert best.confidences == pytest.approx([0.9])
    assert script.steps == 2  # eos at 0.81; what grows has at most 0.05


def test_an_early_end_outside_the_beam_does_not_end_a_hypothesis():
    # the empty one would win by score (0.04 > 0.9^40) but is never among the two best of its step
    script = Script([[0.0, 0.56, 0.4, 0.04], *[[0.0, 0.9, 0.099, 0.001]] * 39, [0.0, 0.0, 0.0, 1.0]])
    [[best]] = attention_beam(script, torch.tensor([60]), eos=3, beam=2)
    assert best.tokens == [1] * 40


def test_the_longest_length_ends_every_hypothesis():
    script = Script([[0.0, 0.99, 0.01, 1e-6]])
    [[best]] = attention_beam(script, torch.tensor([6]), eos=3, beam=2)
    assert best.tokens == [1] * 6


def test_more_nbest_than_beam_is_refused():
    head, enc, lens, _ = tiny(0)
    with pytest.raises(UserError, match="nbest 5 .* beam 4"):
        head.search(enc, lens, beam=4, nbest=5)


def test_a_length_that_is_none_is_refused():
    head, enc, lens, ctc = tiny(0)
    with pytest.raises(ValueError, match=r"lens\[1\] is -2, wanted 0 or more"):
        attention_beam(head.decoder.start(enc, lens), torch.tensor([4, -2, 3]), head.eos)
    with pytest.raises(ValueError, match=r"lens\[2\] is 5, wanted 0 to 4"):
        joint_beam(head.decoder.start(enc, lens), ctc, torch.tensor([4, 2, 5]), head.eos)
