"""What README and docs show exists and does what they say."""

from __future__ import annotations

import re
import shlex
import types
from pathlib import Path

import pytest
import torch

from asrtts import registry
from asrtts.experiment.settings import flat, load
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[1]
PAGES = [TOP / "README.md", *sorted(TOP.glob("docs/*.md")), *sorted(TOP.glob("egs/*/*/README.md"))]

NAMED = r"`((?:asrtts|tests|tools|docs|egs/[a-z]+|utils/stages)[\w./-]*\.(?:py|sh|md|yaml))`"
EXAMPLES = {
    "asrtts/asr/heads/smooth_ctc.py",
    "asrtts/tasks/word_count.py",
    "asrtts/asr/encoders/blstm.py",
    "asrtts/corpora/thorsten.py",
    "asrtts/corpora/x.py",
    "egs/x/asr/run.sh",
}


def page(path: Path) -> str:
    return str(path.relative_to(TOP))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def example(path: Path, name: str) -> types.ModuleType:
    """The first Python block of a page, as the module that it says it is."""
    module = types.ModuleType(name)
    exec(compile(blocks(path, "python")[0], str(path), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    inner = [link for link in links if "://" not in link]
    assert [link for link in inner if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_files_that_are_named_exist(path):
    named = re.findall(NAMED, path.read_text("utf-8"))
    assert [name for name in named if name not in EXAMPLES and not (TOP / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_tables_are_whole(path):
    """Every row has as many cells as its head, and none stands apart, where Markdown would show it as text."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    tables = [table.splitlines() for table in re.findall(r"(?:^ *\|.*\n)+", text, re.M)]
    assert [t[0] for t in tables if len(t) < 3 or not re.fullmatch(r" *\|(:?-+:?\|)+", t[1])] == []
    assert [row for t in tables for row in t if row.count("|") != t[0].count("|")] == []


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_commands_that_are_shown_parse(path):
    """Whole command lines: those of a block, and those between backticks that go beyond a verb's name."""
    text = path.read_text("utf-8")
    shown = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    for line in shown + re.findall(r"`(asrtts [^`]+)`", text):
        words = shlex.split(line.removeprefix("$ "), comments=True) if line.startswith(("asrtts ", "$ asrtts ")) else []
        if len(words) > 3 and "..." not in words and words[1] in registry.names("asrtts.bin"):
            registry.find("asrtts.bin", words[1]).parser().parse_args(words[2:])


def test_the_page_of_settings_is_what_train_prints(capsys):
    with pytest.raises(SystemExit) as ended:
        registry.find("asrtts.bin", "train").parser().parse_args(["--settings"])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert (TOP / "docs" / "settings.md").read_text("utf-8") == printed, "asrtts train --settings >docs/settings.md"
    for key in (
        "seed",
        "augmentation.reverberation.folder",
        "augmentation.spec_augment.warp_frames",
        "encoder.layer_drop",
    ):
        assert f"| `{key}` | " in printed
    assert "| `heads.transducer.loss_backend` | `native` or `warp_rnnt` or `torchaudio` | `native` | " in printed
    assert "| `training.threads` | a whole number from 0 up to 1024 | `0` | of the model" in printed
    assert "`unigram`" in printed


def test_every_key_of_a_run_is_on_the_page_of_settings():
    printed = (TOP / "docs" / "settings.md").read_text("utf-8")
    for conf in TOP.glob("egs/*/asr/conf/*.yaml"):
        if conf.name != "encoder.yaml":
            keys = flat(load(conf).model_dump(mode="json"))
            assert [key for key in keys if not key.endswith(".name") and f"`{key}`" not in printed] == []


def test_the_example_of_a_head_trains_and_searches():
    torch.manual_seed(1)
    module = example(TOP / "docs" / "adding_a_head.md", "smooth_ctc")
    head = module.Head(module.Config(), enc_dim=8, vocab_size=5)
    enc, enc_lens = torch.randn(2, 12, 8), torch.tensor([12, 9])
    tokens, token_lens = torch.tensor([[1, 2, 3], [4, 1, 0]]), torch.tensor([3, 2])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = head.loss(enc, enc_lens, tokens, token_lens)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert [hyps[0].tokens for hyps in head.search(enc, enc_lens)] == [[1, 2, 3], [4, 1]]
    padded = torch.cat([enc, torch.full((2, 5, 8), 9.0)], dim=1)
    torch.testing.assert_close(
        head.loss(padded, enc_lens, tokens, token_lens)["loss"], head.loss(enc, enc_lens, tokens, token_lens)["loss"]
    )
    for part, inputs in head.parts().values():
        part(*inputs)


def test_the_example_of_an_encoder_keeps_the_promises():
    torch.manual_seed(1)
    module = example(TOP / "docs" / "adding_an_encoder.md", "blstm")
    encoder = module.Encoder(module.Config(dim=6, layers=2), feat_dim=5).eval()
    feats, feat_lens = torch.randn(2, 22, 5), torch.tensor([22, 13])
    layers: list[torch.Tensor] = []
    enc, enc_lens = encoder(feats, feat_lens, layers)
    assert enc_lens.tolist() == [5, 3] == encoder.out_lens(feat_lens).tolist()
    assert enc.shape == (2, 5, 6) and [tuple(layer.shape) for layer in layers] == [(2, 5, 6)] * 2
    alone, _ = encoder(feats[1:, :13], feat_lens[1:])
    torch.testing.assert_close(enc[1, :3], alone[0])


def test_the_examples_have_the_doors_that_the_house_asks_for():
    import test_house  # beside this file, which pytest puts on the path

    assert set(test_house.DOORS["tasks"]) <= vars(example(TOP / "docs" / "adding_a_task.md", "t")).keys()
    assert set(test_house.DOORS["asr/heads"]) <= vars(example(TOP / "docs" / "adding_a_head.md", "h")).keys()
    assert set(test_house.DOORS["asr/encoders"]) <= vars(example(TOP / "docs" / "adding_an_encoder.md", "e")).keys()


def test_the_example_of_a_task_trains_resumes_and_is_loaded(tones, tmp_path, monkeypatch, capsys):
    """Its name alone makes it a task: settings, run folder, averaging and loading know nothing of it."""
    import asrtts.tasks
    from asrtts.bin import average, train
    from asrtts.experiment.run_folder import Run

    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/word_count.py").write_text(blocks(TOP / "docs" / "adding_a_task.md", "python")[0])
    monkeypatch.setattr(asrtts.tasks.__spec__, "submodule_search_locations", paths := list(asrtts.tasks.__path__))
    monkeypatch.setattr(asrtts.tasks, "__path__", paths)
    paths.append(str(tmp_path / "tasks"))
    conf = tmp_path / "word_count.yaml"
    conf.write_text(blocks(TOP / "docs" / "adding_a_task.md", "yaml")[0])
    given = [f"data.{name}={tones}/data/{name}" for name in ("train", "dev")]
    given += ["training.updates=20", "training.validate_every=10", "training.tensorboard=false", "training.workers=0"]
    given += ["training.optimizer.warmup_updates=2", "training.optimizer.lr=0.01"]
    for _ in range(2):
        train.main([str(conf), str(tmp_path / "exp"), *given])
    assert "finished at update 20" in capsys.readouterr().err
    average.main([str(tmp_path / "exp")])
    run = Run.open(tmp_path / "exp")
    assert run.settings.width == 32 and run.facts()["family"].startswith("word_count-")
    assert not run.load().training
    with pytest.raises(UserError, match="training.select: a validation gives no number 'eror'; did you mean 'error'"):
        train.main([str(conf), str(tmp_path / "other"), *given, "training.select=eror"])
