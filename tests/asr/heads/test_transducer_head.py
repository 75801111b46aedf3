"""The Transducer head: what it learns it says, whatever the batch around it."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from asrtts.asr.heads.transducer import Config, Head
from asrtts.registry import UserError

KINDS = ["stateless", "lstm"]


def head(kind: str, seed: int = 0, **settings) -> Head:
    torch.manual_seed(seed)
    small = {"predictor_dim": 24, "joiner_dim": 24, "dropout": 0.0, "embedding_dropout": 0.0}
    return Head(Config(predictor={"kind": kind}, **{**small, **settings}), enc_dim=12, vocab_size=9)


def batch() -> tuple[torch.Tensor, ...]:
    """enc (3, 14, 12), enc_lens, tokens, token_lens; the second utterance says nothing."""
    generator = torch.Generator().manual_seed(3)
    enc = torch.randn(3, 14, 12, generator=generator)
    tokens = torch.randint(1, 9, (3, 5), generator=generator)
    return enc, torch.tensor([14, 9, 6]), tokens, torch.tensor([5, 0, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_says_what_it_learned(kind):
    model, (enc, enc_lens, tokens, token_lens) = head(kind), batch()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = None
    for _ in range(150):
        loss = model.loss(enc, enc_lens, tokens, token_lens)["loss"]
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * first
    with torch.no_grad():
        for method in ("greedy", "beam"):
            found = model.eval().search(enc, enc_lens, method=method, beam=20)
            assert [best[0].tokens for best in found] == [
                t[:n].tolist() for t, n in zip(tokens, token_lens, strict=True)
            ]
        losses = [model.loss(*(x[b : b + 1] for x in batch()))["loss"].item() for b in range(3)]
        assert [-best[0].score for best in found] == pytest.approx(losses, abs=0.01)


def test_pruned_it_says_what_it_learned_too():
    """With windows that hide most of the lattice, and a warm-up."""
    model, case = head("stateless", prune={"range": 2, "simple_weight": 0.5, "warmup_batches": 20}), batch()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(*case)["loss"].backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    found = model.eval().search(*case[:2])
    assert [best[0].tokens for best in found] == [t[:n].tolist() for t, n in zip(*case[2:], strict=True)]


def test_pruned_with_a_range_of_all_tokens_it_is_the_exact_loss_and_the_simple_one():
    model, case = head("stateless", prune={"range": 6, "simple_weight": 0.25, "warmup_batches": 0}), batch()
    parts = model.loss(*case)
    assert torch.equal(parts["pruned"], head("stateless").loss(*case)["loss"].detach())  # the same starting weights
    torch.testing.assert_close(parts["loss"], 0.25 * parts["simple"] + parts["pruned"])
    assert torch.equal(model.eval().loss(*case)["loss"], parts["pruned"])


def test_pruning_warms_up_and_remembers_how_far_it_is():
    model, case = head("stateless", prune={"warmup_batches": 4}), batch()
    weights = [(1.0, 0.1), (0.875, 0.325), (0.75, 0.55), (0.625, 0.775), (0.5, 1.0), (0.5, 1.0)]
    for number, (simple, pruned) in enumerate(weights):
        parts = model.loss(*case)
        torch.testing.assert_close(parts["loss"], simple * parts["simple"] + pruned * parts["pruned"])
        if number == 2:
            state = model.state_dict()
            model = head("stateless", prune={"warmup_batches": 4}, seed=1)
            model.load_state_dict(state)
        model.eval().loss(*case)  # validation does not count
        model.train()


def test_pruning_needs_the_native_loss():
    with pytest.raises(ValidationError, match="prune works with loss_backend: native alone, not with warp_rnnt"):
        Config(prune={}, loss_backend="warp_rnnt")


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_loss(kind):
    model, (enc, enc_lens, tokens, token_lens) = head(kind), batch()
    alone = [
        model.loss(enc[b : b + 1, : enc_lens[b]], enc_lens[b : b + 1], tokens[b : b + 1], token_lens[b : b + 1])["loss"]
        for b in range(3)
    ]
    padded = torch.nn.functional.pad(enc, (0, 0, 0, 7), value=9.0), torch.nn.functional.pad(tokens, (0, 4), value=3)
    together = model.loss(padded[0], enc_lens, padded[1], token_lens)["loss"]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_a_stepped_predictor_equals_the_whole():
    for kind in KINDS:
        predictor = head(kind).predictor
        tokens = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])
        state, outs = predictor.start(2, tokens.device), []
        for u in range(6):
            out, state = predictor.step(tokens[:, u - 1] if u else torch.zeros(2, dtype=torch.int64), state)
            outs.append(out)
        torch.testing.assert_close(torch.stack(outs, dim=1), predictor(tokens))


def test_an_utterance_without_frames_counts_as_zero_and_spoils_nothing():
    model, (enc, enc_lens, tokens, token_lens) = head("stateless"), batch()
    short = enc_lens.index_fill(0, torch.tensor([2]), 0)
    loss = model.loss(enc, short, tokens, token_lens)["loss"]
    kept = model.loss(enc[:2], enc_lens[:2], tokens[:2], token_lens[:2])["loss"]
    torch.testing.assert_close(loss, kept * 2 / 3)
    nothing = model.loss(enc, torch.zeros_like(enc_lens), tokens, token_lens)["loss"]
    nothing.backward()
    assert nothing.item() == 0.0


def test_bfloat16_autocast_learns_in_float32():
    model, case = head("stateless"), batch()
    exact = model.loss(*case)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*case)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0.0)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_exported_parts_step_like_the_head():
    for kind in KINDS:
        model = head(kind).eval()
        (predictor, (token, *state)), (joiner, _) = model.parts()["predictor"], model.parts()["joiner"]
        frame = torch.randn(1, 12)
        pred, *_ = predictor(token, *state)
        wanted = model._join(model.from_encoder(frame), model.from_predictor(model.predictor(token[None, :0]))[:, 0])
        torch.testing.assert_close(joiner(frame, pred), wanted)


def test_settings_refuse_an_unknown_predictor_or_loss():
    for wrong in ({"predictor": {"kind": "gru"}}, {"loss_backend": "warp"}):
        with pytest.raises(ValidationError):
            Config(**wrong)


def test_a_missing_back_end_is_named_before_the_first_batch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "warp_rnnt", None)
    model = head("stateless", loss_backend="warp_rnnt")
    model.eval().search(*batch()[:2])  # decoding needs no loss
    with pytest.raises(UserError, match="install_warp_rnnt.sh"):
        model.refuse_untrainable(3, torch.device("cpu"))
