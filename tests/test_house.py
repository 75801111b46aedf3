"""What keeps the house a house: floors, doors and names. docs/architecture.md says why."""

from __future__ import annotations

import ast
import importlib
import resource
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from asrtts import registry
from asrtts.config import Settings

TOP = Path(__file__).resolve().parents[1]
PACKAGE = TOP / "asrtts"

FLOORS = {
    5: ["cli", "__main__"],
    4: ["bin"],
    3: ["tasks", "corpora", "alignment", "comparison"],
    2.5: ["experiment"],
    2: ["asr", "lm", "tts", "data", "training", "ondevice"],
    1: ["nn", "losses", "search", "text", "metrics"],
    0: ["config", "registry", "storage", "numba_helpers", "partial_results"],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# the only neighbours that know each other
BESIDE = {("__main__", "cli"), ("config", "registry"), ("storage", "registry")}
BESIDE |= {("partial_results", "registry"), ("partial_results", "storage")}

# What each member of a folder must give; bin and corpora are checked by their own test below.
DOORS = {
    "tasks": ["Settings", "open", "load"],
    "asr/encoders": ["Config", "Encoder"],
    "asr/heads": ["Config", "Head"],
    "alignment/aligners": ["train", "align"],
    "corpora": ["utterances", "download"],
    "bin": ["main", "parser"],
}

TORCH_FREE = ["corpora", "text", "metrics", "cli", "config", "registry", "storage"]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted module) of every import in a file, wherever it stands; relative ones are made absolute."""
    package = ["asrtts", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(base + (node.module.split(".") if node.module else []))
            # `from asrtts import registry` names a room, `from asrtts.data import manifest` stays in one.
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def climbs(path: Path) -> list[str]:
    """Imports of `path` that are neither within its own room nor from a lower floor."""
    here = room_of(path)
    wrong = []
    for line, module in imports(path):
        parts = module.split(".")
        if parts[0] != "asrtts" or parts[1:2] in ([], ["__version__"], [here]):
            continue
        there = parts[1]
        if (here, there) not in BESIDE and FLOOR.get(there, 99) >= FLOOR[here]:
            wrong.append(f"{path.relative_to(TOP)}:{line} imports {module}: {here} may not know {there}")
    return wrong


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in sources()} - {"__init__"}
    assert rooms <= set(FLOOR)


def test_no_import_climbs_a_floor():
    assert [line for path in sources() if room_of(path) != "__init__" for line in climbs(path)] == []


def test_an_import_that_climbs_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "TOP", tmp_path)
    (tmp_path / "asr" / "heads").mkdir(parents=True)
    head = tmp_path / "asr" / "heads" / "ctc.py"
    head.write_text(
        "from asrtts.search import ctc_greedy\nfrom ..model import Model\nimport asrtts.data.manifest\n"
        "def late():\n    from asrtts import bin\n"
    )
    assert [line.split(" imports ")[0] for line in climbs(head)] == ["asr/heads/ctc.py:3", "asr/heads/ctc.py:5"]


def members(folder: str) -> list[Path]:
    """The files that a person can name: a folder of members holds nothing else."""
    return sorted(path for path in (PACKAGE / folder).glob("*.py") if path.name != "__init__.py")


def given(path: Path) -> set[str]:
    """The names that a file defines or imports at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("folder", DOORS)
def test_every_member_of_a_folder_has_its_door(folder):
    assert members(folder), f"{folder} has no members"
    missing = {path.stem: sorted(set(DOORS[folder]) - given(path)) for path in members(folder)}
    assert {name: doors for name, doors in missing.items() if doors} == {}


def test_a_member_is_a_file_of_the_name_that_people_write():
    for folder in DOORS:
        assert registry.names("asrtts." + folder.replace("/", ".")) == [path.stem for path in members(folder)]


def test_every_file_says_what_it_is_for():
    silent = [str(p.relative_to(TOP)) for p in sources() if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert silent == []


def test_a_folder_of_members_holds_members_only():
    assert [str(path) for folder in DOORS for path in members(folder) if path.stem.startswith("_")] == []


def test_a_verb_is_short_and_knows_no_other_verb():
    for path in members("bin"):
        assert len(path.read_text("utf-8").splitlines()) <= 200, f"{path.name}: its logic belongs into a room below"
        verbs = [module for _, module in imports(path) if module.startswith("asrtts.bin.")]
        assert not verbs, f"{path.name} imports {verbs}"


def test_the_help_of_a_verb_is_one_sentence():
    for path in members("bin"):
        first = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")[0]
        assert first.endswith(".") and len(first) <= 105, f"{path.stem}: {first!r}"


def kinds_of_settings(kind: type[Settings]) -> set[type[Settings]]:
    return {kind}.union(*map(kinds_of_settings, kind.__subclasses__()))


def unbounded(schema: Any, path: str) -> list[str]:
    """Where a JSON schema allows a whole number of any size."""
    if isinstance(schema, list):
        return [found for part in schema for found in unbounded(part, path)]
    if not isinstance(schema, dict):
        return []
    here = (
        [path] if schema.get("type") == "integer" and not {"maximum", "exclusiveMaximum", "enum"} & set(schema) else []
    )
    return here + [found for key, part in schema.items() for found in unbounded(part, f"{path}.{key}")]


RESULTS = ("asrtts.comparison.", "asrtts.experiment.decodings")  # classes of what was written, not of settings


def test_no_setting_is_a_whole_number_without_bounds():
    """One that is absurdly large is refused, before it fills the memory or runs on for ever."""
    for path in sources():
        importlib.import_module(".".join(path.relative_to(TOP).with_suffix("").parts))
    ours = [kind for kind in kinds_of_settings(Settings) if kind.__module__.startswith("asrtts.")]
    kinds = [kind for kind in ours if not kind.__module__.startswith(RESULTS)]
    assert len(kinds) > 15
    assert [place for kind in kinds for place in unbounded(kind.model_json_schema(), kind.__module__)] == []


def test_no_option_is_a_whole_number_without_bounds():
    """But for those that are bounded by what is there, and say so themselves."""
    own = {"--threads", "--last", "--best"}
    found = []
    for path in members("bin"):
        options = importlib.import_module(f"asrtts.bin.{path.stem}").parser()._actions
        found += [(path.stem, o.option_strings) for o in options if o.type is int and not own & set(o.option_strings)]
    assert found == []


def test_no_file_name_occurs_twice():
    """But for members: what a person writes in one place may be written in another, `heads: ctc`, `--aligner ctc`."""
    places, named = defaultdict(list), {path for folder in DOORS for path in members(folder)}
    for path in sources():
        if path.name not in ("__init__.py", "__main__.py") and path not in named:
            places[path.name].append(str(path.relative_to(TOP)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_two_test_files_share_a_name():
    """They would shadow each other, as the test folders are no packages."""
    names = [path.name for path in (TOP / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def reaches(room: str) -> set[str]:
    """Every outside package that a room imports at the top of a file or later, itself or through other rooms."""
    seen, waiting, outside = set(), [p for p in sources() if room_of(p) == room], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for _, module in imports(path):
            parts = module.split(".")
            if parts[0] != "asrtts":
                outside.add(parts[0])
            for end in range(2, len(parts) + 1):
                below = PACKAGE.joinpath(*parts[1:end])
                waiting += [p for p in (below.with_suffix(".py"), below / "__init__.py") if p.is_file()]
    return outside


@pytest.mark.parametrize("room", TORCH_FREE)
def test_torch_is_out_of_reach_of_the_rooms_that_prepare_and_score(room):
    assert not {"torch", "torchaudio"} & reaches(room)


def test_help_loads_no_torch_and_no_numpy():
    code = "import sys; from asrtts.cli import main; main(['--help'])\nprint({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_torch_free_rooms_import_without_torch():
    """Not only unmentioned: with torch forbidden they import."""
    modules = [".".join(p.relative_to(TOP).with_suffix("").parts) for p in sources() if room_of(p) in TORCH_FREE]
    code = "import importlib, sys; sys.modules['torch'] = None\nfor m in sys.argv[1:]: importlib.import_module(m)"
    subprocess.run([sys.executable, "-c", code, *modules], cwd=TOP, check=True, capture_output=True)


def test_help_answers_at_once():
    """In processor time, which other work on the machine does not lengthen."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "asrtts", "--help"], cwd=TOP, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) <= 0.3
