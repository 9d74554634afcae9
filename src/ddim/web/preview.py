"""Draw the states of a sampler as small sheets, while a task is in progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ddim.diffusion.samplers import State
from ddim.plots.pictures import count_columns, make_sheet, render_png
from ddim.sampling.pipeline import LoadedRun
from ddim.web.worker_process import Drawn, Monitor

SHOWN = 16
"""The largest number of images in a preview."""


def draw_state(pipeline: LoadedRun, first: int, state: State) -> Drawn:
    """Return a sheet of the first images of a state.

    `first` is the place in the result of the first image of the state.
    """
    images = pipeline.pixels.leave(state.x[:SHOWN].float()).cpu()
    return Drawn(render_png(shrink(make_sheet(images))), first, count_columns(len(images)))


def shrink(pixels: np.ndarray, side: int = 512) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with at most `side` pixels in each direction, by leaving out pixels."""
    step = -(-max(pixels.shape[:2]) // side)
    return pixels[::step, ::step]


@dataclass
class SamplePreview:
    """Sends a preview of each state of a sampler to the server.

    Attributes:
        pipeline: the model that samples.
        monitor: where the previews go.
        seeds: the seeds of all samples, in the order of the result.
        steps: the number of states that will come, of all micro-batches together.
        seen: the number of states so far.
    """

    pipeline: LoadedRun
    monitor: Monitor
    seeds: Sequence[int]
    steps: int
    seen: int = 0

    def watch(self, seeds: Sequence[int], state: State) -> None:
        """Send a preview of a state; see `ddim.sampling.generate.Watch`."""
        self.seen += 1
        first = self.seeds.index(seeds[0])
        draw = partial(draw_state, self.pipeline, first, state)
        self.monitor.preview(self.seen, max(self.seen, self.steps), draw)


@dataclass
class EditPreview:
    """Sends the progress of an edit and its states to the server.

    Attributes:
        pipeline: the model that edits.
        monitor: where the previews go.
        first: the seed of the first image of the result.
        done: how much of the present stage is done.
        total: how much there is to do.
    """

    pipeline: LoadedRun
    monitor: Monitor
    first: int = 0
    done: float = 0
    total: int = 1

    def watch(self, seeds: Sequence[int], state: State) -> None:
        """Send a preview of a state; see `ddim.sampling.edits.EditOptions`."""
        draw = partial(draw_state, self.pipeline, seeds[0] - self.first, state)
        self.monitor.preview(self.done, self.total, draw)

    def progress(self, what: str, done: float, total: int) -> None:
        """Send how much is done, unless the states of samples say it; see `Progress`."""
        self.done, self.total = done, total
        if what == "samples":
            self.monitor.check()
        else:
            self.monitor.preview(done, total)
