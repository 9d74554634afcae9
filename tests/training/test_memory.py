"""The estimated memory of a training."""

from dataclasses import replace

import pytest

import ddim.training.memory
import tiny
from ddim.errors import UserError
from ddim.nn.runtime import Runtime
from ddim.training.memory import check_memory, estimate_memory, find_free_memory


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
    assert find_free_memory("mps") is None
