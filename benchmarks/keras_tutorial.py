"""The Keras DDIM tutorial, written from its description: network, training and sampling.

`throughput.py` runs this file in a process of its own to time training steps; it prints one line of JSON.
`peers.py` trains and samples with its functions. It needs Keras 3 with a backend.

One thing differs: the average of the weights starts from the weights of the network, not from other random
weights, which a short training would not forget.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

WIDTHS, DEPTH, SIZE, BATCH, EMBEDDING = (32, 64, 96, 128), 2, 64, 64, 32
EMA = 0.999
START, END = math.acos(0.95), math.acos(0.02)
"""The angles of the schedule at times 0 and 1: alpha is their cosine, and sigma their sine."""


def residual(x: object, width: int) -> object:
    """Apply batch norm without weights and two 3x3 convolutions, and add the input or its projection."""
    skip = x if x.shape[3] == width else layers.Conv2D(width, 1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
    return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), skip])


def network() -> keras.Model:
    """Build the network, which predicts noise from noisy images and noise variances."""
    images, variances = keras.Input((SIZE, SIZE, 3)), keras.Input((1, 1, 1))
    speeds = 2 * math.pi * np.exp(np.linspace(0, math.log(1000.0), EMBEDDING // 2)).astype("float32")
    # bf16 has too few digits for the phases.
    noise_level = layers.Lambda(
        lambda v: ops.concatenate([ops.sin(v * speeds), ops.cos(v * speeds)], axis=3), dtype="float32"
    )(variances)
    noise_level = layers.UpSampling2D(SIZE, interpolation="nearest")(noise_level)
    x = layers.Concatenate()([layers.Conv2D(WIDTHS[0], 1)(images), noise_level])
    skips = []
    for width in WIDTHS[:-1]:
        for _ in range(DEPTH):
            x = residual(x, width)
            skips.append(x)
        x = layers.AveragePooling2D(2)(x)
    for _ in range(DEPTH):
        x = residual(x, WIDTHS[-1])
    for width in reversed(WIDTHS[:-1]):
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        for _ in range(DEPTH):
            x = residual(layers.Concatenate()([x, skips.pop()]), width)
    return keras.Model(
        [images, variances], layers.Conv2D(3, 1, kernel_initializer="zeros", dtype="float32")(x)
    )


class Diffusion(keras.Model):
    """Predicts noise as in the tutorial. `averaged` has the EMA of all weights, batch statistics included."""

    def __init__(self) -> None:
        # Mixed precision is for the networks alone: noise is added in float32, as in the tutorial.
        super().__init__(autocast=False)
        self.network, self.averaged = network(), network()
        self.averaged.set_weights(self.network.get_weights())
        self.averaged.trainable = False
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x0: object, training: bool = False) -> object:
        """Return the errors of the predicted noise (B, H, W, C); the loss is their mean absolute value."""
        if training:
            # The step before has changed the weights. Inside `call`, this is compiled with the step.
            for average, weight in zip(self.averaged.weights, self.network.weights, strict=True):
                average.assign(EMA * average + (1 - EMA) * ops.stop_gradient(weight))
        eps = keras.random.normal(ops.shape(x0), seed=self.seeds)
        t = keras.random.uniform((ops.shape(x0)[0], 1, 1, 1), seed=self.seeds)
        angle = START + t * (END - START)
        alpha, sigma = ops.cos(angle), ops.sin(angle)
        return self.network([alpha * x0 + sigma * eps, sigma**2], training=training) - eps


class Timed(keras.callbacks.Callback):
    """Counts the batches of one `fit`, and ends it a number of seconds after the first `warm` of them."""

    def __init__(self, seconds: float, warm: int = 3) -> None:
        super().__init__()
        self.seconds, self.warm = seconds, warm
        self.batches, self.begin, self.now = 0, 0.0, 0.0

    def on_train_begin(self, logs: object = None) -> None:
        """Note the time."""
        self.begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Count one batch."""
        self.batches, self.now = self.batches + 1, time.perf_counter()
        if self.batches == self.warm:
            self.begin = self.now
        self.model.stop_training = self.batches > self.warm and self.now - self.begin > self.seconds

    @property
    def images_per_second(self) -> float:
        """The speed over the timed batches."""
        return BATCH * (self.batches - self.warm) / (self.now - self.begin)


def build() -> Diffusion:
    """Return the model of the tutorial with its optimiser and loss."""
    model = Diffusion()
    model.compile(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4), loss="mae")
    return model


def train(images: np.ndarray, folder: Path, minutes: float) -> dict[str, Any]:
    """Train on images (N, H, W, C) in uint8, and save the averaged and the last weights in a folder.

    Returns:
        The number of images seen, the seconds of training, the number of parameters and the precision.
    """
    pixels = images / np.float32(255)
    mean, std = (getattr(np, name)(pixels, axis=(0, 1, 2), dtype="float64") for name in ("mean", "std"))
    pixels = ((pixels - mean) / std).astype("float32")
    stream, zeros = np.random.default_rng(0), np.zeros((BATCH, SIZE, SIZE, 3), "float32")

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            # As in the tutorial, the rest of an epoch is dropped.
            for which in stream.permutation(len(pixels))[: per_epoch * BATCH].reshape(-1, BATCH):
                yield pixels[which], zeros

    keras.utils.set_random_seed(0)
    model, timed, per_epoch = build(), Timed(60 * minutes, warm=0), len(pixels) // BATCH
    model.fit(batches(), steps_per_epoch=per_epoch, epochs=10**6, shuffle=False, verbose=0, callbacks=[timed])
    model.averaged.save_weights(folder / "ema.weights.h5")
    model.network.save_weights(folder / "raw.weights.h5")
    np.savez(folder / "pixels.npz", mean=mean, std=std)
    parameters = sum(math.prod(weight.shape) for weight in model.network.trainable_weights)
    seen, precision = timed.batches * BATCH, f"fp32 on {keras.backend.backend()}"
    seconds = timed.now - timed.begin
    return {"images": seen, "seconds": seconds, "parameters": parameters, "precision": precision}


class Sampler:
    """Samples with the weights "ema" or "raw" of a folder in the way of the tutorial, with eta = 0."""

    def __init__(self, folder: Path, steps: int, weights: str) -> None:
        self.network, self.steps = network(), steps
        self.network.load_weights(folder / f"{weights}.weights.h5")
        self.pixels = np.load(folder / "pixels.npz")
        self.stream = np.random.default_rng(0)

    def __call__(self, count: int) -> np.ndarray:
        """Return new images (count, H, W, C) in [0, 1]."""
        x = self.stream.standard_normal((count, SIZE, SIZE, 3), "float32")
        for step in range(self.steps):
            angle, onward = (END - k / self.steps * (END - START) for k in (step, step + 1))
            variances = np.full((count, 1, 1, 1), math.sin(angle) ** 2, "float32")
            eps = self.network.predict_on_batch([x, variances])
            x0 = (x - math.sin(angle) * eps) / math.cos(angle)
            x = math.cos(onward) * x0 + math.sin(onward) * eps
        return (self.pixels["mean"] + self.pixels["std"] * x0).clip(0, 1)


def main() -> None:
    """Time the batches of one `fit`, after the step is traced and compiled."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--mixed", action="store_true")
    args = parser.parse_args()
    if args.mixed:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    images = np.random.default_rng(0).standard_normal((BATCH * 4, SIZE, SIZE, 3)).astype("float32")
    timed = Timed(args.seconds)
    build().fit(images, np.zeros_like(images), batch_size=BATCH, epochs=10**6, verbose=0, callbacks=[timed])
    print(json.dumps({"images_per_second": timed.images_per_second}))


if __name__ == "__main__":
    main()
