"""One training step of a Conformer with CTC and attention, in float32 and under bf16 autocast, against ESPnet's.

    python benchmarks/conformer_step.py [--threads 1] [--repeat 3]

A step is forward, backward, clipping and AdamW, each as the programs' own trainers do it. The models have the same
sizes, norms (batch norm), dropout rates and losses; the batch is 8 utterances of 4 to 4.5 s with 15 tokens of 4232.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from _common import NOT_INSTALLED, Row, interleaved, main, peer, ratio, version
from torch import Tensor, nn

from asrtts.asr.encoders import conformer
from asrtts.asr.heads import attention, ctc
from asrtts.asr.model import AsrModel
from asrtts.training import optimizer

BATCH, FRAMES, BINS, TOKENS, VOCAB = 8, 450, 80, 15, 4232  # and one more for the end of the sentence
DIM, LAYERS, HEADS, FEEDFORWARD, KERNEL, DROPOUT = 256, 12, 4, 2048, 31, 0.1
DECODER_LAYERS, CTC_WEIGHT, SMOOTHING, CLIP = 6, 0.3, 0.1, 5.0
PAIRS = (("float32", "float32", None), ("bf16", "float32", 1 / 2.2), ("bf16", "bf16", 1 / 1.15))  # ours, theirs, goal

Example = tuple[Tensor, Tensor, Tensor, Tensor]  # feats, feat_lens, tokens, token_lens


def example() -> Example:
    generator = torch.Generator().manual_seed(0)
    lens = torch.linspace(FRAMES, FRAMES * 8 // 9, BATCH).long()
    feats = torch.randn(BATCH, FRAMES, BINS, generator=generator)
    tokens = torch.randint(1, VOCAB, (BATCH, TOKENS), generator=generator)
    return feats, lens, tokens, torch.full((BATCH,), TOKENS)


def ours() -> nn.Module:
    encoder = conformer.Config(
        dim=DIM, layers=LAYERS, attention_heads=HEADS, feedforward=FEEDFORWARD, kernel=KERNEL, conv_norm="batch_norm"
    )
    decoder = attention.Config(
        weight=1 - CTC_WEIGHT, layers=DECODER_LAYERS, feedforward=FEEDFORWARD, memory_positions=False
    )
    return AsrModel(encoder, {"ctc": ctc.Config(weight=CTC_WEIGHT), "attention": decoder}, BINS, VOCAB)


def espnet() -> nn.Module:
    encoder = peer("espnet2.asr.encoder.conformer_encoder").ConformerEncoder(
        BINS,
        output_size=DIM,
        attention_heads=HEADS,
        linear_units=FEEDFORWARD,
        num_blocks=LAYERS,
        dropout_rate=DROPOUT,
        positional_dropout_rate=DROPOUT,
        attention_dropout_rate=DROPOUT,
        macaron_style=True,
        rel_pos_type="latest",
        cnn_module_kernel=KERNEL,
    )
    decoder = peer("espnet2.asr.decoder.transformer_decoder").TransformerDecoder(
        VOCAB + 1, DIM, attention_heads=HEADS, linear_units=FEEDFORWARD, num_blocks=DECODER_LAYERS, dropout_rate=DROPOUT
    )
    return peer("espnet2.asr.espnet_model").ESPnetASRModel(
        vocab_size=VOCAB + 1,
        token_list=["<blank>", *map(str, range(1, VOCAB)), "<sos/eos>"],
        frontend=None,
        specaug=None,
        normalize=None,
        preencoder=None,
        encoder=encoder,
        postencoder=None,
        decoder=decoder,
        ctc=peer("espnet2.asr.ctc").CTC(VOCAB + 1, DIM, dropout_rate=DROPOUT),
        joint_network=None,
        ctc_weight=CTC_WEIGHT,
        lsm_weight=SMOOTHING,
        report_cer=False,
        report_wer=False,
    )


def our_loss(model: nn.Module, given: Example) -> Tensor:
    return model(dict(zip(("feats", "feat_lens", "tokens", "token_lens"), given, strict=True)))["loss"]


def espnet_loss(model: nn.Module, given: Example) -> Tensor:
    return model(*given)[0]


def step(
    model: nn.Module, loss: Callable[[nn.Module, Example], Tensor], optim: torch.optim.Optimizer, bf16: bool
) -> Callable[[], object]:
    given, parameters = example(), list(model.train().parameters())

    def run() -> None:
        optim.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(model, given)
        value.backward()
        assert torch.isfinite(nn.utils.clip_grad_norm_(parameters, CLIP))
        optim.step()

    return run


def rows(repeat: int = 3) -> Iterator[Row]:
    """All steps in turns: the same in float32, and ours under bf16 against both of ESPnet's."""
    mine, there = ours(), peer("espnet2.asr.espnet_model") is not None
    my_optim = optimizer.build(optimizer.Config(), mine.parameters())
    ways = {f"ours {kind}": step(mine, our_loss, my_optim, kind == "bf16") for kind in ("float32", "bf16")}
    if there:
        theirs = espnet()
        their_optim = torch.optim.AdamW(theirs.parameters())
        ways |= {
            f"theirs {kind}": step(theirs, espnet_loss, their_optim, kind == "bf16") for kind in ("float32", "bf16")
        }
    times = interleaved(ways, min(repeat, 3))
    size = sum(p.numel() for p in mine.parameters()) / 1e6
    for kind, their_kind, goal in PAIRS:
        name, their_name = f"ours {kind}", f"theirs {their_kind}"
        yield Row(
            what="Conformer training step",
            case=f"{LAYERS} x {DIM}, {size:.0f} M parameters, {BATCH} x 4.5 s, CTC and attention, {kind}",
            ours=statistics.median(times[name]),
            peer=f"{version('espnet') if there else 'ESPnet'}, {their_kind}",
            theirs=statistics.median(times[their_name]) if there else None,
            ratio=ratio(times, name, their_name) if there else None,
            goal=goal,
            note="" if there else NOT_INSTALLED,
        )


if __name__ == "__main__":
    main(__doc__, rows)
