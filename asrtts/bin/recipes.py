"""Copy the recipes into a folder: DIR/egs/<corpus>/<task>/run.sh and others. Files that are there are kept."""

from __future__ import annotations

import argparse
from pathlib import Path

import asrtts
from asrtts import recipe_files, storage
from asrtts.config import ArgumentParser, Made
from asrtts.registry import UserError


def parser() -> ArgumentParser:
    options = ArgumentParser("recipes", __doc__)
    options.add_argument("folder", type=Path, metavar="DIR", help="where egs and utils go, e.g. my_recipes")
    options.epilog = "Then: cd DIR/egs/mini/asr && ./run.sh --help"
    return options


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    made.add(args.folder)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    source = recipe_files.top(Path(asrtts.__file__).parent)
    names = list(recipe_files.files(source))
    if not names:
        raise UserError(f"{source}: holds no recipes; install asrtts again, or clone its repository")
    contents = {name: (source / name).read_bytes() for name in names}
    kept = [name for name in names if _holds(args.folder / name, contents[name])]
    for name in names:
        if name not in kept:
            _write(args.folder / name, contents[name])
    recipes = sorted({str(name.parent) for name in names if name.name == "run.sh"})
    told = f", {len(kept)} were there" if kept else ""
    print(f"{args.folder}: {len(names) - len(kept)} files{told}; recipes: {', '.join(recipes)}")


def _holds(goal: Path, content: bytes) -> bool:
    """Whether the file is there. Raises UserError if it is another one, which is never overwritten."""
    try:
        if goal.is_symlink() or goal.exists():
            if goal.is_file() and goal.read_bytes() == content:
                return True
            raise UserError(
                f"{goal}: is there and differs from the recipe's; nothing is overwritten: name a new folder"
            )
        return False
    except OSError as error:
        raise UserError(f"{goal}: cannot be read ({error.strerror}); name a new folder") from None


def _write(goal: Path, content: bytes) -> None:
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with open(goal, "xb") as file:  # x: fails if somebody made it meanwhile
            file.write(content)
        if goal.suffix == ".sh":
            goal.chmod(goal.stat().st_mode | (goal.stat().st_mode & 0o444) >> 2)  # who may read may run it
    except OSError as error:
        raise storage.storage_error(goal, error) from None
