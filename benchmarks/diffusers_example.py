"""Train and sample as diffusers' example for unconditional generation does at 64 pixels; for peers.py.

The example is not in the package. The settings are those of its README's command, in float32, and its images
are already in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

BATCH, EPOCHS = 16, 100
"""Images for an update, and the length of the learning-rate schedule in passes over the images."""


def build() -> UNet2DModel:
    """Return the network of the example."""
    return UNet2DModel(
        sample_size=64,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=(*4 * ("DownBlock2D",), "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", *4 * ("UpBlock2D",)),
    )


def batches(images: np.ndarray) -> Iterator[Tensor]:
    """Yield images (B, C, H, W) in [-1, 1], half of them mirrored, in a new order in each epoch."""
    pool = torch.from_numpy(images)
    while True:
        for which in torch.randperm(len(pool)).split(BATCH):
            x0 = pool[which].permute(0, 3, 1, 2) / 127.5 - 1
            yield torch.where(torch.rand(len(x0), 1, 1, 1) < 0.5, x0.flip(3), x0)


def train(images: np.ndarray, folder: Path, minutes: float) -> dict[str, Any]:
    """Train on images (N, H, W, C) in uint8, and save a pipeline with the EMA weights in a folder.

    Returns:
        The number of images seen, the seconds of training, the number of parameters and the precision.
    """
    net, noising = build().train(), DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    updates = EPOCHS * -(-len(images) // BATCH)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=updates)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    seen, begin, stream = 0, time.perf_counter(), batches(images)
    while (seconds := time.perf_counter() - begin) < 60 * minutes:
        x0 = next(stream)
        eps, index = torch.randn_like(x0), torch.randint(1000, (len(x0),))
        F.mse_loss(net(noising.add_noise(x0, eps, index), index).sample, eps).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        seen += len(x0)
    ema.copy_to(net.parameters())
    DDPMPipeline(net, noising).save_pretrained(folder / "ema")
    return {"images": seen, "seconds": seconds, "parameters": net.num_parameters(), "precision": "fp32"}


class Sampler:
    """Samples with `DDPMPipeline` in 1000 steps, or with `DDIMPipeline` in fewer."""

    def __init__(self, folder: Path, steps: int, weights: str) -> None:
        self.steps, self.pipeline = steps, DDPMPipeline.from_pretrained(folder / weights)
        if steps < 1000:
            scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
            self.pipeline = DDIMPipeline(self.pipeline.unet, scheduler)

    def __call__(self, count: int) -> np.ndarray:
        """Return new images (count, H, W, C) in [0, 1]."""
        return self.pipeline(count, num_inference_steps=self.steps, output_type="np").images
