"""How the cost of the Transducer losses grows: the exponent p of cost ~ size^p, over sizes that grow eightfold.

The largest size stands in the column of ours, the smallest in that of the peer; the ratio is the exponent, which is 1
where time or memory grows just as fast as the size. The memory of joiner and loss is to grow with T x U and not with V,
but for the gradient of the output matrix, which is of its size.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import transducer_logits
import transducer_loss
from _common import Row, extra_peak_mib, interleaved, main, slope
from transducer_logits import Shape

EXPONENT = 1.1  # at most; 1, and what other work on the machine does to a measurement
OF_MEMORY = {"V": 0.5, "T x U": EXPONENT}
LOGITS: dict[str, list[Shape]] = {
    "V": [(4, 60, 20, v) for v in (250, 500, 1000, 2000)],
    "T x U": [(4, 30, 10, 500), (4, 42, 14, 500), (4, 60, 20, 500), (4, 85, 28, 500)],
    "B": [(b, 60, 20, 500) for b in (2, 4, 8, 16)],
}
JOINER = {name: [shapes[0], shapes[-1]] for name, shapes in LOGITS.items()}
MEMORY: dict[str, list[Shape]] = {
    "V": [(4, 100, 30, 500), (4, 100, 30, 4000)],
    "T x U": [(4, 100, 30, 500), (4, 283, 85, 500)],
}


def rows(repeat: int = 5) -> Iterator[Row]:
    for name, shapes in LOGITS.items():
        ways = [transducer_logits.case("ours", shape) for shape in shapes]
        yield of_time("Transducer loss on logits", name, shapes, ways, repeat)
    for name, shapes in JOINER.items():
        ways = [transducer_loss.ready("fused", transducer_loss.example(shape, False)) for shape in shapes]
        yield of_time("joiner and Transducer loss", name, shapes, ways, repeat)
    for name, shapes in MEMORY.items():
        yield of_memory(name, shapes)


def of_time(what: str, name: str, shapes: list[Shape], ways: list[Callable[[], object]], repeat: int) -> Row:
    times = interleaved({str(shape): way for shape, way in zip(shapes, ways, strict=True)}, repeat)
    seconds = [statistics.median(found) for found in times.values()]
    exponent = slope([size(shape) for shape in shapes], seconds)
    return Row(f"growth of time, {what}", case(name, shapes), seconds[-1], "itself", seconds[0], exponent, EXPONENT)


def of_memory(name: str, shapes: list[Shape]) -> Row:
    mib = [extra_peak_mib(transducer_loss.prepared, "fused", shape, False) for shape in shapes]
    exponent = slope([size(shape) for shape in shapes], mib)
    return Row(
        what="growth of memory, joiner and Transducer loss",
        case=case(name, shapes),
        ours=None,
        peer="itself",
        ratio=exponent,
        goal=OF_MEMORY[name],
        ours_mib=mib[-1],
        theirs_mib=mib[0],
    )


def size(shape: Shape) -> int:
    """The logits that there are or would be."""
    batch, frames, count, vocab = shape
    return batch * frames * (count + 1) * vocab


def case(name: str, shapes: list[Shape]) -> str:
    first, last = (",".join(map(str, shape)) for shape in (shapes[0], shapes[-1]))
    return f"with {name}: B,T,U,V {first} to {last}"


if __name__ == "__main__":
    main(__doc__, rows)
