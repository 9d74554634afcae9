"""All parts of the mathematics run on a device other than the CPU, without mixing tensors of both."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from torch.ops import aten
from torch.utils._python_dispatch import TorchDispatchMode

from ddim.diffusion.denoiser import Counted, Model
from ddim.diffusion.guidance import Clipped, Guided, Rescheduled
from ddim.diffusion.loss import LOSSES, WEIGHTINGS, Objective
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM, EDM, SAMPLERS, DPMSolver, initial_noise, last_state
from ddim.diffusion.schedules import SCHEDULES, Cosine, Linear, LinearIn
from ddim.diffusion.times import TIME_SAMPLINGS, midpoints
from one_device import OneDevice

PARTS = [kind() for kind in SCHEDULES.values()]
PARTS += [LinearIn(name) for name in get_args(get_type_hints(LinearIn)["quantity"])]
PARTS += [replace(table, read="log_snr") for table in PARTS if hasattr(table, "read")]
LOSS_PARTS = [kind() for kind in LOSSES.values()]
LOSS_PARTS += [Objective(weight=kind()) for kind in WEIGHTINGS.values()]
LOSS_PARTS += [Objective(times=kind()) for kind in TIME_SAMPLINGS.values()]


SAMPLER_CASES = [kind() for kind in SAMPLERS.values()]
SAMPLER_CASES += [DDIM(0.5), DDPM("learned"), EDM(s_churn=5.0), EDM(alpha=0.5), DPMSolver(3, 1.0)]


def model(schedule=Cosine()):
    return Model(lambda x, condition: torch.cat([x, x], dim=1), schedule, shape=(3, 4, 4))


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
        memory = loss.times.memory("meta")
        with OneDevice():
            t = loss.times(uniform, schedule)
            if memory is not None:
                t, weights = memory.draw(uniform)
            for progress in (0.0, 0.5):
                each = loss.at(progress, 0)(model(schedule), x0, t, x0, Pixels.fixed(0.5, 0.5))
            if memory is not None:
                memory.update(t, each.double() * weights, valid)
        assert each.device.type == t.device.type == "meta"


class Net(torch.nn.Module):
    """A network with classes, on the device that stands for an accelerator."""

    classes = 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), device="meta"))

    def forward(self, x, condition, label):
        scale = self.weight * (condition + label).reshape(-1, 1, 1, 1)
        return torch.cat([scale * x, x], dim=1)


class Copies(TorchDispatchMode):
    """Counts the copies from the CPU to the device: the program waits for each of them."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operation."""
        made = func(*args, **(kwargs or {}))
        if func in (aten._to_copy.default, aten.copy_.default):
            self.count += args[0].device.type == "cpu" and made.device.type == "meta"
        return made


class Draws(Noise):
    """Noise that counts how often it is drawn; each draw is one copy to the device."""

    drawn = 0

    def like(self, x):
        self.drawn += 1
        return super().like(x)


@pytest.mark.parametrize("sampler", SAMPLER_CASES, ids=str)
@pytest.mark.parametrize("schedule", [Cosine(), Linear(), LinearIn()], ids=str)
def test_sampling_never_waits_for_the_device(sampler, schedule):
    """No value of the device is read, and nothing but noise is copied to it, once for each step."""
    times, blank = torch.linspace(0.9, 0.1, 6, dtype=torch.float64), torch.zeros(2, 3, 4, 4, device="meta")
    trained = Model(Net(), schedule, shape=(3, 4, 4))
    labelled = trained.with_labels(torch.tensor([0, 2]))
    guided = Rescheduled(
        Guided(Counted(labelled), Counted(trained), 2.0, (-2.0, 2.0)), LinearIn("angle", 2.0, -3.0)
    )
    denoise, noise = Clipped(guided, Pixels.fixed(0.5, 0.5)), Draws([0, 1])
    denoise(blank, times[0])  # sends the bounds of the pixels
    with Copies() as copies, OneDevice():
        x = initial_noise(denoise.schedule, noise, blank, times[0])
        state = last_state(sampler(denoise, x, times, noise))
    assert state.x.device.type == state.x0.device.type == "meta"
    assert copies.count == noise.drawn
