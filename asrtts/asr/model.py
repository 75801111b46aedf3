"""One encoder and weighted heads: `{ctc: 1.0}`, `{transducer: 1.0}`, `{ctc: 0.3, attention: 0.7}`.

The encoder is built under its own seed, so its starting weights are bit-identical whatever the heads are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from asrtts.config import Settings
from asrtts.registry import UserError, find, names, suggestion
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.language_model import Fusion, LanguageModel

GREEDY_CTC = "ctc_greedy"
JOINT = "joint_beam"  # the one search of two heads: attention with CTC prefix scores


def methods() -> list[str]:
    """What `decoding.method` may ask for: `<head>_<search>` of every head there is, and the joint search."""
    heads = names("asrtts.asr.heads")
    return [*(f"{head}_{search}" for head in heads for search in find("asrtts.asr.heads", head).Head.searches), JOINT]


class Decoding(Settings):
    """How a model is searched. `auto` takes the search that fits the heads."""

    method: str = "auto"  # or ctc_greedy, ctc_prefix_beam, transducer_greedy, transducer_beam, and so on
    beam: int = Field(10, ge=1, le=10_000)
    nbest: int = Field(1, ge=1, le=10_000)
    ctc_weight: float = Field(0.3, ge=0.0, le=1.0)  # joint_beam: share of the CTC prefix score
    length_bonus: float = 0.0  # added for every token; of no use to greedy CTC
    lm: str | None = None  # folder of a language model (`asrtts lm`)
    lm_weight: float = Field(0.3, ge=0.0)
    lodr: str | None = None  # folder of an n-gram of the training text, order 2: its scores are subtracted
    lodr_weight: float = Field(0.1, ge=0.0)

    @field_validator("method")
    @classmethod
    def _exists(cls, method: str) -> str:
        if method != "auto" and method not in methods():
            raise ValueError(f"there is no '{method}'{suggestion(method, ['auto', *methods()])}")
        return method

    @property
    def lms(self) -> list[tuple[str, float]]:
        """Folder and weight of the language models that have a say."""
        weights = ((self.lm, self.lm_weight), (self.lodr, -self.lodr_weight))
        return [(folder, weight) for folder, weight in weights if folder is not None and weight]


class AsrModel(nn.Module):
    """Features to tokens.

    Args:
        encoder: settings of a file in asr/encoders.
        heads: settings of files in asr/heads, by name; each has a weight.
        feat_dim: F. vocab_size: V, the blank (id 0) included.
        seed: of the starting weights.
    """

    def __init__(
        self, encoder: Settings, heads: Mapping[str, Settings], feat_dim: int, vocab_size: int, seed: int = 1
    ) -> None:
        super().__init__()
        if not heads:
            raise UserError("heads: at least one is needed, e.g. heads: {ctc: 1.0}")
        self.feat_dim, self.vocab_size = feat_dim, vocab_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = find("asrtts.asr.encoders", encoder.name).Encoder(encoder, feat_dim)
            self.heads = nn.ModuleDict()
            for name, settings in heads.items():
                torch.manual_seed(seed + zlib.crc32(name.encode()))  # no head's weights depend on its neighbours
                self.heads[name] = find("asrtts.asr.heads", name).Head(settings, self.encoder.dim, vocab_size)
        self.weights = {name: settings.weight for name, settings in heads.items()}

    @property
    def views(self) -> int:
        """How many augmented views of an utterance a training batch needs."""
        return max(head.views for head in self.heads.values())

    @property
    def turns(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each optimizer step; one turn for speech recognition."""
        return {"model": [p for p in self.parameters() if p.requires_grad]}

    def refuse_untrainable(self, device: torch.device) -> None:
        """Raises UserError for settings of a head with which its loss would stop at the first batch."""
        for head in self.heads.values():
            head.refuse_untrainable(len(self.encoder.blocks), device)

    def forward(self, batch: dict[str, Any], turn: str = "model") -> dict[str, Tensor]:
        """The weighted loss, a mean over utterances, and its parts as `head.part` without gradient."""
        layers: list[Tensor] | None = [] if any(h.wants_layers for h in self.heads.values()) else None
        enc, enc_lens = self.encoder(batch["feats"], batch["feat_lens"], layers)
        total, parts = enc.new_zeros((), dtype=torch.float32), {}
        for name, head in self.heads.items():
            losses = head.loss(enc, enc_lens, batch["tokens"], batch["token_lens"], layers)
            total = total + self.weights[name] * losses.pop("loss")
            parts.update({f"{name}.{key}" if key != name else name: value for key, value in losses.items()})
        return {"loss": total, **parts}

    def method(self, decoding: Decoding) -> str:
        """The search that `auto` stands for, or the named one if this model has its heads."""
        if decoding.method != "auto":
            missing = [head for head in _heads_of(decoding.method) if head not in self.heads]
            if missing:
                raise UserError(
                    f"decoding.method {decoding.method} needs a {missing[0]} head; "
                    f"this model has: {', '.join(self.heads)}"
                )
            if decoding.lms and decoding.method == GREEDY_CTC:
                raise UserError(
                    f"decoding.method {GREEDY_CTC} takes each frame alone, so that no language model can help it; "
                    "wanted method=ctc_prefix_beam"
                )
            return decoding.method
        main = max(self.heads, key=lambda head: (self.weights[head], head != "ctc"))  # CTC is the field's helper
        if {"attention", "ctc"} == set(self.heads) and decoding.ctc_weight > 0:
            return JOINT
        return f"{main}_{self.heads[main].searches[-1 if decoding.lms else 0]}"

    def leader(self, decoding: Decoding) -> nn.Module:
        """The head whose hypotheses the search grows: attention in the joint one."""
        return self.heads[_heads_of(self.method(decoding))[0]]

    @torch.no_grad()
    def search(
        self,
        feats: Tensor,
        feat_lens: Tensor,
        decoding: Decoding,
        lms: Sequence[tuple[LanguageModel, float]] = (),
    ) -> list[list[Hypothesis]]:
        """n-best lists of a batch (B, T, F); each entry's frames count encoder frames. lms: with their weights."""
        return self.search_encoded(*self.encoder(feats, feat_lens), decoding, lms)

    @torch.no_grad()
    def search_encoded(
        self,
        enc: Tensor,
        enc_lens: Tensor,
        decoding: Decoding,
        lms: Sequence[tuple[LanguageModel, float]] = (),
    ) -> list[list[Hypothesis]]:
        """As `search`, of what the encoder gave (B, T, D)."""
        method = self.method(decoding)
        wide: dict[str, Any] = {"beam": decoding.beam, "nbest": decoding.nbest}
        if method == JOINT:
            wide.update(ctc=self.heads["ctc"].log_probs(enc), ctc_weight=decoding.ctc_weight)
        head = _heads_of(method)[0]
        bonus = 0.0 if head == "attention" else decoding.length_bonus  # that search counts tokens itself
        if lms or (bonus and method != GREEDY_CTC):
            wide["lm"] = Fusion(self.vocab_size, lms, bonus)
        if head == "attention":
            return self.heads[head].search(enc, enc_lens, length_bonus=decoding.length_bonus, **wide)
        return self.heads[head].search(enc, enc_lens, method=method.removeprefix(f"{head}_"), **wide)

    def parts(self) -> dict[str, tuple[nn.Module, tuple]]:
        """Name -> (module, example inputs) of every piece that an exporter must write."""
        feats = torch.zeros(1, 64, self.feat_dim)
        parts = {"encoder": (self.encoder, (feats, torch.tensor([64])))}
        for name, head in self.heads.items():
            parts.update({f"{name}.{part}": piece for part, piece in head.parts().items()})
        return parts


def _heads_of(method: str) -> tuple[str, ...]:
    """The heads that a search needs: ctc_prefix_beam -> ctc."""
    if method == JOINT:
        return ("attention", "ctc")
    return tuple(head for head in names("asrtts.asr.heads") if method.startswith(f"{head}_"))[-1:]
