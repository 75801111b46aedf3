"""Downloads, against a server on this machine that misbehaves in the ways that servers do."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asrtts.data import fetching
from asrtts.data.fetching import Archive, fetch
from asrtts.registry import UserError

CONTENT = bytes(range(256)) * 1200  # 300 kB, so that a socket's buffer does not hold it all
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@dataclass
class Server:
    """Every folder of it is a mirror with its own habit."""

    url: str
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # (folder, Range)

    def archive(self, *folders: str, size: int = len(CONTENT), sums: tuple[str, ...] = (SHA,)) -> Archive:
        return Archive("a.tar.gz", tuple(f"{self.url}/{folder}" for folder in folders), sums, size)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            folder, asked = self.path.split("/")[1], self.headers.get("Range")
            here.asked.append((folder, asked))
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and folder != "rangeless" else 0
            if folder == "404":
                return self.send_error(404)
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            body = CONTENT[start:]
            if folder == "wrong":
                body = b"<" + body[1:]
            if folder == "page":
                body = b"<html>this file has moved</html>"
            self.send_response(206 if start and folder != "page" else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                first = start + (7 if folder == "misplaced" else 0)
                self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.end_headers()
            if folder == "truncating":
                body = body[:100_000]
                self.close_connection = True
            if folder in ("stalling", "trickling"):
                self.wfile.write(body[:1000])
                self.wfile.flush()
                for i in range(1000, 1300):
                    if stop.wait(0.05 if folder == "trickling" else 30):
                        break
                    self.wfile.write(body[i : i + 1])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass  # the client hung up, as it should

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Quiet(("127.0.0.1", 0), Handler) as http:
        here = Server(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield here
        stop.set()
        http.shutdown()
        thread.join()


def test_the_bytes_arrive_and_the_progress_reaches_the_end(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = fetch(server.archive("good"), tmp_path, report=lambda done, total: told.append((done, total)))
    assert path == tmp_path / "a.tar.gz" and path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT)) and len(told) > 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_finished_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    fetch(server.archive("good"), tmp_path)
    fetch(server.archive("good"), tmp_path)
    assert len(server.asked) == 1


def test_a_mirror_that_breaks_off_is_continued_until_the_file_is_whole(server: Server, tmp_path: Path) -> None:
    path = fetch(server.archive("truncating"), tmp_path, rounds=4, stall=1)
    assert path.read_bytes() == CONTENT
    ranges = [asked for _, asked in server.asked]
    assert ranges[0] is None and len(ranges) == 4
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in ranges[1:] if r]
    assert starts == [100_000, 200_000, 300_000]


def test_another_mirror_continues_what_the_first_began(server: Server, tmp_path: Path) -> None:
    assert fetch(server.archive("truncating", "good"), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("truncating", None), ("good", "bytes=100000-")]


def test_a_part_from_a_killed_run_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(CONTENT[:1234])
    assert fetch(server.archive("good"), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("good", "bytes=1234-")]


def test_a_part_that_is_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(CONTENT)
    assert fetch(server.archive("good"), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("wrong", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 50)])
def test_a_part_of_something_else_is_begun_anew(server: Server, tmp_path: Path, wrong: bytes) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(wrong)
    assert fetch(server.archive("good"), tmp_path, stall=1).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_from_the_beginning(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(b"x" * 5000)
    assert fetch(server.archive("rangeless"), tmp_path).read_bytes() == CONTENT


def test_an_answer_to_another_range_is_not_appended(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match="another range"):
        fetch(server.archive("misplaced"), tmp_path, rounds=1)
    assert (tmp_path / "a.tar.gz.part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("bad", ["404", "wrong", "page", "stalling", "trickling"])
def test_a_bad_mirror_is_passed_over(server: Server, tmp_path: Path, bad: str) -> None:
    begun = time.monotonic()
    assert fetch(server.archive(bad, "good"), tmp_path, stall=0.3).read_bytes() == CONTENT
    assert [folder for folder, _ in server.asked] == [bad, "good"]
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("bad", "reason"),
    [("404", "HTTP 404"), ("wrong", "wrong bytes, sha256:"), ("page", "offers 32 bytes instead of 307200")]
    + [("truncating", "broke off at byte"), ("stalling", "nothing for 0.2 s")],
)
def test_where_every_mirror_fails_the_reason_is_named(server: Server, tmp_path: Path, bad: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"a.tar.gz: no mirror gave it .127.0.0.1.*{reason}") as error:
        fetch(server.archive(bad), tmp_path, rounds=1, stall=0.2)
    assert "\n" not in str(error.value) and not (tmp_path / "a.tar.gz").exists()


def test_wrong_bytes_are_not_kept_to_be_continued(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wrong bytes"):
        fetch(server.archive("wrong"), tmp_path, rounds=1)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_is_away_is_named(tmp_path: Path) -> None:
    gone = Archive("a.tar.gz", ("http://127.0.0.1:9",), (SHA,))
    with pytest.raises(UserError, match="127.0.0.1:9: Connection refused"):
        fetch(gone, tmp_path, rounds=1)


def test_each_published_edition_is_accepted(server: Server, tmp_path: Path) -> None:
    other, md5 = "sha256:" + "0" * 64, f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    assert fetch(server.archive("good", sums=(other, md5)), tmp_path).is_file()


def test_a_new_edition_is_accepted_when_it_is_trusted(server: Server, tmp_path: Path) -> None:
    old = server.archive("good", size=17, sums=("sha256:" + "0" * 64,))
    with pytest.raises(UserError, match="offers 307200 bytes instead of 17"):
        fetch(old, tmp_path, rounds=1)
    assert fetch(old, tmp_path, trust=SHA, rounds=1).read_bytes() == CONTENT


def test_a_file_that_lies_there_damaged_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"other")
    with pytest.raises(UserError, match="a.tar.gz: wrong bytes.*delete it and run this again"):
        fetch(server.archive("good"), tmp_path)
    assert server.asked == []


def test_a_disk_too_small_is_said_before_anything_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 400_000  # the packed file would fit, the unpacked one not

    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(UserError, match="needs 0.00 GB, packed and unpacked"):
        fetch(server.archive("good"), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Headers that lie

LIES = {  # what a mirror answers whatever it is asked: (status line, headers, body)
    "length abc": ("200 OK", ["Content-Length: abc"], CONTENT),
    "length negative": ("200 OK", ["Content-Length: -5"], CONTENT),
    "length empty": ("200 OK", ["Content-Length:"], CONTENT),
    "length of thousands of digits": ("200 OK", ["Content-Length: " + "9" * 5000], CONTENT),
    "length absent": ("200 OK", [], CONTENT),
    "length too large": ("200 OK", [f"Content-Length: {len(CONTENT) + 999}"], CONTENT),
    "length of a disk": ("200 OK", ["Content-Length: 99999999999999999"], CONTENT),
    "length too small": ("200 OK", ["Content-Length: 1000"], CONTENT),
    "two lengths": ("200 OK", ["Content-Length: 5", f"Content-Length: {len(CONTENT)}"], CONTENT),
    "chunks without a size": ("200 OK", ["Transfer-Encoding: chunked"], b"zz\r\n" + CONTENT),
    "a page": ("200 OK", ["Content-Type: text/html; charset=x"], b"<html>moved</html>"),
    "a page as an archive": ("200 OK", ["Content-Type: application/gzip"], b"\n <!DOCTYPE html><html>log in</html>"),
    "no range": ("206 Partial Content", [], CONTENT),
    "a range of words": ("206 Partial Content", ["Content-Range: bytes all/everything"], CONTENT),
    "a range of thousands of digits": ("206 Partial Content", [f"Content-Range: bytes 0-1/{'9' * 5000}"], CONTENT),
    "a range of another place": ("206 Partial Content", ["Content-Range: bytes 7-9/12"], CONTENT),
    "nothing left": ("416 Range Not Satisfiable", ["Content-Range: bytes */3"], b""),
    "nothing left of nothing": ("416 Range Not Satisfiable", [], b""),
    "moved to nowhere": ("302 Found", ["Location: http://" + "x" * 300 + ".invalid/"], b""),
    "moved to itself": ("302 Found", ["Location: /"], b""),
    "moved without a place": ("302 Found", [], b""),
    "no status": ("", [], b""),
    "a status of letters": ("abc OK", [], CONTENT),
    "nothing": ("200 OK", ["Content-Length: 0"], b""),
}


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with a folder for each lie, and the folder `good`."""
    names = sorted(LIES)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            folder = self.path.split("/")[1]
            good = ("200 OK", [f"Content-Length: {len(CONTENT)}"], CONTENT)
            status, headers, body = LIES[names[int(folder)]] if folder.isdigit() else good
            head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""])
            self.wfile.write(head.encode() + body)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1,.invalid")
    with Quiet(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("size", [len(CONTENT), 0])
@pytest.mark.parametrize("begun", [0, 1000])
@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_mirror_whose_headers_lie_stops_no_other_mirror(
    liar: str, tmp_path: Path, lie: str, begun: int, size: int
) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(CONTENT[:begun])
    mirrors = (f"{liar}/{sorted(LIES).index(lie)}", f"{liar}/good")
    assert fetch(Archive("a.tar.gz", mirrors, (SHA,), size), tmp_path, stall=1, rounds=1).read_bytes() == CONTENT


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_mirror_whose_headers_lie_is_used_or_named(liar: str, tmp_path: Path, lie: str) -> None:
    archive = Archive("a.tar.gz", (f"{liar}/{sorted(LIES).index(lie)}",), (SHA,))
    try:
        assert fetch(archive, tmp_path, stall=0.3, rounds=2).read_bytes() == CONTENT
    except UserError as error:
        assert "no mirror gave it (127.0.0.1" in str(error) and "\n" not in str(error) and len(str(error)) < 500


@pytest.mark.parametrize("lie", ["a page", "a page as an archive", "nothing left", "length of a disk"])
def test_what_has_arrived_is_not_thrown_away_for_a_page(liar: str, tmp_path: Path, lie: str) -> None:
    (tmp_path / "a.tar.gz.part").write_bytes(CONTENT[:1000])
    archive = Archive("a.tar.gz", (f"{liar}/{sorted(LIES).index(lie)}",), (SHA,), len(CONTENT))
    with pytest.raises(UserError, match="no mirror gave it"):
        fetch(archive, tmp_path, stall=0.3, rounds=1)
    assert (tmp_path / "a.tar.gz.part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("lie", ["length abc", "length negative", "length absent", "length too large"])
def test_the_right_bytes_are_taken_whatever_their_length_is_said_to_be(liar: str, tmp_path: Path, lie: str) -> None:
    archive = Archive("a.tar.gz", (f"{liar}/{sorted(LIES).index(lie)}",), (SHA,))
    assert fetch(archive, tmp_path, stall=0.3, rounds=1).read_bytes() == CONTENT


def test_a_full_disk_is_one_line_and_the_download_resumes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        (tmp_path / "a.tar.gz.part").write_bytes(CONTENT[:5000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "_transfer", full)
    with pytest.raises(UserError, match="part: the disk is full; free some space and give the same command again"):
        fetch(server.archive("good"), tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(server.archive("good"), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("good", "bytes=5000-")]
