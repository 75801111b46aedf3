"""What a wheel and a source distribution hold, and `asrtts recipes` of an installed wheel."""

from __future__ import annotations

import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from asrtts import recipe_files
from asrtts.bin import recipes
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[1]
MADE = shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", "dist", "*.egg-info", ".*_cache")
MADE_BY_RECIPES = shutil.ignore_patterns("data", "data-*", "exp", "exp-*", "log", "downloads")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A folder with a wheel and a source distribution of this checkout, in which a recipe has made something."""
    try:
        found = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("setuptools is not installed: pip install -e '.[dev]'")
    if version(found) < (77,):
        pytest.skip(f"setuptools {found} cannot read pyproject.toml; it takes 77")
    place = tmp_path_factory.mktemp("built")
    shutil.copytree(TOP, place / "tree", ignore=lambda folder, names: MADE(folder, [*names]) | {*names} & {"egs"})
    shutil.copytree(TOP / "egs", place / "tree" / "egs", ignore=MADE_BY_RECIPES)
    for made in ("exp/ctc/config.yaml", "data-zh/train.jsonl", "downloads/x.yaml", "log/run.sh", "exp-zh/notes.md"):
        path = place / "tree" / "egs" / "mini" / "asr" / made
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    code = "from setuptools import build_meta as b; b.build_wheel('../dist'); b.build_sdist('../dist')"
    (place / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=place / "tree", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return place / "dist"


@pytest.fixture(scope="session")
def installed(built, tmp_path_factory) -> Path:
    """The wheel, unpacked."""
    place = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(next(built.glob("*.whl"))).extractall(place)
    return place


def test_a_wheel_carries_the_recipes_and_nothing_that_they_made(installed):
    packaged = installed / "asrtts" / recipe_files.PACKAGED
    there = sorted(path.relative_to(packaged) for path in packaged.rglob("*") if path.is_file())
    assert there == sorted(recipe_files.files(TOP)) and Path("utils/stages.sh") in there and len(there) > 50
    assert all((packaged / name).read_bytes() == (TOP / name).read_bytes() for name in there)
    assert not (TOP / "asrtts" / recipe_files.PACKAGED).exists()
    assert (installed / "asrtts" / "comparison" / "_page" / "page.css").is_file()


def test_recipes_of_an_installed_wheel_can_be_copied_and_run(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    program = tmp_path / "bin" / "asrtts"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m asrtts "$@"\n')
    program.chmod(0o755)
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"

    def run(*words: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess:
        return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)

    assert "`asrtts recipes DIR`" in run("asrtts", "--help").stdout
    assert run("asrtts", "recipes", "mine").returncode == 0
    recipe = tmp_path / "mine" / "egs" / "mini" / "asr"
    assert "3  Training" in run("./run.sh", "--list", cwd=recipe).stdout
    mistaken = run("./run.sh", "--head", "cct", cwd=recipe)
    assert mistaken.returncode == 2 and "there is no conf/cct.yaml; did you mean 'ctc'?" in mistaken.stderr
    assert sorted(recipe_files.files(tmp_path / "mine")) == sorted(recipe_files.files(TOP))


def test_recipes_are_copied_once_and_a_person_s_files_are_kept(tmp_path, capsys):
    recipes.main([str(tmp_path / "mine")])
    count = len(list(recipe_files.files(TOP)))
    assert f"{count} files; recipes: egs/aishell/asr, " in capsys.readouterr().out
    script = tmp_path / "mine" / "egs" / "an4" / "asr" / "run.sh"
    assert os.access(script, os.X_OK) and script.read_bytes() == (TOP / "egs/an4/asr/run.sh").read_bytes()
    script.unlink()
    (tmp_path / "mine" / "egs" / "an4" / "asr" / "own.txt").write_text("mine")
    recipes.main([str(tmp_path / "mine")])
    assert f"1 files, {count - 1} were there" in capsys.readouterr().out and os.access(script, os.X_OK)
    script.write_text("mine")
    script.with_name("compare.sh").unlink()
    with pytest.raises(UserError, match="an4/asr/run.sh: is there and differs .* nothing is overwritten"):
        recipes.main([str(tmp_path / "mine")])
    assert script.read_text() == "mine" and not script.with_name("compare.sh").exists()  # all or nothing


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_recipes_over_something_else_are_refused(tmp_path, there):
    goal = tmp_path / "utils" / "stages.sh"
    if there == "file":
        (tmp_path / "utils").write_text("a file")
    else:
        goal.parent.mkdir()
        goal.mkdir() if there == "folder" else goal.symlink_to("nowhere")
    with pytest.raises(UserError):
        recipes.main([str(tmp_path)])


def test_a_source_distribution_holds_every_file_of_the_repository_and_nothing_that_was_made(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "constraints.txt",
        "Makefile",
        "tests/conftest.py",
        "docs/comparing.md",
        "tools/install_mfa.sh",
        ".ci/run",
    ):
        assert name in names
    made = [name for name in names if re.match(r"egs/\w+/\w+/(exp|data|downloads|log)", name)]
    assert made == []
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True)
    if listed.returncode == 0:  # a checkout, not a distribution
        tracked = {name for name in listed.stdout.split("\0") if name and (TOP / name).exists()}
        assert tracked - names == set()


def test_every_dependency_has_a_lower_bound_that_the_tested_versions_satisfy(built):
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)", (TOP / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    tested = {name.lower().replace("_", "-"): version(number) for name, number in tested.items()}
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for dependency in wanted:
        name, bound, least = re.fullmatch(r"([\w.-]+)(>=)([\d.]+)", dependency).groups()
        assert version(least) <= tested[name.lower().replace("_", "-")], dependency
    wheel = zipfile.ZipFile(next(built.glob("*.whl")))
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    required = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist")
    assert len(required) == len(wanted) and all(">=" in one for one in required)
