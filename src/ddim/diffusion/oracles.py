"""Exact denoisers, for distributions of images for which E[x0 | x_t] has a closed form.

With them the error of a sampler is measured without the error of a network. Each is a `Denoiser` and works
with any schedule. Images are (B, C, H, W) in model units.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddim.diffusion.parameterisation import Prediction, from_image
from ddim.diffusion.schedules import Level, Number, Schedule


@dataclass(frozen=True)
class Gaussian:
    """The exact denoiser for independent normal pixels.

    `mean` and `std` are numbers, or tensors that broadcast to an image.
    """

    schedule: Schedule
    mean: Number = 0.3
    std: Number = 0.5

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        at = self.schedule(t).over(x_t)
        gain = at.alpha * self.std**2 / self.spread(at) ** 2
        return from_image(x_t, self.mean + gain * (x_t - at.alpha * self.mean), at)

    def flow(self, x: Tensor, t: Number, s: Number) -> Tensor:
        """Return x (B, C, H, W) moved by the probability flow from time t to s.

        The flow keeps (x - mean) / std of every pixel, with the mean and std of x_t at each time.
        """
        now, then = self.schedule(t), self.schedule(s)
        away = x - now.alpha * self.mean
        return then.alpha * self.mean + self.spread(then) * away / self.spread(now)

    def spread(self, at: Level) -> Tensor:
        """Return the standard deviation of x_t."""
        return (at.alpha**2 * self.std**2 + at.sigma**2).sqrt()


@dataclass(frozen=True)
class Mixture:
    """The exact denoiser for a mixture of K equally likely normal distributions.

    Their means are `centres` (K, C, H, W), and all have standard deviation `std`. With std 0 the mixture is
    the distribution of a finite training set.
    """

    schedule: Schedule
    centres: Tensor = field(repr=False)
    std: float = 0.0

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        level, centres = self.schedule(t), self.centres.to(x_t)
        at = level.over(x_t)
        variance = at.alpha**2 * self.std**2 + at.sigma**2  # of x_t around alpha times a centre
        away = x_t[:, None] - level.over(x_t[:, None]).alpha * centres  # (B, K, C, H, W)
        odds = -away.square().flatten(2).sum(2) / 2 / variance.reshape(-1, 1)
        share = odds.softmax(1).to(x_t)
        centre = torch.einsum("bk,kchw->bchw", share, centres)
        gain = at.alpha * self.std**2 / variance
        return from_image(x_t, centre + gain * (x_t - at.alpha * centre), at)
