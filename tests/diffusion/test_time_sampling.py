from statistics import NormalDist

import pytest
import torch

from ddim.diffusion.schedules import Cosine, KarrasSigma, LinearBeta
from ddim.diffusion.times import LossAware, LossMemory, NormalLogSNR, TableTimes
from oracles import uniform

ENTRIES = 8
EVERY = (torch.arange(ENTRIES, dtype=torch.float64) + 1) / ENTRIES
UNIFORM = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
FINE = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def full(choice=LossAware(ENTRIES, 4, 0.01), seed=0):
    """A memory in which each entry has its full history, with losses around i^2."""
    memory = LossMemory(choice)
    for k in range(choice.history):
        memory.update(EVERY, (EVERY * ENTRIES) ** 2 * (1 + uniform(ENTRIES, seed=seed + k)))
    return memory


def test_each_entry_of_a_table_is_trained_equally_often():
    # As many numbers between the entries' bounds as entries: none rounds into its neighbour's.
    t = TableTimes(40)((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000, Cosine())
    entries, counts = (t * 40).round().long().unique(return_counts=True)
    assert torch.equal(entries, torch.arange(1, 41))
    assert torch.equal(counts, torch.full((40,), 100))
    assert torch.allclose(t * 40, (t * 40).round())
    assert TableTimes(40)(torch.tensor([0.0, 1 - 2**-24]), Cosine()).tolist() == [1 / 40, 1.0]


@pytest.mark.parametrize(
    "schedule", [Cosine(0.0005, 0.999999), LinearBeta(0.1, 40.0), KarrasSigma()], ids=type
)
# Karras et al. 2022, table 1: log sigma, half of -log-SNR, of mean -1.2 and deviation 1.2.
@pytest.mark.parametrize("mean, std", [(1.0, 2.4), (-2.0, 1.0), (2.4, 2.4)])
def test_normal_log_snr_is_normally_distributed(mean, std, schedule):
    log_snr = schedule(NormalLogSNR(mean, std)(UNIFORM, schedule)).log_snr
    normal_ = NormalDist(mean, std)
    for level in (mean - 2 * std, mean - std, mean, mean + 0.5 * std, mean + 2 * std):
        assert (log_snr <= level).double().mean().item() == pytest.approx(normal_.cdf(level), abs=2e-4)
    assert log_snr.mean().item() == pytest.approx(mean, abs=0.01)
    assert log_snr.std().item() == pytest.approx(std, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_weighted_loss_has_the_mean_of_evenly_drawn_times(seed):
    """In expectation over the draws, for any loss, also one that the memory has never seen."""
    memory, loss = full(seed=seed), uniform(ENTRIES, seed=99)
    times, counts = memory.draw(FINE)
    index = (times * ENTRIES).round().long() - 1
    assert (counts * loss[index]).mean().item() == pytest.approx(loss.mean().item(), abs=2e-4)
    assert counts.mean().item() == pytest.approx(1, abs=2e-4)


def test_entries_are_drawn_as_the_root_of_their_mean_squared_loss():
    memory = full()
    times, _ = memory.draw(FINE)
    share = torch.bincount((times * ENTRIES).round().long() - 1, minlength=ENTRIES) / len(FINE)
    wanted = memory.losses.square().mean(1).sqrt()
    wanted = 0.99 * wanted / wanted.sum() + 0.01 / ENTRIES
    assert torch.allclose(share.double(), wanted, atol=1e-4)


def test_the_memory_holds_the_last_losses_of_each_entry_oldest_first():
    memory = LossMemory(LossAware(ENTRIES, 3))
    memory.update(EVERY[[2, 2, 5, 2, 2]], torch.tensor([1.0, 2.0, 9.0, 3.0, 4.0]))
    assert memory.losses[2].tolist() == [2, 3, 4]
    assert memory.losses[5].tolist() == [0, 0, 9]
    assert memory.counts.tolist() == [0, 0, 4, 0, 0, 1, 0, 0]
