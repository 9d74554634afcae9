"""Sample images: in micro-batches of one fixed size, with one random stream for each image.

A seed therefore gives the same bits whether its image is made alone, among thousands, or by several
processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser, Model
from ddim.diffusion.noise import Noise, check_seeds
from ddim.diffusion.samplers import Sampler, State, initial_noise
from ddim.errors import UserError, check_count, to_int
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, continue_progress, ignore_progress, with_bar
from ddim.plots.pictures import to_uint8
from ddim.sampling.image_features import BATCH
from ddim.sampling.pipeline import Pipeline, evaluating, open_pipeline
from ddim.sampling.sampling_setup import SamplingOptions, SamplingSetup, open_samples

Walk = Callable[[Denoiser, Tensor, Sequence[int]], Iterator[State]]
"""Takes a denoiser, zeros (B, C, H, W) with dtype and device of the images, and B seeds; yields states.

The samples are the x0 of the last state.
"""

Watch = Callable[[Sequence[int], State], None]
"""Called with the seeds of a micro-batch and each of its states."""


@with_bar
def sample(
    model: str | Path | Pipeline | Model,
    n: int | None = None,
    steps: int | None = None,
    *,
    seed: int = 0,
    seeds: Iterable[int] | None = None,
    progress: Progress = ignore_progress,
    **options: Unpack[SamplingOptions],
) -> Tensor:
    """Sample images; image k depends on the k-th seed and on no other seed.

    Args:
        model: a run folder, a `Pipeline` from `load`, or a `Model`, which is sampled as recipe `fast` says.
        n: number of images; by default 16, or the number of seeds.
        steps: sampling steps, by default the recipe's or the length of a listed grid. Each evaluates the
            network once; `EDM` almost twice, and guidance doubles it in `guidance_interval`.
        seed: the seed of the first image; image k gets `seed` + k.
        seeds: the seed of each image, in place of `n` and `seed`.
        progress: True shows a bar in a notebook cell, False nothing. It can be a function, see `Progress`.
        options: sampler, grid, label, guidance and so on, see `SamplingOptions`. A sampler and a grid can be
            objects, see `ddim.samplers` and `ddim.grids`, and vectors can be numbers (d,) or (n, d). With
            `searched`, a grid or guidance that is not given is the one that `ddim search` saved.

    Returns:
        Images (n, C, H, W), float32 in [0, 1], on the CPU.

    Raises:
        UserError: if there is no checkpoint yet, the options do not fit the run, or a sample is NaN.

    Example:
        >>> images = ddim.sample("runs/photos-fast-1", steps=10, sampler=ddim.EDM(), seeds=[3, 7])
        >>> ddim.sheet(images)
    """
    listed = list_seeds(n, seed, seeds)
    setup = open_samples(open_pipeline(model), steps, listed, options)
    images, _ = generate(setup, listed, progress=progress)
    check_samples(images, listed)
    return images


def list_seeds(n: int | None, seed: int, seeds: Iterable[int] | None) -> Sequence[int]:
    """Return the seeds that the arguments of `sample` name."""
    if seeds is None:
        n = 16 if n is None else n
        check_count("n", n)
        first = to_int("seed", seed, "; a list of seeds is given as seeds=[3, 7]")
        check_seeds([first])
        return range(first, first + n)
    listed = check_seeds(seeds)
    if seed or n not in (None, len(listed)) or not listed:
        raise UserError(f"give seeds, or n and seed, got {len(listed)} seeds, n {n} and seed {seed}")
    return listed


@torch.no_grad()
def generate(
    setup: SamplingSetup,
    seeds: Sequence[int],
    *,
    walk: Walk | None = None,
    watch: Watch | None = None,
    progress: Progress = ignore_progress,
) -> tuple[Tensor, int]:
    """Generate one image for each seed.

    The network always runs on micro-batches of one fixed size, because the last bits of a convolution depend
    on the batch size. The last micro-batch is filled up with samples that are thrown away.

    Args:
        setup: the model, with steps, label and guidance.
        seeds: image k depends on seeds[k] and on no other seed.
        walk: how the images of a micro-batch are made, by default from pure noise, by `sample_states`.
        watch: called for each state of each micro-batch, with the seeds of the micro-batch and the state.
        progress: called with "samples", the number of images so far, and the number of all images. A
            micro-batch that is not finished counts in part.

    Returns:
        Images (N, C, H, W), float32 in [0, 1], on the CPU; and the NFE (network evaluations per image).
    """
    pipeline, times = setup.pipeline, setup.times
    walk = walk or partial(sample_states, times=times, sampler=pipeline.recipe.sampler)
    # A process among several may get no seeds; its result is an empty tensor.
    images, nfe = [pipeline.model.blank(0).float().cpu()], 0
    size = pipeline.runtime.micro_batch
    for wanted in split_into_parts(pipeline, seeds):
        filled = [*wanted] + [0] * (size - len(wanted))
        labels = pipeline.assign_labels(setup.label, filled)
        denoise, counters = setup.condition(None if labels is None else pipeline.runtime.move(labels))
        done = sum(map(len, images))
        x0 = blank = pipeline.runtime.images(pipeline.model.blank(size))
        with evaluating(pipeline.model), pipeline.runtime.precise():
            for step, state in enumerate(walk(denoise, blank, filled)):
                progress("samples", done + len(wanted) * step / len(times), len(seeds))
                if watch is not None:
                    watch(wanted, state.first(len(wanted)))
                x0 = state.x0
        images.append(pipeline.to_images(x0[: len(wanted)]))
        # A sampler of the user may need more evaluations for some images than for others.
        nfe = max(nfe, sum(counter.evaluations for counter in counters))
    return torch.cat(images), nfe


def sample_states(
    denoise: Denoiser, blank: Tensor, seeds: Sequence[int], times: Tensor, sampler: Sampler
) -> Iterator[State]:
    """Yield the states of a sampler that starts at pure noise, and one more: the sample itself, at t = 0.

    Args:
        denoise: the model, conditioned on a label and guided.
        blank: zeros (B, C, H, W) with the dtype and device of the samples.
        seeds: one seed for each image.
        times: decreasing times (N,) in (0, 1].
        sampler: the sampler.
    """
    noise = Noise(seeds)
    x = initial_noise(denoise.schedule, noise, blank, times[0])
    x0 = x
    for state in sampler(denoise, x, times, noise):
        x0 = state.x0
        yield state
    yield State(x0, 0.0, x0)


# Parts of the work


def split_into_parts(pipeline: Pipeline, seeds: Sequence[int], length: int = 1) -> Iterator[Sequence[int]]:
    """Yield parts of the seeds: as many micro-batches as `length` holds, but at least one.

    Calling `generate` for each part needs less memory, and gives the same bits as one call for all seeds.
    """
    size = pipeline.runtime.micro_batch * max(1, length // pipeline.runtime.micro_batch)
    for first in range(0, len(seeds), size):
        yield seeds[first : first + size]


def generate_together(
    setup: SamplingSetup,
    seeds: Sequence[int],
    *,
    watch: Watch | None = None,
    progress: Progress = ignore_progress,
) -> tuple[Tensor, int]:
    """Generate one image for each seed; all processes share the work, and each returns all images.

    The images are bit-identical to those of a single process. See `generate` for the arguments; `watch` gets
    the states of the images that this process makes.
    """
    processes, size = current_processes(), setup.pipeline.runtime.micro_batch
    shares = processes.share([*split_into_parts(setup.pipeline, seeds)])
    mine, nfe = generate(setup, [*chain(*shares)], watch=watch, progress=progress)
    images = processes.interleave(mine.split(size) if len(mine) else ())
    return torch.cat(images), max(processes.highest(nfe))


def sample_uint8(
    setup: SamplingSetup, seeds: Sequence[int], progress: Progress = ignore_progress, *, finite: bool = True
) -> Iterator[tuple[Tensor, int]]:
    """Yield (samples, NFE per sample) for each part of the seeds; samples (B, C, H, W) are uint8.

    A part has `BATCH` samples, as many as an extractor of features takes together, or one micro-batch. See
    `generate` for the other arguments. If `finite` is False, NaN becomes black.

    Raises:
        UserError: if a sample is NaN and `finite` is True.
    """
    done = 0
    for part in split_into_parts(setup.pipeline, seeds, BATCH):
        images, nfe = generate(setup, part, progress=continue_progress(progress, done, len(seeds)))
        if finite:
            check_samples(images, part)
        done += len(part)
        yield torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2), nfe


def check_samples(images: Tensor, seeds: Sequence[int]) -> None:
    """Check that no sample is NaN.

    Raises:
        UserError: if a sample is NaN; the message names the first seed with NaN and possible causes.
    """
    wrong = images.isnan().flatten(1).any(1).tolist()
    if any(wrong):
        found = f"got NaN in {sum(wrong)} of {len(images)}, first of seed {seeds[wrong.index(True)]}"
        raise UserError(f"samples must be finite, {found}: check the sampler, the schedule and the weights")
