"""The attention head: its loss counted by hand, padding, causality, the step by step decoder against the whole one."""

from __future__ import annotations

import pytest
import torch

from asrtts.asr.heads.attention import Config, Head
from asrtts.registry import UserError

torch.set_num_threads(1)


def batch(n=3, frames=9, dim=8, vocab=5, most=4, seed=0):
    torch.manual_seed(seed)
    enc_lens = torch.tensor([frames, frames - 3, frames - 1][:n])
    token_lens = torch.tensor([most, most - 1, most - 3][:n])
    return torch.randn(n, frames, dim), enc_lens, torch.randint(1, vocab, (n, most)), token_lens


def head(vocab=5, **settings):
    torch.manual_seed(1)
    small = {"dropout": 0.0, "layers": 2, "attention_heads": 2, "feedforward": 16}
    return Head(Config(**{**small, **settings}), 8, vocab)


def test_loss_is_the_sum_over_tokens_and_eos_and_the_mean_over_utterances():
    enc, enc_lens, tokens, token_lens = batch()
    model = head(label_smoothing=0.0)
    expected = 0.0
    for b in range(3):
        answer = [*tokens[b, : token_lens[b]].tolist(), 5]
        given = torch.tensor([[5, *answer[:-1]]])
        log_probs = model.decoder(given, enc[b : b + 1, : enc_lens[b]], enc_lens[b : b + 1]).log_softmax(-1)
        expected -= sum(log_probs[0, u, k] for u, k in enumerate(answer)) / 3
    loss = model.loss(enc, enc_lens, tokens, token_lens)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_spreads_its_share_evenly_over_all_ids():
    enc, enc_lens, tokens, token_lens = (x[:1] for x in batch())
    model = head(label_smoothing=0.2)
    given, answer = torch.tensor([[5, *tokens[0].tolist()]]), torch.tensor([*tokens[0].tolist(), 5])
    log_probs = model.decoder(given, enc, enc_lens)[0].log_softmax(-1)
    wanted = torch.full_like(log_probs, 0.2 / 6).scatter_add(1, answer[:, None], torch.full((5, 1), 0.8))
    loss = model.loss(enc, enc_lens, tokens, token_lens)["loss"]
    assert loss.item() == pytest.approx(-(wanted * log_probs).sum().item(), rel=1e-5)


def test_accuracy_counts_real_tokens_and_eos_only():
    enc, enc_lens, tokens, token_lens = batch()
    model = head()
    model.decoder.output.weight.data.zero_()
    model.decoder.output.bias.data = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 9.0])  # says eos always
    assert model.loss(enc, enc_lens, tokens, token_lens)["accuracy"].item() == pytest.approx(3 / (4 + 3 + 1 + 3))


def test_padding_does_not_change_loss_or_gradient():
    enc, enc_lens, tokens, token_lens = batch()
    model = head()
    model.loss(enc, enc_lens, tokens, token_lens)["loss"].backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    enc, tokens = enc.clone(), tokens.clone()
    for b in range(3):
        enc[b, enc_lens[b] :] = 100.0
        tokens[b, token_lens[b] :] = 0
    wide, long = torch.cat([enc, enc], 1), torch.cat([tokens, tokens * 0], 1)
    model.loss(wide, enc_lens, long, token_lens)["loss"].backward()
    for grad, p in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-4, atol=1e-6)


def test_an_utterance_without_frames_leaves_the_others_finite():
    enc, _, tokens, token_lens = batch()
    model = head()
    loss = model.loss(enc, torch.tensor([9, 0, 8]), tokens, token_lens)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_token_sees_none_that_come_after_it():
    enc, enc_lens, tokens, _ = batch()
    model = head().eval()
    before = model.decoder(tokens, enc, enc_lens)
    changed = tokens.clone()
    changed[:, 2:] = (changed[:, 2:] + 1) % 5
    after = model.decoder(changed, enc, enc_lens)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_step_by_step_equals_the_whole_sequence_when_hypotheses_are_reordered_and_utterances_leave():
    enc, enc_lens, _, _ = batch()
    model = head().eval()
    histories = [[[5]] for _ in range(3)]
    tokens, parents, alive = torch.full((3, 1), 5), torch.zeros(3, 1, dtype=torch.long), [0, 1, 2]
    torch.manual_seed(3)
    with torch.no_grad():
        state = model.decoder.start(enc, enc_lens)
        for step in range(5):
            found, _ = state.step(tokens, parents)
            for row, b in enumerate(alive):
                for k, history in enumerate(histories[row]):
                    whole = model.decoder(torch.tensor([history]), enc[b : b + 1, : enc_lens[b]], enc_lens[b : b + 1])
                    torch.testing.assert_close(found[row, k], whole[0, -1].log_softmax(-1), rtol=1e-4, atol=1e-5)
            if step == 2:
                state.keep(torch.tensor([0, 2]))
                alive, histories = [0, 2], [histories[0], histories[2]]
            beam = len(histories[0])
            tokens = torch.randint(0, 5, (len(alive), 4))
            parents = torch.randint(0, beam, (len(alive), 4))
            histories = [
                [histories[r][p] + [t] for t, p in zip(tokens[r].tolist(), parents[r].tolist(), strict=True)]
                for r in range(len(alive))
            ]


def test_loss_falls_when_the_answer_is_put_in():
    data = batch()
    model = head(label_smoothing=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        out = model.loss(*data)
        out["loss"].backward()
        optimizer.step()
    assert out["loss"].item() < 0.1
    assert out["accuracy"].item() == 1.0


def test_bf16_autocast_keeps_the_loss_in_float32():
    data = batch()
    model = head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model.loss(*data)["loss"]
    assert out.dtype == torch.float32
    assert out.item() == pytest.approx(model.loss(*data)["loss"].item(), rel=0.03)


def test_token_noise_disturbs_the_input_in_training_only_and_never_the_answer():
    enc, enc_lens, tokens, token_lens = batch()
    noisy, plain = head(token_noise=0.9), head()
    assert noisy.eval().loss(*batch())["loss"] == plain.eval().loss(*batch())["loss"]
    noisy.train()
    assert noisy.loss(*batch())["loss"] != plain.loss(*batch())["loss"]
    torch.manual_seed(0)
    changed = noisy._disturbed(torch.full((50, 40), 3))
    assert changed.min() >= 1 and changed.max() <= 4
    assert (changed != 3).float().mean().item() == pytest.approx(0.9 * 3 / 4, abs=0.05)


def test_tied_embeddings_are_one_parameter():
    tied, free = head(tied=True), head()
    assert tied.decoder.output.weight is tied.decoder.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (free, tied)]
    assert count[0] - count[1] == 6 * 8


def test_exported_part_takes_its_example():
    module, example = head().parts()["attention"]
    assert module(*example).shape == (1, 4, 6)


def test_a_width_that_the_attention_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="width of 8 does not divide into 3"):
        head(attention_heads=3)
