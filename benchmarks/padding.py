"""Padding of an epoch and bytes an utterance of the index, against ESPnet's numel batches.

ESPnet's NumElementsBatchSampler sorts all utterances of its shape files by length and cuts where the padded elements of
a batch would exceed `batch_bins`. The rule is written out here, so that it is measured without ESPnet too. Where ESPnet
can be imported, its own sampler is run and its index weighed: two dictionaries of shapes.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from _common import Row, extra_peak_mib, interleaved, main, peer, ratio, version

from asrtts.data import augmentation, batching, manifest
from asrtts.data.utterance import Utterance

COUNT, MANY = 60_000, 10_000_000
SECONDS = 300.0  # padded audio in a batch
WINDOW = 10_000


def aishell_like(count: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(np.log(4.5) - 0.3**2 / 2, 0.3, count).astype(np.float32)


def librispeech_like(count: int) -> np.ndarray:
    """Two thirds lie near 14 s, where chapters were cut, and the rest is spread below."""
    rng = np.random.default_rng(0)
    long, short = rng.normal(14.4, 1.3, count), rng.uniform(1.5, 14.0, count)
    return np.clip(np.where(rng.random(count) < 0.66, long, short), 1.3, 35.0).astype(np.float32)


def rows(repeat: int = 5) -> Iterator[Row]:
    for name, make in (("LibriSpeech-like", librispeech_like), ("AISHELL-like", aishell_like)):
        yield of_padding(name, make(COUNT), repeat)
    yield of_index(repeat)
    yield of_a_second_opening(repeat)
    yield of_many()


def of_padding(name: str, seconds: np.ndarray, repeat: int) -> Row:
    """The ratio is of times; what the two are compared by is the padding, which the note says."""
    config = batching.Config(seconds=SECONDS, window=WINDOW)
    ways: dict[str, Callable] = {
        "ours": lambda: [rows for rows, _ in batching.epoch_batches(config, augmentation.NONE, seconds, 1, 1)],
        "theirs": lambda: numel(seconds, SECONDS),
    }
    times = interleaved(ways, repeat)
    ours, theirs = (padding(seconds, ways[key]()) for key in ("ours", "theirs"))
    note = (
        f"{ours:.2%} padding (wanted: at most 1 %) against {theirs:.2%}, which sorts all and keeps the order for ever"
    )
    case = f"{COUNT:,} {name}, {SECONDS:.0f} s a batch, window {WINDOW:,}"
    values = [float(np.median(times[key])) for key in ("ours", "theirs")]
    return Row("batches of an epoch", case, values[0], "ESPnet's numel rule", values[1], ratio(times, *ways), note=note)


def padding(seconds: np.ndarray, batches: list[np.ndarray]) -> float:
    """The share of an epoch's audio that is padding."""
    return 1 - float(seconds.sum()) / sum(len(rows) * float(seconds[rows].max()) for rows in batches)


def numel(seconds: np.ndarray, limit: float) -> list[np.ndarray]:
    """Ascending, cut before the batch that would be larger padded than `limit`."""
    order = np.argsort(seconds, kind="stable")
    cuts = [0]
    for row, length in enumerate(seconds[order].tolist()):
        if row > cuts[-1] and (row - cuts[-1] + 1) * length > limit:
            cuts.append(row)
    return [order[start:end] for start, end in zip(cuts, [*cuts[1:], len(order)], strict=True)]


def of_index(repeat: int) -> Row:
    """Bytes an utterance, and the time to open a manifest for the first time."""
    with tempfile.TemporaryDirectory() as folder:
        path = listing(Path(folder))
        times = interleaved({"ours": lambda: fresh(path)}, repeat)["ours"]
        index = batching.Index(path)
        ours = (index.offsets.nbytes + index.seconds.nbytes) / len(index)
        theirs, name = espnet_bytes(Path(folder))
    note = f"{ours:.0f} bytes an utterance (wanted: at most 32)" + (f" against {theirs:.0f}" if theirs else "")
    return Row("index, first opening", f"{COUNT:,} utterances", float(np.median(times)), name, note=note)


def of_a_second_opening(repeat: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = listing(Path(folder))
        times = interleaved(ways_to_open(path), repeat)
    values = [float(np.median(found)) for found in times.values()]
    case = f"{COUNT:,} utterances"
    return Row("index, next opening", case, values[0], "our first opening", values[1], ratio(times, *times))


def of_many() -> Row:
    """10 million for real; the same lines come again and again, which the index does not look at."""
    with tempfile.TemporaryDirectory() as folder:
        path = listing(Path(folder))
        lines, copies = path.read_bytes(), MANY // COUNT + 1
        with open(path, "wb") as file:
            file.writelines(lines for _ in range(copies))
        mib = extra_peak_mib(opening, path)  # leaves the index beside the manifest, for the next opening
        times = {name: interleaved({name: way}, 1)[name] for name, way in ways_to_open(path).items()}
        index = batching.Index(path)
        held, size = (index.offsets.nbytes + index.seconds.nbytes) / len(index), path.stat().st_size / 1e9
    values = {name: float(np.median(found)) for name, found in times.items()}
    case = f"{len(index):,} utterances, a manifest of {size:.1f} GB"
    note = f"{held:.0f} bytes an utterance; next opening {1e3 * values['again']:.1f} ms"
    return Row("index, first opening", case, values["first"], "-", ours_mib=mib, note=note)


def opening(path: Path) -> Callable[[], object]:
    return lambda: batching.Index(path)


def ways_to_open(path: Path) -> dict[str, Callable[[], object]]:
    return {"again": lambda: batching.Index(path), "first": lambda: fresh(path)}


def listing(folder: Path) -> Path:
    path = folder / "train.jsonl"
    lines = zip(range(COUNT), librispeech_like(COUNT).tolist(), strict=True)
    manifest.write(
        path, (Utterance(f"1-2-{i:08d}", f"a/1-2-{i:08d}.flac", "SOME WORDS " * 8, seconds=s) for i, s in lines)
    )
    return path


def fresh(path: Path) -> batching.Index:
    """Opened as if for the first time."""
    for kept in path.parent.glob(f".{path.name}.*"):
        kept.unlink()
    return batching.Index(path)


def espnet_bytes(folder: Path) -> tuple[float | None, str]:
    """Bytes an utterance that ESPnet's sampler reads from two shape files: of the speech, and of the text."""
    if peer("espnet2.fileio.read_text") is None:
        return None, "ESPnet numel"
    from espnet2.fileio.read_text import load_num_sequence_text

    for name, width in (("speech", ""), ("text", ",5000")):
        lines = (f"1-2-{i:08d} {round(s * 100)}{width}\n" for i, s in enumerate(librispeech_like(COUNT)))
        (folder / name).write_text("".join(lines))
    tracemalloc.start()
    shapes = [load_num_sequence_text(folder / name, loader_type="csv_int") for name in ("speech", "text")]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / len(shapes[0]), version("espnet")


if __name__ == "__main__":
    main(__doc__, rows)
