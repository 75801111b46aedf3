"""The CTC head: its loss against all paths counted out, padding, impossible utterances, its options."""

from __future__ import annotations

import itertools

import pytest
import torch

from asrtts.asr.heads.ctc import Config, Head
from asrtts.config import build
from asrtts.losses.ctc_consistency import consistency
from asrtts.losses.ctc_lengths import needed_frames
from asrtts.registry import UserError

torch.set_num_threads(1)


def batch(n=3, frames=9, dim=6, vocab=5, most=3, seed=0):
    torch.manual_seed(seed)
    enc = torch.randn(n, frames, dim)
    enc_lens = torch.tensor([frames, frames - 2, frames - 1][:n])
    tokens = torch.randint(1, vocab, (n, most))
    token_lens = torch.tensor([most, most - 1, most - 2][:n])
    return enc, enc_lens, tokens, token_lens


def head(**settings):
    torch.manual_seed(1)
    return Head(Config(**{"dropout": 0.0, **settings}), 6, 5)


def collapse(path):
    return [k for k, _ in itertools.groupby(path) if k != 0]


def test_loss_is_minus_log_of_the_sum_over_all_paths():
    enc, _, tokens, token_lens = batch(frames=5)
    enc_lens = torch.tensor([5, 4, 3])
    model = head()
    probs = model.log_probs(enc).double().exp()
    expected = []
    for b in range(3):
        n, wanted = int(enc_lens[b]), tokens[b, : token_lens[b]].tolist()
        total = sum(
            torch.stack([probs[b, t, k] for t, k in enumerate(path)]).prod()
            for path in itertools.product(range(5), repeat=n)
            if collapse(path) == wanted
        )
        expected.append(-torch.log(total))
    loss = model.loss(enc, enc_lens, tokens, token_lens)["loss"]
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)


def test_padding_does_not_change_loss_or_gradient():
    enc, enc_lens, tokens, token_lens = batch()
    model = head()
    whole = model.loss(enc, enc_lens, tokens, token_lens)["loss"]
    whole.backward()
    together, model.projection.weight.grad = model.projection.weight.grad.clone(), None
    alone = 0.0
    for b in range(3):
        t, u = enc_lens[b], token_lens[b]
        one = model.loss(enc[b : b + 1, :t], enc_lens[b : b + 1], tokens[b : b + 1, :u], token_lens[b : b + 1])["loss"]
        (one / 3).backward()
        alone += one.item() / 3
    assert whole.item() == pytest.approx(alone, rel=1e-6)
    torch.testing.assert_close(together, model.projection.weight.grad, rtol=1e-5, atol=1e-6)


def test_an_impossible_utterance_is_counted_and_leaves_no_gradient():
    enc, _, tokens, token_lens = batch()
    tokens[1] = 2  # 2 2 needs three frames
    enc.requires_grad_()
    enc_lens = torch.tensor([9, 2, 8])
    out = head(consistency=0.0).loss(enc, enc_lens, tokens, token_lens)
    out["loss"].backward()
    assert out["skipped"] == 1
    assert torch.isfinite(out["loss"]) and torch.isfinite(enc.grad).all()
    assert enc.grad[1].abs().sum() == 0 and enc.grad[0].abs().sum() > 0


def test_a_batch_without_a_token_has_the_loss_of_nothing_but_blanks():
    enc, model = torch.randn(2, 4, 6), head()
    found = model.loss(enc, torch.tensor([4, 3]), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]))
    blanks = model.log_probs(enc)[:, :, 0]
    assert found["loss"].item() == pytest.approx(-(blanks[0].sum() + blanks[1, :3].sum()).item() / 2, rel=1e-5)
    found["loss"].backward()


def test_needed_frames_counts_a_blank_between_equal_neighbours_inside_the_length():
    tokens = torch.tensor([[2, 2, 2], [2, 3, 3], [4, 0, 0]])
    assert needed_frames(tokens, torch.tensor([3, 2, 1])).tolist() == [5, 2, 1]


def test_inter_ctc_mixes_the_losses_of_the_listed_blocks():
    enc, *rest = batch()
    layers = [torch.randn_like(enc) for _ in range(3)] + [enc]
    plain = head()
    inner = [plain.loss(layers[n - 1], *rest)["loss"] for n in (1, 3)]
    mixed = head(inter_layers=[1, 3], inter_weight=0.3).loss(enc, *rest, layers)
    expected = 0.7 * plain.loss(enc, *rest)["loss"] + 0.3 * sum(inner) / 2
    assert mixed["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert head(inter_layers=[1]).wants_layers and not plain.wants_layers


def test_an_inner_block_that_the_encoder_lacks_is_refused():
    for layers in ([], [3]):
        head(inter_layers=layers).refuse_untrainable(3, torch.device("cpu"))
    with pytest.raises(UserError, match=r"inter_layers: \[4\], but the encoder has 3 blocks"):
        head(inter_layers=[4]).refuse_untrainable(3, torch.device("cpu"))
    with pytest.raises(UserError, match="inter_layers"):
        build(Config, {"inter_layers": [0]}, "ctc.yaml")


def test_consistency_is_zero_for_equal_views_and_the_symmetric_divergence_otherwise():
    enc, enc_lens, tokens, token_lens = batch()
    twice = [torch.cat([x, x]) for x in (enc_lens, tokens, token_lens)]
    model = head(consistency=0.2)
    assert model.views == 2 and head().views == 1
    assert model.loss(torch.cat([enc, enc]), *twice)["consistency"].item() == pytest.approx(0, abs=1e-6)
    other = torch.randn_like(enc)
    out = model.loss(torch.cat([enc, other]), *twice)
    p, q = model.log_probs(enc), model.log_probs(other)
    valid = torch.arange(9) < enc_lens[:, None]
    both = ((p.exp() * (p - q)).sum(-1) + (q.exp() * (q - p)).sum(-1)) * valid
    assert out["consistency"].item() == pytest.approx(both.sum(-1).mean().item() / 2, rel=1e-5)
    assert out["loss"].item() == pytest.approx((out["ctc"] + 0.2 * out["consistency"]).item(), rel=1e-6)
    assert "consistency" not in model.eval().loss(enc, enc_lens, tokens, token_lens)


def test_consistency_pulls_each_view_to_the_other_one_held_still():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, requires_grad=True)
    log_probs = logits.log_softmax(-1)
    consistency(log_probs, torch.tensor([4, 3])).sum().backward()
    # d KL(sg(q) || softmax(z)) / dz = softmax(z) - q, and nothing through q
    expected = log_probs.exp() - log_probs.exp().flip(0)
    expected[1, 3] = 0  # padding of the second view; the first one is valid there
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-5, atol=1e-6)


def test_bf16_autocast_keeps_the_loss_in_float32():
    enc, *rest = batch()
    model = head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model.loss(enc, *rest)["loss"]
    assert out.dtype == torch.float32
    assert out.item() == pytest.approx(model.loss(enc, *rest)["loss"].item(), rel=0.02)


def test_loss_falls_when_the_answer_is_put_in_and_greedy_reads_it_back():
    enc, enc_lens, tokens, token_lens = batch()
    tokens = torch.tensor([[1, 2, 2], [3, 4, 0], [2, 0, 0]])
    model = Head(Config(dropout=0.0), 6, 5)
    optimizer = torch.optim.Adam([*model.parameters(), enc.requires_grad_()], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(enc, enc_lens, tokens, token_lens)["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    found = [nbest[0].tokens for nbest in model.eval().search(enc, enc_lens)]
    assert found == [[1, 2, 2], [3, 4], [2]]
    assert found == [nbest[0].tokens for nbest in model.search(enc, enc_lens, "prefix_beam", beam=5, nbest=2)]


def test_exported_part_gives_the_log_probs_of_the_head():
    enc, *_ = batch()
    model = head(dropout=0.5).eval()
    module, example = model.parts()["ctc"]
    torch.testing.assert_close(module(enc), model.log_probs(enc))
    assert module(*example).shape == (1, 16, 5)


def test_a_misspelled_setting_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="consistency"):
        build(Config, {"consistancy": 0.2}, "ctc.yaml")
