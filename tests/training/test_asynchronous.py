"""No step of a training waits for its device, by reading a value or by a copy, or mixes devices."""

import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from cases import mark_slow
from ddim.data import split_images
from ddim.data.values import Values
from ddim.diffusion.denoiser import Shape
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import override
from ddim.runs.state import Plan
from ddim.training import batches
from ddim.training.batches import Batches
from ddim.training.trainer import Trainer
from in_processes import CASES, choose_case
from one_device import OneDevice

EAGER = [name for name in CASES if not name.startswith("compiled")]
QUICK = ["luz", "accumulated", "labels", "augmented", "loss-aware", "muon", "averages", "guided"]


class WaitError(Exception):
    """Something waited for the device."""


class NoWaiting(TorchDispatchMode):
    """Raises an error at each copy between the CPU and a device that waits until it is done."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operation."""
        kwargs = kwargs or {}
        source = args[1] if func is torch.ops.aten.copy_.default else args[0] if args else None
        target = args[0] if func is torch.ops.aten.copy_.default else None
        if func is torch.ops.aten._to_copy.default or target is not None:
            device = target.device if target is not None else kwargs.get("device") or source.device
            if source.device.type != torch.device(device).type and not kwargs.get("non_blocking", False):
                raise WaitError(f"a copy from {source.device} to {device}")
        return func(*args, **kwargs)


@pytest.fixture
def meta(monkeypatch):
    """A runtime on the meta device, whose tensors have no values, so that reading one is an error."""
    autocast, generator = torch.autocast, batches.stream
    optimizer = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *a, **o: nullcontext() if kind == "meta" else autocast(kind, *a, **o)
    )
    monkeypatch.setattr(batches, "stream", lambda kind, *a: None if kind == "meta" else generator(kind, *a))
    return Runtime("meta")


@pytest.mark.parametrize("name", mark_slow(EAGER, lambda name: name in QUICK))
def test_no_step_reads_a_value_of_the_device(name, meta):
    run = tiny.give_teacher(Trainer(*choose_case(name), meta, Plan(320)))
    # The first step copies what all steps share, such as the table of a schedule.
    run.advance()
    with NoWaiting(), OneDevice():
        run.advance()
        values = run.advance()
    assert run.step == 3
    with pytest.raises(RuntimeError, match="meta"):
        values["loss"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of Nvidia")
@pytest.mark.parametrize("name", EAGER)
def test_no_step_waits_for_a_gpu(name):
    run = tiny.give_teacher(Trainer(*choose_case(name), Runtime("cuda"), Plan(320)))
    run.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            run.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("memory", [0, 2**40], ids=["images read ahead", "images on the device"])
@pytest.mark.parametrize("values", [Values(), Values("uint16", 0.0, 999.0)], ids=["uint8", "uint16"])
def test_an_accelerator_gets_the_same_images_as_a_cpu(values, memory, monkeypatch):
    monkeypatch.setattr(batches, "_device_memory", lambda _: memory)
    source = tiny.images()
    source = replace(source, pixels=source.pixels.astype(values.type), values=values)
    split, shape = split_images(source, 0.2, 0), Shape(3, 32, 32)
    # Other than "cpu", this device is treated as an accelerator.
    ours, theirs = (Batches(tiny.recipe(), split, shape, Runtime(device)) for device in ("cpu:0", "cpu"))
    for step in (0, 1, 5, 6, 2):
        images = ours[step].images
        assert torch.equal(images, theirs[step].images)
        assert images.is_contiguous(memory_format=torch.channels_last)


def make_batches(device, recipe=None, processes=Processes()):
    source = replace(tiny.images(), labels=np.arange(40) % 4, classes=("a", "b", "c", "d"))
    split = split_images(source, 0.2, 0)
    return Batches(recipe or tiny.recipe(), split, Shape(3, 32, 32), Runtime(device), processes)


def test_images_are_read_again_after_a_read_ahead_that_failed():
    ours, fails = make_batches("cpu:0"), iter([False, True])
    sound = ours._read

    def read(*given):
        if next(fails, False):
            raise MemoryError
        return sound(*given)

    ours._read = read
    ours[0]
    with pytest.raises(MemoryError):
        ours[1]
    assert torch.equal(ours[1].images, make_batches("cpu")[1].images)


@pytest.mark.parametrize("device", ["cpu:0", "cpu"])
def test_a_process_reads_its_own_images_and_gets_the_numbers_of_the_whole_batch(device, monkeypatch):
    changes = {"optim.accumulate": 2, "data.labels": True, "data.dequantise": True}
    recipe, read, sound = override(tiny.recipe(), changes), [], batches.gather_batch
    whole = make_batches(device, recipe)[3]
    monkeypatch.setattr(batches, "gather_batch", lambda *given: [read.extend(given[1]), sound(*given)][1])
    # Micro-batch k of process r has the images k + 2 * r, k + 2 * r + 4, ... of the batch.
    for rank, mine in enumerate([[0, 1, 4, 5], [2, 3, 6, 7]]):
        part = make_batches(device, recipe, Processes(rank, 2))[3]
        for name in ("images", "noise", "grain", "class_labels"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[mine])
        assert torch.equal(part.uniform, whole.uniform)
    if device == "cpu":
        assert len(read) == 8
