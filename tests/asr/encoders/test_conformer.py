"""Promises of the Conformer encoder."""

from __future__ import annotations

import pytest
import torch

from asrtts.asr.encoders.conformer import Config, Encoder, out_lens


def small(**settings) -> Encoder:
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 2, "attention_heads": 2, "feedforward": 32, "kernel": 7}
    return Encoder(Config(**(sizes | settings)), feat_dim=20)


VARIANTS = [
    {},
    {"subsampling": 6},
    {"conv_norm": "batch_norm"},
    {"positions": "key"},
    {"subsampling_channels": 4},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_batch_of_one_equals_batch_of_many(settings):
    encoder = small(**settings).eval()
    lens = torch.tensor([61, 40, 23])
    feats = torch.randn(3, 61, 20)
    with torch.no_grad():
        enc, enc_lens = encoder(feats, lens)
        for row, frames in enumerate(lens.tolist()):
            alone, alone_len = encoder(feats[row : row + 1, :frames], lens[row : row + 1])
            assert alone_len[0] == enc_lens[row] == alone.shape[1]
            torch.testing.assert_close(enc[row, : alone_len[0]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_padding_changes_neither_result_nor_gradient(settings, bf16):
    """Training mode without dropout: batch norm's statistics, too, are of real frames."""
    encoder = small(**settings, dropout=0, attention_dropout=0, position_dropout=0).train()
    lens = torch.tensor([50, 33])
    feats = torch.randn(2, 50, 20)
    feats[1, 33:] = 0
    padded = torch.nn.functional.pad(feats, (0, 0, 0, 17), value=9.0)
    padded[1, 33:] = -7.0
    found = []
    for batch in (feats, padded):
        encoder.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            enc, enc_lens = encoder(batch, lens)
        real = torch.cat([enc[row, :frames] for row, frames in enumerate(enc_lens)]).float()
        (real * torch.linspace(-1, 1, real.numel()).view_as(real)).sum().backward()
        found.append((real.detach(), [p.grad.clone() for p in encoder.parameters()]))
    close = {"atol": 0.1, "rtol": 0.1} if bf16 else {"atol": 1e-4, "rtol": 1e-3}
    torch.testing.assert_close(found[0][0], found[1][0], **close)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= (0.1 if bf16 else 1e-4) * (one.norm() + 1)


def test_every_parameter_learns():
    encoder = small(layer_drop=0.5).train()
    encoder(torch.randn(4, 50, 20), torch.tensor([50, 50, 50, 40]))[0].pow(3).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("factor", [4, 6])
def test_out_lens_is_what_comes_out(factor):
    encoder = small(subsampling=factor).eval()
    for frames in range(7, 40):
        wanted = out_lens(encoder.config, frames)
        assert wanted == int(out_lens(encoder.config, torch.tensor([frames]))[0])
        if wanted >= 1:
            with torch.no_grad():
                assert encoder(torch.randn(1, frames, 20), torch.tensor([frames]))[0].shape[1] == wanted


def test_utterance_too_short_is_named():
    with pytest.raises(ValueError, match="row 1 of the batch: 6 feature frames"):
        small()(torch.randn(2, 30, 20), torch.tensor([30, 6]))


def test_every_block_gives_its_output():
    layers: list = []
    encoder = small().eval()
    with torch.no_grad():
        enc, _ = encoder(torch.randn(1, 40, 20), torch.tensor([40]), layers)
    assert [layer.shape for layer in layers] == [enc.shape] * 2
    torch.testing.assert_close(encoder.norm(layers[-1]), enc)


def test_same_seed_same_dropout():
    encoder = small(layer_drop=0.3).train()
    feats, lens = torch.randn(2, 50, 20), torch.tensor([50, 40])
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(encoder(feats, lens)[0])
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], encoder(feats, lens)[0])


def test_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim 50 must be even and a multiple of attention_heads 4"):
        Config(dim=50)
