"""`asrtts download`: a link, an archive or the network, and never a write into somebody else's corpus."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from asrtts import storage
from asrtts.bin import download
from asrtts.cli import main
from asrtts.corpora import aishell, an4, librispeech
from asrtts.data import archive
from asrtts.data.fetching import Archive
from asrtts.registry import UserError

AN4 = {"an4/etc/an4_train.transcription": "<s> YES </s> (an1-faaa-b)\n", "an4/etc/an4_test.transcription": "\n"}


@pytest.fixture(autouse=True)
def no_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASRTTS_CORPORA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def pack(path: Path, files: dict[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def snapshot(root: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for path in root.rglob("*")}


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which a server on this machine publishes it."""
    shop = tmp_path / "published"
    shop.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shop))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield shop, f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def as_published(packed: Path, url: str) -> Archive:
    data = packed.read_bytes()
    return Archive(packed.name, (url,), (f"sha256:{hashlib.sha256(data).hexdigest()}",), len(data))


def test_an_archive_is_fetched_unpacked_and_removed(
    tmp_path: Path, published: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop, url = published
    packed = pack(shop / "an4_sphere.tar.gz", AN4)
    monkeypatch.setattr(an4, "ARCHIVE", as_published(packed, url))
    download.main(["an4", str(tmp_path / "downloads")])
    assert [u.text for u in an4.utterances(tmp_path / "downloads")["dev"]] == ["YES"]
    assert [p.name for p in (tmp_path / "downloads" / "an4").iterdir()] == ["an4"]
    packed.unlink()
    download.main(["an4", str(tmp_path / "downloads")])
    assert "already in" in capsys.readouterr().out


def test_only_the_subsets_that_lack_are_fetched(
    tmp_path: Path, published: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, url = published
    subsets = {}
    for subset in ("dev-clean", "test-clean"):
        files = {f"LibriSpeech/{subset}/1/2/1-2.trans.txt": "1-2-0 A\n", "LibriSpeech/README.TXT": subset}
        subsets[subset] = as_published(pack(shop / f"{subset}.tar.gz", files), url)
    monkeypatch.setattr(librispeech, "ARCHIVES", {**librispeech.ARCHIVES, **subsets})
    download.main(["librispeech", str(tmp_path / "d"), "--subset", "dev-clean"])
    assert list(librispeech.utterances(tmp_path / "d")) == ["dev"]
    (shop / "dev-clean.tar.gz").unlink()
    download.main(["librispeech", str(tmp_path / "d"), "--subset", "dev-clean", "test-clean"])
    assert list(librispeech.utterances(tmp_path / "d")) == ["dev", "test-clean"]


def test_the_speakers_of_aishell_are_unpacked_too(tmp_path: Path) -> None:
    speaker = pack(tmp_path / "S2.tar.gz", {"train/S2/U1.wav": "sound"}).read_bytes()
    files = {"data_aishell/transcript/aishell_transcript_v0.8.txt": "U1 好\n", "data_aishell/wav/S2.tar.gz": speaker}
    pack(tmp_path / "disk" / "data_aishell.tgz", files)
    download.main(["aishell", str(tmp_path / "d"), "--corpus", str(tmp_path / "disk")])
    assert [(u.text, u.speaker) for u in aishell.utterances(tmp_path / "d")["train"]] == [("好", "S2")]


def test_an_archive_on_the_disk_is_unpacked_and_stays(tmp_path: Path) -> None:
    pack(tmp_path / "shelf" / "an4" / "an4_sphere.tar.gz", AN4)
    before = snapshot(tmp_path / "shelf")
    download.main(["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])
    assert an4.utterances(tmp_path / "d")["dev"]
    assert snapshot(tmp_path / "shelf") == before


@pytest.mark.parametrize("name", ["", "an4", "an4/an4"])
def test_a_tree_on_the_disk_is_linked_again_and_again(tmp_path: Path, name: str) -> None:
    tree(tmp_path / "shelf", AN4)
    if name == "an4/an4":
        (tmp_path / "shelf" / "an4").rename(tmp_path / "inner")
        (tmp_path / "shelf" / "an4").mkdir()
        (tmp_path / "inner").rename(tmp_path / "shelf" / "an4" / "an4")
    before = snapshot(tmp_path / "shelf")
    source = tmp_path / "shelf" / ("an4" if name == "an4" else "")
    for _ in range(2):
        download.main(["an4", str(tmp_path / "d"), "--corpus", str(source)])
    assert (tmp_path / "d" / "an4").is_symlink() and an4.utterances(tmp_path / "d")["dev"]
    assert snapshot(tmp_path / "shelf") == before


def test_the_environment_names_the_folder_of_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "shelf", AN4)
    monkeypatch.setenv("ASRTTS_CORPORA", str(tmp_path / "shelf"))
    download.main(["an4", str(tmp_path / "d"), "--corpus", ""])  # as a recipe passes a variable that is not set
    assert (tmp_path / "d" / "an4").resolve() == tmp_path / "shelf" / "an4"


def test_a_part_of_librispeech_on_the_disk_is_enough_unless_subsets_are_named(tmp_path: Path) -> None:
    tree(tmp_path / "shelf", {"LibriSpeech/dev-clean/1/2/1-2.trans.txt": "1-2-0 A\n"})
    for _ in range(2):
        download.main(["librispeech", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])
    with pytest.raises(UserError, match="librispeech is there without test-clean"):
        options = ["--corpus", str(tmp_path / "shelf"), "--subset", "dev-clean", "test-clean"]
        download.main(["librispeech", str(tmp_path / "e"), *options])


def test_nothing_is_downloaded_into_a_linked_corpus(tmp_path: Path) -> None:
    tree(tmp_path / "shelf", {"LibriSpeech/dev-clean/1/2/1-2.trans.txt": "1-2-0 A\n"})
    download.main(["librispeech", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])
    before = snapshot(tmp_path / "shelf")
    with pytest.raises(UserError, match="is a link to .* which lacks test-clean"):
        download.main(["librispeech", str(tmp_path / "d"), "--subset", "test-clean"])
    assert snapshot(tmp_path / "shelf") == before


def test_a_link_to_a_folder_that_is_gone_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "an4").symlink_to(tmp_path / "gone")
    pack(tmp_path / "shelf" / "an4_sphere.tar.gz", AN4)
    download.main(["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])
    assert an4.utterances(tmp_path / "d")["dev"] and not (tmp_path / "gone").exists()


def test_a_folder_with_something_in_it_is_not_replaced_by_a_link(tmp_path: Path) -> None:
    tree(tmp_path / "shelf", AN4)
    tree(tmp_path / "d" / "an4", {"mine.txt": "mine"})
    with pytest.raises(UserError, match="is in the way of a link"):
        download.main(["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])
    assert (tmp_path / "d" / "an4" / "mine.txt").read_text() == "mine"


def test_an_archive_of_something_else_is_noticed(tmp_path: Path) -> None:
    pack(tmp_path / "shelf" / "an4_sphere.tar.gz", {"other/README": "x"})
    with pytest.raises(UserError, match="an4_sphere.tar.gz was unpacked but holds no an4"):
        download.main(["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])


MANY = {**AN4, **{f"an4/wav/{n % 16}/{n}.sph": "sound" * 200 for n in range(256)}}


def test_two_at_once_leave_every_file(tmp_path: Path, verbs: Any) -> None:
    pack(tmp_path / "shelf" / "an4_sphere.tar.gz", MANY)
    argv = ["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")]
    for status, said in verbs.at_once("download", argv, argv):
        assert status == 0 or "another process" in said
    assert {str(p.relative_to(tmp_path / "d" / "an4")) for p in (tmp_path / "d").rglob("*") if p.is_file()} == set(MANY)
    assert [p.name for p in (tmp_path / "d" / "an4").iterdir()] == ["an4"]


def test_two_that_link_the_same_corpus_both_succeed(tmp_path: Path, verbs: Any) -> None:
    tree(tmp_path / "shelf", AN4)
    argv = ["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")]
    assert [status for status, _ in verbs.at_once("download", argv, argv)] == [0, 0]
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["an4"] and an4.utterances(tmp_path / "d")


def test_a_corpus_that_a_killed_run_left_half_in_place_is_not_there(tmp_path: Path, capsys: Any) -> None:
    pack(tmp_path / "shelf" / "an4_sphere.tar.gz", MANY)
    tree(tmp_path / "d" / "an4", AN4)
    (tmp_path / "d" / "an4" / ".an4_sphere.tar.gz.unfinished").touch()
    download.main(["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])
    assert f"unpacked {len(MANY)} files" in capsys.readouterr().out
    download.main(["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])
    assert "already in" in capsys.readouterr().out


def test_another_process_that_downloads_the_corpus_is_named(tmp_path: Path) -> None:
    pack(tmp_path / "shelf" / "an4_sphere.tar.gz", AN4)
    with storage.held(tmp_path / "d" / "an4"), pytest.raises(UserError, match="another process.* wait for it"):
        download.main(["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")])


@pytest.mark.parametrize("written", [0, 100])
def test_after_a_full_disk_the_same_command_unpacks_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    pack(tmp_path / "shelf" / "an4_sphere.tar.gz", MANY)
    argv = ["an4", str(tmp_path / "d"), "--corpus", str(tmp_path / "shelf")]
    real, calls = shutil.copyfileobj, itertools.count()

    def full(*args: Any) -> None:
        if next(calls) >= written:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args)

    monkeypatch.setattr(archive.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="the disk is full; free some space and give the same command again"):
        download.main(argv)
    assert not (tmp_path / "d" / "an4").exists()
    monkeypatch.undo()
    download.main(argv)
    assert len([p for p in (tmp_path / "d").rglob("*") if p.is_file()]) == len(MANY)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["an5", "d"], "no corpus is named 'an5'; did you mean 'an4'?"),
        (["an4"], "asrtts download: the following arguments are required: DEST"),
        (["an4", "d", "--corpora", "x"], "unknown argument '--corpora'; did you mean '--corpus'?"),
        (["an4", "d", "--corpus", "gone"], "gone: no such folder (named by --corpus)"),
        (["an4", "d", "--corpus", "."], ".: holds neither an4 unpacked nor an4_sphere.tar.gz"),
        (["an4", "d", "--subset", "x"], "--subset means nothing to an4"),
        (["an4", "d", "--trust", "sha256:12"], "--trust sha256:12: wanted sha256: and 64"),
        (["librispeech", "d", "--subset", "dev-cleen"], "no subset 'dev-cleen'; did you mean 'dev-clean'?"),
        (["an4", __file__, "--corpus", "."], "test_download.py: File exists; name a folder that can be written"),
        (["an4", f"{__file__}/d", "--corpus", "."], "test_download.py/d: Not a directory; name a folder"),
        (["kaldi", "d"], "kaldi is a data folder of your own"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["download", *argv])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and said in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []


def test_help_lists_what_can_be_fetched_and_no_form_of_data():
    told = download.parser().format_help()
    assert "one of aishell, an4, librispeech, mini, yesno" in " ".join(told.split())
