"""All parts of the mathematics run on a device other than the CPU, without mixing tensors of both."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from ddim.diffusion.denoiser import Model
from ddim.diffusion.loss import LOSSES, WEIGHTINGS, Objective, make_memory
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import SAMPLERS, initial_noise, last_state
from ddim.diffusion.schedules import SCHEDULES, Cosine, Linear, LinearIn, midpoints
from ddim.diffusion.times import TIME_SAMPLINGS
from one_device import MixError, OneDevice

PARTS = [kind() for kind in SCHEDULES.values()]
PARTS += [LinearIn(name) for name in get_args(get_type_hints(LinearIn)["quantity"])]
PARTS += [replace(table, read="log_snr") for table in PARTS if hasattr(table, "read")]
LOSS_PARTS = [kind() for kind in LOSSES.values()]
LOSS_PARTS += [Objective(weight=kind()) for kind in WEIGHTINGS.values()]
LOSS_PARTS += [Objective(times=kind()) for kind in TIME_SAMPLINGS.values()]


def model(schedule=Cosine()):
    return Model(lambda x, condition: torch.cat([x, x], dim=1), schedule, shape=(3, 4, 4))


def test_a_mix_of_devices_is_found():
    ends, t = torch.zeros(2), torch.zeros(3, device="meta")
    with OneDevice():
        assert (t + ends[0]).device.type == "meta"
        for function, given in (
            (torch.add, (t[:2], ends)),
            (torch.lerp, (*ends, t)),
            (torch.where, (t > 0, ends[0], t)),
        ):
            with pytest.raises(MixError):
                function(*given)


@pytest.mark.parametrize("schedule", PARTS, ids=str)
def test_a_schedule_computes_on_the_device_of_the_times(schedule):
    with OneDevice():
        level = schedule(midpoints().to("meta"))
        assert schedule.inverse(level.log_snr).device.type == level.alpha.device.type == "meta"


@pytest.mark.parametrize("loss", LOSS_PARTS, ids=str)
def test_a_loss_and_its_times_are_computed_on_the_device(loss):
    x0, uniform = torch.zeros(2, 3, 4, 4, device="meta"), torch.zeros(2, device="meta")
    valid = torch.ones((), dtype=torch.bool, device="meta")
    for schedule in (Cosine(), Linear(), Linear(read="log_snr"), LinearIn()):
        memory = make_memory(loss, "meta")
        with OneDevice():
            t = loss.times(uniform, schedule)
            if memory is not None:
                t, weights = memory.draw(uniform)
            for progress in (0.0, 0.5):
                each = loss.at(progress, 0)(model(schedule), x0, t, x0, Pixels.fixed(0.5, 0.5))
            if memory is not None:
                memory.update(t, each.double() * weights, valid)
        assert each.device.type == t.device.type == "meta"


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_computes_on_the_device_of_the_images(name):
    times, blank = torch.linspace(0.9, 0.1, 6, dtype=torch.float64), torch.zeros(2, 3, 4, 4, device="meta")
    noise = Noise([0, 1])
    with OneDevice():
        x = initial_noise(Cosine(), noise, blank, times[0])
        state = last_state(SAMPLERS[name]()(model(), x, times, noise))
        assert state.x0.device.type == "meta"
