"""The processes that make batches: one that dies is one line, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asrtts.data import batching, features
from asrtts.data.dataset import UtteranceDataset, batches
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer


@pytest.fixture
def made(tones):
    return corpus_of(tones)


def corpus_of(tones):
    index = batching.Index(Path(tones) / "data/train")
    config = features.Config(sample_rate=8000, num_bins=20)
    statistics = features.Statistics(torch.zeros(20), torch.ones(20))
    dataset = UtteranceDataset(index, config, statistics, Tokenizer.load(Path(tones) / "data/tokens").encode)
    return dataset, [batching.Request(1, n, (n % 12,), (1.0,), 1) for n in range(60)]


def test_a_worker_that_is_killed_is_one_line(made):
    dataset, requests = made
    stream = batches(dataset, iter(requests), 1)
    next(stream)
    workers = multiprocessing.active_children()
    assert len(workers) == 1
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match="a process that makes batches died") as error:
        list(stream)
    assert "\n" not in str(error.value)


def test_workers_compute_on_one_thread_and_leave_ctrl_c_to_the_parent(made):
    dataset, requests = made
    stream = batches(dataset, iter(requests), 1)
    next(stream)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    assert [batch["place"][1] for batch in stream] == list(range(1, 60))


def test_another_error_of_a_worker_is_not_hidden(made):
    dataset, requests = made
    dataset.encode = len  # no list of ids
    with pytest.raises(TypeError):
        list(batches(dataset, iter(requests), 1))


def test_a_worker_that_stops_answering_is_one_line(made, monkeypatch):
    """Torch alone would wait for ever: the process is there."""
    dataset, requests = made
    stream = batches(dataset, iter(requests), 1)
    next(stream)
    monkeypatch.setattr("asrtts.data.dataset.PATIENCE", 1.0)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="did not answer .* resumes from the last checkpoint; training.workers=0"):
        list(stream)


LIMITED = """
import resource, sys
from asrtts.data import dataset
from asrtts.registry import UserError
import test_worker
data, requests = test_worker.corpus_of(sys.argv[1])
for files in (40, 8):
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    try:
        print(len(list(dataset.batches(data, iter(requests), 1))))
    except UserError as error:
        print(error)
"""


def test_few_open_files_are_enough_or_one_line(tones):
    """As tensors, each batch would take open files, of which a full table hung the training for ever."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(__file__)])}
    code = [sys.executable, "-c", LIMITED, str(tones)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=100, env=environment)
    assert re.fullmatch("60\ntoo many open files .*`ulimit -n`.* training.workers=0.*\n", done.stdout), done.stderr
    assert "Traceback" not in done.stderr


def test_batches_do_not_go_through_shared_memory(made):
    """/dev/shm has 64 MB in a container by default."""
    dataset, requests = made
    stream = batches(dataset, iter(requests), 1)
    first = next(stream)
    assert not any(value.is_shared() for value in first.values() if isinstance(value, torch.Tensor))
    assert first["feats"].data_ptr() % 64 == 0  # as torch aligns its own
    stream.close()
