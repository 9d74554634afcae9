"""The gradient noise scale: a batch size above which larger batches help little (McCandlish et al. 2018).

It is estimated from gradients of the training objective.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.loss import LossFunction
from ddim.diffusion.times import LossMemory
from ddim.errors import UserError
from ddim.machine.progress import Progress, ignore_progress
from ddim.metrics.statistics import Estimate
from ddim.runs import checkpoint
from ddim.sampling.pipeline import LoadedRun, Pipeline, evaluating
from ddim.training.batches import Batches, draw_times
from ddim.training.student import load_teacher

BATCHES = 16
"""Number of batches from whose gradients the noise scale is estimated."""


@dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale tr(Sigma) / |G|^2 in images (eq. 2.9), with its 95 % confidence interval.

    G is the expected gradient, and Sigma is the covariance of the gradients of single images. The scale is
    infinite if the gradient cannot be distinguished from 0.

    Args:
        value: `noise` / `signal`.
        low: the lower end of the interval.
        high: the upper end of the interval.
        signal: an unbiased estimate of |G|^2.
        noise: an unbiased estimate of the trace of the covariance of a batch's gradient, times the batch
            size. If the images of a batch are independent, this is tr(Sigma), the trace for single images.
            Training stratifies the times of a batch, with one time in each of equal slices. This makes the
            estimate smaller.
    """

    value: float
    low: float
    high: float
    signal: float
    noise: float

    def compare_batch(self, batch: int) -> str:
        """Return a sentence on whether a batch size is far below, near or far above the noise scale."""
        if math.isinf(self.value):
            least = "" if math.isinf(self.low) else f", at least {self.low:,.0f} images"
            return (
                f"The gradient noise scale is too large to be measured{least}: gradients of the run's batch "
                f"of {batch:,} are mostly noise, and larger batches would help."
            )
        side = _side_of(batch, self.value)
        unsure = {side} != {_side_of(batch, end) for end in (self.low, self.high)}
        return (
            f"The gradient noise scale is {self.value:,.0f} images [{self.low:,.0f}, {self.high:,.0f}]. "
            f"The run's batch of {batch:,} is {side} it: {_MEANINGS[side]}."
            + (" The interval is too wide to be certain of this." if unsure else "")
        )


_FAR = 3
"""A batch size is far from the noise scale if the ratio of the larger to the smaller exceeds this factor."""

_MEANINGS = {
    "far below": "gradients are mostly noise, and larger batches would help",
    "near": "larger batches would help little, and smaller ones would need more updates",
    "far above": "smaller batches would train as well on fewer images",
}


def _side_of(batch: int, scale: float) -> str:
    if batch * _FAR < scale:
        return "far below"
    return "far above" if batch > _FAR * scale else "near"


def estimate_noise_scale(gradients: Tensor, batch: int) -> NoiseScale:
    """Return the noise scale from independent gradients (K, P) of K >= 3 batches of `batch` images.

    The images of one batch need not be independent. The squared norms of these gradients and of their mean
    give unbiased estimates (appendix A.1). The interval is computed for 1 / scale, by the jackknife over
    batches, because the scale itself has no finite variance if the signal may be 0.
    """
    # The inner products of all pairs of gradients are enough, so that the jackknife can leave out a batch
    # without adding up the gradients again.
    gram = (gradients @ gradients.T).double()
    own, all_of_it, count = gram.diagonal(), gram.sum(), len(gram)
    signal, noise = _moments(own.sum(), all_of_it, count, batch)
    without = own.sum() - own, all_of_it - 2 * gram.sum(1) + own
    left_signal, left_noise = _moments(*without, count - 1, batch)
    error = ((count - 1) * (left_signal / left_noise).var(unbiased=False)).sqrt()
    inverse = Estimate.from_error((signal / noise).numpy(), error.numpy(), count - 1)
    value, low, high = (
        1 / part.item() if part > 0 else math.inf for part in (inverse.value, inverse.high, inverse.low)
    )
    return NoiseScale(value, low, high, signal.item(), noise.item())


def _moments(own: Tensor, all_of_it: Tensor, count: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return unbiased estimates of |G|^2 and tr(Sigma), from the gradients g_i of `count` batches.

    `own` is the sum of g_i . g_i, and `all_of_it` the sum of g_i . g_j over all i and j.
    """
    small, large = own / count, all_of_it / count**2
    return (count * large - small) / (count - 1), batch * (small - large) * count / (count - 1)


def find_loss(run: LoadedRun) -> LossFunction:
    """Return the loss function of a run at the step of its checkpoint.

    Raises:
        UserError: if the run is a student whose guided teacher is not known.
    """
    state, teacher = run.checkpoint.state, load_teacher(run.recipe, run.runtime)
    batch, total = run.recipe.optim.batch, state.plan.total
    seen = state.step * batch
    if total is not None and seen >= total:
        # A finished run has no next update: the loss is that of its last one.
        seen = max(0, seen - batch)
    if not teacher and getattr(run.recipe.objective, "guidance", 1) != 1:
        raise UserError(f"run {run.checkpoint.run} was published without the name of its guided teacher")
    loss = run.recipe.objective.at(state.plan.fraction(seen), seen)
    return teacher.guide_loss(loss) if teacher else loss


def collect_gradients(
    run: Pipeline,
    own: SplitImages,
    loss: LossFunction,
    memory: LossMemory | None = None,
    progress: Progress = ignore_progress,
) -> Tensor:
    """Return gradients (BATCHES, P) of a loss at the weights of a run, for batches drawn as in training.

    The model is in eval mode: batch norm uses its running statistics, so the images do not interact.
    """
    recipe, model = run.recipe, run.model
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    bins, rows = recipe.data.bins(run.pixels), []
    with evaluating(model), _requiring_gradients(parameters):
        for step in space_steps(len(own.train), recipe.optim.batch):
            total: list[Tensor] = []
            for denoise, x0, t, eps, share in draw_parts(run, own, step, memory):
                with run.runtime.precise():
                    each = loss(denoise, x0, t, eps, bins)
                    mean = (each * share.to(each)).sum()
                found = torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True)
                total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
            rows.append(torch.cat([g.float().flatten().cpu() for g in total]))
            progress("gradients", len(rows), BATCHES)
    return torch.stack(rows)


@contextmanager
def _requiring_gradients(parameters: Sequence[Tensor]) -> Generator[None]:
    """Let all parameters require gradients inside the block, and restore each one's `requires_grad`."""
    before = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        for p, required in zip(parameters, before, strict=True):
            p.requires_grad_(required)


def space_steps(images: int, batch: int) -> range:
    """Return the steps of `BATCHES` updates, so far apart that no two updates use images of the same epoch.

    Batches of one epoch are not independent: they have no image in common, so their deviations cancel.
    """
    apart = math.ceil(images / batch) + 1
    return range(0, BATCHES * apart, apart)


def draw_parts(
    run: Pipeline, own: SplitImages, step: int, memory: LossMemory | None
) -> Iterator[tuple[Denoiser, Tensor, Tensor, Tensor, Tensor]]:
    """Yield the micro-batches of the training update `step`.

    Each micro-batch is a tuple of the model, the images x0, their times, their noise, and the weight (b,) of
    each image in the loss. The model is conditioned on the labels of the images.
    """
    runtime = run.runtime
    batch = Batches(run.recipe, own, run.model.shape, runtime)[step]
    times, weights = draw_times(run.recipe, batch.uniform, memory)
    for start in range(0, len(times), runtime.micro_batch):
        part = slice(start, start + runtime.micro_batch)
        denoise, x0, eps = batch.micro_batch(part, run.model, run.pixels, runtime)
        yield denoise, x0, times[part], eps, weights[part] / len(times)


def load_loss_memory(run: LoadedRun) -> LossMemory | None:
    """Return the past losses in a checkpoint, on `exact_device` of the run's runtime.

    Return None if times and loss weights do not depend on past losses.
    """
    memory = run.recipe.objective.times.memory(run.runtime.exact_device)
    if memory:
        memory.restore(checkpoint.read_tensors(run.checkpoint.path, "times"))
    return memory
