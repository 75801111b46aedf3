"""Which files are the recipes, in a checkout and in an installed package. setup.py runs it, so it imports nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PACKAGED = Path("_recipes")  # below the installed package; setup.py puts them there
PATTERNS = ("egs/*/*/*.sh", "egs/*/*/README.md", "egs/*/*/conf/**/*.yaml", "utils/*.sh")  # not what recipes make


def top(package: Path) -> Path:
    """The folder that holds egs and utils, of the package that lies in the folder `package`."""
    checkout = package.parent
    return checkout if (checkout / "utils" / "stages.sh").is_file() else package / PACKAGED


def files(top: Path) -> Iterator[Path]:
    """The recipes' files below a folder, relative to it."""
    for pattern in PATTERNS:
        yield from sorted(path.relative_to(top) for path in top.glob(pattern) if path.is_file())
