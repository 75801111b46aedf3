"""One encoder and weighted heads: the same start for all, the weighted sum, and the search that fits."""

from __future__ import annotations

import pytest
import torch

from asrtts.asr.decoding import Decoding
from asrtts.asr.encoders.conformer import Config as Conformer
from asrtts.asr.heads.attention import Config as Attention
from asrtts.asr.heads.ctc import Config as Ctc
from asrtts.asr.heads.transducer import Config as Transducer
from asrtts.asr.model import AsrModel
from asrtts.config import build
from asrtts.registry import UserError
from asrtts.training.turns import turns_of

torch.set_num_threads(1)
FEATS, VOCAB = 20, 7
ENCODER = Conformer(dim=16, layers=1, attention_heads=2, feedforward=32, kernel=5)
HEADS = {
    "ctc": Ctc(),
    "attention": Attention(layers=1, attention_heads=2, feedforward=32),
    "transducer": Transducer(predictor_dim=16, joiner_dim=16),
}
SETS = [["ctc"], ["attention"], ["transducer"], ["ctc", "attention"], ["attention", "ctc"], ["transducer", "ctc"]]


def model(*names: str, seed: int = 1, weights: dict[str, float] | None = None) -> AsrModel:
    heads = {name: HEADS[name].model_copy(update={"weight": (weights or {}).get(name, 1.0)}) for name in names}
    return AsrModel(ENCODER, heads, FEATS, VOCAB, seed)


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    feat_lens = torch.tensor([60, 47, 52][:rows])
    feats = torch.randn(rows, int(feat_lens.max()), FEATS, generator=generator)
    tokens = torch.randint(1, VOCAB, (rows, 4), generator=generator)
    return {"feats": feats, "feat_lens": feat_lens, "tokens": tokens, "token_lens": torch.tensor([4, 2, 3][:rows])}


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_encoders_start_bit_identical_whatever_the_heads_are(names):
    expected = model("ctc").encoder.state_dict()
    for name, weight in model(*names).encoder.state_dict().items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("names", [s for s in SETS if len(s) > 1], ids="+".join)
def test_a_head_starts_the_same_whatever_its_neighbours_are(names):
    mixed = model(*names)
    for head in names:
        for name, weight in model(head).heads[head].state_dict().items():
            assert torch.equal(weight, mixed.heads[head].state_dict()[name]), name


def test_another_seed_is_another_start():
    assert not torch.equal(
        model("ctc").heads["ctc"].projection.weight, model("ctc", seed=2).heads["ctc"].projection.weight
    )
    one, two = (next(p for p in model("ctc", seed=s).encoder.parameters() if p.ndim > 1) for s in (1, 2))
    assert not torch.equal(one, two)


def test_building_a_model_does_not_move_the_random_state():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model("ctc", "attention")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("weights", [{"ctc": 0.3, "attention": 0.7}, {"transducer": 1.0, "ctc": 0.25}])
def test_the_loss_is_the_weighted_sum_of_the_heads(weights):
    mixed = model(*weights, weights=weights).eval()
    expected = sum(weight * model(name).eval()(batch())["loss"] for name, weight in weights.items())
    assert torch.allclose(mixed(batch())["loss"], expected, rtol=1e-5)


def test_every_weight_gets_a_gradient_and_no_part_keeps_one():
    mixed = model("ctc", "attention", "transducer")
    parts = mixed(batch())
    parts["loss"].backward()
    assert all(p.grad is not None for p in turns_of(mixed)["model"].parameters)
    assert {id(p) for p in turns_of(mixed)["model"].parameters} == {id(p) for p in mixed.parameters()}
    assert not any(value.requires_grad for key, value in parts.items() if key != "loss")


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (["ctc"], {}, "ctc_greedy"),
        (["transducer"], {}, "transducer_greedy"),
        (["transducer", "ctc"], {}, "transducer_greedy"),
        (["attention"], {}, "attention_beam"),
        (["ctc", "attention"], {}, "joint_beam"),
        (["ctc", "attention"], {"ctc_weight": 0.0}, "attention_beam"),
        (["ctc", "attention"], {"method": "ctc_greedy"}, "ctc_greedy"),
        (["ctc", "attention"], {"method": "attention_beam"}, "attention_beam"),
        (["ctc"], {"method": "ctc_prefix_beam"}, "ctc_prefix_beam"),
        (["transducer"], {"method": "transducer_beam"}, "transducer_beam"),
    ],
)
def test_auto_takes_the_search_that_fits_and_a_named_one_is_taken(names, settings, expected):
    made = model(*names).eval()
    decoding = Decoding(beam=3, nbest=2, **settings)
    assert made.method(decoding) == expected
    data = batch()
    found = made.search(data["feats"], data["feat_lens"], decoding)
    assert len(found) == 3 and all(1 <= len(hyps) <= 2 for hyps in found)
    frames = made.encoder.out_lens(data["feat_lens"]).tolist()
    for hyps, limit in zip(found, frames, strict=True):
        for hyp in hyps:
            assert len(hyp.tokens) == len(hyp.frames) == len(hyp.confidences)
            assert all(0 <= frame < limit for frame in hyp.frames)


@pytest.mark.parametrize(
    ("names", "method", "missing"),
    [
        (["ctc"], "attention_beam", "attention"),
        (["ctc"], "joint_beam", "attention"),
        (["attention"], "joint_beam", "ctc"),
        (["attention"], "ctc_greedy", "ctc"),
        (["ctc"], "transducer_beam", "transducer"),
    ],
)
def test_a_search_without_its_head_is_refused_by_name(names, method, missing):
    with pytest.raises(UserError, match=f"{method} needs a {missing} head; this model has: {', '.join(names)}"):
        model(*names).method(Decoding(method=method))


def test_a_misspelled_search_gets_the_nearest():
    with pytest.raises(UserError, match="method: there is no 'ctc_gredy'; did you mean 'ctc_greedy'"):
        build(Decoding, {"method": "ctc_gredy"}, "decode")


def test_no_heads_are_refused():
    with pytest.raises(UserError, match="at least one is needed"):
        AsrModel(ENCODER, {}, FEATS, VOCAB)


def test_cr_ctc_asks_for_two_views():
    assert model("ctc", "attention").views == 1
    assert AsrModel(ENCODER, {"ctc": Ctc(consistency=0.2)}, FEATS, VOCAB).views == 2


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_every_part_runs_on_its_example(names):
    parts = model(*names).eval().parts()
    assert {name.split(".")[0] for name in parts} == {"encoder", *names}
    for module, inputs in parts.values():
        module(*inputs)
