"""The estimated memory of a training, and trainings whose memory is full."""

from dataclasses import replace

import pytest
import torch

import ddim.training.memory
import ddim.training.optim
import tiny
from ddim.errors import Notice, OutOfMemory, UserError
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import override
from ddim.sampling.pipeline import load
from ddim.training import Callback, resume
from ddim.training.batches import Batch
from ddim.training.memory import advance_within_memory, estimate_memory, fit_memory
from ddim.training.trainer import Trainer


def estimate(side=32, micro_batch=1, precision="fp32", recompute=False, **changes):
    recipe = tiny.recipe(data__size=side, **changes)
    runtime = Runtime(micro_batch=micro_batch, precision=precision, recompute=recompute)
    return estimate_memory(tiny.training(recipe, tiny.images(size=(side, side)), runtime=runtime))


def test_the_estimate_grows_with_batch_and_pixels_and_counts_precision_and_recomputation():
    one, two, three = (estimate(optim__batch=batch) for batch in (8, 16, 24))
    assert two - one == pytest.approx(three - two, abs=2)
    # At least the noisy image that each of the first convolutions keeps, in float32.
    assert two - one > 8 * 3 * 32 * 32 * 4
    # Four times the pixels are four times the batch.
    assert estimate(64) == pytest.approx(estimate(optim__batch=32), abs=2)
    assert estimate(optim__batch=16, optim__accumulate=2) == one
    assert max(estimate(precision="bf16"), estimate(recompute=True)) < one
    # A validation samples micro-batches, whatever the parts of a batch are.
    assert estimate(micro_batch=1000) > one


@pytest.mark.parametrize("net", ["batch norm", "group norm"])
def test_an_estimate_changes_nothing_of_the_training(net):
    """A training that fits keeps its parts; its weights and statistics stay as they are."""
    run = tiny.training(tiny.recipe(net), updates=1)
    before, state = tiny.bits(run), torch.get_rng_state()
    fit_memory(run)
    assert tiny.different(before, tiny.bits(run)) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert run.recipe.optim.accumulate == 1


def test_a_training_starts_in_parts_that_fit_or_is_refused_before_it_has_a_folder(tmp_path, monkeypatch):
    """A system kills a process that fills its memory, so the parts are small before the first step."""
    free = [estimate(micro_batch=16, optim__batch=64, optim__accumulate=4)]
    monkeypatch.setattr(ddim.training.memory, "find_free_memory", lambda device: free[0])
    with pytest.warns(Notice, match="trained in 4 parts"):
        folder = tiny.train(tiny.recipe(optim__batch=64, images=64), tmp_path / "run")
    assert load(folder).recipe.optim.accumulate == 4
    free[0] = 2**20
    with pytest.raises(UserError, match="needs about"):
        tiny.train(tiny.recipe(), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    # Where the free memory is not known, nothing is refused.
    free[0] = None
    assert fit_memory(tiny.training()) == ""


# A full memory

ERRORS = {
    "machine": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "NumPy": MemoryError("Unable to allocate 3 GiB"),
}
DROPOUT = override(tiny.recipe("group norm", optim__accumulate=2), {"net.dropout": 0.3})
# Another number of images changes the rounding of the second network by more.
CASES = {"one part": (tiny.recipe(), 1e-6), "two parts, dropout": (DROPOUT, 2e-5)}


def fill_memory(monkeypatch, most, error, first=0):
    """Let a part of a batch of more than `most` images fail from step `first` on; returns the failures."""
    sound, step, failures, reached = Batch.micro_batch, Trainer.advance, [], []

    def part(batch, which, *given):
        found = sound(batch, which, *given)
        images = len(range(len(batch.uniform))[which])
        if images > most and len(reached) >= first:
            failures.append(images)
            raise error
        return found

    monkeypatch.setattr(Trainer, "advance", lambda run: [step(run), reached.append(0)][0])
    monkeypatch.setattr(Batch, "micro_batch", part)
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
    assert [bool(text) for text in news] == [False, False, True, False]
    assert max(failures) == 8 // recipe.optim.accumulate
    assert run.recipe.optim == replace(recipe.optim, accumulate={3: 4, 1: 8}[most])


def test_a_memory_that_is_full_in_the_optimiser_ends_the_run_with_its_last_checkpoint(tmp_path, monkeypatch):
    """AdamW has changed its weights when Muon's matrices fill the memory: such a step is not repeated."""
    recipe = tiny.recipe(optim__method="muon")
    whole = tiny.train(recipe, tmp_path / "whole")

    sound, left = ddim.training.optim.orthogonalise, [0]

    def fill_once(matrices):
        if left:
            left.pop()
            raise ERRORS["machine"]
        return sound(matrices)

    with monkeypatch.context() as patch:
        patch.setattr(ddim.training.optim, "orthogonalise", fill_once)
        with pytest.raises(OutOfMemory):
            tiny.train(recipe, tmp_path / "run")
    resume(tmp_path / "run")
    tiny.check_same_run(tmp_path / "run", whole)


def test_a_run_keeps_its_smaller_parts_when_it_is_resumed(tmp_path, monkeypatch):
    news, recipe = [], tiny.recipe(images=32)
    listener = Callback()
    listener.on_change = lambda training, text: news.append((training.step, text))
    with monkeypatch.context() as patch:
        fill_memory(patch, 4, ERRORS["machine"])
        whole = tiny.train(recipe, tmp_path / "whole", callbacks=[listener])
        folder = tiny.train_until_crash(recipe, tmp_path / "run", tiny.At(2, tiny.crash))
    assert any(step == 1 and "in 2 parts" in text for step, text in news)
    # The memory has room again, but the same parts give the same bits.
    resume(folder)
    tiny.check_same_run(folder, whole)


@pytest.mark.parametrize(("net", "parts"), [("batch norm", 1), ("layer norm", 8)])
def test_a_training_that_cannot_be_divided_ends_with_advice(net, parts, monkeypatch):
    """Batch norm would have other statistics, and a single image cannot be divided."""
    run = tiny.training(tiny.recipe(net))
    before = tiny.bits(run)
    fill_memory(monkeypatch, 0, ERRORS["machine"])
    with pytest.raises(OutOfMemory, match="the memory is full"):
        advance_within_memory(run)
    assert run.recipe.optim.accumulate == parts
    assert tiny.different(before, tiny.bits(run)) == []
