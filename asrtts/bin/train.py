"""Train a model: settings and data in, exp/<name> out. Rerun an interrupted command; it resumes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from asrtts.config import ArgumentParser
from asrtts.experiment import settings as experiment_settings
from asrtts.experiment.fitting import fit
from asrtts.experiment.run_folder import Run
from asrtts.experiment.task_door import open_task
from asrtts.training import parallel


def parser() -> ArgumentParser:
    args = ArgumentParser("train", __doc__)
    args.add_argument("conf", help="settings, e.g. conf/ctc.yaml; `task:` says what is trained (default: recognition)")
    args.add_argument("exp", type=Path, help="folder of the run, e.g. exp/ctc")
    overrides = "overrides, e.g. training.updates=2000 seed=2"
    args.add_argument("settings", nargs="*", default=[], metavar="key=value", help=overrides)
    args.add_argument("--restart", action="store_true", help="throw away what the folder holds and start again")
    args.add_argument("--init", metavar="TOOLKIT:FILE", help="encoder weights to begin with: espnet, wenet or asrtts")
    args.add_argument("--settings", action=_SettingsPage, nargs=0, help="print every setting of every task, and end")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


class _SettingsPage(argparse.Action):
    """Ends as --help does."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, **kwargs)  # `dest` is that of key=value

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from asrtts.experiment import settings_page

        print(settings_page.page(), end="")
        parser.exit()


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    settings = experiment_settings.load(args.conf, args.settings)
    parallel.start()
    device = parallel.pick_device(args.device)
    parallel.use_threads(settings.training.threads)
    task = open_task(settings, device)
    fit(Run(args.exp), settings, task, device, init=args.init, restart=args.restart)
