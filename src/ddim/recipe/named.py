"""The named recipes: one function for each. `ddim recipe NAME` prints its docstring."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddim.errors import UserError, suggest
from ddim.recipe import parts
from ddim.recipe.codec import override, parse_plain, read_recipe
from ddim.recipe.recipe import LOSS, Recipe


def luz() -> Recipe:
    """The torch/luz code "Denoising Diffusion Implicit Models": network, loss, schedule and optimiser.

    There are two changes. The mean and standard deviation of the pixels are measured before training, and
    samples use EMA weights.
    """
    return Recipe(
        name="luz",
        data=parts.Data(flip=False),
        net=parts.ResidualUNetSpec(),
        schedule=parts.Cosine(0.02, 0.95),
        predicts=parts.PredictsNoise(),
        conditioning=parts.NoiseVariance(),
        objective=parts.Objective("noise", "l1"),
        optim=parts.Optim(lr=1e-3, weight_decay=1e-4, batch=64, clip=0.0),
        ema=parts.Exponential(0.999),
        grid=parts.Uniform(),
        sampler=parts.DDIM(),
    )


def keras() -> Recipe:
    """Béres' Keras tutorial: its network, loss, schedule and optimiser, with a warm-up of the EMA."""
    net = parts.ResidualUNetSpec(widths=(32, 64, 96), middle=(128, 128), keras=True)
    return replace(luz(), name="keras", net=net)


def clear() -> Recipe:
    """Béres' clear-diffusion-keras: a larger network that predicts velocity, and uniform noise powers.

    The noise power sigma^2 of training is uniform. Samples use a schedule with a narrower range of noise
    levels. The original has seven such schedules; `--sampled_on.quantity log_snr`, for example, chooses
    another one. All values of `--predicts` and `--objective.on` can be used. `--clip x0` clips the predicted
    images during sampling, as an option of the original does. The EMA is warmed up. The network has 29.8
    million parameters. On a laptop, use `--net.widths 32,64,96,128 --net.attention no,no,no,no --optim.lr
    1e-3`, with 2.0 million parameters.
    """
    return replace(
        luz(),
        name="clear",
        data=parts.Data(),
        net=parts.ClearUNetSpec(),
        # At log-SNR 13.8 and -13.8, the noise power sigma^2 is 1e-6 and 1 - 1e-6.
        schedule=parts.LinearIn("noise_power", 13.8, -13.8),
        predicts=parts.PredictsVelocity(),
        objective=parts.Objective("velocity", "mse"),
        optim=parts.Optim(lr=2e-4, weight_decay=1e-4, batch=64, clip=0.0),
        sampled_on=parts.LinearIn("signal_step", 3.0, -10.0),
    )


def ddpm() -> Recipe:
    """Song et al. 2021: DDPM's network, betas and training for CIFAR-10 (Ho et al. 2020), with DDIM.

    The original draws times t for half of a batch, and uses T - 1 - t for the other half. Here the table is
    cut into equal slices, and each image of a batch gets a time from one slice: the distribution is the same,
    with less variance. `--data.dequantise yes` adds uniform dequantisation; the logit transform is left out.
    The EMA is warmed up. On a laptop, use `--net.width 32 --net.groups 8`, with 2.2 million parameters.
    """
    return Recipe(
        name="ddpm",
        data=parts.Data(source="cifar10", size=(32, 32)),
        pixels=parts.Fixed(0.5, 0.5),
        net=parts.DDPMUNetSpec(width=128, multipliers=(1, 2, 2, 2), attention=(False, True, False, False)),
        schedule=parts.Linear(1000, 1e-4, 0.02, clip="none", read="log_snr"),
        predicts=parts.PredictsNoise(),
        conditioning=parts.Timestep(),
        objective=parts.Objective("noise", "mse", parts.TableTimes()),
        optim=parts.Optim(lr=2e-4, weight_decay=0.0, betas=(0.9, 0.999), batch=128, clip=1.0),
        ema=parts.Exponential(0.9999),
        grid=parts.Spaced(spacing="leading"),
        sampler=parts.DDIM(),
    )


def iddpm() -> Recipe:
    """Nichol & Dhariwal 2021, improved DDPM for CIFAR-10: cosine betas, learned variance, hybrid loss.

    The EMA is warmed up. `--ema.more 0.999,0.99` keeps several EMAs, as the original does. The variance is
    mapped as in the original. `--objective.times loss_aware` draws times in proportion to their losses; the
    paper does this for L_vlb alone. On a laptop, use `--net.width 32 --net.groups 8`, with 3.3 million
    parameters.
    """
    return replace(
        ddpm(),
        name="iddpm",
        data=parts.Data(source="cifar10", size=(32, 32), flip=False),
        net=parts.DDPMUNetSpec(
            blocks=3,
            attention=(False, True, True, False),
            heads=4,
            eps=1e-5,
            dropout=0.3,
            embedding="cos_sin",
            scale_shift=True,
            resample="strided",
            outputs=2,
        ),
        schedule=parts.BetaTable(4000, clip="none", read="log_snr"),
        conditioning=parts.Timestep(scale=0.25),
        objective=parts.Hybrid("noise", "mse", parts.TableTimes(), vlb=0.001),
        optim=parts.Optim(lr=1e-4, weight_decay=0.0, batch=128, clip=0.0),
        grid=parts.Sections(),
        sampler=parts.DDPM("learned"),
        clip=True,
    )


DDPMPP = parts.DDPMUNetSpec(
    multipliers=(2, 2, 2),
    attention=(False, True, False),
    blocks=4,
    group_channels=4,
    dropout=0.13,
    resample="box",
    sde=True,
    augment=9,
)
"""Song et al. 2021b's DDPM++ as Karras et al. 2022 train it on CIFAR-10: 55,733,891 parameters."""


def edm() -> Recipe:
    """Karras et al. 2022, CIFAR-10: preconditioned, weighted, augmented training; samples in 35 NFE.

    The original takes pixels from -1 to 1 (`--pixels fixed`) and assumes that their standard deviation is
    0.5. Here the deviation is measured, and pixels are scaled so that it is 0.5. The hyper-parameters are
    taken from the paper, for 200 million images. On a laptop, use `--net.width 32 --net.blocks 2
    --optim.batch 32 --optim.warmup 6400`, with 2.2 million parameters.
    """
    return Recipe(
        name="edm",
        # `flip` is off, because augmentation mirrors images too, and tells the network which are mirrored.
        data=parts.Data(size=(32, 32), flip=False),
        pixels=parts.Measured(0.5),
        net=DDPMPP,
        schedule=parts.KarrasSigma(0.001, 80.0, 7.0),
        predicts=parts.PredictsEDM(),
        conditioning=parts.CNoise(1 / 4),
        # log sigma is normal with mean -1.2 and standard deviation 1.2; log-SNR is -2 log sigma.
        objective=parts.Objective("image", "mse", parts.NormalLogSNR(2.4, 2.4), parts.EDMWeight()),
        optim=parts.Optim(lr=1e-3, weight_decay=0.0, batch=512, clip=0.0, warmup=10_000_000),
        ema=parts.HalfLife(500_000, 0.05),
        augment=parts.Augment(0.12),
        grid=parts.Karras(0.002, 80.0, 7.0),
        sampler=parts.EDM(),
        steps=18,
    )


def edm_vp() -> Recipe:
    """`edm` with the preconditioning, noise levels and weighting of Song et al.'s DDPM++ (table 1, VP)."""
    return replace(
        edm(),
        name="edm-vp",
        schedule=parts.LinearBeta(0.1, 20.0),
        predicts=parts.PredictsNoise(),
        conditioning=parts.Time(999.0),
        objective=parts.Objective("noise", "mse", parts.UniformTimes(1e-5)),
    )


def edm_ve() -> Recipe:
    """`edm` with the preconditioning, noise levels and weighting of Song et al.'s NCSN++ (table 1, VE)."""
    least, most = 0.02, 100.0
    low = 0.999 * least  # a little below `least`, because a grid cannot contain the end t = 0
    return replace(
        edm(),
        name="edm-ve",
        net=replace(DDPMPP, resample="blur", pyramid=True, embedding="fourier"),
        schedule=parts.KarrasSigma(low, most, None),
        predicts=parts.PredictsScore(),
        conditioning=parts.CNoise(1.0, 2.0),
        # log sigma is uniform from `least` to `most`.
        objective=parts.Objective(
            "noise", "mse", parts.UniformTimes(math.log(least / low) / math.log(most / low))
        ),
        # As in the original, the sampler starts at sigma 80.
        grid=parts.Karras(least, 80.0, 7.0),
    )


def edm_iddpm() -> Recipe:
    """`edm` with the preconditioning, noise levels and weighting of Nichol & Dhariwal (table 1, iDDPM).

    The cosine schedule is continuous. It leaves out the offset of 0.008, which is called C2 in table 1. It
    ends at the signal rate of the last of the 1000 noise levels of Nichol & Dhariwal (2021).
    """
    return replace(
        edm(),
        name="edm-iddpm",
        schedule=parts.Cosine(4.93e-5, 1.0),
        predicts=parts.PredictsNoise(),
        conditioning=parts.Time(999.0),
        objective=parts.Objective("noise", "mse", parts.UniformTimes(1e-3)),
        grid=parts.Karras(0.0064, 80.0, 7.0),
    )


def size_ratio(size: tuple[int, int]) -> float:
    """Return the side of images of this size (height, width), as a multiple of 64 pixels; at least 1.

    In larger images, neighbouring pixels are more alike, so a noisy pixel is easier to guess. If the sides
    are twice as long, the noise of `fast`, `flow` and `dit` is therefore twice as strong: the mean of four
    pixels is then as noisy as one pixel of the smaller image (Hoogeboom et al. 2023, section 2.1; Esser et
    al. 2024, section 5.3.2).
    """
    return max(1.0, math.sqrt(size[0] * size[1]) / 64)


def fast(size: tuple[int, int] = (64, 64)) -> Recipe:
    """The default: the best images after minutes of training on two cores; see docs/results/fast.md.

    Larger images get further stages, so that the lowest stage has 8 to 16 pixels on its shorter side: 5
    stages for 128 pixels, 6 for 256. Their noise is stronger, by the ratio of their side to 64 pixels,
    because neighbouring pixels are more alike (Hoogeboom et al. 2023, section 2.1). All other options were
    chosen for 64 pixels.
    """
    ratio, further = size_ratio(size), max(0, int(math.log2(min(size) / 64)))
    shift = 2 * math.log(ratio)
    return Recipe(
        name="fast",
        data=parts.Data(size=size),
        net=parts.UNetSpec(
            widths=(16,) * further + (24, 48, 96, 192),
            down=(0,) + (1,) * further + (1, 1, 2),
            up=(1,) * further + (1, 1, 2, 2),
            attention=(False,) * further + (False, False, False, True),
        ),
        schedule=parts.Cosine(0.014 / ratio, 0.99995),
        objective=replace(
            LOSS, times=parts.NormalLogSNR(-1.0 - shift, 2.5), interval=(-2.0 - shift, 5.0 - shift)
        ),
    )


def flow(size: tuple[int, int] = (64, 64)) -> Recipe:
    """`fast` by flow matching (Lipman et al. 2023; Liu et al. 2023), with times of Esser et al. 2024.

    The network predicts eps - x0 on the straight path from image to noise. Training times are logit-normal.
    The sampler and its times are those of `fast`. Sampling of the papers is `--sampler ddim --grid uniform`:
    on this path, DDIM is Euler's method. Images above 64 pixels get the further stages of `fast`. Their
    training times are shifted towards noise, by the ratio of their side to 64 pixels (Esser et al. 2024,
    section 5.3.2); `--grid uniform --grid.shift 2` does the same for sampling.
    """
    return replace(
        fast(size),
        name="flow",
        # The straight path keeps its ends, which have log-SNR 13.8 and -13.8.
        schedule=parts.LinearPath(),
        predicts=parts.PredictsFlow(),
        objective=parts.Objective("flow", "mse", parts.NormalLogSNR(-2 * math.log(size_ratio(size)), 2.0)),
    )


def dit(size: tuple[int, int] = (64, 64)) -> Recipe:
    """`fast` with a transformer in place of the U-Net: DiT (Peebles & Xie 2023) with adaLN-Zero blocks.

    `--net.width 384 --net.depth 12 --net.heads 6` is the size of DiT-S in the paper, where patches are of
    latents, not of pixels. Images above 64 pixels get the noise schedule of `fast` at that size. They also
    get larger patches from 81 pixels on, so that there are 196 to 400 tokens: patches of 8 pixels at size
    128, of 16 at 256.
    `--net.patch 4` gives finer images there, at a far higher cost. `--recipe flow --net dit --net.patch 4`
    trains the transformer by flow matching; give the patch of the size.
    """
    return replace(fast(size), name="dit", net=parts.DiTSpec(patch=2 * round(2 * size_ratio(size))))


def smoke() -> Recipe:
    """A run of a few seconds on 1,024 blossoms, to test that everything works; samples are still poor."""
    return Recipe(
        name="smoke",
        data=parts.Data(source="blossoms:1024", size=(32, 32)),
        net=parts.UNetSpec(
            widths=(16, 32, 64), down=(0, 1, 1), up=(1, 1, 1), attention=(False, False, True), embedding=32
        ),
        objective=parts.Objective("noise", "l1", parts.UniformTimes()),
        optim=parts.Optim(lr=2e-3, batch=16, warmup=160, decay="cosine"),
        ema=parts.Power(6.94),
        grid=parts.Uniform(),
        sampler=parts.DDIM(),
        steps=4,
        report=parts.Report(events=2, validation_images=32, grid=4, log=5, checkpoint=1.0),
        images=960,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (fast, flow, dit, ddpm, iddpm, keras, clear, luz, edm, edm_vp, edm_ve, edm_iddpm, smoke)
}
"""The functions above, keyed by the names of their recipes."""


FOR_SIZE: dict[str, Callable[[tuple[int, int]], Recipe]] = {"fast": fast, "flow": flow, "dit": dit}
"""The named recipes whose network and noise follow from the size of the images."""


def find_recipe(
    name: str, size: int | str | tuple[int, int] | None = None, fields: Mapping[str, Any] | None = None
) -> Recipe:
    """Return the recipe with this name, or in the YAML or JSON file with this name, with changed fields.

    Args:
        name: the name, such as "fast", or the file.
        size: height and width of the images, such as 64, "64x96" or (64, 96). The network and the noise of
            the recipes `fast`, `flow` and `dit` follow from it. By default that of the recipe.
        fields: new values keyed by field path, such as {"optim.lr": 1e-3, "sampler": ddim.DDIM()}. See
            `ddim.parts` for the values of fields.

    Raises:
        UserError: if there is no such recipe or field; the message suggests the nearest name.

    Example:
        >>> ddim.train("photos/", ddim.find_recipe("fast", size=64, fields={"optim.lr": 1e-3}))
    """
    fields = {**({} if size is None else {"data.size": size}), **(fields or {})}
    sides = parse_plain(fields["data.size"], tuple[int, int], "data.size") if "data.size" in fields else None
    if name in RECIPES:
        recipe = FOR_SIZE[name](sides) if sides and name in FOR_SIZE else RECIPES[name]()
    elif Path(name).suffix in (".yaml", ".yml", ".json"):
        recipe = read_recipe(Path(name))
    else:
        known, hint = ", ".join(RECIPES), suggest(name, RECIPES)
        raise UserError(f"recipe must be one of {known} or a .yaml or .json file, got {name!r}{hint}")
    return change_recipe(recipe, fields)


def change_recipe(recipe: Recipe, fields: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some of its fields changed.

    Args:
        recipe: the recipe.
        fields: see `find_recipe`. A budget in `minutes` replaces the recipe's budget in images.

    Raises:
        UserError: if a value is invalid, or both `images` and `minutes` are given.
    """
    if {"images", "minutes"} <= fields.keys():
        raise UserError("give minutes or images, not both")
    if "minutes" in fields:
        recipe = replace(recipe, images=None)
    return override(recipe, fields)
