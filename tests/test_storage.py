"""Files that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asrtts import storage
from asrtts.registry import UserError


def refuse(number: int):
    def work(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return work


def test_a_text_is_written_and_replaced(tmp_path):
    for text in ("one", "⁇ two"):
        storage.write(tmp_path / "new" / "a.txt", text)
        assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("where", ["pathlib.Path.write_text", "os.replace"])
def test_a_full_disk_is_one_line_and_leaves_the_old_text(tmp_path, monkeypatch, where):
    storage.write(tmp_path / "a.txt", "old")
    monkeypatch.setattr(where, refuse(errno.ENOSPC))
    with pytest.raises(UserError, match="a.txt: the disk is full; free some space"):
        storage.write(tmp_path / "a.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize("depth", [51, 300, 600, 100_000])
def test_json_that_is_nested_too_deeply_is_one_line(depth):
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        for given in (text, text.encode()):
            with pytest.raises(UserError, match=r"a.json: not JSON \(nested too deeply\); make it again"):
                storage.json_object(given, "a.json", "make it again")


def test_brackets_in_a_text_or_beside_each_other_are_not_nested():
    values = {"text": "[{" * 1000, "lists": [[]] * 1000}
    assert storage.parse_json(json.dumps(values)) == values


def test_what_safetensors_says_of_a_disk_is_said_in_short(tmp_path):
    error = Exception('Error while serializing: I/O error: Read-only file system (os error 30) at path "/a/.tmpL5cL"')
    said = str(storage.storage_error(tmp_path / "a.safetensors", error))
    assert said.startswith(f"{tmp_path}/a.safetensors: cannot be written (Read-only file system); name a folder")


def test_a_disk_that_must_not_be_written_is_one_line_though_nothing_can_be_removed_there_either(tmp_path, monkeypatch):
    for where in ("pathlib.Path.write_text", "pathlib.Path.unlink"):
        monkeypatch.setattr(where, refuse(errno.EROFS))
    with pytest.raises(UserError, match=r"a.txt: cannot be written \(Read-only file system\); name a folder"):
        storage.write(Path(tmp_path / "a.txt"), "new")


def test_a_file_that_must_not_be_read_says_so(tmp_path, monkeypatch):
    storage.refuse_unreadable(tmp_path / "not there")  # whoever reads it says that better
    monkeypatch.setattr("builtins.open", refuse(errno.EACCES))
    with pytest.raises(UserError, match="a.safetensors: permission denied; ask its owner"):
        storage.refuse_unreadable(tmp_path / "a.safetensors")


HOLD = "import sys, time; from pathlib import Path; from asrtts import storage\n"
HOLD += "with storage.held(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"


def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path):
    folder = tmp_path / "new" / "exp"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match=rf"exp: another process( \(pid {other.pid}\))? is working here; wait"):
            storage.held(folder).__enter__()
        other.kill()
    with storage.held(folder):
        (folder / "a").touch()
    with storage.held(folder):  # again, and what is in it stays
        assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_folder_in_which_nothing_was_begun_is_gone_again(tmp_path):
    with storage.held(tmp_path / "exp"):
        assert (tmp_path / "exp").is_dir()
    assert not (tmp_path / "exp").exists()


def test_a_folder_that_is_thrown_away_while_it_is_locked_is_locked_anew(tmp_path, monkeypatch):
    folder, real, calls = tmp_path / "exp", fcntl.flock, []

    def late(lock: int, how: int) -> None:
        real(lock, how)
        calls.append(lock)
        if len(calls) == 1:
            folder.rename(tmp_path / "exp.discarded")

    monkeypatch.setattr(fcntl, "flock", late)
    with storage.held(folder):
        assert len(calls) == 2 and folder.is_dir()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/exp: cannot be written"), storage.held(tmp_path / "file" / "exp"):
        pass


def test_two_that_write_one_text_at_once_leave_one_of_the_two_whole(tmp_path):
    code = "import sys; from pathlib import Path; from asrtts import storage\n"
    code += "for _ in range(300): storage.write(Path(sys.argv[1]), sys.argv[2] * 20000)"
    goal = tmp_path / "a.txt"
    writers = [subprocess.Popen([sys.executable, "-c", code, goal, letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        if goal.exists():
            text = goal.read_text()
            assert len(text) == 20000 and len(set(text)) == 1
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_staged_folder_is_alone_and_gone_at_the_end(tmp_path):
    goal = tmp_path / "shards"
    with storage.staged(goal) as one, storage.staged(goal) as other:
        assert one != other and one.is_dir() and other.is_dir() and not goal.exists()
        (one / "a").touch()
        one.rename(goal)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert (goal / "a").is_file()


STAGE = "import sys, time; from pathlib import Path; from asrtts import storage\n"
STAGE += "with storage.staged(Path(sys.argv[1])) as beside: (beside / 'a').touch(); print(beside.name, flush=True); "
STAGE += "time.sleep(100)"


def test_what_a_killed_process_staged_is_swept_and_what_a_living_one_stages_is_not(tmp_path):
    goal, foreign = tmp_path / "data", tmp_path / ".data.mine.part"
    foreign.mkdir()
    others = [subprocess.Popen([sys.executable, "-c", STAGE, goal], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    killed, living = (other.stdout.readline().strip() for other in others)
    others[0].kill()
    others[0].wait()
    with storage.staged(goal):
        there = {path.name for path in tmp_path.iterdir()}
        assert killed not in there and {living, foreign.name} <= there
    others[1].kill()
    others[1].wait()


def test_a_stage_is_finished_for_the_same_inputs_and_whole_files(tmp_path):
    record, made = tmp_path / "test.summary.json", tmp_path / "test.jsonl"
    inputs = {"data_hash": "12", "sizes": (1, 2)}
    assert storage.finished(record, inputs) is None
    made.write_text("one\n")
    storage.finish(record, inputs, [made], rtf=0.5)
    assert storage.finished(record, inputs)["rtf"] == 0.5
    before = json.loads(record.read_text())
    assert storage.changed(before, inputs | {"data_hash": "13"}) == ("data_hash", "12", "13")
    assert storage.changed(before, {"data_hash": "12"}) == ("sizes", [1, 2], None)
    assert storage.finished(record, inputs | {"beam": 10}) is None
    for damage in ("two\n", None):
        made.write_text(damage) if damage else made.unlink()
        assert storage.altered(tmp_path, before) == made
        assert storage.finished(record, inputs) is None
    record.write_text("{")
    assert storage.finished(record, inputs) is None
