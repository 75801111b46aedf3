"""Foreign Conformer weights give the foreign outputs."""

from __future__ import annotations

import pytest
import torch

from asrtts.asr.encoders.conformer import Config, Encoder
from asrtts.asr.foreign_weights import convert, start_from
from asrtts.nn import weights_file
from asrtts.registry import UserError


def shuffled(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter and statistic away from its starting value, so that none can be forgotten unnoticed."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))
    return module.eval()


def renamed_to_foreign(ours: dict[str, torch.Tensor], channels: int) -> dict[str, torch.Tensor]:
    """Our weights as ESPnet would name them, written down independently of the reader: one block, by hand."""
    q, k, v = ours["blocks.0.attention.qkv.weight"].chunk(3)
    qb, kb, vb = ours["blocks.0.attention.qkv.bias"].chunk(3)
    out = ours["subsample.out.weight"]
    foreign = {
        "encoders.0.self_attn.linear_q.weight": q,
        "encoders.0.self_attn.linear_k.weight": k,
        "encoders.0.self_attn.linear_v.weight": v,
        "encoders.0.self_attn.linear_q.bias": qb,
        "encoders.0.self_attn.linear_k.bias": kb,
        "encoders.0.self_attn.linear_v.bias": vb,
        "encoders.0.self_attn.pos_bias_u": ours["blocks.0.attention.content_bias"],
        "encoders.0.self_attn.pos_bias_v": ours["blocks.0.attention.position_bias"],
        "encoders.0.self_attn.linear_pos.weight": ours["blocks.0.attention.position.weight"],
        "encoders.0.conv_module.pointwise_conv1.weight": ours["blocks.0.conv.gate.weight"].unsqueeze(-1),
        "encoders.0.conv_module.pointwise_conv1.bias": ours["blocks.0.conv.gate.bias"],
        "encoders.0.conv_module.pointwise_conv2.weight": ours["blocks.0.conv.out.weight"].unsqueeze(-1),
        "encoders.0.conv_module.pointwise_conv2.bias": ours["blocks.0.conv.out.bias"],
        "embed.out.0.weight": out.unflatten(1, (-1, channels)).transpose(1, 2).flatten(1),
        "embed.out.0.bias": ours["subsample.out.bias"],
    }
    pairs = {
        "encoders.0.self_attn.linear_out": "blocks.0.attention.out",
        "encoders.0.conv_module.depthwise_conv": "blocks.0.conv.depthwise",
        "encoders.0.conv_module.norm": "blocks.0.conv.norm",
        "encoders.0.feed_forward_macaron.w_1": "blocks.0.feedforward1.widen",
        "encoders.0.feed_forward_macaron.w_2": "blocks.0.feedforward1.narrow",
        "encoders.0.feed_forward.w_1": "blocks.0.feedforward2.widen",
        "encoders.0.feed_forward.w_2": "blocks.0.feedforward2.narrow",
        "encoders.0.norm_ff_macaron": "blocks.0.norm_feedforward1",
        "encoders.0.norm_mha": "blocks.0.norm_attention",
        "encoders.0.norm_conv": "blocks.0.norm_conv",
        "encoders.0.norm_ff": "blocks.0.norm_feedforward2",
        "encoders.0.norm_final": "blocks.0.norm_out",
        "embed.conv.0": "subsample.conv1",
        "embed.conv.2": "subsample.conv2",
        "after_norm": "norm",
    }
    for theirs, mine in pairs.items():
        foreign |= {name.replace(mine, theirs): value for name, value in ours.items() if name.startswith(mine + ".")}
    return foreign


@pytest.mark.parametrize("toolkit", ["espnet", "wenet"])
@pytest.mark.parametrize("settings", [{}, {"conv_norm": "batch_norm", "subsampling": 6}], ids=str)
def test_settings_and_weights_survive_the_foreign_names(toolkit, settings):
    torch.manual_seed(0)
    eps = {"positions": "key", "norm_eps": 1e-5} if toolkit == "wenet" else {"norm_eps": 1e-12}
    config = Config(dim=16, layers=1, attention_heads=2, feedforward=24, kernel=5, **eps, **settings)
    ours = shuffled(Encoder(config, 20)).state_dict()
    foreign = renamed_to_foreign(ours, channels=16)
    whole_model = {f"encoder.{name}": value for name, value in foreign.items()} | {"ctc.weight": torch.ones(1)}
    for weights in (foreign, whole_model):
        found, read = convert(weights, toolkit)
        assert found == config
        assert read.keys() == ours.keys()
        assert all(torch.equal(read[name], ours[name]) for name in ours)


def test_a_parameter_without_a_place_is_named():
    torch.manual_seed(0)
    ours = Encoder(Config(dim=16, layers=1, attention_heads=2, feedforward=24, kernel=5), 20).state_dict()
    foreign = renamed_to_foreign(ours, channels=16)
    with pytest.raises(UserError, match="'encoders.0.adapter.weight' has no place"):
        convert(foreign | {"encoders.0.adapter.weight": torch.ones(1)}, "espnet")
    del foreign["encoders.0.self_attn.pos_bias_u"]
    with pytest.raises(UserError, match=r"no parameter 'encoders\.0\.self_attn\.pos_bias_u'"):
        convert(foreign, "espnet")


@pytest.mark.parametrize("factor", [4, 6])
def test_outputs_equal_espnet(factor):
    theirs = pytest.importorskip("espnet2.asr.encoder.conformer_encoder", reason="ESPnet is not installed")
    encoder = shuffled(
        theirs.ConformerEncoder(
            80,
            output_size=32,
            attention_heads=4,
            linear_units=64,
            num_blocks=2,
            input_layer="conv2d" if factor == 4 else "conv2d6",
            macaron_style=True,
            rel_pos_type="latest",
            pos_enc_layer_type="rel_pos",
            selfattention_layer_type="rel_selfattn",
            use_cnn_module=True,
            cnn_module_kernel=15,
        )
    )
    config, weights = convert(encoder.state_dict(), "espnet")
    ours = Encoder(config, 80).eval()
    ours.load_state_dict(weights)
    feats, lens = torch.randn(2, 93, 80), torch.tensor([93, 93])  # ESPnet's convolution module does not mask padding
    with torch.no_grad():
        expected = encoder(feats, lens)[0]
        enc, _ = ours(feats, lens)
    torch.testing.assert_close(enc, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def espnet_file(tmp_path):
    encoder = shuffled(Encoder(SMALL, 20))
    path = tmp_path / "valid.acc.ave.pth"
    weights = renamed_to_foreign(encoder.state_dict(), SMALL.dim)
    torch.save({f"encoder.{name}": value for name, value in weights.items()}, path)
    return path, encoder


SMALL = Config(
    dim=8, layers=1, attention_heads=2, feedforward=12, kernel=3, conv_norm="batch_norm", norm_eps=1e-12, dropout=0.0
)


def test_an_encoder_starts_from_espnets_file(espnet_file):
    path, there = espnet_file
    ours = Encoder(SMALL, 20).eval()
    start_from(f"espnet:{path}", ours, SMALL)
    feats = torch.randn(2, 40, 20)
    assert torch.equal(ours(feats, torch.tensor([40, 33]))[0], there(feats, torch.tensor([40, 33]))[0])


def wenet_file(tmp_path, **more):
    settings = SMALL.model_copy(update={"positions": "key", "norm_eps": 1e-5})
    encoder = shuffled(Encoder(settings, 20))
    weights = renamed_to_foreign(encoder.state_dict(), SMALL.dim) | more
    torch.save({f"encoder.{name}": value for name, value in weights.items()}, tmp_path / "avg.pt")
    return f"wenet:{tmp_path / 'avg.pt'}", Encoder(settings, 20), settings


def test_what_wenet_normalized_features_with_is_handed_back(tmp_path):
    """`x = (x - mean) * istd`, as wenet/transformer/cmvn.py has it."""
    mean, istd = torch.randn(20) + 10, torch.rand(20) + 0.1
    found = start_from(*wenet_file(tmp_path, **{"global_cmvn.mean": mean, "global_cmvn.istd": istd}))
    feats = torch.randn(3, 20)
    torch.testing.assert_close((feats - found[0]) / found[1], (feats - mean) * istd)
    assert start_from(*wenet_file(tmp_path)) is None


@pytest.mark.parametrize("istd", [torch.zeros(20), torch.ones(19), torch.full((20,), torch.nan)])
def test_a_damaged_normalization_of_wenet_is_one_line(tmp_path, istd):
    with pytest.raises(UserError, match="avg.pt: global_cmvn holds no mean and inverse deviation"):
        start_from(*wenet_file(tmp_path, **{"global_cmvn.mean": torch.zeros(20), "global_cmvn.istd": istd}))


def test_an_encoder_that_heard_the_features_of_espnets_frontend_is_said(espnet_file, capsys):
    path, _ = espnet_file
    start_from(f"espnet:{path}", Encoder(SMALL, 20), SMALL)
    assert capsys.readouterr().err == ""  # its features may have been Kaldi's
    torch.save(torch.load(path, weights_only=True) | {"frontend.logmel.melmat": torch.zeros(257, 20)}, path)
    assert start_from(f"espnet:{path}", Encoder(SMALL, 20), SMALL) is None
    assert "was trained on the features of ESPnet's own frontend" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("toolkit", "key", "value", "message"),
    [
        ("espnet", "dim", 16, "has dim 8, the settings say 16; set encoder.dim"),
        ("espnet", "norm_eps", 1e-5, "has norm_eps 1e-12"),
        ("kaldi", "dim", 8, "write TOOLKIT:FILE"),
        ("asrtts", "dim", 8, "does not fit"),
    ],
)
def test_weights_of_another_shape_are_refused_by_the_setting(espnet_file, toolkit, key, value, message):
    settings = SMALL.model_copy(update={key: value})
    with pytest.raises(UserError, match=message):
        start_from(f"{toolkit}:{espnet_file[0]}", Encoder(settings, 20), settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoders.x.norm_ff.weight", torch.zeros(1)),
        ("after_norm.weight", torch.tensor(1.0)),
        ("after_norm.weight", torch.zeros(15)),
        ("embed.conv.2.weight", torch.zeros(4)),
        ("embed.out.0.weight", torch.zeros(16)),
        ("embed.out.0.weight", torch.zeros(16, 17)),
        ("encoders.0.self_attn.linear_k.weight", torch.zeros(7, 5)),
        (5, torch.zeros(1)),
    ],
)
def test_weights_of_something_else_are_one_line_that_names_the_file(espnet_file, name, value):
    path, encoder = espnet_file
    name = f"encoder.{name}" if isinstance(name, str) else name
    torch.save(torch.load(path, weights_only=True) | {name: value}, path)
    with pytest.raises(UserError, match=f"{path.name}: ") as caught:
        start_from(f"espnet:{path}", encoder, SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"seed: 1\ndata:\n  train: data/train\n", b"hello\n", b"PK\3\4" + bytes(99)])
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"a.pth: damaged, or holds more than tensors \(.") as caught:
        start_from(f"espnet:{tmp_path / 'a.pth'}", torch.nn.Identity(), Config())
    assert "\n" not in str(caught.value)


class Harm:
    def __reduce__(self):
        return (open, ("harm-was-done", "w"))


def test_a_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Harm()}, tmp_path / "avg.pt")
    with pytest.raises(UserError, match="holds more than tensors"):
        start_from(f"wenet:{tmp_path / 'avg.pt'}", Encoder(SMALL, 20), SMALL)
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize("damage", ["bit", "nan"])
def test_damaged_weights_to_begin_with_are_one_line(tmp_path, damage):
    config = Config(name="conformer", dim=16, layers=1, attention_heads=2, feedforward=32, kernel=5)
    encoder, path = Encoder(config, 20), tmp_path / "model.safetensors"
    weights = {f"encoder.{name}": value.clone() for name, value in encoder.state_dict().items()}
    if damage == "nan":
        next(iter(weights.values())).view(-1)[0] = float("nan")
    weights_file.save(path, weights)
    if damage == "bit":
        content = bytearray(path.read_bytes())
        content[-50] ^= 4
        path.write_bytes(content)
    with pytest.raises(UserError, match="damaged|holds NaN or infinity") as error:
        start_from(f"asrtts:{path}", encoder, config)
    assert "\n" not in str(error.value)
