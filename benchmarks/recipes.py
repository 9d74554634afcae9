"""Compare on one scale what runs of different recipes have learned.

    python benchmarks/recipes.py RUN...

The first table shows each run's own loss on its held-out images, beside the loss of the zero function. If the
mean of the pixels was measured, targets have mean zero at every noise level. Then the zero function is the
best network that ignores its input. The second table shows the mean absolute error of the denoised image in
steps of 1/255. The noise on the pixels is the same for all runs; a noise level outside the range of a
schedule gives nan. Two references need no network: the noisy image and the mean image. Runs with labels are
evaluated without a class.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.data.images import gather_batch, to_unit
from ddim.diffusion.denoiser import Model
from ddim.diffusion.noise import Noise
from ddim.diffusion.times import log_snr_range, midpoints
from ddim.recipe.checks import check_unconditional
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import Pipeline, load

NOISE = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Standard deviations of noise on images in [0, 1]."""

HELD_OUT = 512


class Zero(nn.Module):
    """The zero function of a network with `outputs` outputs per channel."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """Return zeros (B, outputs * C, H, W) for x (B, C, H, W)."""
        return x.new_zeros(len(x), self.outputs * x.shape[1], *x.shape[2:])


def held_out(trained: Pipeline) -> Tensor:
    """Return the first `HELD_OUT` held-out images of a run, (N, C, H, W) in [0, 1]."""
    own = open_run_images(trained)
    return to_unit(gather_batch(own.images, own.validation[:HELD_OUT]))


@torch.no_grad()
def own_loss(trained: Pipeline, images: Tensor, model: Model) -> float:
    """Return the loss of a network by the recipe of a run, at the training times of this recipe."""
    recipe, runtime = trained.recipe, trained.runtime
    times = recipe.objective.times(midpoints(len(images)), recipe.schedule)
    total = 0.0
    for which in torch.arange(len(images)).split(runtime.micro_batch):
        x0 = runtime.images(trained.pixels.enter(images[which]))
        eps = runtime.images(Noise(which.tolist()).like(x0))
        with runtime.precise():
            total += recipe.objective(model, x0, times[which], eps, trained.pixels).sum().item()
    return total / len(images)


@torch.no_grad()
def image_error(trained: Pipeline, images: Tensor, noise: float) -> float:
    """Return the MAE in steps of 1/255 at this noise on the pixels; NaN if the schedule has no such level."""
    schedule, runtime, pixels = trained.model.schedule, trained.runtime, trained.pixels
    log_snr = -2 * math.log(noise / (sum(pixels.std) / len(pixels.std)))
    clean, noisy = log_snr_range(schedule)
    if not noisy <= log_snr <= clean:
        return math.nan
    t, total = schedule.inverse(torch.tensor(log_snr, dtype=torch.float64)), 0.0
    for which in torch.arange(len(images)).split(runtime.micro_batch):
        x0 = runtime.images(pixels.enter(images[which]))
        eps = runtime.images(Noise(which.tolist()).like(x0))
        with runtime.precise():
            found = trained.model(schedule(t).noisy(x0, eps), t).x0
        total += (pixels.leave(found.float()).cpu() - images[which]).abs().mean().item() * len(which)
    return 255 * total / len(images)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    opened = [(path, load(path)) for path in parser.parse_args().runs]
    runs = [(path, trained, held_out(trained)) for path, trained in opened]
    print(f"{'run':<28}{'parameters':>12}{'images':>10}{'own loss':>12}{'of zero':>12}{'ratio':>8}")
    for path, trained, images in runs:
        check_unconditional(trained.recipe, "a loss on images of no class")
        model = trained.model
        zero = Model(
            Zero(trained.recipe.net.outputs),
            model.schedule,
            model.predicts,
            model.conditioning,
            model.shape,
        )
        learned, nothing = own_loss(trained, images, model), own_loss(trained, images, zero)
        count = sum(p.numel() for p in model.parameters())
        seen = trained.checkpoint.state.step * trained.recipe.optim.batch
        print(
            f"{path.name:<28}{count:>12,}{seen:>10,}{learned:>12.4f}{nothing:>12.4f}{learned / nothing:>8.3f}"
        )
    print(f"\n{'noise on the pixels':<28}" + "".join(f"{noise:>8}" for noise in NOISE))
    for path, trained, images in runs:
        errors = (image_error(trained, images, noise) for noise in NOISE)
        print(f"{path.name:<28}" + "".join(f"{error:>8.2f}" for error in errors), flush=True)
    images = runs[0][2]
    eps = Noise(range(len(images))).like(images)
    constant = 255 * (images - images.mean((0, 2, 3), keepdim=True)).abs().mean().item()
    noisy = (255 * ((images + noise * eps).clamp(0, 1) - images).abs().mean().item() for noise in NOISE)
    print(f"{'the noisy image':<28}" + "".join(f"{error:>8.2f}" for error in noisy))
    print(f"{'the mean image':<28}" + "".join(f"{constant:>8.2f}" for _ in NOISE))


if __name__ == "__main__":
    main()
