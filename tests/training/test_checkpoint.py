"""Checkpoints: whole or not there, whatever is killed, full, damaged or sent by a stranger."""

from __future__ import annotations

import builtins
import errno
import itertools
import os
import pickle
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from asrtts import storage
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.training import checkpoint

PACKAGE = Path(checkpoint.__file__).parents[1]
FILES = ["model.safetensors", "random.safetensors", "state.json", checkpoint.SEAL]


def save(folder: Path, update: int) -> None:
    weights = {"w": torch.full((40, 3), float(update)), "steps": torch.tensor(update)}
    checkpoint.save(folder, update, {"model": weights, "random": {"cpu-0": torch.get_rng_state()}}, {"update": update})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def loaded(folder: Path) -> int:
    """The update of the newest whole checkpoint, whose tensors are what was saved."""
    tensors, state = checkpoint.load_latest(folder)
    assert bool((tensors["model"]["w"] == state["update"]).all()) and int(tensors["model"]["steps"]) == state["update"]
    return state["update"]


def test_the_last_two_are_kept(tmp_path):
    for update in (5, 10, 15):
        save(tmp_path, update)
    assert names(tmp_path) == ["update-00000010", "update-00000015"]
    assert loaded(tmp_path) == 15


def test_there_is_none_before_the_first(tmp_path):
    assert checkpoint.load_latest(tmp_path / "checkpoints") is None


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The tests may run as root, who may read everything."""
    real = builtins.open

    def refuse(path, *rest, **more):
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(builtins, "open", refuse)


def test_weights_that_must_not_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    weights_file.save(tmp_path / "model.safetensors", {"w": torch.zeros(2)})
    forbid(monkeypatch, "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors: permission denied; ask its owner"):
        weights_file.load(tmp_path / "model.safetensors")


def test_a_checkpoint_that_must_not_be_read_is_not_passed_over(tmp_path, monkeypatch):
    for update in (1, 2):
        checkpoint.save(tmp_path, update, {"model": {"w": torch.zeros(2)}}, {"update": update})
    forbid(monkeypatch, "model.safetensors")
    with pytest.raises(UserError, match=r"update-00000002/model.safetensors: permission denied"):
        checkpoint.load_latest(tmp_path)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_one_is_passed_over_with_a_warning(tmp_path, capsys, name, how):
    save(tmp_path, 10)
    save(tmp_path, 20)
    damage(tmp_path / "update-00000020" / name, how)
    assert loaded(tmp_path) == 10
    warned = capsys.readouterr().err
    assert "update-00000020 is damaged" in warned and warned.count("\n") == 1


def test_a_file_that_the_seal_does_not_name_is_not_read(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    shutil.copy(tmp_path / "update-00000010/model.safetensors", tmp_path / "update-00000020/optimizer.safetensors")
    assert loaded(tmp_path) == 10


def test_if_all_are_damaged_it_says_so(tmp_path):
    for update in (10, 20):
        save(tmp_path, update)
        damage(tmp_path / f"update-{update:08d}" / "model.safetensors", "truncated")
    with pytest.raises(UserError, match="every checkpoint in it is damaged"):
        checkpoint.load_latest(tmp_path)


def test_a_damaged_one_does_not_push_a_whole_one_out(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    damage(tmp_path / "update-00000020" / "state.json", "flipped")
    save(tmp_path, 12)  # the run went on from 10
    assert names(tmp_path) == ["update-00000010", "update-00000012"]


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_in_rust(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "fail"),
    [
        ("nn.weights_file.save_file", no_space_in_rust),
        ("nn.weights_file.flush", no_space),
        ("training.checkpoint.os.replace", no_space),
        ("training.checkpoint.json.dumps", no_space),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_the_old_one_whole(tmp_path, monkeypatch, where, fail):
    save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(f"asrtts.{where}", fail)
        with pytest.raises(UserError, match="the disk is full; free some space") as error:
            save(tmp_path, 20)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["update-00000010"]
    save(tmp_path, 20)
    assert loaded(tmp_path) == 20


def test_a_full_disk_leaves_the_old_weights_whole(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    weights_file.save(path, {"w": torch.ones(3)})
    with monkeypatch.context() as patch:
        patch.setattr("asrtts.nn.weights_file.save_file", no_space_in_rust)
        with pytest.raises(UserError, match="the disk is full"):
            weights_file.save(path, {"w": torch.zeros(3)})
    assert names(tmp_path) == ["model.safetensors"]
    assert weights_file.load(path)["w"].tolist() == [1, 1, 1]


def die_at(step: str, call: int) -> None:
    """This process is killed when it calls `step` for the call-th time."""
    *module, name = step.split(".")
    holder = weights_file if name in ("save_file", "flush") else checkpoint
    holder = getattr(holder, module[0]) if module else holder
    real, calls = getattr(holder, name), itertools.count(1)

    def dying(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(holder, name, dying)


STEPS = ["shutil.rmtree", "save_file", "checksum", "flush", "os.replace"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_while_it_is_written_leaves_a_whole_one(tmp_path, monkeypatch, step):
    """The process is killed before its first, second, ... call of `step`, until it is through."""
    for call in range(1, 12):
        folder = tmp_path / str(call)
        save(folder, 10)
        save(folder, 20)
        pid = os.fork()
        if pid == 0:
            die_at(step, call)
            save(folder, 30)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert loaded(folder) in (20, 30)
        save(folder, 40)  # what lies about hinders nothing
        assert loaded(folder) == 40 and "writing" not in names(folder)
        if status == 0:
            assert call > 1, "was never called"
            return
    raise AssertionError("never came through")


def test_others_may_read_a_model_as_they_may_read_any_file(tmp_path):
    weights_file.save(tmp_path / "model.safetensors", {"w": torch.ones(3)})
    save(tmp_path, 1)
    (tmp_path / "plain").write_text("")
    modes = {p.stat().st_mode for p in tmp_path.rglob("*") if p.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


class Harm:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stranger.safetensors").write_bytes(pickle.dumps(Harm()))
    torch.save({"w": Harm()}, "zipped.safetensors")
    for name in ("stranger.safetensors", "zipped.safetensors"):
        with pytest.raises(UserError, match="damaged or not a safetensors file"):
            weights_file.load(Path(name))
    folder = tmp_path / "checkpoints" / "update-00000001"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    shutil.copy("stranger.safetensors", folder / "model.safetensors")
    sums = "".join(f"{storage.checksum(p)}  {p.name}\n" for p in sorted(folder.iterdir()))
    (folder / checkpoint.SEAL).write_text(sums)  # sealed as if it were ours
    with pytest.raises(UserError, match="every checkpoint in it is damaged"):
        checkpoint.load_latest(folder.parent)
    assert not Path("harm").exists()


def test_no_file_of_the_package_can_unpickle():
    way = re.compile(
        r"torch\.load\b(?!\([^()]*weights_only=True\))|\bpickle\.(?!UnpicklingError)|\bjoblib\b|"
        r"allow_pickle\s*=\s*True|yaml\.(unsafe_|full_)"
    )
    found = [f"{p.relative_to(PACKAGE)}: {m[0]}" for p in PACKAGE.rglob("*.py") for m in way.finditer(p.read_text())]
    assert found == []
