"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests share two cores with each other: many small tensors gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora, from ASRTTS_CORPORA or beside the checkout; the test skips where there is none.

    In continuous integration a missing folder skips too, but a folder that exists and is not used is a failure.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ["ASRTTS_CORPORA"]) if os.environ.get("ASRTTS_CORPORA") else beside
    if not root.is_dir():
        pytest.skip(f"no real corpora: set ASRTTS_CORPORA (looked for {root.name})")
    return root
