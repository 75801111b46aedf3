"""Transducer searches against what they promise, on random models small enough to search exhaustively."""

from __future__ import annotations

import itertools

import pytest
import torch

from asrtts.losses.rnnt import rnnt_loss
from asrtts.search.transducer_beam import transducer_beam
from asrtts.search.transducer_greedy import transducer_greedy

WIDTH = 5


class Model:
    """Random callables: the predictor remembers everything (a decaying sum), the joiner is linear after tanh."""

    def __init__(self, vocab: int, seed: int, sharpness: float = 2.0, silence: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(vocab, WIDTH, generator=generator)
        self.output = sharpness * torch.randn(WIDTH, vocab, generator=generator)
        self.bias = torch.eye(vocab)[0] * silence  # a trained model says blank most of the time
        self.predicted = 0

    def start(self, count: int) -> tuple[torch.Tensor]:
        return (torch.zeros(count, WIDTH),)

    def predict(self, tokens, state):
        self.predicted += len(tokens)
        (memory,) = state
        memory = 0.7 * memory + self.embedding[tokens]
        return memory.clone(), (memory,)

    def join(self, enc, pred):
        return torch.tanh(enc + pred) @ self.output + self.bias

    def log_prob(self, enc: torch.Tensor, tokens: list[int]) -> float:
        """log P(tokens | enc (T, WIDTH)) by the loss."""
        outs, state = [], self.start(1)
        for token in [0, *tokens]:
            out, state = self.predict(torch.tensor([token]), state)
            outs.append(out[0])
        logits = self.join(enc[:, None], torch.stack(outs)[None])[None]
        lengths = torch.tensor([len(enc)]), torch.tensor([len(tokens)])
        return -float(rnnt_loss(logits, torch.tensor([tokens], dtype=torch.int64).view(1, -1), *lengths))


def frames(lens: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(lens), max(lens), WIDTH, generator=generator), torch.tensor(lens)


def step_by_step(model: Model, enc: torch.Tensor, limit: int) -> tuple[list[int], list[int], float]:
    """Greedy search as the textbook writes it: one utterance, one frame, one token at a time."""
    pred, state = model.predict(torch.tensor([0]), model.start(1))
    tokens, times, score = [], [], 0.0
    for t, frame in enumerate(enc):
        for spoken in range(limit + 1):
            log_probs = model.join(frame[None], pred)[0].log_softmax(-1)
            best = int(log_probs.argmax()) if spoken < limit else 0
            score += float(log_probs[best])
            if best == 0:
                break
            tokens.append(best)
            times.append(t)
            pred, state = model.predict(torch.tensor([best]), state)
    return tokens, times, score


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [1, 3])
def test_greedy_blocks_and_batches_equal_one_step_at_a_time(seed, limit):
    model = Model(4, seed)
    enc, lens = frames([40, 17, 1, 8, 9], seed)
    found = transducer_greedy(enc, lens, model.predict, model.join, model.start(5), max_symbols_per_frame=limit)
    assert any(best.tokens for (best,) in found)
    for b, (best,) in enumerate(found):
        tokens, times, score = step_by_step(model, enc[b, : lens[b]], limit)
        assert (best.tokens, best.frames) == (tokens, times)
        assert best.score == pytest.approx(score, abs=1e-4)
        assert all(0 < c <= 1 for c in best.confidences) and len(best.confidences) == len(tokens)


@pytest.mark.parametrize("search", [transducer_greedy, transducer_beam])
def test_a_model_that_never_says_blank_comes_to_an_end(search):
    model = Model(4, 0)
    model.join = lambda enc, pred: (enc + pred)[..., :1] * 0 + torch.tensor([-50.0, 0.0, 1.0, 0.0])
    enc, lens = frames([6, 3])
    found = search(enc, lens, model.predict, model.join, model.start(2), max_symbols_per_frame=3)
    assert [len(best[0].tokens) for best in found] == [18, 9]


@pytest.mark.parametrize("search", [transducer_greedy, transducer_beam])
def test_an_utterance_without_frames_says_nothing(search):
    model = Model(4, 0)
    enc, _ = frames([6, 3])
    found = search(enc, torch.tensor([6, 0]), model.predict, model.join, model.start(2))
    assert found[1][0].tokens == [] and found[1][0].score == 0.0 and found[0][0].score < 0.0


def test_greedy_steps_the_predictor_once_a_token():
    model = Model(4, 1)
    enc, lens = frames([40, 17, 8])
    found = transducer_greedy(enc, lens, model.predict, model.join, model.start(3))
    assert model.predicted == 3 + sum(len(best.tokens) for (best,) in found)


@pytest.mark.parametrize("seed", range(5))
def test_wide_beam_finds_every_sequence_with_its_exact_probability(seed):
    """Vocabulary of two tokens, at most one a frame: 31 + 7 + 3 sequences, all kept by a beam of 64."""
    model = Model(3, seed, sharpness=1.0)
    enc, lens = frames([4, 2, 1], seed)
    found = transducer_beam(
        enc, lens, model.predict, model.join, model.start(3), beam=64, nbest=40, max_symbols_per_frame=1
    )
    for b, entries in enumerate(found):
        every = [list(y) for n in range(lens[b] + 1) for y in itertools.product([1, 2], repeat=n)]
        wanted = sorted(((model.log_prob(enc[b, : lens[b]], y), y) for y in every), reverse=True)
        assert [e.tokens for e in entries] == [y for _, y in wanted]
        assert [e.score for e in entries] == pytest.approx([score for score, _ in wanted], abs=1e-4)


def test_narrow_beam_never_claims_more_than_the_exact_probability():
    model = Model(6, 3, silence=3.0)
    enc, lens = frames([12, 7])
    greedy = transducer_greedy(enc, lens, model.predict, model.join, model.start(2))
    for beam in (1, 2, 5):
        found = transducer_beam(enc, lens, model.predict, model.join, model.start(2), beam=beam, nbest=beam)
        for b, entries in enumerate(found):
            assert [e.score for e in entries] == sorted((e.score for e in entries), reverse=True)
            assert len({tuple(e.tokens) for e in entries}) == len(entries)
            for entry in entries:
                assert entry.score <= model.log_prob(enc[b, : lens[b]], entry.tokens) + 1e-4
            if beam == 5:
                assert entries[0].score >= greedy[b][0].score - 1e-4


@pytest.mark.parametrize("beam", [1, 4])
def test_beam_of_a_batch_equals_the_beam_of_each(beam):
    model = Model(6, 2, silence=3.0)
    enc, lens = frames([15, 4, 9])
    together = transducer_beam(enc, lens, model.predict, model.join, model.start(3), beam=beam, nbest=3)
    for b, entries in enumerate(together):
        alone = transducer_beam(
            enc[b : b + 1, : lens[b]], lens[b : b + 1], model.predict, model.join, model.start(1), beam=beam, nbest=3
        )[0]
        assert [(e.tokens, e.frames) for e in entries] == [(e.tokens, e.frames) for e in alone]
        assert [e.score for e in entries] == pytest.approx([e.score for e in alone], abs=1e-4)


def test_beam_times_are_those_of_the_strongest_alignment():
    """Frames where token 1, then 2, is nearly certain: the search must give these frames and high confidences."""
    model = Model(3, 0)
    enc = torch.zeros(1, 9, WIDTH)
    enc[0, :, 0], enc[0, 3, 1], enc[0, 6, 2] = 4.0, 9.0, 9.0

    def join(enc, pred):  # each token once: what was said is in pred
        return enc[..., :3] - 20.0 * pred[..., :3]

    def predict(tokens, state):
        said = state[0] + torch.nn.functional.one_hot(tokens, WIDTH).float() * (tokens > 0).float()[:, None]
        return said.clone(), (said,)

    (best,) = transducer_beam(enc, torch.tensor([9]), predict, join, model.start(1))[0]
    assert best.tokens == [1, 2] and best.frames == [3, 6]
    assert min(best.confidences) > 0.9


def test_tokens_longer_than_the_first_buffer_are_kept_whole():
    enc = torch.zeros(1, 30, WIDTH)
    logits = torch.tensor([0.0, 0.0, 0.0, -90.0])

    def join(enc, pred):  # token 1 and blank in turns
        said = pred[..., 3:4]
        return logits + torch.cat([5 * said, 5 - 5 * said, torch.zeros_like(said), torch.zeros_like(said)], -1)

    def predict(tokens, state):
        return torch.nn.functional.one_hot(torch.where(tokens == 0, 0, 3), WIDTH).float(), state

    (best,) = transducer_beam(enc, torch.tensor([30]), predict, join, (torch.zeros(1, 1),), beam=3)[0]
    assert len(best.tokens) == len(best.frames) == len(best.confidences) > 0
    assert all(a <= b for a, b in itertools.pairwise(best.frames))


@pytest.mark.parametrize("search", [transducer_greedy, transducer_beam])
@pytest.mark.parametrize("lens, said", [([2, 5], r"lens\[1\] is 5, wanted 0 to 4"), ([-1, 4], r"lens\[0\] is -1")])
def test_a_length_beyond_the_frames_is_refused(search, lens, said):
    model, (enc, _) = Model(4, 0), frames([4, 4])
    with pytest.raises(ValueError, match=said):
        search(enc, torch.tensor(lens), model.predict, model.join, model.start(2))
