"""Measure what bf16 adds to the error of a trained network, with and without its float32 path.

    python benchmarks/exact.py RUN [-n 128]

On held-out images, for each time, it prints the root mean square error of the network's noise prediction in
float32. Beside it, as a share of that error, is the distance between the network in bf16 and in float32: as
it is (`ExactConv2d` stays in float32), and in bf16 throughout, as a converted network.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import nn

from ddim.diffusion.denoiser import Model
from ddim.diffusion.noise import Noise
from ddim.evaluation.diagnose import draw_subset, to_model_batches
from ddim.nn.blocks import ExactConv2d
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load

TIMES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


def rounded(model: Model) -> Model:
    """Return a copy without the float32 path."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, ExactConv2d):
            module.__class__ = nn.Conv2d
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=128, help="held-out images (default 128)")
    args = parser.parse_args()
    trained = load(args.run)
    own = open_run_images(trained)
    batches = to_model_batches(trained, own.images, draw_subset(own.validation, args.n))
    x0 = torch.cat([images for _, images in batches])
    noise = Noise(range(len(x0))).like(x0)
    model, throughout = trained.model, rounded(trained.model)
    print("| time | own error | exact path | rounded throughout |\n|---|---|---|---|")
    with torch.no_grad():
        for t in torch.tensor(TIMES, dtype=torch.float64):
            level = model.schedule(t)
            x_t = (level.alpha * x0 + level.sigma * noise).float()
            found = model(x_t, t).eps
            with torch.autocast(trained.runtime.device.split(":")[0], torch.bfloat16):
                apart = [(net(x_t, t).eps - found).square().mean() for net in (model, throughout)]
            own_error = (found - noise).square().mean()
            shares = " | ".join(f"{(error / own_error).sqrt():.4f}" for error in apart)
            print(f"| {t:.2f} | {own_error.sqrt():.4f} | {shares} |")


if __name__ == "__main__":
    main()
