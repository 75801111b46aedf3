"""Tar shards in the layout of WebDataset: `<utt_id>.flac` (or wav) with `<utt_id>.txt` or `<utt_id>.json` beside it."""

from __future__ import annotations

import json
import os
import re
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from asrtts.config import warn
from asrtts.data import shard_record, tar_members
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.storage import json_object, parse_json

HOMEPAGE = "https://github.com/webdataset/webdataset"

AUDIO = (".flac", ".wav", ".ogg", ".mp3", ".sph")
TEXTS = (".txt", ".json")
LONGEST_TEXT = 1 << 20  # bytes; a damaged header promises any number, and the memory for them would be asked for
_SPLIT = re.compile("train|dev|test|valid|eval")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass
class _Sample:
    """The members of one key."""

    key: str
    position: tuple[int, int] | None = None  # offset and size of the audio
    txt: str | None = None
    fields: dict[str, str] | None = None  # of the json

    @property
    def text(self) -> str | None:
        return self.txt if self.txt is not None else (self.fields or {}).get("text")


def download(root: Path) -> Path:
    """There is nothing to get: the shards are the user's own."""
    raise UserError(f"shards are your own: give their folder to `asrtts prepare shards DIR data`, not to {root}")


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """The splits of `root`: itself, or each folder in it that holds *.tar, named as the folders.

    A `root` that is named after no split is train.

    Nothing is unpacked: an utterance is its place in the shard, so that no name can lead anywhere. Members that are
    neither audio nor text are passed over. The text is that of `.txt`, else the key `text` of `.json`, which may also
    name the `speaker`.

    Raises:
        UserError: no shard is there; one is compressed, cut short or, by the record beside them, missing; a key has
            two files of a kind; a text cannot be read. Shard and member are named.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the folder of the shards, or that of train, dev and test")
    folders = [root] if _shards(root) else sorted(path for path in root.iterdir() if path.is_dir() and _shards(path))
    if not folders:
        packed = [path for path in sorted(root.rglob("*")) if path.name.endswith(PACKED)]
        if packed:
            _refuse_packed(packed[0])
        raise UserError(f"{root}: no shards (looked for *.tar in it and in the folders below)")
    splits = {}
    for folder in folders:
        listed = [u for shard in _shards(folder) for u in _read(shard)]
        _refuse_incomplete(folder, len(listed))
        name = os.path.basename(os.path.abspath(folder))
        splits[name if folder != root or _SPLIT.search(name) else "train"] = listed
    return splits


def _refuse_incomplete(folder: Path, count: int) -> None:
    """Raises UserError if what `asrtts shard` wrote beside the shards tells of other shards than there are."""
    record, listed = folder / shard_record.RECORD, folder / shard_record.MANIFEST
    way_out = (
        f"copy the shards again, or delete {shard_record.RECORD} and {shard_record.MANIFEST} to use those that are here"
    )
    if record.is_file():
        before = json_object(record.read_bytes(), str(record), way_out)
        if damage := shard_record.damage(folder, before):
            raise UserError(f"{damage}, says {record}; {way_out}")
        named = before.get(shard_record.SIZES)
        extra = [path for path in _shards(folder) if isinstance(named, dict) and path.name not in named]
        if extra:
            raise UserError(
                f"{extra[0]}: {record} does not name this shard; take it out, or delete {shard_record.RECORD}"
            )
    if listed.is_file():
        with open(listed, "rb") as lines:
            wanted = sum(1 for line in lines if line.strip())
        if wanted != count:
            raise UserError(f"{folder}: {listed.name} lists {wanted} utterances, the shards hold {count}; {way_out}")


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.tar"))  # ._a.tar is what macOS keeps beside a.tar


def _read(shard: Path) -> list[Utterance]:
    """The utterances of a shard, in the order of their audio."""
    samples: dict[str, _Sample] = {}
    if not shard.is_file():  # a pipe would be waited for
        raise UserError(f"{shard}: a folder, a pipe or a device, no shard; take it out of the folder")
    try:
        with open(shard, "rb") as file:
            for tar, member in tar_members.members(file):
                key, dot, suffix = member.name.rpartition(".")
                if key.rpartition("/")[2].startswith("._"):  # what a tar of macOS holds beside each file
                    continue
                if member.isreg() and not member.issparse() and dot + suffix.lower() in AUDIO + TEXTS:
                    form = unicodedata.normalize("NFC", key)  # macOS writes names in another form than texts
                    _put(samples.setdefault(form, _Sample(key)), tar, member, dot + suffix.lower(), shard)
    except tarfile.ReadError as error:
        with open(shard, "rb") as file:
            magic = file.read(6)
        if magic.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
            _refuse_packed(shard)
        raise UserError(f"{shard}: cut short or no tar file ({error}); copy or write it again") from None
    except OSError as error:
        raise UserError(f"{shard}: cannot be read ({error})") from None
    mute = [sample.key for sample in samples.values() if not sample.position]
    unwritten = [sample.key for sample in samples.values() if sample.position and sample.text is None]
    if mute:
        warn(f"{shard}: {len(mute)} texts have no audio and are left out, e.g. {mute[0]}")
    if unwritten:
        warn(f"{shard}: {len(unwritten)} audio files have no text and are left out, e.g. {unwritten[0]}")
    listed = [
        Utterance(s.key, os.path.abspath(shard), s.text, (s.fields or {}).get("speaker", ""), offset=where, size=size)
        for s in samples.values()
        if s.position and s.text is not None
        for where, size in [s.position]
    ]
    return sorted(listed, key=lambda u: u.offset)


def _put(sample: _Sample, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, shard: Path) -> None:
    """Note one member of a sample."""
    where = f"{shard}: {member.name}"
    if any("\ud800" <= c <= "\udfff" for c in member.name):  # how tarfile shows bytes that are no UTF-8
        raise UserError(f"{shard}: the name {member.name!r} is not UTF-8; write the shard again")
    before = {".txt": sample.txt, ".json": sample.fields}.get(suffix, sample.position)
    if before is not None:
        raise UserError(f"{where}: this shard has two such files of that name; take one of them out")
    if suffix in AUDIO:
        sample.position = (member.offset_data, member.size) if member.size else None
        return
    if member.size > LONGEST_TEXT:
        raise UserError(f"{where}: a text of {member.size} bytes; wanted that of one utterance, under {LONGEST_TEXT}")
    try:
        content = tar.extractfile(member).read().decode("utf-8-sig")
        fields = parse_json(content) if suffix == ".json" else {}
        json.dumps(fields, ensure_ascii=False).encode()  # half a character may stand in JSON, but in no text
    except ValueError as error:
        raise UserError(f"{where}: cannot be read ({error})") from None
    if not isinstance(fields, dict) or not all(isinstance(fields.get(key, ""), str) for key in ("text", "speaker")):
        raise UserError(f"{where}: wanted an object whose `text` and `speaker` are texts, found {content!r:.60}")
    if suffix == ".txt":
        sample.txt = content.strip("\r\n")
    else:
        sample.fields = fields


def _refuse_packed(path: Path) -> None:
    raise UserError(
        f"{path}: a compressed shard cannot be read at any place, and audio hardly shrinks; "
        "unpack it to a plain tar (gunzip, bunzip2, unxz or unzstd)"
    )
