"""Train and sample as the README of denoising-diffusion-pytorch does, at 64 pixels; for peers.py.

Its `Trainer` trains, with two differences on a processor. Mixed precision is bf16, because fp16 needs a GPU,
and it is off if the processor has no bf16 units. Flash attention is off. The trainer makes no samples.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from PIL import Image

from ddim.machine.runtime import choose_runtime

BATCH, PARTS = 32, 2
"""Images for a gradient, and gradients that are added for an update."""


class Timed(Trainer):
    """A trainer that begins no update after `end`; until then, its last update is always the next one."""

    end = float("inf")
    train_num_steps = property(lambda self: self.step + (time.perf_counter() < self.end), lambda *_: None)


def build(steps: int) -> GaussianDiffusion:
    """Return the model of the README, which samples in a number of steps."""
    network = Unet(dim=64, dim_mults=(1, 2, 4, 8), flash_attn=False)
    return GaussianDiffusion(network, image_size=64, timesteps=1000, sampling_timesteps=steps)


def train(images: np.ndarray, folder: Path, minutes: float) -> dict[str, Any]:
    """Train on images (N, H, W, C) in uint8, and save the EMA weights in a folder.

    Returns:
        The number of images seen, the seconds of training, the number of parameters and the precision.
    """
    bf16 = choose_runtime().precision == "bf16"
    with tempfile.TemporaryDirectory() as data:
        for k, pixels in enumerate(images):
            Image.fromarray(pixels).save(f"{data}/{k:05d}.png")
        trainer = Timed(
            build(250),
            data,
            train_batch_size=BATCH,
            train_lr=8e-5,
            gradient_accumulate_every=PARTS,
            ema_decay=0.995,
            amp=bf16,
            mixed_precision_type="bf16",
            calculate_fid=False,
            save_and_sample_every=10**9,
            results_folder=f"{data}/results",
        )
        begin = time.perf_counter()
        trainer.end = begin + 60 * minutes
        trainer.train()
        seconds = time.perf_counter() - begin
    torch.save(trainer.ema.ema_model.state_dict(), folder / "ema.pt")
    parameters = sum(p.numel() for p in trainer.ema.ema_model.parameters())
    seen, precision = trainer.step * PARTS * BATCH, "bf16" if bf16 else "fp32"
    return {"images": seen, "seconds": seconds, "parameters": parameters, "precision": precision}


class Sampler:
    """Samples by DDIM in float32, as the README does with 250 steps."""

    def __init__(self, folder: Path, steps: int, weights: str) -> None:
        self.model = build(steps).eval()
        self.model.load_state_dict(torch.load(folder / f"{weights}.pt", weights_only=True))

    def __call__(self, count: int) -> np.ndarray:
        """Return new images (count, H, W, C) in [0, 1]."""
        return self.model.sample(count).clamp(0, 1).permute(0, 2, 3, 1).numpy()
