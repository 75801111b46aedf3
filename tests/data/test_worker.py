"""The processes that make batches: one that dies is one line, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch

from asrtts.data import batching, features
from asrtts.data.dataset import UtteranceDataset, batches
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer


@pytest.fixture
def made(tones):
    index = batching.Index(tones / "data/train")
    config = features.Config(sample_rate=8000, num_bins=20)
    statistics = features.Statistics(torch.zeros(20), torch.ones(20))
    dataset = UtteranceDataset(index, config, statistics, Tokenizer.load(tones / "data/tokens").encode)
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
    assert [batch["request"].batch for batch in stream] == list(range(1, 60))


def test_another_error_of_a_worker_is_not_hidden(made):
    dataset, requests = made
    dataset.encode = len  # no list of ids
    with pytest.raises(TypeError):
        list(batches(dataset, iter(requests), 1))
