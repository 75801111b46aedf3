"""Puts the recipes (egs, utils) into the package, for `asrtts recipes`; all else is said in pyproject.toml."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent
RECIPES = runpy.run_path(str(TOP / "asrtts" / "recipe_files.py"))


class BuildWithRecipes(build_py):
    """build_py, and the recipes in asrtts/_recipes. An installation that is edited in place (-e) reads the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        goal = Path(self.build_lib) / "asrtts" / RECIPES["PACKAGED"]
        shutil.rmtree(goal, ignore_errors=True)  # of a build before
        for name in RECIPES["files"](TOP):
            (goal / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, goal / name)


setup(cmdclass={"build_py": BuildWithRecipes})
