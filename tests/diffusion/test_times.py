from statistics import NormalDist

import pytest
import torch

from ddim.diffusion.schedules import Cosine, KarrasSigma, LinearBeta
from ddim.diffusion.times import LossAware, NormalLogSNR, TableTimes, midpoints
from oracles import uniform

ENTRIES = 8
EVERY = (torch.arange(ENTRIES, dtype=torch.float64) + 1) / ENTRIES


def full(seed=0):
    """A memory in which each entry has its full history, with losses around i^2."""
    memory = LossAware(ENTRIES, 4, 0.01).memory()
    for k in range(4):
        memory.update(EVERY, (EVERY * ENTRIES) ** 2 * (1 + uniform(ENTRIES, seed=seed + k)))
    return memory


def test_each_entry_of_a_table_is_trained_equally_often():
    t = TableTimes(40)(midpoints(4000), Cosine())
    entries, counts = (t * 40).round().long().unique(return_counts=True)
    assert torch.equal(entries, torch.arange(1, 41))
    assert torch.equal(counts, torch.full((40,), 100))
    assert TableTimes(40)(torch.tensor([0.0, 1 - 2**-24]), Cosine()).tolist() == [1 / 40, 1.0]


@pytest.mark.parametrize(
    "schedule", [Cosine(0.0005, 0.999999), LinearBeta(0.1, 40.0), KarrasSigma()], ids=type
)
# Karras et al. 2022, table 1: log sigma, half of -log-SNR, of mean -1.2 and deviation 1.2.
@pytest.mark.parametrize("mean, std", [(-2.0, 1.0), (2.4, 2.4)])
def test_normal_log_snr_is_normally_distributed(mean, std, schedule):
    log_snr = schedule(NormalLogSNR(mean, std)(midpoints(20_000), schedule)).log_snr
    for level in (mean - 2 * std, mean - std, mean, mean + 0.5 * std, mean + 2 * std):
        share = (log_snr <= level).double().mean().item()
        assert share == pytest.approx(NormalDist(mean, std).cdf(level), abs=2e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_weighted_loss_has_the_mean_of_evenly_drawn_times(seed):
    """In expectation over the draws, for any loss, also one that the memory has never seen."""
    loss = uniform(ENTRIES, seed=99)
    times, weights = full(seed).draw(midpoints(200_000))
    index = (times * ENTRIES).round().long() - 1
    assert (weights * loss[index]).mean().item() == pytest.approx(loss.mean().item(), abs=2e-4)
    assert weights.mean().item() == pytest.approx(1, abs=2e-4)


def test_entries_are_drawn_as_the_root_of_their_mean_squared_loss():
    """Nichol & Dhariwal 2021, eq. 18."""
    memory = full()
    times, _ = memory.draw(midpoints(200_000))
    share = torch.bincount((times * ENTRIES).round().long() - 1, minlength=ENTRIES) / len(times)
    wanted = memory.losses.square().mean(1).sqrt()
    wanted = 0.99 * wanted / wanted.sum() + 0.01 / ENTRIES
    assert torch.allclose(share.double(), wanted, atol=1e-4)


def test_the_memory_holds_the_last_losses_of_each_entry_oldest_first():
    memory = LossAware(ENTRIES, 3).memory()
    memory.update(EVERY[[2, 2, 5, 2, 2]], torch.tensor([1.0, 2.0, 9.0, 3.0, 4.0]))
    memory.update(EVERY[[2, 5]], torch.tensor([5.0, 8.0]))
    memory.update(EVERY, torch.full((ENTRIES,), torch.nan), valid=False)
    assert memory.losses[[2, 5, 0]].tolist() == [[3, 4, 5], [0, 9, 8], [0, 0, 0]]
    assert memory.counts.tolist() == [0, 0, 5, 0, 0, 2, 0, 0]
