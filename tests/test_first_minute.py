"""The first minute in a notebook: calls work as one would guess them, and change nothing global."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.nn import allocator

MACHINE = replace(tiny.MACHINE, threads=2)


def global_state():
    """Return all process-wide settings and random states that a library could change."""
    return {
        "threads": torch.get_num_threads(),
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002  (the global one is what is asked for)
        "random": random.getstate(),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ddim.train(None, tiny.recipe(), out=tmp_path_factory.mktemp("run") / "run", machine=MACHINE)


CALLS = {
    "train": lambda run: ddim.train(None, tiny.recipe(images=8), out=run.parent / "other", machine=MACHINE),
    "load": ddim.load,
    "sample": lambda run: ddim.sample(run, n=2, steps=2),
}


@pytest.mark.parametrize("call", CALLS)
def test_train_load_and_sample_change_no_global_state(call, run, monkeypatch):
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: pytest.fail("the allocator was changed"))
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("the C library was called"))
    before = global_state()
    CALLS[call](run)
    assert global_state() == before


def test_sampling_runs_with_the_threads_of_the_run(run):
    used = []
    trained = ddim.load(run)
    trained.model.net.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    ddim.sample(trained, n=1, steps=1)
    assert used == [2]
