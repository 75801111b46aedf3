"""`asrtts compare`: fair or refused, the table and its notes, compare.json and compare.md."""

from __future__ import annotations

import io
import json
import math
import re
import statistics
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from asrtts import config
from asrtts.alignment import textgrid
from asrtts.alignment.intervals import Alignment, Interval
from asrtts.bin import compare, score
from asrtts.comparison import fairness, plots, table
from asrtts.experiment.run_folder import Run
from asrtts.experiment.settings import family, load
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[2]
WORDS = ["enter", "five", "six", "go", "stop", "repeat", "nine", "erase"]
TEXTS = {f"u{n}": " ".join(WORDS[(n * k + k) % 8] for k in range(1, 2 + n % 6)) for n in range(60)}
PERFECT = dict(TEXTS)
HAN = {u: "".join(chr(0x4E00 + ord(c)) for c in text.replace(" ", "")) for u, text in TEXTS.items()}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_manifest(TEXTS)
    return tmp_path


def write_manifest(texts: dict[str, str], name: str = "test") -> None:
    lines = [
        {"utt_id": u, "audio": "a.wav", "text": t, "speaker": f"s{n % 12}"} for n, (u, t) in enumerate(texts.items())
    ]
    Path("data").mkdir(exist_ok=True)
    Path(f"data/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def wrong(every: int, texts: dict[str, str] = TEXTS) -> dict[str, str]:
    """Hypotheses with a wrong first word in every so-many-th utterance."""
    return {
        u: " ".join(["hello", *text.split()[1:]]) if n % every == 0 else text
        for n, (u, text) in enumerate(texts.items())
    }


def decoded(
    name: str,
    hyps: dict[str, str],
    head: str = "ctc",
    overrides: tuple[str, ...] = (),
    facts: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> str:
    """A run as train, average and decode leave it, without its weights."""
    exp = Path("exp") / name
    (exp / "decode").mkdir(parents=True)
    settings = load(TOP / f"egs/mini/asr/conf/{head}.yaml", list(overrides))
    config.dump(settings, exp / "config.yaml")
    hashes = {"data_hash": "d1", "dev_hash": "d2", "tokens_hash": "t1"}
    recorded = {"parameters": 1_000_000, "seed": settings.seed, **hashes, "encoder_hash": f"e{settings.seed}"}
    recorded |= {
        "family": family(settings, "+".join(sorted(settings.heads)), hashes),
        "updates": 800,
        "average": "last 10",
    }
    recorded |= {"precision": "float32", "train_minutes": 5.0, **(facts or {})}
    (exp / "run.json").write_text(json.dumps(recorded))
    decoding(exp, "test", hyps, {"method": f"{head}_beam", **(summary or {})})
    return str(exp)


def decoding(exp: str | Path, name: str, hyps: dict[str, str], summary: dict[str, Any]) -> str:
    """What decode --name leaves in a run's folder; how compare is told of it."""
    how = {"method": "ctc_beam", "beam": 10, "weights": "model", "precision": "float32", "rtf": 0.05, "threads": 1}
    Path(exp, f"decode/{name}.summary.json").write_text(json.dumps({**how, "device": "cpu", **summary}))
    lines = [{"utt_id": u, "hyp": hyp} for u, hyp in hyps.items()]
    Path(exp, f"decode/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"{exp}:{name}"


def compared(*argv: str) -> dict[str, Any]:
    compare.main([*argv, "--test", "test"])
    return json.loads(Path("exp/compare/compare.json").read_text())


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        compare.main([*argv, "--test", "test"])
    assert "\n" not in str(error.value) and not Path("exp/compare").exists()
    return str(error.value)


def test_a_better_system_is_named_with_its_points_and_p(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(decoded("ctc", wrong(2)), decoded("transducer", wrong(20), "transducer"))
    (pair,) = found["pairs"]
    assert pair["test"] == "mapsswe" and pair["p"] < 0.001 and pair["words_needed"] is None
    assert pair["sentence"].startswith("transducer is better than ctc by ") and pair["sentence"].endswith("p < 0.001")
    low, high = pair["interval_95"]
    assert 0 < low < pair["difference"] < high and pair["probability_a_better"] == 0.0
    out = capsys.readouterr().out
    assert "test: 60 utterances, 12 speakers, " in out and pair["sentence"] in out
    page = Path("exp/compare/compare.md").read_text()
    assert "| WER % | " in page and f"- {pair['sentence']}." in page


def test_rates_and_intervals_are_those_of_score(recipe: Path) -> None:
    exp = decoded("ctc", wrong(3))
    found = compared(exp)["systems"][0]
    score.main([exp, "--on", "test"])
    alone = json.loads(Path(exp, "score/test/score.json").read_text())
    for level in ("wer", "cer"):
        for key in ("percent", "interval_95", "interval_95_by_speaker", "sub", "del", "ins", "ref"):
            assert found[level][key] == pytest.approx(alone[level][key]), (level, key)


def test_systems_that_cannot_be_told_apart_say_how_many_words_would_do(recipe: Path) -> None:
    hyps = {**wrong(20), "u1": "hello"}
    (pair,) = compared(decoded("ctc", wrong(20)), decoded("attention", hyps, "attention"))["pairs"]
    assert "are not distinguishable on" in pair["sentence"] and pair["p_holm"] > 0.05
    assert (
        pair["words_needed"] is None
        and "no test" not in pair["sentence"]
        or "words would be needed" in pair["sentence"]
    )


UNEQUAL = {
    "encoder": ({"overrides": ("encoder.dim=144",)}, "encoder.dim (ctc 96, other 144)", "encoder.dim"),
    "budget": ({"overrides": ("training.updates=10",)}, "training.updates (ctc ", "training"),
    "batches": ({"overrides": ("batching.seconds=7",)}, "batching.seconds (ctc ", "batching"),
    "average": ({"facts": {"average": "best 3"}}, "average (ctc last 10, other best 3)", "average"),
    "data": ({"facts": {"data_hash": "d9"}}, "data_hash (ctc d1, other d9)", "data_hash"),
    "start": ({"facts": {"encoder_hash": "e9"}}, "encoder_hash (ctc 1:e1, other 1:e9)", "encoder_hash"),
    "precision": ({"facts": {"precision": "bf16"}}, "precision (ctc float32, other bf16)", "precision"),
    "beam": ({"summary": {"beam": 1}}, "search.beam (ctc 10, other 1)", "search.beam"),
    "unfinished": ({"facts": {"updates": 400}}, "updates (ctc 800, other 400)", "updates"),
    "seeds": ({"overrides": ("seed=2",)}, "seeds (ctc 1, other 2)", "seeds"),
    "language model": ({"summary": {"lm": "exp/lm"}}, "search.lm (ctc none, other exp/lm)", "search.lm"),
    "tokens a frame": (
        {"overrides": ("heads.transducer.max_symbols_per_frame=2",)},
        "search.max_symbols_per_frame (ctc 5, other 2)",
        "search.max_symbols_per_frame",
    ),
    "what a later decode knows": ({"summary": {"pruning": 4}}, "", "search"),
}


@pytest.mark.parametrize("kind", UNEQUAL)
def test_what_is_not_equal_is_refused_or_stands_in_the_table(kind: str, recipe: Path) -> None:
    how, message, key = UNEQUAL[kind]
    first = "transducer" if kind == "tokens a frame" else "ctc"  # CTC has none
    exps = [decoded("ctc", wrong(5), first), decoded("other", wrong(7), "transducer", **how)]
    if message:
        assert message in refused(*exps)
    found = compared(*exps, "--allow", key)
    if kind == "tokens a frame":  # no two sizes of one family either
        assert len({plots.family(system) for system in found["systems"]}) == 2
    if message:
        name = message.split(" ")[0]
        assert name in found["fair"]["not_equal"]
        assert f"| not equal: {name} | " in Path("exp/compare/compare.md").read_text()


def test_sizes_with_several_seeds_are_named_after_what_their_runs_share(recipe: Path) -> None:
    """As `asrtts sweep` names them: ctc-1-dim96 and ctc-2-dim96 are ctc-dim96."""
    exps = [
        decoded(f"{head}-{seed}-dim{dim}", wrong(dim // 24 + seed), head, (f"encoder.dim={dim}", f"seed={seed}"))
        for head in ("ctc", "transducer")
        for dim in (48, 96)
        for seed in (1, 2)
    ]
    found = compared(*exps, "--allow", "encoder.dim", "--quick")
    names = [system["name"] for system in found["systems"]]
    assert names == ["ctc-dim48", "ctc-dim96", "transducer-dim48", "transducer-dim96"]
    assert [len(system["runs"]) for system in found["systems"]] == [2, 2, 2, 2]
    families = [plots.family(system) for system in found["systems"]]
    assert families[0] == families[1] != families[2] == families[3]
    assert plots.apart(names[:2]) == ["dim48", "dim96"] and plots.apart(names[:1]) == [""]
    assert plots.apart(["ctc", "ctc-large"]) == ["ctc", "ctc-large"]


def test_what_is_not_held_equal_may_be_allowed_too(recipe: Path) -> None:
    assert compared(decoded("ctc", PERFECT), "--allow", "heads.ctc.dropout")["fair"]["not_equal"] == {}


def test_an_allowed_name_that_is_none_is_answered_with_the_nearest(recipe: Path) -> None:
    assert "did you mean 'search.beam'?" in refused(decoded("ctc", PERFECT), "--allow", "serch.beam")


def _seeds(head: str, every: tuple[int, ...]) -> list[str]:
    return [decoded(f"{head}-{seed}", wrong(n), head, (f"seed={seed}",)) for seed, n in enumerate(every, 1)]


def test_seeds_of_one_system_are_one_column_and_their_spread_counts(recipe: Path) -> None:
    found = compared(*_seeds("ctc", (2, 3, 2)), *_seeds("transducer", (20, 15, 30)))
    assert [system["name"] for system in found["systems"]] == ["ctc", "transducer"]
    first = found["systems"][0]
    rates = [run["percent"] for run in first["wer"]["runs"]]
    assert first["wer"]["percent"] == pytest.approx(sum(rates) / 3) and first["wer"]["deviation"] > 0
    assert [run["seed"] for run in first["runs"]] == [1, 2, 3]
    (pair,) = found["pairs"]
    assert pair["test"] == "over_seeds" and len(pair["mapsswe"]) == 3
    assert pair["sentence"].startswith("transducer is better than ctc by ")
    assert not any("trained once" in note for note in found["notes"])


def test_seeds_that_began_with_trained_encoders_are_one_system_and_their_minutes_are_counted(recipe: Path) -> None:
    def begun(name: str, head: str, seed: int) -> str:
        facts = {"init": f"asrtts:exp/encoder-{seed}/model.safetensors", "init_minutes": 20.0}
        return decoded(name, wrong(3), head, (f"seed={seed}",), facts)

    runs = [begun(f"{head}-{seed}", head, seed) for head in ("ctc", "transducer") for seed in (1, 2)]
    found = compared(*runs)["systems"]
    assert [(system["name"], system["init"]) for system in found] == [("ctc", "asrtts"), ("transducer", "asrtts")]
    assert found[0]["measures"]["train_minutes"]["value"] == 25.0
    page = Path("exp/compare/compare.md").read_text()
    assert "| encoder began with | asrtts weights | asrtts weights |" in page


def test_random_weights_against_trained_ones_are_refused(recipe: Path) -> None:
    begun = decoded("begun", wrong(3), facts={"init": "wenet:avg.pt"})
    assert "init (begun wenet, plain random weights)" in refused(begun, decoded("plain", wrong(4), "transducer"))


def test_one_seed_against_several_has_no_test(recipe: Path) -> None:
    exps = [*_seeds("ctc", (2, 3)), decoded("transducer", wrong(20), "transducer")]
    assert "seeds (ctc 1 2, transducer 1)" in refused(*exps)
    found = compared(*exps, "--allow", "seeds")
    (pair,) = found["pairs"]
    assert pair["p"] is None and pair["sentence"].endswith(
        "no test: transducer was trained once, the other several times"
    )
    assert any(note.startswith("transducer was trained once") for note in found["notes"])


def test_the_same_run_twice_is_refused(recipe: Path) -> None:
    exps = [decoded("ctc", PERFECT), decoded("again", PERFECT)]
    assert "the same settings and the same seed 1" in refused(*exps)


# Several decodings of a run ----------------------------------------------------------------------------------------

LM = {"lm": "exp/lm", "lm_weight": 0.4, "lodr": None, "lodr_weight": 0.1}


def test_two_decodings_of_one_run_are_two_systems_each_with_its_own_summary(recipe: Path) -> None:
    exp = decoded("ctc", wrong(2), summary={"rtf": 0.01, "peak_memory_mb": 100})
    with_lm = decoding(exp, "test_lm", {**wrong(20), "u1": ""}, {**LM, "rtf": 0.02, "peak_memory_mb": 200})
    found = compared(exp, with_lm, "--allow", "search.lm")
    alone, fused = found["systems"]
    assert [alone["name"], fused["name"]] == ["ctc", "ctc:test_lm"]
    assert [(run["run"], run["exp"], run["decoding"]) for system in (alone, fused) for run in system["runs"]] == [
        ("ctc", "exp/ctc", "test"),
        ("ctc:test_lm", "exp/ctc", "test_lm"),
    ]
    assert alone["wer"]["percent"] > 2 * fused["wer"]["percent"] > 0
    assert [alone["search"], fused["search"]] == ["ctc_beam 10", "ctc_beam 10 + lm 0.4"]
    for key, values in {"rtf": (0.01, 0.02), "decode_memory_mb": (100, 200)}.items():
        assert (alone["measures"][key]["value"], fused["measures"][key]["value"]) == values
    assert fused["decode"]["lm"] == "exp/lm" and "lm" not in alone["decode"]
    assert "ctc:test_lm: 1 of 60 hypotheses are empty." in found["notes"]
    assert found["pairs"][0]["sentence"].startswith("ctc:test_lm is better than ctc by ")
    assert found["fair"] == {"not_equal": {"search.lm": {"ctc": "none", "ctc:test_lm": "exp/lm"}}, "unknown": {}}
    page = Path("exp/compare/compare.md").read_text()
    assert "| ctc | ctc:test_lm |" in page and "| not equal: search.lm | none | exp/lm |" in page


def test_a_language_model_is_effort_and_its_weights_are_free(recipe: Path) -> None:
    exp = decoded("ctc", wrong(5))
    first = decoding(exp, "test_lm", wrong(7), LM)
    assert "search.lm (ctc none, ctc:test_lm exp/lm)" in (message := refused(exp, first))
    assert message.endswith("in the table: --allow search.lm")
    other = decoding(exp, "test_lm2", wrong(9), {**LM, "lm_weight": 0.7, "lodr": "exp/bigram"})
    assert refused(first, other).endswith("in the table: --allow search.lodr")
    decoding(exp, "test_lm2", wrong(9), {**LM, "lm_weight": 0.7})
    assert [s["search"] for s in compared(first, other)["systems"]] == ["ctc_beam 10 + lm 0.4", "ctc_beam 10 + lm 0.7"]


def test_a_decoding_without_the_language_model_of_its_settings_has_none(recipe: Path) -> None:
    exp = decoded("ctc", wrong(5), overrides=("decoding.lm=exp/lm",))
    assert fairness.read(Path(exp), "test").search.lm is None
    decoding(exp, "test_lm", wrong(7), {**LM, "lodr": "exp/bigram"})
    assert fairness.read(Path(exp), "test_lm").search.lms == [("exp/lm", 0.4), ("exp/bigram", -0.1)]


def test_seeds_are_grouped_by_the_name_of_the_decoding_and_paired_by_run(recipe: Path) -> None:
    exps = _seeds("ctc", (2, 3, 2))
    decodings = [decoding(exp, "test_lm", wrong(n), LM) for exp, n in zip(exps, (4, 6, 4), strict=True)]
    decoding(exps[1], "test_lm", wrong(6), {**LM, "lm_weight": 0.2, "lodr": "exp/bigram"})
    assert "seeds (ctc 1 2 3, ctc:test_lm 1 3" in refused(*exps, *decodings)
    decoding(exps[1], "test_lm", wrong(6), {**LM, "lm_weight": 0.2})
    found = compared(*exps, *decodings, *_seeds("transducer", (2, 3, 2)), "--allow", "search.lm")
    assert [system["name"] for system in found["systems"]] == ["ctc", "ctc:test_lm", "transducer"]
    fused = found["systems"][1]
    assert [run["run"] for run in fused["runs"]] == [f"ctc-{seed}:test_lm" for seed in (1, 2, 3)]
    assert fused["search"] == "ctc_beam 10 + lm 0.2 to 0.4"
    assert [pair["paired"] for pair in found["pairs"]] == [True, True, True]
    assert [len(pair["mapsswe"]) for pair in found["pairs"]] == [3, 3, 3]
    rates = [[run["percent"] for run in system["wer"]["runs"]] for system in found["systems"]]
    gains = [a - b for a, b in zip(rates[0], rates[1], strict=True)]
    assert 1e4 * found["pairs"][0]["over_seeds"]["seed_variance"] == pytest.approx(statistics.variance(gains) / 3)
    assert "Runs of one seed that began with the same weights are paired." in found["notes"][0]


def test_two_seeds_of_two_heads_are_not_paired_but_two_decodings_of_them_are(recipe: Path) -> None:
    exps = _seeds("ctc", (2, 3))
    again = [decoding(exp, "test_lm", wrong(n), LM) for exp, n in zip(exps, (4, 6), strict=True)]
    found = compared(*exps, *again, *_seeds("transducer", (4, 5)), "--allow", "search.lm")
    assert [pair["paired"] for pair in found["pairs"]] == [True, False, False]


def test_runs_that_began_with_other_weights_are_not_paired(recipe: Path) -> None:
    exps = [*_seeds("ctc", (2, 3, 2)), *_seeds("transducer", (2, 3, 2))]
    run = Run(Path(exps[4]))
    run.record(encoder_hash="another")
    found = compared(*exps, "--allow", "encoder_hash")
    assert [pair["paired"] for pair in found["pairs"]] == [False]
    assert "paired" not in found["notes"][0]


def test_decodings_that_say_the_same_have_no_test(recipe: Path) -> None:
    exps = _seeds("ctc", (2, 3))
    found = compared(*exps, *(decoding(exp, "again", wrong(n), {}) for exp, n in zip(exps, (2, 3), strict=True)))
    (pair,) = found["pairs"]
    assert pair["sentence"].startswith("ctc and ctc:again have the same number of errors; no test: the difference ")


def test_a_decoding_that_is_missing_is_answered_with_the_nearest(recipe: Path) -> None:
    exp = decoded("ctc", wrong(5))
    decoding(exp, "test_lm", wrong(7), LM)
    decoding(exp, "dev", {"v1": "go"}, {})
    message = "exp/ctc: no decoding 'test_ln'; did you mean 'test_lm'? (choices: dev, test, test_lm); `asrtts decode`"
    assert message in refused(exp, "exp/ctc:test_ln")
    assert "exp/ctc/decode/dev.jsonl:1: utterance 'v1' is not in the manifest" in refused(exp, "exp/ctc:dev")
    assert "exp/ctx: no trained model here" in refused(exp, "exp/ctx:test_lm")
    assert "exp:1/ctc: no trained model here" in refused(exp, "exp:1/ctc")


def test_a_folder_may_have_a_colon_and_the_name_of_the_manifest_may_be_said(recipe: Path) -> None:
    exps = [decoded("a:b", wrong(5)), decoded("a", wrong(7), "transducer")]
    decoding(exps[0], "more", wrong(9), {})
    found = compared(*exps, "exp/a:b:more", "exp/a:test")
    assert [system["name"] for system in found["systems"]] == ["a:b", "a", "a:b:more"]


def test_no_two_systems_have_one_name(recipe: Path) -> None:
    other = decoded("ctc", wrong(4), overrides=("heads.ctc.inter_layers=[2]",))
    found = compared(*_seeds("ctc", (2, 3)), other, "--allow", "seeds")
    assert [system["name"] for system in found["systems"]] == ["ctc-1", "ctc"]


def test_one_training_has_one_curve_and_costs_of_one_search_are_joined_whatever_its_weights(recipe: Path) -> None:
    exp = decoded("ctc", wrong(5))
    decodings = [decoding(exp, f"lm{w}", wrong(7), {**LM, "lm_weight": w}) for w in (1, 2)]
    Path(exp, "train.jsonl").write_text('{"update": 1, "loss": 3.0}\n{"update": 2, "loss": 2.0}\n')
    found = compared(exp, *decodings, "--allow", "search.lm", "--quick")
    assert "No training curve: ctc:lm1, ctc:lm2: it is that of ctc." in Path("exp/compare/compare.html").read_text()
    families = [plots.family(system) for system in found["systems"]]
    assert families[0] != families[1] == families[2]


def test_every_loss_weight_and_the_views_are_in_the_table(recipe: Path) -> None:
    ledger = ("heads.ctc.inter_layers=[2]", "heads.ctc.consistency=0.2")
    exps = [decoded("ctc", wrong(5), "ctc", ledger), decoded("hybrid", wrong(7), "hybrid")]
    first, second = compared(*exps)["systems"]
    assert first["losses"] == "ctc 1, InterCTC 0.3 at 2, CR-CTC 0.2" and first["views"] == 2
    assert second["losses"].startswith("ctc 0.3 + attention 0.7") and second["views"] == 1


def test_a_pruned_transducer_is_no_size_of_an_exact_one(recipe: Path) -> None:
    prune = ("heads.transducer.prune={simple_weight: 0.4, range: 3, warmup_batches: 9}", "encoder.dim=144")
    exps = [decoded("exact", wrong(5), "transducer"), decoded("pruned", wrong(7), "transducer", prune)]
    exact, pruned = compared(*exps, "--allow", "encoder", "--quick")["systems"]
    assert exact["losses"] == "transducer 1"
    assert pruned["losses"] == "transducer 1, pruned to 3 tokens a frame, simple joiner 0.4, warm-up of 9 batches"
    assert plots.family(exact) != plots.family(pruned)


def test_missing_utterances_are_refused_or_left_out_of_all(recipe: Path) -> None:
    fewer = {u: text for u, text in wrong(7).items() if u != "u7"}
    exps = [decoded("ctc", wrong(5)), decoded("transducer", fewer, "transducer")]
    assert "1 of the 60 utterances of the manifest are missing, first 'u7'" in refused(*exps)
    found = compared(*exps, "--allow", "utterances")
    assert found["utterances"] == 59 and any("59 of the 60" in note for note in found["notes"])


def test_another_test_set_is_refused(recipe: Path) -> None:
    exps = [decoded("ctc", wrong(5)), decoded("transducer", {"v1": "go"}, "transducer")]
    message = refused(*exps, "--allow", "utterances")
    assert "utterance 'v1' is not in the manifest; name that of this decoding" in message


def test_runs_that_are_none_or_not_decoded_are_refused(recipe: Path) -> None:
    exp = decoded("ctc", wrong(5))
    assert "exp/ctx: no trained model here" in refused(exp, "exp/ctx")
    damaged = decoded("attention", PERFECT, "attention", facts={"train_minutes": "many"})
    assert "run.json: train_minutes holds 'many'; wanted a number" in refused(exp, damaged)
    Path(exp, "decode/test.jsonl").unlink()
    assert "exp/ctc: no decoding 'test' (choices: none); `asrtts decode` makes it" in refused(exp)


def test_empty_hypotheses_are_counted(recipe: Path) -> None:
    found = compared(decoded("ctc", wrong(5)), decoded("attention", dict.fromkeys(TEXTS, ""), "attention"))
    assert "attention: 60 of 60 hypotheses are empty." in found["notes"]
    assert found["systems"][1]["wer"]["percent"] == 100.0


def test_one_system_alone_has_no_pairs(recipe: Path) -> None:
    found = compared(decoded("ctc", wrong(5)))
    assert found["pairs"] == [] and "One system: nothing to compare it with." in found["notes"]


def test_its_own_folder_is_no_system(recipe: Path) -> None:
    exps = [decoded("ctc", wrong(5)), decoded("transducer", wrong(7), "transducer")]
    first = compared(*exps)
    assert compared("exp/compare", *exps) == first


def test_scripts_without_blanks_are_judged_by_characters(recipe: Path) -> None:
    write_manifest(HAN)
    hyps = {u: "x" + text[1:] for u, text in HAN.items()}
    found = compared(decoded("ctc", HAN), decoded("transducer", hyps, "transducer"))
    assert found["judged_by"] == "characters" and found["pairs"][0]["difference"] < 0
    assert found["systems"][1]["wer"]["percent"] == 100.0
    assert any("judged by characters" in note for note in found["notes"])


def test_a_test_set_without_words_compares_nothing(recipe: Path) -> None:
    write_manifest(dict.fromkeys(TEXTS, ""))
    found = compared(decoded("ctc", dict.fromkeys(TEXTS, "")), decoded("attention", PERFECT, "attention"))
    assert found["pairs"][0]["sentence"] == "ctc and attention: nothing to compare, the references hold no words"
    assert found["systems"][1]["wer"]["percent"] is None and found["systems"][1]["wer"]["ins"] > 0


def test_every_dash_has_its_reason(recipe: Path) -> None:
    found = compared(decoded("ctc", wrong(5), summary={"threads": 2}))
    assert any(note.startswith("RTF, one thread: ctc: decoded on several threads") for note in found["notes"])
    dashes = [key for key, cost in found["systems"][0]["measures"].items() if cost["value"] is None]
    assert all(found["systems"][0]["measures"][key]["why"] for key in dashes)


def test_a_search_that_has_no_such_effort_is_not_asked_for_it(recipe: Path) -> None:
    found = compared(decoded("ctc", wrong(5)), decoded("transducer", wrong(7), "transducer"))
    assert found["fair"] == {"not_equal": {}, "unknown": {}}


def test_times_of_different_computers_are_marked(recipe: Path) -> None:
    here, there = ({"facts": {"computer": name}, "summary": {"computer": name}} for name in ("2 x A", "8 x B"))
    exps = [decoded("ctc", wrong(5), **here), decoded("transducer", wrong(7), "transducer", **here)]
    assert not any("computers" in note for note in compared(*exps)["notes"])
    exps.append(decoded("attention", wrong(9), "attention", **there))
    notes = compared(*exps)["notes"]
    told = "not to be compared, as of different computers: ctc and transducer on 2 x A; attention on 8 x B."
    assert {f"RTF, one thread: {told}", f"training, minutes: {told}"} <= set(notes)


def test_a_word_comes_as_late_as_its_last_token(recipe: Path) -> None:
    exp = decoded("ctc", PERFECT)
    path = Path(exp, "decode/test.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:  # a piece every 0.1 s; the last one of a word 50 ms behind its end
        pieces = "▁".join(line["hyp"].split())
        line["tokens"] = [{"token": piece, "time": round(0.1 * n, 3)} for n, piece in enumerate(pieces)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ends = {
        u: [(w, 0.1 * (len(" ".join(t.split()[: n + 1])) - 1)) for n, w in enumerate(t.split())]
        for u, t in TEXTS.items()
    }
    ctm = [
        f"{u} 1 {max(end - 0.3, 0):.3f} {min(end - 0.05, 0.25):.3f} {word}\n"
        for u, words in ends.items()
        for word, end in words
    ]
    Path("words.ctm").write_text(";; spoken\n" + "".join(ctm))
    delay = compared(exp, "--alignment", "words.ctm")["systems"][0]["measures"]["emission_delay_ms"]
    assert delay["value"] == pytest.approx([50.0, 50.0], abs=1e-6)
    Path("words.ctm").write_text("u1 1 0.3\n")
    with pytest.raises(UserError, match="words.ctm:1: no CTM"):
        compare.main([exp, "--test", "test", "--alignment", "words.ctm"])


def spoken_and_emitted(exp: str, split: Callable[[str], list[str]], late: float) -> None:
    """A TextGrid of each utterance, whose units last 0.5 s, and a decoding that emits each so much after its end."""
    path = Path(exp, "decode/test.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        units = split(line["hyp"])
        line["tokens"] = [{"token": f"▁{u}", "time": 0.5 * n + late} for n, u in enumerate(units, 1)]
        words = [Interval(u.upper(), 0.5 * n - 0.5, 0.5 * n) for n, u in enumerate(units, 1)]
        Path("grids").mkdir(exist_ok=True)
        Path(f"grids/{line['utt_id']}.TextGrid").write_text(
            textgrid.text(Alignment(line["utt_id"], 0.5 * len(units), words, []))
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_delay_is_measured_against_textgrids_too_whatever_their_case(recipe: Path) -> None:
    exp = decoded("ctc", PERFECT)
    spoken_and_emitted(exp, str.split, 0.08)
    delay = compared(exp, "--alignment", "grids")["systems"][0]["measures"]["emission_delay_ms"]
    assert delay["value"] == pytest.approx([80.0, 80.0], abs=1e-6)


def test_text_without_blanks_has_the_delays_of_its_characters(recipe: Path) -> None:
    write_manifest(HAN)
    exp = decoded("ctc", HAN)
    spoken_and_emitted(exp, list, -0.04)
    delay = compared(exp, "--alignment", "grids")["systems"][0]["measures"]["emission_delay_ms"]
    assert delay["value"] == pytest.approx([-40.0, -40.0], abs=1e-6)


def test_utterances_that_the_alignment_does_not_have_are_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {f"talks/{u}": text for u, text in TEXTS.items()}
    write_manifest(texts)
    exp = decoded("ctc", texts)
    Path("grids/talks").mkdir(parents=True)
    spoken_and_emitted(exp, str.split, 0.08)
    for path in Path("grids/talks").iterdir():  # as `asrtts align` names them
        path.rename(f"grids/talks_{path.name}")
    delay = compared(exp, "--alignment", "grids")["systems"][0]["measures"]["emission_delay_ms"]
    assert delay["value"] == pytest.approx([80.0, 80.0], abs=1e-6)
    assert "emission delay" not in " ".join(capsys.readouterr().err.split())
    gone = next(iter(TEXTS))
    Path(f"grids/talks_{gone}.TextGrid").unlink()
    compared(exp, "--alignment", "grids")
    told = f"grids: 1 of {len(texts)} utterances are missing or have other words, e.g. talks/{gone}; the emission delay"
    assert told in " ".join(capsys.readouterr().err.split())


def emitted(exp: str, late: float) -> list[str]:
    """Tokens of a decoding, each so many seconds after its word; the words as lines of a CTM, 0.5 s each."""
    path = Path(exp, "decode/test.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ctm = []
    for line in lines:
        words = line["hyp"].split()
        line["tokens"] = [{"token": f"▁{word}", "time": 0.5 * n + late} for n, word in enumerate(words, 1)]
        ctm += [f"{line['utt_id']} A {0.5 * n:.2f} 0.50 {word} 0.98" for n, word in enumerate(words)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ctm


MARKS = [
    "sil",
    "SIL",
    "sp",
    "spn",
    "<eps>",
    "!SIL",
    "!ENTER",
    "[noise]",
    "<unk>",
    "{NS}",
    "(breath)",
    "++um++",
    ",",
    "-",
]


def test_marks_of_other_aligners_are_no_words(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"u0": "go sil on", "u1": "Stop, please!", "u2": "it's half-past one", "u3": "sp", **TEXTS}
    write_manifest(texts)
    exp = decoded("ctc", texts)
    ctm = emitted(exp, 0.08)
    plain = {"Stop,": "stop", "please!": "please", "half-past": "half past", "it's": "it 's"}  # as MFA cuts them
    marked = [";; NIST's comment"]
    for number, line in enumerate(ctm):
        utt_id, channel, start, _, word, sure = line.split()
        parts = plain.get(word, word).split()
        for part, at in zip(parts, (0.0, 0.25), strict=False):
            marked.append(f"{utt_id} {channel} {float(start) + at:.2f} {0.5 / len(parts):.2f} {part} {sure}")
        if word not in ("sil", "sp"):
            marked.append(f"{utt_id} {channel} {float(start) + 0.5:.2f} 0.00 {MARKS[number % len(MARKS)]} {sure}")
    Path("words.ctm").write_bytes(("\ufeff" + "\r\n".join(marked) + "\r\n").encode())
    delay = compared(exp, "--alignment", "words.ctm")["systems"][0]["measures"]["emission_delay_ms"]
    assert delay["value"] == pytest.approx([80.0, 80.0], abs=1e-6)
    assert "utterances are missing" not in " ".join(capsys.readouterr().err.split())
    page = Path("exp/compare/compare.html").read_text()
    assert "!ENTER" not in page and "++um++" not in page


def test_ids_are_the_same_in_both_forms_of_unicode(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """macOS gives back file names whose accents are letters of their own."""
    texts = {f"\u00e9t\u00e9/{u}": text for u, text in TEXTS.items()}
    write_manifest(texts)
    exp = decoded("ctc", {unicodedata.normalize("NFD", u): text for u, text in texts.items()})
    ctm = emitted(exp, 0.08)  # its ids are those of the decoding, in the other form
    Path("words.ctm").write_text("\n".join(ctm))
    value = pytest.approx([80.0, 80.0], abs=1e-6)
    assert compared(exp, "--alignment", "words.ctm")["systems"][0]["measures"]["emission_delay_ms"]["value"] == value
    Path("grids").mkdir()
    for utt_id, text in texts.items():
        words = [Interval(word, 0.5 * n, 0.5 * n + 0.5) for n, word in enumerate(text.split())]
        name = unicodedata.normalize("NFD", textgrid.file_name(utt_id)).replace(".TextGrid", ".textgrid")
        Path("grids", name).write_text(textgrid.text(Alignment(utt_id, 0.5 * len(words), words, [])), encoding="utf-16")
        Path("grids", f"._{name}").write_bytes(b"\x00\x05\x16\x07")  # beside each file on a disk of another kind
    assert compared(exp, "--alignment", "grids")["systems"][0]["measures"]["emission_delay_ms"]["value"] == value
    assert "utterances are missing" not in " ".join(capsys.readouterr().err.split())
    score.main([exp, "--on", "test"])
    assert json.loads(Path(exp, "score/test/score.json").read_text())["wer"]["percent"] == 0


def test_the_delay_is_had_of_the_utterances_that_are_compared(recipe: Path) -> None:
    exps = [decoded("ctc", PERFECT), decoded("attention", {u: PERFECT[u] for u in list(TEXTS)[:30]}, "attention")]
    Path("words.ctm").write_text("\n".join([emitted(exp, 0.08) for exp in exps][0]))
    found = compared(*exps, "--allow", "utterances", "--alignment", "words.ctm")
    delays = [system["measures"]["emission_delay_ms"]["value"] for system in found["systems"]]
    assert delays == [pytest.approx([80.0, 80.0], abs=1e-6)] * 2


def test_words_that_the_transcriber_did_not_understand_are_left_out(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {**TEXTS, "u1": "go <unk> stop", "u2": "<unk>", "u3": "five <UNK>"}
    write_manifest(texts)
    hyps = {**TEXTS, "u1": "go nine stop", "u2": "what", "u3": "five"}
    exp = decoded("ctc", hyps)
    ctm = emitted(exp, 0.08)
    Path("words.ctm").write_text("\n".join(line.replace(" nine ", " <unk> ") for line in ctm))
    found = compared(exp, "--alignment", "words.ctm")
    words = sum(len(text.split()) for text in texts.values()) - 3
    assert found["words"] == words and found["unknown_words"] == 3
    assert (found["systems"][0]["wer"]["percent"], found["systems"][0]["cer"]["percent"]) == (0, 0)
    assert found["systems"][0]["measures"]["emission_delay_ms"]["value"] == pytest.approx([80.0, 80.0], abs=1e-6)
    assert "Words of the references that are <unk>, left out of the errors: 3." in found["notes"]
    capsys.readouterr()
    score.main([exp, "--on", "test"])
    assert f"test: 60 utterances, {words} words, without 3 <unk>; errors in %" in capsys.readouterr().out
    assert json.loads(Path(exp, "score/test/score.json").read_text())["wer"]["percent"] == 0
    assert "<unk>" not in Path(exp, "score/test/wer/ref.trn").read_text()


# Too little to say something ---------------------------------------------------------------------------------------

LITTLE = {
    "one utterance": {"u1": "go stop"},
    "one word": {"u1": "go"},
    "one with words": {"u1": "go stop", "u2": ""},
    "no words": {"u1": "", "u2": ""},
    "one that is empty": {"u1": ""},
    "all unknown": {"u1": "<unk>", "u2": "<unk> <unk>"},
    "punctuation": {"u1": ".", "u2": "-"},
}
SAID = {"right": lambda text: text, "nothing": lambda _: "", "more": lambda text: f"{text} more of it"}


@pytest.mark.parametrize("kind", LITTLE)
def test_of_too_little_there_is_no_statistic(kind: str, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = LITTLE[kind]
    write_manifest(texts)
    exps = []
    for name, say in SAID.items():
        exps.append(
            decoded(name, {u: say(text) for u, text in texts.items()}, "ctc", (f"heads.ctc.weight={len(name)}",))
        )
        for seed in (1, 2):  # and a system of two runs
            overrides = (f"heads.ctc.weight={10 + len(name)}", f"seed={seed}")
            exps.append(decoded(f"{name}-{seed}", {u: say(text) for u, text in texts.items()}, "ctc", overrides))
        event = {"update": 100, "validation": {"error": 0.0, "loss": 1.0}}
        Path(exps[-1], "train.jsonl").write_text(json.dumps(event) + "\n")
    Path("words.ctm").write_text("\n".join(f"{u} 1 0 1 {word}" for u, text in texts.items() for word in text.split()))
    found = compared(*exps, "--alignment", "words.ctm", "--allow", "seeds")
    score.main([*exps, "--on", "test"])
    files = [*Path("exp").glob("*/score/test/score.json"), Path("exp/compare/compare.json")]
    assert len(files) == 10 and not any(re.search("NaN|Infinity", path.read_text()) for path in files)
    assert not re.search(r"\b(nan|inf)\b", capsys.readouterr().out)
    assert not re.search(
        r"[^-]\b(NaN|Infinity|nan)\b", Path("exp/compare/compare.html").read_text().split("<script")[0]
    )
    rates = [system["wer"] for system in found["systems"]]
    if kind != "punctuation":  # two utterances, two words
        assert all(rate["interval_95"] is None and rate["interval_95_by_speaker"] is None for rate in rates)
        without = kind in ("no words", "one that is empty", "all unknown")
        told = "No error rate: the references hold no words" if without else "No interval by utterance: one utterance"
        assert any(note.startswith(told) for note in found["notes"])
        assert all((rate["percent"] is None) is without for rate in rates)
    assert rates[4]["ins"] == 3 * len(texts)


@pytest.mark.parametrize(
    "events",
    [
        [{"update": 10, "validation": {"error": 0.5}}],
        [{"update": 10, "loss": 3.5}],
        [{"update": 10, "loss": 0.0}, {"update": 10, "validation": {"error": 0.0}}],
        [{"update": 10, "loss": math.nan}, {"update": 20, "loss": math.inf}, {"update": 20, "loss": 2}],
        [{"update": 10, "loss": -4.0}, {"update": 20, "loss": -5.0}],
        [{"update": 10, "loss": 1000.0}, {"update": 20, "loss": 1.0}],
    ],
)
def test_a_training_of_few_updates_is_drawn(recipe: Path, events: list[dict[str, Any]]) -> None:
    exp = decoded("ctc", wrong(5))
    Path(exp, "train.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    compared(exp)
    page = Path("exp/compare/compare.html").read_text()
    assert ("Validation error" in page) is any("validation" in event for event in events)
    assert ("Training loss" in page) is any("loss" in event for event in events)


def test_a_training_without_a_number_is_not_drawn(recipe: Path) -> None:
    exp = decoded("ctc", wrong(5))
    Path(exp, "train.jsonl").write_text('{"update": 1, "loss": NaN}\n')
    compared(exp)
    assert "train.jsonl holds no update" in Path("exp/compare/compare.html").read_text()


def test_the_comparison_itself_is_no_run(recipe: Path) -> None:
    Path("exp/compare").mkdir(parents=True)
    with pytest.raises(UserError, match="exp/compare: the folder of the comparison itself; name trained and decoded"):
        compare.main(["exp/compare", "--test", "test"])


def test_names_with_brackets_and_dollars_stay_whole(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(TEXTS, "test[a]")
    exps = [decoded("ctc[1]$x", wrong(3)), decoded("[b]tr$\\frac", wrong(9), "transducer")]
    for exp in exps:
        Path(exp, "train.jsonl").write_text('{"update": 1, "loss": 2.0}\n{"update": 2, "loss": 1.0}\n')
        for end in ("jsonl", "summary.json"):
            Path(exp, f"decode/test.{end}").rename(Path(exp, f"decode/test[a].{end}"))
    compare.main([*exps, "--test", "test[a]"])
    out = capsys.readouterr().out
    assert "test[a]: 60 utterances" in out and "ctc[1]$x" in out.split("\n")[1]


def pair_table(page: str) -> list[dict[str, str]]:
    """The rows of the pairs in compare.md."""
    block = page.split("## Pairs\n\n")[1].split("\n\n")[0]
    headings, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines())
    return [dict(zip(headings, row, strict=True)) for row in rows]


def test_all_that_is_known_of_a_pair_stands_in_both_pages(recipe: Path) -> None:
    (pair,) = compared(decoded("ctc", wrong(2)), decoded("transducer", wrong(7), "transducer"))["pairs"]
    (row,) = pair_table(Path("exp/compare/compare.md").read_text())
    (test,) = pair["mapsswe"]
    assert (row["A"], row["B"], row["test"]) == ("ctc", "transducer", "MAPSSWE")
    assert row["segments"] == str(test["segments"]) and row["Z"] == f"{test['z']:.2f}"
    assert (row["p"], row["p, MAPSSWE"]) == (f"{test['exact']:.2g}", f"{test['p']:.2g}")  # of few segments
    assert row["A is better in"] == f"{100 * pair['probability_a_better']:.0f} %"
    for key, heading in (("interval_95", "paired bootstrap"), ("interval_95_by_speaker", "by speaker")):
        assert row[f"95 %, {heading}"] == "[{:.1f}, {:.1f}]".format(*pair[key])
    assert not any("seed" in heading for heading in row)  # one run each
    html = Path("exp/compare/compare.html").read_text().split('id="pair-table"')[1].split("</details>")[0]
    cells = re.findall(r"<t[hd](?: scope=.row.)?>(.*?)</t[hd]>", html.split("<tbody>")[1])
    assert [re.sub("<.*?>", "", cell) for cell in cells] == list(row.values())


def test_with_several_seeds_the_test_of_each_seed_stands_beside_that_over_seeds(recipe: Path) -> None:
    exps = [*_seeds("ctc", (5, 6, 7)), *_seeds("transducer", (8, 7, 6))]
    (pair,) = compared(*exps)["pairs"]
    page = Path("exp/compare/compare.md").read_text()
    (row,) = pair_table(page)
    assert row["test"] == "t, over seeds" and row["MAPSSWE of seed"] == "1, 2, 3"
    assert row["segments"] == ", ".join(str(test["segments"]) for test in pair["mapsswe"])
    assert row["p, MAPSSWE"] == ", ".join(f"{test['p']:.2g}" for test in pair["mapsswe"])
    low, high = (100 * bound for bound in pair["over_seeds"]["interval"])
    assert row["95 %, over seeds"] == f"[{low:.1f}, {high:.1f}]"
    plain = "says nothing of what another seed would give"
    assert plain in page.split("## Pairs")[1] and plain in Path("exp/compare/compare.html").read_text()


def test_of_many_pairs_those_that_matter_are_said_and_the_rest_is_found(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight systems are 28 pairs: the best, one nearly as good, four alike in the middle and two bad ones."""
    every = {"worse": 1, "a": 4, "bad": 2, "b": 4, "best": 30, "c": 4, "d": 4, "near": 20}
    exps = [
        decoded(name, wrong(n), overrides=(f"heads.ctc.weight={1 + i / 8}",))
        for i, (name, n) in enumerate(every.items())
    ]
    pairs = compared(*exps, "--page-audio", "0")["pairs"]
    apart = [pair for pair in pairs if pair["p_holm"] < 0.05]
    assert len(pairs) == 28 and 15 < len(apart) < 28 and sum("best" in (p["a"], p["b"]) for p in apart) == 6
    out = capsys.readouterr().out
    said = [line for line in out.splitlines() if " is better than " in line or " not distinguishable " in line]
    assert len(said) == 15 and f"The other 13 pairs ({len(apart) - 14} of them told apart): in the files below." in out
    assert all(line.startswith("best is better than ") for line in said[:6])
    assert all(" is better than " in line and "best" not in line for line in said[6:14])
    assert said[14].startswith("best and near are not distinguishable on ")
    md, html = (Path(f"exp/compare/compare.{kind}").read_text() for kind in ("md", "html"))
    assert sum(line.startswith("- ") and line[2:] in said for line in md.splitlines()) == 15
    assert len(pair_table(md)) == 28
    before, folded = html.split('<details id="other-pairs">')
    shown, rest = before.split('id="pairs-title"')[1].count("<li>"), folded.split("</details>")[0].count("<li>")
    assert (shown, rest) == (15, 13)


def test_errors_are_counted_in_whole_numbers_and_means_with_a_digit() -> None:
    assert [table.count(value) for value in (51.0, 12345.0, 5 / 3)] == ["51", "12,345", "1.7"]


def test_the_table_fits_a_terminal(recipe: Path) -> None:
    found = compared(*(decoded(head, wrong(5), head) for head in ("ctc", "transducer", "attention", "hybrid")))
    out = io.StringIO()
    table.show(found, Console(file=out, force_terminal=True, width=100, color_system=None))
    assert max(len(line) for line in out.getvalue().splitlines()) <= 100


def test_the_page_joins_sizes_of_one_family_and_says_what_it_leaves_out(recipe: Path) -> None:
    exps = [decoded("small", wrong(3)), decoded("large", wrong(9), overrides=("encoder.dim=144",))]
    for exp, megabytes in zip(exps, (1, 3), strict=True):
        Path(exp, "model.safetensors").write_bytes(bytes(megabytes * 1_000_000))
    found = compared(*exps, "--allow", "encoder.dim", "--quick")
    assert len({plots.family(system) for system in found["systems"]}) == 1
    page = Path("exp/compare/compare.html").read_text()
    (plot,) = re.findall(r'<svg role="img" aria-label="WER against size".*?</svg>', page, re.S)
    assert ">small, large<" in plot and ">small<" in plot and ">large<" in plot
    assert "WER against size" in page and "WER against multiply-adds" not in page
    assert "Not drawn against multiply-adds: small, large: left out by --quick." in page
    assert "No training curve: small, large: there is no train.jsonl." in page
    assert "a.wav: the audio of u" in page and "is gone" in page
    compared(*exps, "--allow", "encoder.dim", "--quick", "--page-audio", "0")
    assert "No sound" not in Path("exp/compare/compare.html").read_text().split("<script")[0]
    with pytest.raises(UserError, match="--page-audio: found '-1', wanted"):
        compare.main([*exps, "--test", "test", "--page-audio", "-1"])
