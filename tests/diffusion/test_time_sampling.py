import pytest
import torch

from ddim.diffusion.schedules import Cosine
from ddim.diffusion.time_sampling import LossAware, LossMemory
from ddim.errors import UserError
from oracles import uniform

ENTRIES = 8
EVERY = (torch.arange(ENTRIES, dtype=torch.float64) + 1) / ENTRIES
FINE = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def full(choice=LossAware(ENTRIES, 4, 0.01), seed=0):
    """A memory in which each entry has its full history, with losses around i^2."""
    memory = LossMemory(choice)
    for k in range(choice.history):
        memory.update(EVERY, (EVERY * ENTRIES) ** 2 * (1 + uniform(ENTRIES, seed=seed + k)))
    return memory


@pytest.mark.parametrize("seed", [0, 1])
def test_the_weighted_loss_has_the_mean_of_evenly_drawn_times(seed):
    """In expectation over the draws, for any loss, also one that the memory has never seen."""
    memory, loss = full(seed=seed), uniform(ENTRIES, seed=99)
    times, counts = memory.draw(FINE)
    index = (times * ENTRIES).round().long() - 1
    assert (counts * loss[index]).mean().item() == pytest.approx(loss.mean().item(), abs=2e-4)
    assert counts.mean().item() == pytest.approx(1, abs=2e-4)
    exact = memory.probabilities() * loss / (ENTRIES * memory.probabilities())
    assert torch.allclose(exact.sum(), loss.mean())


def test_entries_are_drawn_as_the_root_of_their_mean_squared_loss():
    memory = full()
    times, _ = memory.draw(FINE)
    share = torch.bincount((times * ENTRIES).round().long() - 1, minlength=ENTRIES) / len(FINE)
    wanted = memory.losses.square().mean(1).sqrt()
    wanted = 0.99 * wanted / wanted.sum() + 0.01 / ENTRIES
    assert torch.allclose(share.double(), wanted, atol=1e-4)


def test_draws_are_even_until_each_entry_has_its_history():
    choice = LossAware(ENTRIES, 3)
    memory = LossMemory(choice)
    for _ in range(3):
        memory.update(EVERY[:-1], 5 * EVERY[:-1])
        times, counts = memory.draw(FINE[::1000])
        assert torch.equal(times, choice(FINE[::1000], Cosine()))
        assert torch.allclose(counts, torch.ones(200, dtype=torch.float64))
    for _ in range(3):
        memory.update(EVERY[-1:], EVERY[-1:])
    assert not torch.allclose(memory.draw(FINE)[1], torch.ones(len(FINE), dtype=torch.float64))


def test_the_memory_holds_the_last_losses_of_each_entry_oldest_first():
    memory = LossMemory(LossAware(ENTRIES, 3))
    memory.update(EVERY[[2, 2, 5, 2, 2]], torch.tensor([1.0, 2.0, 9.0, 3.0, 4.0]))
    assert memory.losses[2].tolist() == [2, 3, 4]
    assert memory.losses[5].tolist() == [0, 0, 9]
    assert memory.counts.tolist() == [0, 0, 4, 0, 0, 1, 0, 0]


def test_the_variance_of_the_loss_is_least_when_drawn_by_its_size():
    """The purpose of importance sampling: the weighted loss of such draws hardly varies."""
    memory = LossMemory(LossAware(ENTRIES, 2, 1e-6))
    loss = (EVERY * ENTRIES) ** 3
    for _ in range(2):
        memory.update(EVERY, loss)
    times, counts = memory.draw(FINE)
    weighted = counts * loss[(times * ENTRIES).round().long() - 1]
    assert weighted.std() < 1e-3 * loss.std()


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-53])
def test_every_uniform_number_has_a_time(edge):
    for memory in (full(), LossMemory(LossAware(3, 2))):
        times, counts = memory.draw(torch.tensor([edge], dtype=torch.float64))
        assert 0 < times.item() <= 1
        assert counts.isfinite().all()


@pytest.mark.parametrize(
    "wrong, named", [({"entries": 0}, "entries"), ({"history": 0}, "history"), ({"uniform": 0}, "uniform")]
)
def test_impossible_choices_are_refused(wrong, named):
    with pytest.raises(UserError, match=rf"objective\.times\.{named}"):
        LossAware(**wrong)
