import math

import pytest
import torch
from torch import nn

from ddim.errors import UserError
from ddim.nn.ema import Exponential, HalfLife, Power, name_averages, select_averaged, update_average
from oracles import made, normal

RULES = [Exponential(), Exponential(0.9), Power(), Power(0.0), Power(16.97), HalfLife(400.0), HalfLife(1e9)]


def weights(rule, k, batch=8):
    """Return the weight of each update in the average after k of them, (k,), by averaging unit vectors."""
    average = [torch.full((k,), 7.0, dtype=torch.float64)]
    for j, newest in enumerate(torch.eye(k, dtype=torch.float64), 1):
        update_average(average, [newest], rule(j, batch))
    return average[0]


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
    ages = torch.arange(k - 1, -1, -1, dtype=torch.float64)
    assert (weights(Exponential(0.9999), k) @ ages).item() == pytest.approx((k - 1) / 10)


@pytest.mark.parametrize("gamma", [0.0, 2.5, 6.94])
def test_the_power_rule_weighs_update_k_by_its_power(gamma):
    k = torch.arange(1, 601, dtype=torch.float64)
    # The middle of the unit interval that ends at k stands for the integral of k^gamma over it.
    direct = (k - 0.5) ** gamma / ((k - 0.5) ** gamma).sum()
    assert torch.allclose(weights(Power(gamma), 600)[100:], direct[100:], rtol=2e-3)


@pytest.mark.parametrize("gamma", [0.0, 6.94, 16.97])
@pytest.mark.parametrize("boundary", [2**18, 2**19, 2**23])
def test_in_long_runs_an_average_changes_less_often_and_keeps_the_exact_share_of_its_past(gamma, boundary):
    """Of the power-function average after `first` updates, the share (first / last)^(gamma + 1) is left."""
    first, last = boundary - 2048, boundary + 2048
    kept = [1 - Power(gamma)(k, 8) for k in range(first + 1, last + 1)]
    assert math.log(math.prod(kept)) == pytest.approx((gamma + 1) * math.log(first / last), rel=1e-7)
    assert sum(share < 1 for share in kept) == 3 * 2048 * 2**17 / boundary


def test_weights_halve_with_every_half_life():
    """In images: 80 are 10 updates of 8 or 5 of 16, once they are less than 5 % of the run, from 1600 on."""
    for batch, updates in ((8, 10), (16, 5)):
        found = weights(HalfLife(80.0), 400, batch)
        assert torch.allclose(found[200 - updates : -updates], found[200:] / 2)


def test_batch_norm_statistics_are_averaged_with_the_weights():
    net = made(lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)))
    average = {name: value.clone() for name, value in select_averaged(net).items()}
    assert set(average) == {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    before = average["1.running_mean"].clone()
    net.train()(5 + normal(8, 2, 4, 4, dtype=torch.float32))
    newest = select_averaged(net)
    update_average(list(average.values()), list(newest.values()), 0.25)
    assert torch.allclose(average["1.running_mean"], 0.75 * before + 0.25 * net[1].running_mean)
    for value in newest.values():  # they share the model's memory, without gradients
        assert not value.requires_grad
        value.fill_(3)
    assert (net[0].weight == 3).all()


def test_further_averages_differ_in_the_main_parameter_only():
    rule = Exponential(0.9, (0.99, 0.0))
    assert name_averages(rule) == {"default": rule, "0.99": Exponential(0.99), "0": Exponential(0.0)}
    rule = HalfLife(400.0, 0.1, (1e20, 80.0))
    others = {"1e20": HalfLife(1e20, 0.1), "80": HalfLife(80.0, 0.1)}
    assert name_averages(rule) == {"default": rule} | others


def test_impossible_averages_are_refused():
    wrong = [
        (Exponential, (1.0,)),
        (Exponential, (0.9, (-0.1,))),
        (Power, (math.nan,)),
        (Power, (1.0, (-1.0,))),
    ]
    for kind, values in [*wrong, (HalfLife, (9.0, 0.0)), (HalfLife, (9.0, 0.05, (0.0,)))]:
        with pytest.raises(UserError, match="ema.more must be"):
            kind(*values)
