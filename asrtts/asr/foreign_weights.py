"""Weights to start an encoder from: of another run, or of ESPnet2's and WeNet's Conformers under our names.

What differs: query, key and value are one matrix here; pointwise convolutions are linear layers; the projection after
subsampling reads (frequency, channel), not (channel, frequency). ESPnet (`rel_pos_type: latest`) and the paper score
distances; WeNet leaves the shift out and scores the key's own place. Normalization of the features is not the
encoder's here: what WeNet's `global_cmvn` holds is handed back, as statistics for `data/features`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from asrtts.asr.encoders.conformer import Config
from asrtts.config import Settings, warn
from asrtts.nn import weights_file
from asrtts.registry import UserError, suggestion
from asrtts.storage import refuse_unreadable

Toolkit = Literal["espnet", "wenet"]

_BLOCK = {
    "norm_ff_macaron": "norm_feedforward1",
    "feed_forward_macaron.w_1": "feedforward1.widen",
    "feed_forward_macaron.w_2": "feedforward1.narrow",
    "norm_mha": "norm_attention",
    "self_attn.pos_bias_u": "attention.content_bias",
    "self_attn.pos_bias_v": "attention.position_bias",
    "self_attn.linear_pos": "attention.position",
    "self_attn.linear_out": "attention.out",
    "norm_conv": "norm_conv",
    "conv_module.pointwise_conv1": "conv.gate",
    "conv_module.depthwise_conv": "conv.depthwise",
    "conv_module.norm": "conv.norm",
    "conv_module.pointwise_conv2": "conv.out",
    "norm_ff": "norm_feedforward2",
    "feed_forward.w_1": "feedforward2.widen",
    "feed_forward.w_2": "feedforward2.narrow",
    "norm_final": "norm_out",
}
_OUTSIDE = {
    "embed.conv.0": "subsample.conv1",
    "embed.conv.2": "subsample.conv2",
    "embed.out.0": "subsample.out",
    "embed.linear": "subsample.out",  # WeNet's name for it at factor 6
    "after_norm": "norm",
}


def refuse_source(source: str) -> None:
    """Raises UserError unless it is TOOLKIT:FILE with a known toolkit and a file that is there."""
    toolkit, _, file = source.partition(":")
    if toolkit not in ("asrtts", *get_args(Toolkit)) or not file:
        choices = suggestion(toolkit, ["asrtts", *get_args(Toolkit)])
        raise UserError(f"--init {source}: write TOOLKIT:FILE, e.g. espnet:valid.acc.ave.pth{choices}")
    if not Path(file).exists():
        raise UserError(f"{file}: no such file of weights")


def start_from(source: str, encoder: nn.Module, settings: Settings) -> tuple[Tensor, Tensor] | None:
    """Fill an encoder from `espnet:FILE`, `wenet:FILE` or `asrtts:FILE` (a run's model.safetensors).

    Returns:
        Mean and standard deviation (F,) of the features that WeNet's encoder was trained on, where the file has them:
        WeNet's features are ours, Kaldi's of samples on the 16-bit scale.

    Raises:
        UserError: the file is missing, damaged or holds more than tensors; its encoder is of another kind or size, the
            setting is named.
    """
    refuse_source(source)
    toolkit, _, file = source.partition(":")
    weights = _read(Path(file))
    numbers = ((name, value) for name, value in weights.items() if "global_cmvn" not in name)  # has its own check
    if bad := next((name for name, value in numbers if not value.isfinite().all()), None):
        raise UserError(f"{file}: {bad} holds NaN or infinity, with which nothing can be trained; name other weights")
    if toolkit == "asrtts":
        ours = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    else:
        try:
            found, ours = convert(weights, toolkit)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        except (LookupError, RuntimeError, ValueError) as error:  # names and shapes of anything
            reason = " ".join(str(error).split())
            raise UserError(f"{file}: no Conformer of relative attention and macaron ({reason:.120})") from None
        for key in (key for key in Config.model_fields if key != "layer_drop" and "dropout" not in key):
            wanted, there = getattr(settings, key, None), getattr(found, key)
            if wanted != there:
                raise UserError(f"{file}: its encoder has {key} {there}, the settings say {wanted}; set encoder.{key}")
    if toolkit == "espnet" and any(name.startswith("frontend.") for name in weights):
        warn(
            f"{file}: was trained on the features of ESPnet's own frontend (librosa's mel filters, no pre-emphasis), "
            "and hears Kaldi's here: its first layers have to learn them; docs/from_espnet_and_kaldi.md says more"
        )
    try:
        encoder.load_state_dict(ours)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{file}: its encoder does not fit the settings ({detail:.200})") from None
    return _normalization(weights, file) if toolkit == "wenet" else None


def _normalization(weights: Mapping[str, Tensor], file: str) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation in `global_cmvn`, which has the inverse of the latter; None where there is none."""
    inside = {name.removeprefix("encoder."): value for name, value in weights.items()}
    mean, inverse = (inside.get(f"global_cmvn.{name}") for name in ("mean", "istd"))
    if mean is None and inverse is None:
        return None
    if mean is None or inverse is None or mean.ndim != 1 or mean.shape != inverse.shape or not (inverse > 0).all():
        raise UserError(f"{file}: global_cmvn holds no mean and inverse deviation (above 0) of each feature bin")
    return mean.float(), 1 / inverse.float()


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch checkpoint, without running anything that it holds."""
    refuse_unreadable(path)
    try:
        if path.suffix == ".safetensors" and path.is_file():
            return weights_file.load(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except Exception as error:  # of bytes that are no pickle torch may raise any
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {refused[1]}" if refused else " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged, or holds more than tensors ({reason:.120})") from None
    weights = weights.get("model", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise UserError(f"{path}: wanted a file of weights alone, such as ESPnet's valid.acc.ave.pth or WeNet's avg.pt")
    return weights


def convert(weights: Mapping[str, Tensor], toolkit: Toolkit) -> tuple[Config, dict[str, Tensor]]:
    """The settings that a foreign encoder's shapes imply, and its weights under our names.

    Args:
        weights: names as in the toolkit, of the encoder alone or of a whole model (then those under `encoder.`).

    Raises:
        UserError: a parameter has no place here (another kind of encoder), or one is missing; it is named.
    """
    inside = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    weights = inside or dict(weights)
    weights = {
        name: value for name, value in weights.items() if not name.startswith(("global_cmvn.", "embed.pos_enc."))
    }
    config = _settings(weights, toolkit)
    ours: dict[str, Tensor] = {}
    for block in range(config.layers):
        attention = f"encoders.{block}.self_attn"
        for kind in ("weight", "bias"):
            names = [f"{attention}.linear_{part}.{kind}" for part in "qkv"]
            ours[f"blocks.{block}.attention.qkv.{kind}"] = torch.cat([_found(weights, name) for name in names])
            for name in names:
                del weights[name]
    for name, value in weights.items():
        if "pointwise_conv" in name and name.endswith("weight"):
            value = value.squeeze(-1)
        ours[_renamed(name, toolkit)] = value
    channels = ours["subsample.conv1.weight"].shape[0]
    projection = ours["subsample.out.weight"]
    ours["subsample.out.weight"] = projection.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
    return config, ours


def _settings(weights: Mapping[str, Tensor], toolkit: Toolkit) -> Config:
    def shape(name: str) -> tuple[int, ...]:
        return tuple(_found(weights, name).shape)

    blocks = {int(name.split(".")[1]) for name in weights if name.startswith("encoders.")}
    dim = shape("after_norm.weight")[0]
    channels = shape("embed.conv.0.weight")[0]
    return Config(
        dim=dim,
        layers=max(blocks, default=0) + 1,
        attention_heads=shape("encoders.0.self_attn.pos_bias_u")[0],
        feedforward=shape("encoders.0.feed_forward.w_1.weight")[0],
        kernel=shape("encoders.0.conv_module.depthwise_conv.weight")[2],
        subsampling=6 if shape("embed.conv.2.weight")[2] == 5 else 4,
        subsampling_channels=0 if channels == dim else channels,
        conv_norm="batch_norm" if "encoders.0.conv_module.norm.running_mean" in weights else "layer_norm",
        positions="key" if toolkit == "wenet" else "relative",
        norm_eps=1e-5 if toolkit == "wenet" else 1e-12,
    )


def _renamed(name: str, toolkit: Toolkit) -> str:
    """encoders.3.norm_ff.weight -> blocks.3.norm_feedforward2.weight"""
    inside = re.fullmatch(r"encoders\.(\d+)\.(.+)", name)
    table, prefix, rest = (_BLOCK, f"blocks.{inside[1]}.", inside[2]) if inside else (_OUTSIDE, "", name)
    stem, dot, kind = (rest, "", "") if rest in table else rest.rpartition(".")
    if stem not in table:
        raise UserError(f"{toolkit} weights: '{name}' has no place in a Conformer of relative attention and macaron")
    return f"{prefix}{table[stem]}{dot}{kind}"


def _found(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise UserError(f"no parameter '{name}' in the weights: not a Conformer of relative attention and macaron")
    return weights[name]
