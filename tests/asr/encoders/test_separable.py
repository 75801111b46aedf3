"""Promises of the separable convolutional encoder."""

from __future__ import annotations

import pytest
import torch

from asrtts.asr.encoders.separable import Config, Encoder, out_lens


def small(**settings) -> Encoder:
    torch.manual_seed(0)
    sizes = {"dim": 16, "blocks": 2, "repeats": 2, "kernel": 5, "dropout": 0}
    encoder = Encoder(Config(**(sizes | settings)), feat_dim=20)
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2)
            elif "running_mean" in name or name.endswith("norm.bias"):
                value.normal_(0, 0.3)
    return encoder


@pytest.mark.parametrize("excite", [True, False])
def test_batch_of_one_equals_batch_of_many(excite):
    encoder = small(squeeze_excite=excite).eval()
    lens = torch.tensor([61, 40, 23, 1])
    feats = torch.randn(4, 61, 20)
    with torch.no_grad():
        enc, enc_lens = encoder(feats, lens)
        for row, frames in enumerate(lens.tolist()):
            alone, alone_len = encoder(feats[row : row + 1, :frames], lens[row : row + 1])
            assert alone_len[0] == enc_lens[row] == alone.shape[1] == out_lens(encoder.config, frames)
            torch.testing.assert_close(enc[row, : alone_len[0]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("excite", [True, False])
def test_padding_changes_neither_statistics_nor_gradient(excite):
    lens = torch.tensor([50, 33])
    feats = torch.randn(2, 50, 20)
    padded = torch.nn.functional.pad(feats, (0, 0, 0, 17), value=9.0)
    padded[1, 33:] = -7.0
    found = []
    for batch in (feats, padded):
        encoder = small(squeeze_excite=excite).train()
        enc, enc_lens = encoder(batch, lens)
        real = torch.cat([enc[row, :frames] for row, frames in enumerate(enc_lens)])
        (real * torch.linspace(-1, 1, real.numel()).view_as(real)).sum().backward()
        found.append([*(p.grad for p in encoder.parameters()), *encoder.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_folded_norm_equals_the_norm():
    """After training the norm is part of the product; it must be what training's last statistics say."""
    encoder = small().eval()
    normed = encoder.first.pointwise
    x, valid = torch.randn(2, 6, 20), torch.ones(2, 6, dtype=torch.bool)
    torch.testing.assert_close(normed(x, valid), normed.norm(normed.linear(x), valid), atol=1e-5, rtol=1e-4)


def test_every_block_gives_its_output():
    layers: list = []
    with torch.no_grad():
        enc, _ = small().eval()(torch.randn(1, 40, 20), torch.tensor([40]), layers)
    assert len(layers) == 2 and torch.equal(layers[-1], enc)


def test_empty_utterance_is_named():
    with pytest.raises(ValueError, match="row 1 of the batch: 0 feature frames"):
        small()(torch.randn(2, 30, 20), torch.tensor([30, 0]))


def test_default_size_is_for_a_board():
    size = sum(p.numel() for p in Encoder(Config(), 80).parameters())
    assert 1e6 < size < 4e6
