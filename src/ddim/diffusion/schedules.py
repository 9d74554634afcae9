"""Noise schedules: functions t -> Level(alpha, sigma), the signal rate and the noise rate at time t.

In the whole package x_t = alpha * x0 + sigma * eps; t = 0 is the clean image and t = 1 is noise.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ddim.errors import UserError, check_part_values

Number = Tensor | float
"""A time or a log-SNR: a number, or a tensor of them."""


@dataclass(frozen=True)
class Level:
    """A noise level: signal rate alpha and noise rate sigma, of the same shape; schedules return float64."""

    alpha: Tensor
    sigma: Tensor

    @property
    def log_snr(self) -> Tensor:
        """2 log(alpha / sigma); infinite where there is no noise."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def noise_to_signal(self) -> Tensor:
        """sigma / alpha: the noise rate after x_t is divided by alpha (Song et al. 2021, section 4.3)."""
        return self.sigma / self.alpha

    def over(self, x: Tensor) -> "Level":
        """Return this level, () or (B,), in a shape and dtype that multiply images x (B, C, H, W)."""
        return Level(spread_over(self.alpha, x), spread_over(self.sigma, x))

    def noisy(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return noisy images x_t = alpha * x0 + sigma * eps, all (B, C, H, W); alpha, sigma: () or (B,)."""
        at = self.over(x0)
        return at.alpha * x0 + at.sigma * eps


def spread_over(value: Tensor, x: Tensor) -> Tensor:
    """Return a value, () or (B,), in a shape that multiplies images x (B, C, H, W), with the dtype of x."""
    # A single value stays on the CPU: an accelerator gets it as a number, without waiting for a copy.
    if value.ndim == 0:
        return value.to(x.dtype)
    return value.reshape(-1, *[1] * (x.ndim - 1)).to(x)


def variance_preserving(log_snr: Tensor) -> Level:
    """Return the noise level with this log-SNR and alpha^2 + sigma^2 = 1 (Kingma et al. 2021, sect. 3.2)."""
    log_snr = log_snr.double()
    return Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


def as_double(value: Number | Sequence[float]) -> Tensor:
    """Convert times or log-SNRs, numbers or a tensor of any dtype, to a float64 tensor."""
    if isinstance(value, Tensor):
        return value.double()
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def as_times(t: Number) -> Tensor:
    """Convert times to a float64 tensor.

    Raises:
        UserError: if a time lies outside [0, 1]. Times on an accelerator are not checked: that would wait.
    """
    t = as_double(t)
    if t.device.type == "cpu" and not ((t >= 0) & (t <= 1 + 1e-9)).all():
        raise UserError(f"times must lie in [0, 1], 0 for the image, got {t.min():g} to {t.max():g}")
    return t


@lru_cache(maxsize=128)
def copy_to_device(
    owner: Hashable, name: str, device: torch.device, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the numbers in attribute `name` of a frozen dataclass as a tensor on a device.

    They are copied once, because the program waits for an accelerator when it copies numbers to it.
    """
    # Training, too, may use the tensor later. It cannot use one that was created in inference mode.
    with torch.inference_mode(False):
        return torch.as_tensor(getattr(owner, name), dtype=dtype).to(device, copy=True)


class Schedule(Protocol):
    """A noise schedule: a frozen dataclass that is called with times. The log-SNR never increases with t.

    A schedule of your own only needs `__call__` if its class inherits from this class::

        @dataclass(frozen=True)
        class Straight(ddim.Schedule):
            def __call__(self, t):
                t = torch.as_tensor(t, dtype=torch.float64)
                return ddim.Level(1 - 0.999 * t, 0.001 + 0.999 * t)
    """

    def __post_init__(self) -> None:
        """Check that names and numbers are what they must be; `check_schedule` checks the noise levels."""
        check_part_values("schedule", self)

    @property
    def entries(self) -> int | None:
        """Number of noise levels if the schedule is a table; None if it is continuous."""
        return None

    def __call__(self, t: Number) -> Level:
        """Return the noise level at times t in [0, 1]: a `Level` of float64 tensors shaped like t."""
        ...

    def inverse(self, log_snr: Number) -> Tensor:
        """Return the earliest time at which the log-SNR is at most this value: float64, clamped to [0, 1].

        By default it is found by bisection. For a table whose `read` is "log_snr" it is at least 1 / entries.
        """
        wanted = as_double(log_snr)
        early, late = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(64):
            middle = (early + late) / 2
            below = self(middle).log_snr <= wanted
            early, late = torch.where(below, early, middle), torch.where(below, middle, late)
        return torch.where(self(torch.zeros_like(wanted)).log_snr <= wanted, 0.0, late)


def time_of_ratio(schedule: Schedule, noise_to_signal: Tensor) -> Tensor:
    """Return the times at which sigma / alpha has these values."""
    return schedule.inverse(-2 * noise_to_signal.log())


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = cos and sigma = sin of an angle that grows linearly with t, between two signal rates.

    The defaults are the schedule of Nichol & Dhariwal 2021, eq. 17: their offset of 0.008 starts the angle at
    signal rate 0.99992. In the paper it ends at 0, where no sampler can start; here it ends at 0.001. Béres'
    Keras example has the bounds 0.02 and 0.95, so that its image at t = 0 is not clean: sigma(0) = 0.31.

    Attributes:
        min_signal: signal rate alpha at t = 1.
        max_signal: signal rate alpha at t = 0.
    """

    min_signal: float = 0.001
    max_signal: float = 0.99992

    def __call__(self, t: Number) -> Level:
        start, end = self._ends
        angle = start + as_times(t) * (end - start)
        return Level(angle.cos(), angle.sin())

    def inverse(self, log_snr: Number) -> Tensor:
        start, end = self._ends
        angle = torch.atan((-as_double(log_snr) / 2).exp())
        return ((angle - start) / (end - start)).clamp(0, 1)

    @property
    def _ends(self) -> tuple[float, float]:
        """The angle at t = 0 and at t = 1."""
        return math.acos(self.max_signal), math.acos(self.min_signal)


@dataclass(frozen=True)
class LinearBeta(Schedule):
    """DDPM's linear beta in continuous time: the variance-preserving SDE (Song et al. 2021b, eq. 32 and 33).

    The default betas are 1000 times DDPM's 1e-4 and 0.02. At t = 0 the image is clean; no grid contains it.

    Attributes:
        low: beta at t = 0.
        high: beta at t = 1.
    """

    low: float = 0.1
    high: float = 20.0

    def __call__(self, t: Number) -> Level:
        t = as_times(t)
        integral = self.low * t + (self.high - self.low) / 2 * t**2
        return Level((-integral / 2).exp(), (-torch.expm1(-integral)).sqrt())

    def inverse(self, log_snr: Number) -> Tensor:
        # alpha^2 = sigmoid(log_snr) = exp(-integral); the integral is a quadratic in t.
        slope = self.high - self.low
        integral = -logsigmoid(as_double(log_snr)).clamp(min=-self.low - slope / 2)
        root = (self.low**2 + 2 * slope * integral).sqrt()
        # Without a beta at t = 0, both sides of the fraction are 0 for a clean image.
        return (2 * integral / (self.low + root).clamp(min=1e-300)).clamp(0, 1)


@dataclass(frozen=True)
class LinearPath(Schedule):
    """alpha falls linearly with t and sigma = 1 - alpha: x_t lies on the straight line from x0 to eps.

    This is the path of flow matching with optimal transport (Lipman et al. 2023, eq. 22), of rectified flow
    (Liu et al. 2023, eq. 1) and of Esser et al. 2024, eq. 13. Along this path dx_t / dsigma = eps - x0, and a
    step of DDIM is a step of Euler's method.

    The papers let alpha run from 1 to 0, where the log-SNR is infinite. Here alpha runs from `max_signal` to
    `min_signal`, by default from log-SNR 13.8 to -13.8, so that sigma(t) differs from t by at most 0.001.

    Attributes:
        min_signal: signal rate alpha at t = 1.
        max_signal: signal rate alpha at t = 0; 1 makes the image at t = 0 clean.
    """

    min_signal: float = 0.001
    max_signal: float = 0.999

    def __call__(self, t: Number) -> Level:
        t = as_times(t)
        span = self.max_signal - self.min_signal
        # Both rates are sums of positive numbers: 1 - alpha would lose the digits of small sigmas.
        return Level(self.min_signal + span * (1 - t), (1 - self.max_signal) + span * t)

    def inverse(self, log_snr: Number) -> Tensor:
        sigma = torch.sigmoid(-as_double(log_snr) / 2)
        span = self.max_signal - self.min_signal
        return ((sigma - (1 - self.max_signal)) / span).clamp(0, 1)


@dataclass(frozen=True)
class KarrasSigma(Schedule):
    """alpha = 1, and sigma^(1 / rho) linear in t from `sigma_min` to `sigma_max` (Karras et al. 2022, eq. 5).

    If rho is None, log sigma is linear in t. This is the limit of large rho, and it is the variance-exploding
    SDE of Song et al. 2021b, appendix C. The image at t = 0 is not clean: sigma(0) = sigma_min. The last
    noise level of a grid is above sigma_min, because no grid contains t = 0.

    Attributes:
        sigma_min: noise rate sigma at t = 0.
        sigma_max: noise rate sigma at t = 1.
        rho: larger values bring more of the times close to `sigma_min`; None for equal steps of log sigma.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float | None = 7.0

    def __call__(self, t: Number) -> Level:
        low, high = self._ends
        root = low + as_times(t) * (high - low)
        sigma = root.exp() if self.rho is None else root**self.rho
        return Level(torch.ones_like(sigma), sigma)

    def inverse(self, log_snr: Number) -> Tensor:
        low, high = self._ends
        log_sigma = -as_double(log_snr) / 2
        root = log_sigma if self.rho is None else (log_sigma / self.rho).exp()
        return ((root - low) / (high - low)).clamp(0, 1)

    @property
    def _ends(self) -> tuple[float, float]:
        """The quantity that is linear in t, sigma^(1 / rho) or log sigma, at t = 0 and at t = 1."""
        if self.rho is None:
            return math.log(self.sigma_min), math.log(self.sigma_max)
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)


Transform = Callable[[Tensor], Tensor]

QUANTITIES: dict[str, tuple[Transform, Transform]] = {
    "noise_power": (lambda log_snr: (-log_snr).sigmoid(), lambda power: -torch.logit(power)),
    "angle": (lambda log_snr: (-log_snr / 2).exp().atan(), lambda angle: -2 * angle.tan().log()),
    "log_snr": (lambda log_snr: log_snr, lambda log_snr: log_snr),
    "log_noise": (lambda log_snr: logsigmoid(-log_snr), lambda log_power: torch.expm1(-log_power).log()),
    "log_signal": (logsigmoid, lambda log_power: -torch.expm1(-log_power).log()),
}
"""For each quantity, a function (log-SNR -> quantity) and its inverse, valid for alpha^2 + sigma^2 = 1."""


@dataclass(frozen=True)
class LinearIn(Schedule):
    """A quantity of the noise level is linear or quadratic in t, from log-SNR `start` to log-SNR `end`.

    At every time, alpha^2 + sigma^2 = 1. `quantity` chooses one of Béres' seven schedules
    (clear-diffusion-keras 2022):

    - "noise_power": sigma^2 is linear in t.
    - "angle": atan(sigma / alpha) is linear, as in the cosine schedule.
    - "log_snr": the log-SNR is linear, as in Kingma et al. 2021.
    - "log_noise": log sigma^2 is linear.
    - "log_signal": log alpha^2 is linear.
    - "noise_step": log sigma^2 is a parabola in t, flat at t = 1.
    - "signal_step": log alpha^2 is a parabola in t, flat at t = 0, close to DDPM's linear beta.

    Attributes:
        quantity: what is linear in t, or quadratic in t for "noise_step" and "signal_step".
        start: log-SNR at t = 0, at most 36.
        end: log-SNR at t = 1, at least -36.
    """

    quantity: Literal[
        "noise_power", "angle", "log_snr", "log_noise", "log_signal", "noise_step", "signal_step"
    ] = "angle"
    start: float = 3.0
    end: float = -10.0

    def __call__(self, t: Number) -> Level:
        t = as_times(t)
        first, last = copy_to_device(self, "ends", t.device)
        part = {"noise_step": t * (2 - t), "signal_step": t**2}.get(self.quantity, t)
        log_snr = self._transforms[1](torch.lerp(first, last, part))
        return variance_preserving(log_snr.clamp(self.end, self.start))

    def inverse(self, log_snr: Number) -> Tensor:
        log_snr = as_double(log_snr)
        first, last = copy_to_device(self, "ends", log_snr.device)
        at = self._transforms[0](log_snr.clamp(self.end, self.start))
        part = ((at - first) / (last - first)).clamp(0, 1)
        if self.quantity == "noise_step":
            return 1 - (1 - part).sqrt()
        return part.sqrt() if self.quantity == "signal_step" else part

    @property
    def _transforms(self) -> tuple[Transform, Transform]:
        name = {"noise_step": "log_noise", "signal_step": "log_signal"}.get(self.quantity, self.quantity)
        return QUANTITIES[name]

    @property
    def ends(self) -> Tensor:
        """The values of the chosen quantity at t = 0 and at t = 1 (2,), float64."""
        return self._transforms[0](as_double([self.start, self.end]))


@dataclass(frozen=True)
class Linear(Schedule):
    """DDPM's table: beta_i linear from `first` to `last` over `entries` (Ho et al. 2020, section 4).

    The signal power alpha_i^2 is the product of 1 - beta over all entries up to i.

    `clip` limits the signal rate alpha:

    - "none": alpha is not limited.
    - "rates": alpha is clamped to [min_signal, max_signal].
    - "powers": alpha^2 is clamped to this interval, as in the torch/luz repository. In the default table,
      38 % of the entries then have the same noise level (alpha = 0.141).

    `read` defines the noise level at a time between two entries:

    - "log_snr": linear interpolation of the log-SNR; entry i, counted from 0, is at t = (i + 1) / entries.
      Times before the first entry have its noise level, except t = 0, which is the clean image.
    - "floor": the noise level of entry floor((entries - 1) t), as in torch/luz.

    Attributes:
        entries: number of noise levels in the table, at most 100,000.
        first: beta of the cleanest entry.
        last: beta of the noisiest entry.
        clip: what is clamped: "rates", "powers" or "none".
        min_signal: lower end of the clamp.
        max_signal: upper end of the clamp.
        read: between two entries, "floor" takes the cleaner one, "log_snr" interpolates the log-SNR linearly.
    """

    entries: int = 1000
    first: float = 1e-4
    last: float = 0.02
    clip: Literal["none", "rates", "powers"] = "none"
    min_signal: float = 0.02
    max_signal: float = 0.95
    read: Literal["floor", "log_snr"] = "log_snr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.entries <= 100_000:
            raise UserError(f"schedule.entries must be at least 2 and at most 100,000, got {self.entries}")

    def __call__(self, t: Number) -> Level:
        t = as_times(t)
        if self.read == "floor":
            power = copy_to_device(self, "powers", t.device)[(t * (self.entries - 1)).long()]
            return Level(power.sqrt(), (1 - power).sqrt())
        # Times before the first entry have its noise level, the cleanest on which a network is evaluated.
        position = (t * self.entries - 1).clamp(min=0)
        below = position.floor().clamp(0, self.entries - 2).long()
        table = copy_to_device(self, "log_snr", t.device)
        log_snr = torch.lerp(table[below], table[below + 1], position - below)
        return variance_preserving(torch.where(t > 0, log_snr, torch.inf))

    def inverse(self, log_snr: Number) -> Tensor:
        wanted = -as_double(log_snr).contiguous()
        table = copy_to_device(self, "log_snr", wanted.device)
        # `index` is the first entry whose log-SNR is at most the wanted one, with a tolerance of 1e-9.
        index = torch.searchsorted(-table, wanted - 1e-9)
        if self.read == "floor":
            # `__call__` multiplies t by entries - 1 and rounds down. The next larger t makes sure that this
            # finds entry `index`, not the entry before.
            t = index.double() / (self.entries - 1)
            t = torch.nextafter(t, torch.full_like(t, torch.inf))
            return torch.where(index > 0, t, 0.0).clamp(0, 1)
        below = (index - 1).clamp(0, self.entries - 2)
        high, low = table[below], table[below + 1]
        # Clipping can make the first or the last entries equal, and then high = low. The time of the first
        # entry, or t = 1, avoids the division by 0.
        part = torch.where(high > low, (high + wanted) / (high - low), torch.where(index > 0, 1.0, 0.0))
        return ((below + 1 + part) / self.entries).clamp(1 / self.entries, 1)

    @cached_property
    def powers(self) -> Tensor:
        """Signal powers alpha_i^2 (entries,), never increasing, float64."""
        powers = (1 - self.fractions()).cumprod(0)
        if self.clip == "none":
            return powers
        exponent = 2 if self.clip == "rates" else 1
        return powers.clamp(self.min_signal**exponent, self.max_signal**exponent)

    @cached_property
    def log_snr(self) -> Tensor:
        """The log-SNR of each entry (entries,), never increasing, float64."""
        return torch.logit(self.powers)

    def fractions(self) -> Tensor:
        """Return beta (entries,), float64: the fraction of its power that the signal loses at each entry."""
        return self.line(self.first, self.last)

    def line(self, low: float, high: float) -> Tensor:
        """Return equally spaced numbers (entries,), float64."""
        return torch.linspace(low, high, self.entries, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class BetaTable(Linear):
    """Other tables of beta; `entries`, `clip` and `read` are as in `Linear`.

    `betas` chooses the formula of beta; "quad", "const" and "jsd" are in the code of Ho et al. 2020,
    "sigmoid" is in the code of Song et al. 2021a:

    - "cosine": alpha is the cosine of the time with an offset of 0.008, and beta is at most 0.999 (Nichol &
      Dhariwal 2021, eq. 17).
    - "signal_sigmoid": alpha^2 falls like a sigmoid function on [-3, 3], shifted and scaled to run from 1 to
      0, and beta is at most 0.999 (Jabri et al. 2023, with start -3, end 3 and tau 1).
    - "quad": the square root of beta is linear, from `first` to `last`.
    - "sigmoid": beta follows the sigmoid function on [-6, 6], from `first` to `last`.
    - "const": beta is `last` at every entry.
    - "jsd": beta is 1 / (entries - i) for i = 0 ... entries - 1. Then alpha^2 falls linearly to 0, which
      needs a `clip`, such as "rates" with min_signal 0.001 and max_signal 1.

    Attributes:
        betas: the formula of beta along the table.
    """

    betas: Literal["cosine", "quad", "const", "jsd", "sigmoid", "signal_sigmoid"] = "cosine"

    def fractions(self) -> Tensor:
        """Return beta (entries,); see `Linear`."""
        t = torch.arange(self.entries + 1, device="cpu").double() / self.entries
        match self.betas:
            case "cosine":
                powers = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
            case "signal_sigmoid":
                # The constants that shift and scale alpha^2 to run from 1 to 0: the scale cancels.
                powers = (3 - 6 * t).sigmoid() - as_double(-3.0).sigmoid()
            case "quad":
                return self.line(self.first**0.5, self.last**0.5) ** 2
            case "const":
                return self.line(self.last, self.last)
            case "jsd":
                return 1 / self.line(self.entries, 1)
            case "sigmoid":
                return self.first + (self.last - self.first) * self.line(-6, 6).sigmoid()
        return (1 - powers[1:] / powers[:-1]).clamp(max=0.999)


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": Cosine,
    "linear": Linear,
    "linear_beta": LinearBeta,
    "beta_table": BetaTable,
    "linear_in": LinearIn,
    "karras_sigma": KarrasSigma,
    "linear_path": LinearPath,
}
"""All schedules, keyed by their names in a recipe."""


def check_schedule(schedule: Schedule) -> None:
    """Check that the log-SNR of a schedule falls from t = 0 to t = 1.

    Raises:
        UserError: if the schedule does not return a `Level` for each time, or its log-SNR does not fall.
    """
    name = f"schedule {type(schedule).__name__}"
    with torch.device("cpu"):  # a model may be built on the device "meta"
        times = torch.linspace(0, 1, 9, dtype=torch.float64, device="cpu")
        level = schedule(times)
    if not isinstance(level, Level) or {level.alpha.shape, level.sigma.shape} != {times.shape}:
        raise UserError(f"{name} must return a ddim.Level, alpha and sigma shaped like t, got {level}")
    log_snr = level.log_snr.double()
    # On a plateau, rounding in float32 may raise the log-SNR slightly, so 1e-3 is tolerated.
    if not ((log_snr[1:] <= log_snr[:-1] + 1e-3).all() and log_snr[0] > log_snr[-1]):
        values = ", ".join(f"{value:.3g}" for value in log_snr.tolist())
        raise UserError(f"{name} must have a log-SNR that falls from t = 0 to t = 1, got {values}")
