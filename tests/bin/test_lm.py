"""`asrtts lm`, and what `decode` and `score` make of it."""

from __future__ import annotations

import json
import shutil

import pytest

from asrtts.bin import decode, lm, score
from asrtts.data import manifest
from asrtts.lm import lm_folder
from asrtts.registry import UserError
from asrtts.text import tokenizer
from asrtts.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def made(tones, tmp_path_factory):
    """An n-gram of the tones' text."""
    folder = tmp_path_factory.mktemp("lm") / "lm"
    lm.main([*texts(tones), str(folder), "--order", "3", *options(tones)])
    return folder


def texts(tones):
    return [str(tones / "data/train")]


def options(tones):
    return ["--tokens", str(tones / "data/tokens"), "--dev", str(tones / "data/dev")]


@pytest.fixture
def run(trained, tmp_path):
    def copy(head="ctc"):
        shutil.copytree(trained(head), tmp_path / head, dirs_exist_ok=True)
        return tmp_path / head

    return copy


def refused(match, main, *argv):
    with pytest.raises(UserError, match=match) as error:
        main([str(arg) for arg in argv])
    assert "\n" not in str(error.value)


def test_the_folder_is_whole_and_tells_its_perplexity(tones, made, capsys):
    assert sorted(p.name for p in made.iterdir()) == ["lm.json", "ngram.arpa", "tokens"]
    about = lm_folder.about(made)
    assert about["order"] == 3 and 1 < about["token_perplexity"] < 7 < about["word_perplexity"]


def test_a_language_model_of_weight_0_is_in_the_summary_too(tones, made, run):
    given = [str(run()), str(tones / "data/test"), "--threads", "1", "method=ctc_prefix_beam"]
    for name, settings in {"none": [], "zero": [f"lm={made}", "lm_weight=0"]}.items():
        decode.main([*given, "--name", name, *settings])
    none, zero = (json.loads((run() / f"decode/{name}.summary.json").read_text()) for name in ("none", "zero"))
    assert "lm" not in none and (zero["lm"], zero["lm_weight"]) == (str(made), 0)


def test_a_finished_model_is_left_alone_and_a_damaged_or_other_one_made_anew(tones, made, tmp_path, capsys):
    folder = tmp_path / "lm"
    given = [*texts(tones), str(folder), *options(tones)]
    lm.main([*given, "--order", "2"])
    before = (folder / "ngram.arpa").stat().st_mtime_ns
    capsys.readouterr()
    lm.main([*given, "--order", "2"])
    err = capsys.readouterr().err
    assert "finished before" in err and "perplexity" in err and (folder / "ngram.arpa").stat().st_mtime_ns == before
    (folder / "tokens/tokens.txt").write_text("damaged")
    for order in ("2", "3"):
        lm.main([*given, "--order", order])
        assert "finished before" not in capsys.readouterr().err and lm_folder.about(folder)["order"] == int(order)
    assert (folder / "ngram.arpa").read_bytes() == (made / "ngram.arpa").read_bytes()


def test_a_text_file_and_an_arpa_file_give_the_same_model(tones, made, tmp_path):
    lines = [u.text for u in manifest.read(tones / "data/train")]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    lm.main([str(tmp_path / "train.txt"), str(tmp_path / "text"), "--order", "3", *options(tones)])
    assert (tmp_path / "text/ngram.arpa").read_bytes() == (made / "ngram.arpa").read_bytes()
    lm.main([str(made / "ngram.arpa"), str(tmp_path / "arpa"), *options(tones)])
    assert (tmp_path / "arpa/ngram.arpa").read_bytes() == (made / "ngram.arpa").read_bytes()


@pytest.mark.parametrize(
    ("head", "method", "used"),
    [
        ("ctc", "auto", "ctc_prefix_beam"),
        ("transducer", "auto", "transducer_beam"),
        ("transducer", "transducer_greedy", "transducer_greedy"),
        ("attention", "auto", "attention_beam"),
        ("hybrid", "auto", "joint_beam"),
    ],
)
def test_every_head_decodes_with_it_beside_the_result_without_it(tones, made, run, head, method, used):
    folder, test = run(head), str(tones / "data/test")
    bare = ["--threads", "1", f"method={method if method != 'auto' else used}"]
    decode.main([str(folder), test, *bare])
    decode.main([str(folder), test, *bare, f"lm={made}", "lm_weight=0", "--name", "test_zero"])
    decode.main(
        [str(folder), test, "--threads", "1", f"method={method}", f"lm={made}", "lm_weight=5", "--name", "t_lm"]
    )
    plain, zero, fused = ((folder / f"decode/{name}.jsonl").read_text() for name in ("test", "test_zero", "t_lm"))
    assert zero == plain != fused
    summary = json.loads((folder / "decode/t_lm.summary.json").read_text())
    assert summary["method"] == used and (summary["lm"], summary["lm_weight"]) == (str(made), 5.0)
    assert "lm" not in json.loads((folder / "decode/test.summary.json").read_text())
    score.main([str(folder), "--on", test, "--name", "test", "--name", "t_lm"])
    found = [json.loads((folder / f"score/{name}/score.json").read_text()) for name in ("test", "t_lm")]
    assert [f["system"] for f in found] == [head, f"{head}:t_lm"]
    assert found[0]["run"]["family"] != found[1]["run"]["family"]


def test_the_size_of_a_batch_changes_nothing(tones, made, run):
    for head in ("ctc", "transducer", "hybrid"):
        folder, lines = run(head), []
        for size in ("0.1", "1000"):
            fused = [f"lm={made}", f"lodr={made}", "length_bonus=0.5", "beam=3", "--batch-seconds", size]
            decode.main([str(folder), str(tones / "data/test"), "--threads", "1", *fused])
            lines.append([json.loads(line) for line in (folder / "decode/test.jsonl").read_text().splitlines()])
        assert [line["hyp"] for line in lines[0]] == [line["hyp"] for line in lines[1]]
        assert [line["score"] for line in lines[0]] == pytest.approx([line["score"] for line in lines[1]], abs=1e-3)


def test_a_model_of_other_tokens_is_refused_by_name(tones, made, run, tmp_path):
    tokenizer.make(["ABCDEF"], "char").save(tmp_path / "tokens")
    given = ["--order", "2", "--tokens", tmp_path / "tokens", "--dev", tones / "data/dev"]
    lm.main([str(a) for a in (*texts(tones), tmp_path / "other", *given)])
    fused = f"lm={tmp_path / 'other'}"
    match = r"other: a language model of 8 char tokens .* the recognizer has \d+ char tokens"
    refused(match, decode.main, run(), tones / "data/test", fused)


def test_the_mark_of_a_windows_editor_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfABC\r\nDE\r\n")
    assert lm.sentences(tmp_path / "a.txt") == ["ABC", "DE"]


def test_what_is_wrong_is_one_line(tones, made, run, tmp_path):
    folder, test = run(), tones / "data/test"
    refused("none: no language model here .*lm.json is missing", decode.main, folder, test, f"lm={tmp_path / 'none'}")
    refused("no language model can help it", decode.main, folder, test, f"lm={made}", "method=ctc_greedy")
    refused("wanted a bare name", decode.main, folder, test, "--name", "a/b")
    for order in ("0", "99999999", "9" * 5000):
        said = "--order: found .*, wanted a whole number from 1 to 100"
        refused(said, lm.main, *texts(tones), tmp_path / "lm", "--order", order, *options(tones))
    refused("has its own", lm.main, made / "ngram.arpa", tmp_path / "lm", "--order", "2", *options(tones))
    before = sorted(p.name for p in folder.iterdir())
    refused("ctc: is in use by something else", lm.main, *texts(tones), folder, *options(tones))
    assert sorted(p.name for p in folder.iterdir()) == before
    refused("no such text", lm.main, tmp_path / "gone.txt", tmp_path / "lm", *options(tones))
    refused("no such manifest", lm.main, tmp_path / "gone", tmp_path / "lm", *options(tones))
    (tmp_path / "empty.txt").write_text("\n\n")
    refused("every sentence is empty", lm.main, tmp_path / "empty.txt", tmp_path / "lm", *options(tones))
    assert not (tmp_path / "lm").exists()
    copy = shutil.copytree(made, tmp_path / "copy")
    (copy / "ngram.arpa").write_text("\\data\\\nngram 1=2\n")
    refused("ngram.arpa: damaged: its checksum .* lm.json; make it again", decode.main, folder, test, f"lm={copy}")
    assert Tokenizer.load(made / "tokens").fingerprint() == Tokenizer.load(tones / "data/tokens").fingerprint()


SMALL = ["training.updates=6", "training.validate_every=3", "model.dim=8", "training.threads=1"]
SMALL += ["training.precision=float32", "training.tensorboard=false"]


def test_a_neural_model_is_trained_once_and_decodes(tones, run, tmp_path, capsys):
    folder = tmp_path / "lstm"
    given = [*texts(tones), str(folder), "--neural", *SMALL, *options(tones), "--device", "cpu"]
    lm.main(given)
    weights, about = (folder / "model.safetensors").read_bytes(), lm_folder.about(folder)
    assert about["kind"] == "lstm" and about["update"] in (3, 6) and 1 < about["token_perplexity"] < 9
    (folder / "lm.json").unlink()
    lm.main(given)  # as after a kill just before the end
    assert (folder / "model.safetensors").read_bytes() == weights and lm_folder.about(folder) == about
    refused("cannot resume: model.dim was 8", lm.main, *given, "model.dim=9")
    for name in ("checkpoints", "snapshots", "config.yaml", "run.json", "train.jsonl"):  # decoding needs none of these
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    for head in ("ctc", "transducer", "hybrid"):
        decode.main([str(run(head)), str(tones / "data/test"), "--threads", "1", f"lm={folder}", "lm_weight=2"])
    flipped = bytearray(weights)
    flipped[-7] ^= 1
    for damaged in (weights[:-9], bytes(flipped)):
        (folder / "model.safetensors").write_bytes(damaged)
        refused("model.safetensors: damaged", decode.main, run(), tones / "data/test", f"lm={folder}")
    (folder / "model.safetensors").unlink()
    refused("model.safetensors: not there", decode.main, run(), tones / "data/test", f"lm={folder}")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (["--neural", "--order", "3"], "has no order"),
        (["training.updates=6"], "is a setting of --neural"),
        (["--neural", "training.update=6"], "did you mean 'updates'"),
        (["--neural", "training.keep_best=0", "training.keep_last=1"], "keep_best is 0"),
    ],
)
def test_settings_that_do_not_fit_the_kind_are_one_line(tones, tmp_path, given, match):
    refused(match, lm.main, *texts(tones), tmp_path / "lm", *given, *options(tones))
    assert not (tmp_path / "lm").exists()


def test_a_flipped_bit_of_an_ngram_is_named_and_made_again(tones, made, run, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy")
    whole = (copy / "ngram.arpa").read_bytes()
    (copy / "ngram.arpa").write_bytes(whole.replace(b"-1.", b"-3.", 1))
    fused = [str(run()), str(tones / "data/test"), "--threads", "1", f"lm={copy}"]
    refused("copy/ngram.arpa: damaged: its checksum is not the one in lm.json; make it again", decode.main, *fused)
    lm.main([*texts(tones), str(copy), "--order", "3", *options(tones)])
    assert (copy / "ngram.arpa").read_bytes() == whole
    (copy / "ngram.arpa").unlink()
    refused("copy/ngram.arpa: not there, but named in lm.json", decode.main, *fused)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_of_nan_are_refused_though_the_checksum_is_right(tones, tmp_path, bad):
    import torch
    from safetensors.torch import load_file, save_file

    from asrtts import storage

    folder = tmp_path / "lstm"
    lm.main([*texts(tones), str(folder), "--neural", *SMALL, *options(tones), "--device", "cpu"])
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[3] = bad
    save_file(weights, folder / "model.safetensors")
    about = {
        key: value for key, value in lm_folder.about(folder).items() if key not in (storage.MADE_FROM, storage.FILES)
    }
    lm_folder.save_about(folder, about)
    with pytest.raises(UserError, match=f"model.safetensors: {name} holds NaN or infinity"):
        lm_folder.load(folder, Tokenizer.load(tones / "data/tokens"), torch.device("cpu"))


def test_a_record_of_before_without_checksums_can_be_read(tones, made, run, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy")
    about = json.loads((copy / "lm.json").read_text())
    (copy / "lm.json").write_text(json.dumps({k: v for k, v in about.items() if k not in ("files", "made_from")}))
    decode.main([str(run()), str(tones / "data/test"), "--threads", "1", f"lm={copy}"])


def test_a_text_in_other_letters_is_refused_with_the_way_out(tones, tmp_path, capsys):
    (tmp_path / "low.txt").write_text("abcde\nab\n")
    (tmp_path / "few.txt").write_text("ABCDE\nABCDEA\nABZ\n")
    for more in ([], ["--neural"]):
        said = "low.txt: 100% of its tokens are unknown to the char tokens, e.g. a, b, c, d, e; write it in capital"
        refused(said, lm.main, tmp_path / "low.txt", tmp_path / "lm", *more, *options(tones))
    dev = ["--tokens", tones / "data/tokens", "--dev", tmp_path / "low.txt"]
    refused("low.txt: 100% of its tokens are unknown", lm.main, *texts(tones), tmp_path / "lm", *dev)
    assert not (tmp_path / "lm").exists()
    lm.main([str(tmp_path / "few.txt"), str(tmp_path / "lm"), *options(tones)])
    assert "few.txt: 7.1 % of its tokens are unknown" in capsys.readouterr().err
    assert lm_folder.about(tmp_path / "lm")["unknown_tokens_of_text"] == round(1 / 14, 5)
    (tmp_path / "poor.arpa").write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n-1\t</s>\n-99\t<s>\n\n\\end\\\n")
    poor = "poor.arpa: 100% of the tokens of .*dev are not among its words"
    refused(poor, lm.main, tmp_path / "poor.arpa", tmp_path / "poor", *options(tones))


def test_a_folder_behind_a_link_is_written_through(tones, tmp_path):
    (tmp_path / "lm").symlink_to(tmp_path / "large" / "lm")
    lm.main([*texts(tones), str(tmp_path / "lm"), "--order", "2", *options(tones)])
    assert (tmp_path / "lm").is_symlink() and (tmp_path / "large/lm/lm.json").is_file()


def test_a_working_directory_that_was_deleted_is_one_line(tones, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    refused("exp/lm: the folder you are in was deleted", lm.main, *texts(tones), "exp/lm", *options(tones))


def test_a_language_model_is_no_recognizer(tones, tmp_path):
    folder = tmp_path / "lstm"
    lm.main([*texts(tones), str(folder), "--neural", *SMALL, *options(tones), "--device", "cpu"])
    refused(
        "lstm: is a run of task: language_model; wanted one of task: recog", decode.main, folder, tones / "data/test"
    )
