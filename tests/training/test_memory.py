"""The estimated memory of a training, and trainings whose memory is full."""

from dataclasses import replace

import pytest
import torch

import ddim.training.memory
import tiny
from ddim.errors import Notice, OutOfMemory, UserError
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import override
from ddim.training import Callback, resume
from ddim.training.batches import Batch
from ddim.training.memory import advance_within_memory, check_memory, estimate_memory, find_free_memory
from ddim.training.request import Request, find_resumable
from ddim.training.trainer import Trainer


def test_activations_grow_with_the_batch_and_the_pixels_and_weights_do_not():
    def memory(batch, side, **changes):
        return estimate_memory(tiny.recipe(optim__batch=batch, data__size=side, **changes), 3, Runtime())

    one, two, three = (memory(batch, 32) for batch in (8, 16, 24))
    assert two - one == pytest.approx(three - two, abs=2)
    # At least the noisy image that each of the first convolutions keeps, in float32.
    assert two - one > 8 * 3 * 32 * 32 * 4
    # Four times the pixels are four times the batch.
    assert memory(8, 64) == pytest.approx(memory(32, 32), abs=2)
    assert memory(16, 32, optim__accumulate=2) == one


def test_bf16_and_recomputation_need_less():
    recipe = tiny.recipe(optim__batch=64)
    full = estimate_memory(recipe, 3, Runtime())
    assert estimate_memory(recipe, 3, Runtime(precision="bf16")) < full
    assert estimate_memory(recipe, 3, Runtime(recompute=True)) < full


def test_each_further_average_needs_the_memory_of_the_weights():
    weights = sum(p.nbytes for p in tiny.training().parameters.values())
    one = estimate_memory(tiny.recipe(), 3, Runtime())
    more = estimate_memory(tiny.recipe(ema__more="1,2"), 3, Runtime())
    assert more - one == pytest.approx(2 * weights, abs=2)


def test_the_moments_of_each_optimiser_are_counted():
    def state(method):
        training = tiny.training(tiny.recipe(optim__method=method), updates=1)
        moments = [slot for slots in training.optimizer.state.values() for slot in slots.values()]
        return sum(moment.nbytes for moment in moments if moment.dim())

    adamw, muon = (
        estimate_memory(tiny.recipe(optim__method=name), 3, Runtime()) for name in ("adamw", "muon")
    )
    assert adamw - muon == state("adamw") - state("muon") > 0


def test_a_training_that_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    recipe = tiny.recipe(optim__batch=4096, data__size=512)
    monkeypatch.setattr(ddim.training.memory, "find_free_memory", lambda device: 2**31)
    with pytest.raises(UserError, match=r"training tiny at 512x512 with batches of 4096 needs about \d+ GiB"):
        check_memory(recipe, 3, Runtime())
    check_memory(replace(recipe, data=tiny.BASE.data, optim=tiny.BASE.optim), 3, Runtime())
    # Where the free memory is not known, nothing is refused.
    monkeypatch.setattr(ddim.training.memory, "find_free_memory", lambda device: None)
    check_memory(recipe, 3, Runtime())


def test_the_free_memory_of_this_machine_is_known():
    assert 2**20 < find_free_memory("cpu") < 2**50
    assert find_free_memory("mps") is find_free_memory("cuda") is None


# A full memory

ERRORS = {
    "machine": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "NumPy": MemoryError("Unable to allocate 3 GiB"),
}
CASES = {
    "one part": (tiny.recipe(), 1e-6),
    # Another number of images changes the rounding of this network by more.
    "two parts, dropout": (
        override(tiny.recipe("group norm", optim__accumulate=2), {"net.dropout": 0.3}),
        2e-5,
    ),
}


def fill_memory(monkeypatch, most, error, first=0):
    """Let a part of a batch of more than `most` images fail from step `first` on; returns the failures."""
    sound, failures = Batch.part, []

    def part(batch, which, images, *given):
        found = sound(batch, which, images, *given)
        if len(images) > most and len(reached) >= first:
            failures.append(len(images))
            raise error
        return found

    reached = []
    step = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda run: [step(run), reached.append(0)][0])
    monkeypatch.setattr(Batch, "part", part)
    return failures


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("most", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_training_goes_on_in_smaller_parts_with_the_same_numbers(error, name, most, monkeypatch):
    recipe, close = CASES[name]
    whole = tiny.training(recipe)
    expected = [whole.advance()["loss"] for _ in range(4)]
    failures = fill_memory(monkeypatch, most, ERRORS[error], first=2)
    run, losses, news = tiny.training(recipe), [], []
    for _ in range(4):
        values, changed = advance_within_memory(run)
        losses.append(values["loss"])
        news.append(changed)
    assert losses == pytest.approx(expected, rel=close)
    parts = {3: 4, 1: 8}[most]
    said = f"the memory was full: batches are trained in {parts} parts now (optim.accumulate {parts})"
    assert news == ["", "", said, ""]
    assert max(failures) == 8 // recipe.optim.accumulate
    assert run.recipe.optim == replace(recipe.optim, accumulate=parts)


def test_an_image_has_the_same_dropout_masks_in_each_part():
    """The rate is so high that the branches, which begin at zero, soon decide what the network predicts."""
    losses = {}
    for parts in (1, 2, 4):
        fields = {"net.dropout": 0.5, "optim.accumulate": parts, "optim.lr": 0.02, "optim.warmup": 0}
        run = tiny.training(override(tiny.recipe("group norm"), fields))
        losses[parts] = [float(run.advance()["loss"]) for _ in range(6)]
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)
    assert losses[4] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_keeps_its_smaller_parts_when_it_is_resumed(tmp_path, monkeypatch):
    news = []

    class Listen(Callback):
        """Notes what changes."""

        def on_change(self, training, text):
            """See `Callback`."""
            news.append((training.step, text))

    def train(folder, *callbacks):
        with monkeypatch.context() as patch:
            fill_memory(patch, 4, ERRORS["machine"])
            return tiny.train(tiny.recipe(), folder, callbacks=[Listen(), *callbacks])

    whole = train(tmp_path / "whole")
    said = "the memory was full: batches are trained in 2 parts now (optim.accumulate 2)"
    assert (1, said) in news
    with pytest.raises(tiny.PowerCutError):
        train(tmp_path / "run", tiny.At(2, lambda _: tiny.crash()))
    # The memory has room again, but the same parts give the same bits.
    resume(tmp_path / "run")
    assert tiny.digests(tmp_path / "run") == tiny.digests(whole)


def test_a_request_is_compared_with_the_parts_that_a_full_memory_led_to(tmp_path, monkeypatch):
    fill_memory(monkeypatch, 4, ERRORS["machine"])
    folder = tiny.train(tiny.recipe(images=16), tmp_path / "run")

    def find(parts):
        return find_resumable(Request(fields={"optim.accumulate": str(parts)}), folder)

    assert find(2) == (folder, "")
    # The command that started the run can still be repeated.
    with pytest.warns(Notice, match="keeps optim.accumulate = 2, which it has since its memory was full"):
        assert find(1) == (folder, "")
    with pytest.raises(UserError, match=r"has optim.accumulate = 2, .* request has optim.accumulate = 4"):
        find(4)


@pytest.mark.parametrize("net", ["batch norm", "layer norm"])
def test_a_training_that_cannot_be_divided_ends_with_advice(net, monkeypatch):
    """Batch norm would have other statistics, and a single image cannot be divided."""
    run = tiny.training(tiny.recipe(net))
    before = tiny.bits(run)
    fill_memory(monkeypatch, 0, ERRORS["machine"])
    with pytest.raises(OutOfMemory, match="the memory is full"):
        advance_within_memory(run)
    assert run.recipe.optim.accumulate == (1 if net == "batch norm" else 8)
    assert tiny.different(before, tiny.bits(run)) == []
