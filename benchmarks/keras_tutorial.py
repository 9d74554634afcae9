"""The network and training step of the Keras DDIM tutorial, written from its description, for timing only.

`throughput.py` runs this file in a process of its own; it prints one line of JSON. It needs Keras 3 with a
backend.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import keras
import numpy as np
from keras import layers, ops

WIDTHS, DEPTH, SIZE, BATCH, EMBEDDING = (32, 64, 96, 128), 2, 64, 64, 32


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
    noise_level = layers.Lambda(
        lambda v: ops.concatenate([ops.sin(v * speeds), ops.cos(v * speeds)], axis=3)
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
    """Predicts noise as in the tutorial. The EMA of the weights is left out, which saves Keras some time."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x0: object, training: bool = False) -> object:
        """Return the errors of the predicted noise (B, H, W, C); the loss is their mean absolute value."""
        # Mixed precision passes the images in bf16; noise is added in float32, as in the tutorial.
        x0 = ops.cast(x0, "float32")
        eps = keras.random.normal(ops.shape(x0), seed=self.seeds)
        t = keras.random.uniform((ops.shape(x0)[0], 1, 1, 1), seed=self.seeds)
        start, end = math.acos(0.95), math.acos(0.02)
        angle = start + t * (end - start)
        alpha, sigma = ops.cos(angle), ops.sin(angle)
        return self.network([alpha * x0 + sigma * eps, sigma**2], training=training) - eps


class Timed(keras.callbacks.Callback):
    """Counts the batches of one `fit` after the first ones, and ends it after a number of seconds."""

    def __init__(self, seconds: float, warm: int = 3) -> None:
        super().__init__()
        self.seconds, self.warm = seconds, warm
        self.batches, self.begin, self.now = 0, 0.0, 0.0

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


def main() -> None:
    """Time the batches of one `fit`, after the step is traced and compiled."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--mixed", action="store_true")
    args = parser.parse_args()
    if args.mixed:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = Diffusion()
    model.compile(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4), loss="mae")
    images = np.random.default_rng(0).standard_normal((BATCH * 4, SIZE, SIZE, 3)).astype("float32")
    timed = Timed(args.seconds)
    model.fit(images, np.zeros_like(images), batch_size=BATCH, epochs=10**6, verbose=0, callbacks=[timed])
    print(json.dumps({"images_per_second": timed.images_per_second}))


if __name__ == "__main__":
    main()
