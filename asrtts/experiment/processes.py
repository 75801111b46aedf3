"""A verb as a process of its own, for a verb that gives several commands.

The peak memory that it records is its own, threads are set anew, and what it tells goes to the screen as if it were
typed.
"""

from __future__ import annotations

import multiprocessing
import runpy
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from asrtts.data.worker import end_with_parent
from asrtts.registry import UserError

LAST_WORD = 20.0  # seconds that an interrupted step has to end by itself


def verb(argv: list[str]) -> None:
    """`asrtts VERB ...`. If it fails, this process ends with its status. Raises UserError if it was killed."""
    # A fork would begin with this process's memory. No daemon, as these may not have the processes that make batches.
    process = multiprocessing.get_context("spawn").Process(target=_front_door, args=(argv,))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join(LAST_WORD)
        if not process.exitcode:
            raise
    finally:
        process.terminate()
        process.join()
    if process.exitcode:
        _stop(argv, process.exitcode)


def _front_door(argv: list[str]) -> None:
    """`python -m asrtts VERB ...` in this process, which does not outlive its parent.

    Else two trainings would share a folder when a command that was killed is given again.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C reaches both; here it tidies the screen up
    sys.argv = ["asrtts", *argv]
    runpy.run_module("asrtts", run_name="__main__", alter_sys=True)


def _stop(argv: Sequence[str], status: int) -> NoReturn:
    """A step that failed has said why; one that was killed could not."""
    if status < 0:
        name = signal.Signals(-status).name
        out_of_memory = ", perhaps for want of memory" if name == "SIGKILL" else ""
        raise UserError(f"`asrtts {shlex.join(argv)}` was ended by {name}{out_of_memory}; the same command goes on")
    sys.exit(status)
