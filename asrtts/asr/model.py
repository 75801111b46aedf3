"""One encoder and weighted heads: `{ctc: 1.0}`, `{transducer: 1.0}`, `{ctc: 0.3, attention: 0.7}`.

The encoder is built under its own seed, so its starting weights are bit-identical whatever the heads are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asrtts.asr.decoding import AUXILIARY, HEADS, JOINT_SEARCHES, Decoding, heads_of
from asrtts.config import Settings
from asrtts.registry import UserError, find
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.language_model import Fusion, LanguageModel


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
                self.heads[name] = find(HEADS, name).Head(settings, self.encoder.dim, vocab_size)
        self.weights = {name: settings.weight for name, settings in heads.items()}

    @property
    def views(self) -> int:
        """How many augmented views of an utterance a training batch needs."""
        return max(head.views for head in self.heads.values())

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
            missing = [head for head in heads_of(decoding.method) if head not in self.heads]
            if missing:
                raise UserError(
                    f"decoding.method {decoding.method} needs a {missing[0]} head; "
                    f"this model has: {', '.join(self.heads)}"
                )
            if decoding.lms and self._is_without_lm(decoding.method):
                head = heads_of(decoding.method)[0]
                raise UserError(
                    f"decoding.method {decoding.method} takes each frame alone, so that no language model can help it; "
                    f"wanted method={head}_{self.heads[head].searches[-1]}"
                )
            return decoding.method
        main = max(self.heads, key=lambda head: (self.weights[head], head != AUXILIARY))
        for joint, heads in JOINT_SEARCHES.items():
            if set(heads) == set(self.heads) and decoding.ctc_weight > 0:
                return joint
        return f"{main}_{self.heads[main].searches[-1 if decoding.lms else 0]}"

    def leader(self, decoding: Decoding) -> nn.Module:
        """The head whose hypotheses the search grows: attention in the joint one."""
        return self.heads[heads_of(self.method(decoding))[0]]

    def _is_without_lm(self, method: str) -> bool:
        head = heads_of(method)[0]
        return method.removeprefix(f"{head}_") in self.heads[head].without_lm

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
        name, *scorers = heads_of(method)
        head, options = self.heads[name], {"beam": decoding.beam, "nbest": decoding.nbest}
        if scorers:
            options.update(ctc=self.heads[scorers[0]].log_probs(enc), ctc_weight=decoding.ctc_weight)
        else:
            options["method"] = method.removeprefix(f"{name}_")
        bonus = decoding.length_bonus
        if head.takes_length_bonus:
            options["length_bonus"], bonus = bonus, 0.0
        if lms or (bonus and not self._is_without_lm(method)):
            options["lm"] = Fusion(self.vocab_size, lms, bonus)
        return head.search(enc, enc_lens, **options)

    def parts(self) -> dict[str, tuple[nn.Module, tuple]]:
        """Name -> (module, example inputs) of every piece that an exporter must write."""
        feats = torch.zeros(1, 64, self.feat_dim)
        parts = {"encoder": (self.encoder, (feats, torch.tensor([64])))}
        for name, head in self.heads.items():
            parts.update({f"{name}.{part}": piece for part, piece in head.parts().items()})
        return parts
