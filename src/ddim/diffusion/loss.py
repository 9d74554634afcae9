"""Losses: the training error of each image."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.guidance import Interval
from ddim.diffusion.likelihood import bound_posterior, image_bits, posterior, step_bits
from ddim.diffusion.parameterisation import (
    SIGMA_DATA,
    Prediction,
    Quantity,
    count_entries,
    error_ratio,
    quantity,
)
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Level, time_of_ratio
from ddim.diffusion.times import NormalLogSNR, TableTimes, TimeSampling, UniformTimes
from ddim.errors import UserError, check_part_values

Error = Literal["l1", "mse", "huber"]

LossFunction = Callable[[Denoiser, Tensor, Tensor, Tensor, Pixels], Tensor]
"""Returns the loss (B,) of each image; the arguments are those of `Loss.__call__`."""


class Loss(Protocol):
    """The loss that training minimises.

    A class of your own that inherits from this class needs only `__call__`.
    """

    def __post_init__(self) -> None:
        """Check that names and numbers are what they must be."""
        check_part_values("objective", self)

    @property
    def times(self) -> TimeSampling:
        """The distribution of the training times, by default uniform."""
        return UniformTimes()

    def at(self, progress: float, seen: int) -> LossFunction:
        """Return the loss at a point of the training; by default this loss.

        Args:
            progress: the finished share of the training, from 0 at its start to 1 at its end.
            seen: number of training images seen so far; repetitions count.
        """
        return self

    def __call__(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels) -> Tensor:
        """Return the loss (B,) of each image.

        Args:
            denoise: the model.
            x0: clean images (B, C, H, W) in model units.
            t: times (B,); noise is added to the images up to the noise level of these times.
            eps: standard normal noise with the shape of x0.
            pixels: the map between images in [0, 1] and model units.
        """
        ...


# Weightings: the weight of the loss at each noise level


class Weighting(Protocol):
    """The weight of the loss at each noise level."""

    def __call__(self, at: Level, on: Quantity) -> Tensor:
        """Return the weights at a noise level, with the shape of alpha and sigma.

        Args:
            at: the noise level.
            on: the quantity whose error is the loss.
        """
        ...


@dataclass(frozen=True)
class Unweighted:
    """The weight is 1 at every noise level."""

    def __call__(self, at: Level, on: Quantity) -> Tensor:
        return torch.ones_like(at.sigma)


@dataclass(frozen=True)
class EDMWeight:
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, with sigma / alpha in place of sigma.

    Karras et al. 2022, table 1. It is the weight of the squared error of the image. With this weight, that
    error equals the squared error of the network's output F under `PredictsEDM` (appendix B.6). The weight of
    another quantity is divided as for `MinSNR`. The paper's other columns have lambda = 1 / sigma^2, which is
    equivalent to the unweighted squared error of the noise.

    Attributes:
        sigma_data: standard deviation of the training images in model units; see `PredictsEDM`.
    """

    sigma_data: float | None = None

    def __call__(self, at: Level, on: Quantity) -> Tensor:
        data = self.sigma_data or SIGMA_DATA
        of_image = (at.alpha / at.sigma) ** 2 + 1 / data**2
        return of_image / error_ratio(at, on).square()


@dataclass(frozen=True)
class MinSNR:
    """The squared error of the image has the weight min(SNR, gamma) (Min-SNR-gamma, Hang et al. 2023).

    If the loss is the squared error of another quantity, this error is a known multiple of the squared error
    of the image. The weight is then divided by this factor. For the noise, the weight is min(SNR, gamma) /
    SNR. For the velocity of a variance-preserving schedule, it is min(SNR, gamma) / (SNR + 1). The paper's
    losses are squared errors; other losses get the same weights.

    Attributes:
        gamma: the largest weight of the squared error of the image, used where the SNR is above gamma.
    """

    gamma: float = 5.0

    def __call__(self, at: Level, on: Quantity) -> Tensor:
        snr = (at.alpha / at.sigma).square()
        return snr.clamp(max=self.gamma) / error_ratio(at, on).square()


WEIGHTINGS: dict[str, type[Weighting]] = {
    "unweighted": Unweighted,
    "edm_weight": EDMWeight,
    "min_snr": MinSNR,
}
"""All weightings, keyed by their names in a recipe."""


@dataclass(frozen=True)
class Objective(Loss):
    """The error `error` of the predicted quantity `on`, at times drawn from `times`, weighted by `weight`.

    `on` need not be the quantity that the network outputs: predictions are converted.

    The network that minimises the absolute error predicts the median of each pixel, and samplers need its
    mean, which minimises the squared error. But with the absolute error a network learns faster. With
    `finish`, training begins with one and ends with the other; the reported loss then changes its meaning.
    In short trainings the absolute error alone gives better samples, hence `finish_after`.

    With a `guidance` scale other than 1, the network learns in this last part the predictions of a guided
    model, and its samples need no guidance later. See `ddim.training.student.make_own_teacher`.

    Attributes:
        on: the predicted quantity whose error is the loss.
        error: "l1" for the absolute error, "mse" for the squared error, "huber" for the Huber error.
        times: the distribution from which training times are drawn.
        weight: the weight of each noise level.
        finish: share of the training, at its end, whose loss is the squared error of the velocity.
        finish_after: number of training images before which `finish` does not begin.
        guidance: the guidance scale that the network learns in the last part; 1 is off. The run itself is
            guided, by its early weights @guide (see `report.guide`).
        interval: the lowest and the highest log-SNR with guidance; see `Consistency`.
    """

    on: Quantity = "noise"
    error: Error = "l1"
    times: TimeSampling = UniformTimes()
    weight: Weighting = Unweighted()
    finish: float = 0.0
    finish_after: int = 0
    guidance: float = 1.0
    interval: Interval | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.guidance < math.inf:
            raise UserError(f"objective.guidance must be at least 1, got {self.guidance}")

    def at(self, progress: float, seen: int) -> Self:
        """Return the loss at this progress of training, after `seen` images; see `Loss`."""
        if self.finish == 0 or progress < 1 - self.finish or seen < self.finish_after:
            return replace(self, guidance=1.0)
        return replace(self, on="velocity", error="mse", finish=0.0)

    def __call__(
        self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels | None = None
    ) -> Tensor:
        """Return the loss (B,) before the finish; see `Loss`. `pixels` is not used."""
        level = denoise.schedule(t)
        at = level.over(x0)
        p = denoise(at.noisy(x0, eps), t)
        error = mean_error(p, Prediction(x0, eps), at, self.on, self.error)
        return self.weight(level, self.on).to(x0) * error


@dataclass(frozen=True)
class Hybrid(Loss):
    """L_simple + `vlb` * L_vlb, for networks that predict a variance (Nichol & Dhariwal 2021, eq. 16).

    L_simple is the error `error` of the predicted quantity `on`, as in `Objective`. L_vlb is the variational
    bound in bits per dimension, over the table of `times`, estimated from one random time for each image. In
    L_vlb the predicted image is detached, so that this term trains only the variance.

    Attributes:
        on: the predicted quantity whose error is L_simple.
        error: "l1" for the absolute error, "mse" for the squared error, "huber" for the Huber error.
        times: the distribution from which training times are drawn, on a table.
        vlb: the weight of the variational bound.
    """

    on: Quantity = "noise"
    error: Error = "mse"
    times: TimeSampling = TableTimes()
    vlb: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.times, TableTimes):
            raise UserError("objective.times must be table_times or loss_aware for hybrid")

    def __call__(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels) -> Tensor:
        """Return the loss (B,) of 8-bit images; see `Loss`."""
        schedule = denoise.schedule
        entries = count_entries(schedule, getattr(self.times, "entries", None))
        at = schedule(t).over(x0)
        x_t = at.noisy(x0, eps)
        p = denoise(x_t, t)
        simple = mean_error(p, Prediction(x0, eps), at, self.on, self.error)
        p = replace(p, x0=p.x0.detach())
        # The shape of both times is (1,): a table that is read at a scalar waits for an accelerator.
        first, second = torch.arange(1, 3, dtype=torch.float64, device=t.device)[:, None] / entries
        least = posterior(schedule(second), schedule(first)).small[0]
        s = ((t.double() * entries).round() - 1) / entries
        q = bound_posterior(schedule, t, s, least)
        between = step_bits(p, x_t, x0, q, "learned")
        image = image_bits(p, x0, q, "learned", pixels)
        bits = torch.where((s > 0).to(x0.device), between, image)
        return simple + self.vlb * entries * bits


def mean_error(p: Prediction, truth: Prediction, at: Level, on: Quantity, error: Error) -> Tensor:
    """Return the mean error (B,) of a predicted quantity over the pixels and channels of each image."""
    compare = getattr(F, f"{error}_loss")
    return compare(quantity(p, at, on), quantity(truth, at, on), reduction="none").flatten(1).mean(1)


# Consistency tuning

WIDER, FASTER = 8.0, 0.5
"""The constants k and b of the paper. They make the gap, relative to tau, wider at low noise than at high.

At the lowest noise this relative gap is 1 + k / 2 times as wide as at the highest. The paper has b = 1 for
images with a standard deviation of 0.5, so b is 0.5 for a standard deviation of 1.
"""

SMOOTH = 1e-3
"""c of the pseudo-Huber distance, in standard deviations of the images: smaller errors count quadratically.

The paper has c = 0.06 for images of 64 pixels, and takes the norm over all their values. For the root mean
square, c is 0.06 / sqrt(3 * 64 * 64), which is about 1e-3 times the standard deviation of the images, 0.5.
"""


def paper_times(sigma_data: float = 1.0) -> NormalLogSNR:
    """Return the paper's distribution of training times, scaled to images with this standard deviation.

    In the paper, for images of 64 pixels with standard deviation 0.5, log sigma is normal with mean -0.8 and
    standard deviation 1.6.
    """
    return NormalLogSNR(round(1.6 - 2 * math.log(sigma_data / 0.5), 4), 3.2)


@dataclass(frozen=True)
class Consistency(Loss):
    """Easy consistency tuning: predict the same image from two noise levels (Geng et al. 2024).

    The consistency function f(x_t, t) is the image x0 at the end of the probability flow through x_t. Here f
    is the predicted image of the denoiser. The loss compares f at two noise levels, r < t, with the same
    image, noise and dropout:

        x_t = alpha_t x0 + sigma_t eps,  x_r = alpha_r x0 + sigma_r eps,
        loss = d(f(x_t, t), stopgrad f(x_r, r)) / (tau_t - tau_r),  tau = sigma / alpha.

    d is a pseudo-Huber distance, sqrt(mean squared error + c^2) - c. At tau_r = 0 the target is x0 itself,
    and the loss is that of a diffusion model: the error of the predicted noise. Training starts at tau_r = 0,
    from the weights of a diffusion model. The gap between t and r then shrinks:

        tau_r = max(0, 1 - (1 + 8 sigmoid(-tau_t / (2 sigma_data))) / 2^(halvings * progress)) tau_t.

    `progress` grows from 0 at the start of training to 1 at its end. The paper halves the gap in stages; here
    it shrinks continuously.

    A consistency function has a boundary condition: an image without noise is mapped to itself. But the
    cleanest noise level of a schedule may still have noise. If tau_r is below the tau of this level, tau_r
    counts as 0 and the target is the clean image x0. So the network is never evaluated at less noise than the
    schedule has. With recipe `fast` the cleanest level has tau = 0.01 (log-SNR 9.2). The network of this
    recipe predicts the velocity v. At the cleanest level, x0 = alpha x_t - sigma v differs from x_t by about
    0.01.

    If training starts from the weights of a run, this run is the teacher. x0 and eps are then its predictions
    at x_t, guided with a `guidance` scale other than 1. So x_r is on the probability flow of the teacher, up
    to the error of one DDIM step, and f belongs to this flow (consistency distillation, Song et al. 2023,
    algorithm 2).

    Attributes:
        times: the distribution from which training times are drawn. See `paper_times`.
        halvings: how often the gap halves during training.
        sigma_data: standard deviation of the training images in model units; None for that of the field
            `pixels` of a recipe, or 1 if it is not known.
        guidance: guidance scale of the teacher; 1 is off.
        interval: the lowest and the highest log-SNR with guidance, of which one may be None, an open end;
            None in place of both for all noise levels.
        guide: the weaker model, with the network of the teacher, such as "@guide"; None for the teacher
            without its label.
        teacher: the checkpoint of the teacher; a new student gets it from the run from whose weights it
            starts.
    """

    times: TimeSampling = paper_times()
    halvings: float = 8.0
    sigma_data: float | None = None
    guidance: float = 1.0
    interval: Interval | None = None
    guide: str | None = None
    teacher: str | None = None

    def at(self, progress: float, seen: int) -> LossFunction:
        """Return the loss at this progress of training; `seen` is not used; see `Loss`."""
        return partial(self, gap=0.5 ** (self.halvings * progress))

    def earlier(self, tau: Tensor, gap: float) -> Tensor:
        """Return tau_r of the noise levels tau_t (B,); `gap` is 2^(-halvings * progress)."""
        low_noise = torch.sigmoid(-FASTER * tau / (self.sigma_data or 1.0))
        share = gap * (1 + WIDER * low_noise)
        return tau * (1 - share).clamp(min=0)

    def __call__(
        self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: object = None, gap: float = 1.0
    ) -> Tensor:
        """Return the loss (B,) of each image; see `Loss` and `earlier`. `pixels` is not used."""
        level = denoise.schedule(t)
        tau = level.noise_to_signal
        wanted = self.earlier(tau, gap)
        cleanest = denoise.schedule(torch.zeros_like(tau)).noise_to_signal
        clean = wanted <= cleanest
        target = x0
        # At the start of training, gap is 1 and every tau_r is 0. All targets are then x0, without a network.
        if gap < 1:
            # Images whose target is x0 are evaluated too, at their time t. These outputs are not used.
            earlier = time_of_ratio(denoise.schedule, torch.where(clean, tau, wanted))
            r = torch.where(clean, t, earlier)
            # After the block, dropout draws the same masks as inside it.
            devices = [x0.device] if x0.is_cuda else []
            with torch.no_grad(), torch.random.fork_rng(devices):
                target = denoise(denoise.schedule(r).noisy(x0, eps), r).x0
            target = torch.where(clean.to(x0.device).reshape(-1, 1, 1, 1), x0, target)
        image = denoise(level.noisy(x0, eps), t).x0
        c = SMOOTH * (self.sigma_data or 1.0)
        error = (image - target).square().flatten(1).mean(1)
        distance = (error + c**2).sqrt() - c
        return distance / (tau - torch.where(clean, 0, wanted)).to(x0)


LOSSES: dict[str, type[Loss]] = {"objective": Objective, "hybrid": Hybrid, "consistency": Consistency}
"""All losses, keyed by their names in a recipe."""


@torch.no_grad()
def denoising_error(denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """Return the errors of a model on clean images: means over pixels and channels in model units.

    Args:
        denoise: the model.
        x0: clean images (B, C, H, W) in model units.
        t: times, a scalar or (B,); noise is added to x0 up to the noise level of these times.
        eps: standard normal noise with the shape of x0.

    Returns:
        Values (B,), float64 on the CPU: the squared and the absolute error of the predicted noise eps_hat, as
        "noise_mse" and "noise_mae", and of the clean image, as "image_mse" and "image_mae"; the mean of
        eps_hat^2 as "power", and of eps_hat * (eps - eps_hat) as "inner".
    """
    p = denoise(denoise.schedule(t).noisy(x0, eps), t)
    # Apple's GPUs have no float64.
    exact = torch.float32 if x0.device.type == "mps" else torch.float64
    predicted = p.eps.to(exact)
    wrong, away = predicted - eps.to(exact), p.x0.to(exact) - x0.to(exact)
    errors = {
        "noise_mse": wrong.square(),
        "noise_mae": wrong.abs(),
        "image_mse": away.square(),
        "image_mae": away.abs(),
        "power": predicted.square(),
        "inner": -predicted * wrong,
    }
    return {name: values.flatten(1).mean(1).cpu().double() for name, values in errors.items()}
