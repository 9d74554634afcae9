import math
import re

import pytest
import torch
from torch import nn

from ddim.errors import UserError
from ddim.nn.ema import Exponential, HalfLife, Power, name_averages, select_averaged, update_average
from oracles import made, normal


def weights(rule, k, batch=8):
    """Return the weight of each update in the average after k of them, (k,), by averaging unit vectors."""
    average = [torch.full((k,), math.nan, dtype=torch.float64).nan_to_num(7.0)]
    for j in range(k):
        update_average(average, [torch.eye(k, dtype=torch.float64)[j]], rule(j + 1, batch))
    return average[0]


def on_a_ramp(rule, k, batch=8):
    """Return the average after k updates of a value that is j at update j."""
    average = [torch.tensor(-99.0, dtype=torch.float64)]
    for j in range(1, k + 1):
        update_average(average, [torch.tensor(float(j), dtype=torch.float64)], rule(j, batch))
    return average[0].item()


RULES = [
    Exponential(),
    Exponential(0.9),
    Exponential(0.0),
    Power(),
    Power(0.0),
    Power(16.97),
    HalfLife(400.0),
    HalfLife(1e9),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("k", [1, 2, 50, 300])
def test_weights_sum_to_one_and_the_initial_value_is_forgotten(rule, k):
    found = weights(rule, k)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    assert (found >= 0).all()


def test_after_the_warm_up_weights_decay_geometrically():
    """The decay 0.9 is reached where (k - 1) / (k + 8) = 0.9, at k = 82."""
    found = weights(Exponential(0.9), 200)
    assert torch.allclose(found[81:-1] / found[82:], torch.full((118,), 0.9, dtype=torch.float64))
    assert found[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("k", [1, 2, 11, 101, 1001])
def test_during_the_warm_up_the_average_lags_by_a_tenth_of_the_run(k):
    """The mean age a_k = d_k (a_{k-1} + 1) with d_k = (k - 1) / (k + 8) is (k - 1) / 10."""
    assert k - on_a_ramp(Exponential(0.9999), k) == pytest.approx((k - 1) / 10)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5, 6.94])
def test_the_power_rule_weighs_update_k_by_its_power(gamma):
    n = 600
    k = torch.arange(1, n + 1, dtype=torch.float64)
    # The middle of the unit interval that ends at k stands for the integral of k^gamma over it.
    direct = (k - 0.5) ** gamma / ((k - 0.5) ** gamma).sum()
    assert torch.allclose(weights(Power(gamma), n)[100:], direct[100:], rtol=2e-3)


BOUNDARIES = [2**18, 2**19, 2**20, 2**23]
"""Updates from which a power-function average changes half as often as before."""


@pytest.mark.parametrize("gamma", [0.0, 6.94, 16.97])
def test_below_262144_updates_the_power_rule_changes_the_average_at_each_update(gamma):
    for k in [*range(1, 1001), 2**17, 2**18 - 1]:
        assert Power(gamma)(k, 8) == 1 - (1 - 1 / k) ** (gamma + 1)


@pytest.mark.parametrize("gamma", [0.0, 6.94, 16.97])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_in_long_runs_an_average_keeps_the_exact_share_of_its_past(gamma, boundary):
    """Of the power-function average after `first` updates, the share (first / last)^(gamma + 1) is left."""
    first, last = boundary - 2048, boundary + 2048
    kept = [1 - Power(gamma)(k, 8) for k in range(first + 1, last + 1)]
    assert math.log(math.prod(kept)) == pytest.approx((gamma + 1) * math.log(first / last), rel=1e-7)
    changes = 2048 * 2**17 / boundary
    assert sum(share < 1 for share in kept) == 3 * changes


@pytest.mark.parametrize("gamma", [6.94, 16.97])
def test_in_long_runs_the_power_average_is_the_sum_over_all_updates(gamma):
    first, last = 2**19 - 20_000, 2**19 + 20_003
    k = torch.arange(1, last + 1, dtype=torch.float64)
    path = torch.cos(3 * torch.log(k))

    def exact(end):
        edges = (torch.arange(end + 1, dtype=torch.float64) / end) ** (gamma + 1)
        return edges.diff() @ path[:end]

    average = [exact(first)]
    for j in range(first + 1, last + 1):
        update_average(average, [path[j - 1]], Power(gamma)(j, 8))
    # The path changes by at most 3 / k at update k, and the average lags by at most k / 2^17 updates.
    assert average[0].item() == pytest.approx(exact(last).item(), abs=3 / 2**17)
    assert abs(exact(last) - exact(first)) > 0.05


@pytest.mark.parametrize("gamma", [6.94, 16.97])
def test_in_long_runs_an_average_in_float32_follows_the_weights(gamma):
    before = normal(1000, dtype=torch.float32)
    newest, rule, first = before * 1.01, Power(gamma), 10**7
    average, exact = before.clone(), before.double()
    for k in range(first + 1, first + 60_001):
        update_average([average], [newest], rule(k, 8))
        update_average([exact], [newest.double()], rule(k, 8))
    share = 1 - (first / (first + 60_000)) ** (gamma + 1)
    moved = (exact - before).norm().item()
    assert moved == pytest.approx(share * (newest - before).norm().item(), rel=0.05)
    assert (average - before).norm().item() == pytest.approx(moved, rel=0.05)


def test_the_weight_zero_leaves_an_average_unchanged():
    average = [torch.tensor([1.0, -0.0])]
    update_average(average, [torch.tensor([math.nan, math.inf])], 0.0)
    assert average[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("gamma, deviation", [(6.94, 0.10), (16.97, 0.05)])
def test_the_power_profiles_have_the_widths_of_the_paper(gamma, deviation):
    """Karras et al. 2024, section 3: the profiles are named by their relative standard deviation."""
    n = 600
    found, k = weights(Power(gamma), n), torch.arange(1, n + 1, dtype=torch.float64)
    mean = (found * k).sum()
    assert ((found * (k - mean) ** 2).sum().sqrt() / n).item() == pytest.approx(deviation, rel=0.01)


def test_weights_halve_with_every_half_life():
    """In images: 80 are 10 updates of 8 or 5 of 16, once they are less than 5 % of the run, from 1600 on."""
    for batch, updates in ((8, 10), (16, 5)):
        found = weights(HalfLife(80.0), 400, batch)
        assert torch.allclose(found[200 - updates : -updates], found[200:] / 2)


@pytest.mark.parametrize("batch", [1, 8, 512])
def test_early_in_training_the_average_lags_by_a_share_of_the_run(batch):
    """A half-life of r k updates forgets at the rate log 2 / (r k), as k^(log 2 / r - 1) weighs update k."""
    n, ramp = 2000, 0.05
    lag = 1 / (1 + math.log(2) / ramp) * n
    assert n - on_a_ramp(HalfLife(1e12, ramp), n, batch) == pytest.approx(lag, rel=0.02)


def test_batch_norm_statistics_are_averaged_with_the_weights():
    net = made(lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)))
    average = {name: value.clone() for name, value in select_averaged(net).items()}
    assert set(average) == {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    before = average["1.running_mean"].clone()
    net.train()(5 + normal(8, 2, 4, 4, dtype=torch.float32))
    newest = select_averaged(net)
    assert not torch.equal(newest["1.running_mean"], before)
    update_average(list(average.values()), list(newest.values()), 0.25)
    assert torch.allclose(average["1.running_mean"], 0.75 * before + 0.25 * net[1].running_mean)


def test_averaged_tensors_share_the_models_memory_without_gradients():
    net = made(lambda: nn.Linear(2, 2))
    for value in select_averaged(net).values():
        assert not value.requires_grad
        value.fill_(3)
    assert (net.weight == 3).all()


@pytest.mark.parametrize(
    "make", [lambda: Exponential(1.0), lambda: Exponential(-0.1), lambda: Power(-1), lambda: HalfLife(0)]
)
def test_impossible_rules_are_refused(make):
    with pytest.raises(UserError, match=r"ema\.(decay|gamma|images) must be .* got"):
        make()


@pytest.mark.parametrize(
    ("rule", "others"),
    [
        (Exponential(0.9, (0.99, 0.0)), {"0.99": Exponential(0.99), "0": Exponential(0.0)}),
        (Power(6.94, (16.97, 2)), {"16.97": Power(16.97), "2": Power(2.0)}),
        (HalfLife(400.0, 0.1, (1e20, 80.0)), {"1e20": HalfLife(1e20, 0.1), "80": HalfLife(80.0, 0.1)}),
    ],
    ids=str,
)
def test_further_averages_differ_in_the_main_parameter_only(rule, others):
    found = name_averages(rule)
    assert list(found) == ["default", *others]
    assert {name: other for name, other in found.items() if name != "default"} == others
    for k in (1, 2, 100):
        assert found["default"](k, 8) == rule(k, 8)


def test_a_rule_alone_has_the_default_average_only():
    assert [list(name_averages(rule)) for rule in RULES] == [["default"]] * len(RULES)


@pytest.mark.parametrize("value", [1e-300, 1e-5, 0.1 + 0.2, 1 / 3, 2, 123456789.125, 1e16, 5e22, -0.0])
def test_the_name_of_an_average_is_a_file_name_and_its_value(value):
    (name,) = [name for name in name_averages(Power(6.94, (value,))) if name != "default"]
    assert re.fullmatch(r"[0-9][0-9a-z.-]*", name)
    assert float(name) == value


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Exponential(0.9, (1.0,)), "ema.more must be at least 0 and less than 1, got 1.0"),
        (lambda: Exponential(0.9, (0.5, -0.1)), "ema.more must be at least 0 and less than 1, got -0.1"),
        (lambda: Power(1.0, (-1.0,)), "ema.more must be at least 0, got -1.0"),
        (lambda: Power(1.0, (math.nan,)), "ema.more must be at least 0, got nan"),
        (lambda: HalfLife(9.0, more=(0.0,)), "ema.more must be above 0, got 0.0"),
        (
            lambda: Exponential(0.9, (0.9,)),
            "ema.more must not repeat a value, nor the value of ema.decay, got 0.9 and ema.decay 0.9",
        ),
        (
            lambda: HalfLife(9, more=(4, 4.0)),
            "ema.more must not repeat a value, nor the value of ema.images, got 4, 4.0 and ema.images 9",
        ),
        (
            lambda: Power(0.0, (-0.0,)),
            "ema.more must not repeat a value, nor the value of ema.gamma, got -0.0 and ema.gamma 0.0",
        ),
    ],
)
def test_impossible_further_averages_are_refused(make, said):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == said
