"""Phones: a lexicon read from a file or spoken by espeak-ng, and phone sequences back to words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asrtts.registry import UserError

Lexicon = dict[str, list[tuple[str, ...]]]  # word -> its pronunciations, the usual one first
BOUNDARY = "▁"
