"""The state of a training, and the update that advances it by one step."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ddim.data import SplitImages
from ddim.diffusion.denoiser import Model
from ddim.diffusion.loss import make_memory
from ddim.diffusion.noise import DROPOUT, WEIGHTS, stream
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, explain_error, is_full_memory
from ddim.machine.distributed import Replica, current_processes, replicate
from ddim.machine.progress import Progress, ignore_progress
from ddim.machine.runtime import Runtime
from ddim.nn import ema
from ddim.nn.blocks import number_rows
from ddim.nn.power_averages import track_averages
from ddim.nn.recompute import recompute_blocks
from ddim.recipe.codec import dump
from ddim.recipe.model import find_misfit
from ddim.recipe.recipe import Recipe, build_model, may_leave_weights_unused
from ddim.recipe.user_parts import is_user_part
from ddim.runs.state import Plan, RunState, TrainedOn
from ddim.sampling.classes import count_images
from ddim.sampling.images import check_same_split
from ddim.sampling.pipeline import CLUSTERS, VECTORS, Pipeline
from ddim.training.batches import draw_batch, draw_rows, seed_globally
from ddim.training.image_loader import ImageLoader
from ddim.training.muon import build_optimizer, divide_parameters
from ddim.training.step_values import FiniteCheck, StepValues
from ddim.training.teacher import make_teacher


class Training:
    """The state of a run between two updates.

    A checkpoint holds the weights, all EMA weights, the state of the optimiser, the past losses for
    loss-aware times or learned weights, those of a guided teacher and its guide, and `RunState`. All else
    is a function of the recipe's seed and of `step`: the order of the images, their mirroring, times
    (timesteps), noise and dropout.

    With several processes (see `ddim.machine.distributed`), each process has the whole state, and trains on
    its part of each batch. Gradients and losses are combined over all processes, so that all processes have
    the same state. Up to rounding, this state equals that of a training in one process.

    Args:
        recipe: the recipe of the run.
        split: the images of the run, split into training and validation images.
        pixels: the map between images and model units.
        runtime: how the network runs.
        plan: the training budget.
    """

    def __init__(
        self, recipe: Recipe, split: SplitImages, pixels: Pixels, runtime: Runtime, plan: Plan
    ) -> None:
        self.recipe, self.split, self.pixels = recipe, split, pixels
        self.runtime, self.plan = runtime, plan
        self.processes = current_processes()
        self.step = 0
        self.best: float | None = None
        self.stopped: str | None = None
        self.sums: dict[str, Tensor | float] = {}
        self.finite = FiniteCheck(runtime.device)
        # `due` is true from the end of a step with a validation until this validation is made.
        self.due = False
        # `samples` (n, C, H, W) are those of the EMA weights at the newest validation of this process.
        self.samples = torch.empty(0)
        # `inherited` is true if this process started the training from the weights of another run.
        self.inherited = False
        # `extended` is the budget in images before this process raised it; None if it did not.
        self.extended: int | None = None
        # Called between the sampling steps of a validation; it ends the validation after a signal.
        self.check_signals: Progress = ignore_progress
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(stream("cpu", recipe.seed, WEIGHTS, 0).get_state())
            self.model = build_model(recipe, split.images.pixels.shape[-1])
        runtime.place(self.model)
        recompute_blocks(self.model.net, runtime.recompute)
        unused = may_leave_weights_unused(recipe)
        # `compiled` shares the weights of `model`, whose network is not compiled.
        self.compiled = Model(
            replicate(runtime.compiled(self.model.net), self.processes, unused=unused),
            recipe.schedule,
            recipe.predicts,
            recipe.conditioning,
            self.model.shape,
        ).train()
        self.teacher = make_teacher(recipe, self.model.shape.channels, runtime)
        self.rules = track_averages(recipe.ema, recipe.report.snapshots)
        newest = ema.select_averaged(self.model)
        self.averages = {
            profile: {name: value.float().clone() for name, value in newest.items()} for profile in self.rules
        }
        self.memory = make_memory(recipe.objective, recipe.schedule, runtime.exact_device)
        self.loader = ImageLoader(split.images, runtime)
        others, matrices = divide_parameters(self.model, recipe.optim)
        self.parameters = others | matrices
        self.optimizer = build_optimizer(others, matrices, recipe.optim, runtime.precision)

    @property
    def average(self) -> dict[str, Tensor]:
        """The EMA weights that are validated and sampled."""
        return self.averages["default"]

    @property
    def seen(self) -> int:
        """Images seen so far."""
        return self.step * self.recipe.optim.batch

    @property
    def finished(self) -> bool:
        """Whether the training budget is used up."""
        return self.plan.total is not None and self.seen >= self.plan.total

    def stop(self, reason: str = "by a callback") -> None:
        """End the training after this step, and save a checkpoint; no last validation is made.

        Callbacks call this, and `resume` continues the run. The state of the checkpoint records `reason`,
        which must be a text of at least one letter.
        """
        self.stopped = reason or "by a callback"

    @property
    def complete(self) -> bool:
        """Whether the training budget is used up and the last validation is made."""
        return self.finished and not self.due

    @property
    def weights_finite(self) -> bool:
        """Whether every weight and buffer is finite; otherwise a checkpoint would be useless."""
        return all(bool(value.isfinite().all()) for value in ema.select_averaged(self.model).values())

    def validation_steps(self) -> set[int]:
        """Return the evenly spaced steps after which a run of known length validates; the last is its end."""
        return self.plan.validation_steps(self.recipe.report.events, self.recipe.optim.batch)

    def advance(self) -> StepValues:
        """Train for one step, and return its loss, gradient norm and learning rate.

        If the loss or gradient is not finite, the weights are not updated, but `step` still increases. A call
        that is interrupted, or raises OutOfMemory, leaves the training unchanged.

        On an accelerator the call does not wait until the step is computed. A loss is read only when it is
        asked for, and `finite.raise_if_failed` raises an error if too many losses were not finite.
        """
        o, exact = self.recipe.optim, self.runtime.exact_device
        rate = self.plan.rate(o, self.seen)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # The forward pass changes the statistics of batch norm. If the loss is not finite, they are restored.
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            loss, times, losses = self._backward()
        except BaseException as error:
            for buffer, before in buffers:
                buffer.copy_(before)
            self.optimizer.zero_grad(set_to_none=True)
            if is_full_memory(error):
                raise explain_error(error) from error
            raise
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), o.clip or math.inf)
        finite = self.finite.judge(self.step + 1, loss, norm)
        # The fused optimiser changes nothing if this is 1. Apple's GPUs ignore it, so it is not called there.
        self.optimizer.found_inf = (~finite).float()  # pyrefly: ignore[missing-attribute]
        if exact == self.runtime.device or finite.item():
            self.optimizer.step()
        for buffer, before in buffers:
            buffer.copy_(torch.where(finite, buffer, before))
        if self.memory:
            self.memory.update(times, losses.to(exact), finite.to(exact))
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        newest = ema.select_averaged(self.model)
        for profile, rule in self.rules.items():
            average = [self.averages[profile][name] for name in newest]
            ema.update_average(average, list(newest.values()), rule(self.step, o.batch))
        values = {"loss": loss, "gradient_norm": norm, "lr": rate}
        for name, value in {**values, "steps": 1.0}.items():
            added = value.to(exact).double() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + added
        return StepValues(values)

    def _backward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Accumulate the gradients of this step's batch; return its mean loss, times (B,) and losses (B,)."""
        o, runtime, ahead = self.recipe.optim, self.runtime, self.loader.reads_ahead
        batch = draw_batch(self.recipe, self.split, self.model, runtime, self.step, self.memory)
        objective = self.recipe.objective.at(self.plan.part(self.seen), self.seen)
        objective = self.teacher.guide_loss(objective) if self.teacher else objective
        losses = torch.zeros(o.batch, device=runtime.device)
        every, rank = o.accumulate * self.processes.count, self.processes.rank
        # In all processes together, a part has the images part, part + accumulate, ..., as in one process.
        parts = [slice(part + o.accumulate * rank, None, every) for part in range(o.accumulate)]
        following = draw_rows(self.recipe, self.split.train, self.step + 1) if ahead else None
        for which, after in zip(parts, [*parts[1:], None], strict=True):
            images = self.loader.load(batch.rows.part(which))
            if following:
                self.loader.expect(batch.rows.part(after) if after else following.part(parts[0]))
            numbered = number_rows(self.model, torch.arange(o.batch, device=runtime.device)[which])
            # With one seed, an image has the same masks of `Dropout` in any part. But own losses, and own
            # networks without `Dropout`, would draw the same numbers for two images: they get other seeds.
            part = 0 if numbered and not is_user_part(self.recipe.objective) else which.start
            with seed_globally(runtime.device, self.recipe.seed, DROPOUT, self.step, part):
                denoise, x0, t, eps = batch.part(which, images, self.compiled, self.pixels, runtime)
                with self._exchange(last=after is None):
                    with runtime.precise():
                        each = objective(denoise, x0, t, eps, self.recipe.data.bins(self.pixels))
                        loss = (each * batch.weights[which].to(each)).mean() / o.accumulate
                    loss.backward()
            losses[which] = each.detach()
        losses = self.processes.add(losses)
        return (losses * batch.weights.to(losses)).mean(), batch.times, losses

    def _exchange(self, *, last: bool) -> AbstractContextManager[None]:
        """Return a context for a part of the batch; processes exchange gradients only in the last part."""
        net = self.compiled.net
        return net.no_sync() if isinstance(net, Replica) and not last else nullcontext()

    @contextmanager
    def averaged(self) -> Generator[Pipeline]:
        """Yield a pipeline with the EMA weights, its model in eval mode; restore the raw weights after it."""
        before = {name: value.clone() for name, value in ema.select_averaged(self.model).items()}
        try:
            self.model.load_state_dict(self.average, strict=False)
            given = {"class_counts": count_images(self.split.clusters), "vectors": self.split.vectors}
            yield Pipeline(self.model.eval(), self.pixels, self.recipe, self.runtime, **given)
        finally:
            self.model.load_state_dict(before, strict=False)
            self.model.train()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return raw and EMA weights, clusters and vectors, which sampling needs, keyed as in `tensors`."""
        averages = {f"ema/{profile}": average for profile, average in self.averages.items()}
        held = {"model": self.model.state_dict(), **averages}
        held |= {CLUSTERS: found.to_tensors()} if (found := self.split.clusters) else {}
        return held | ({VECTORS: vectors.to_tensors()} if (vectors := self.split.vectors) else {})

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of a checkpoint, keyed by file name and then by tensor name."""
        slots, names = self.optimizer.state_dict()["state"], list(self.parameters)
        kept = {f"{names[i]}/{key}": value for i, slot in slots.items() for key, value in slot.items()}
        held = {**self.weights(), **(self.teacher.tensors() if self.teacher else {}), "optimizer": kept}
        return held | ({"times": self.memory.state()} if self.memory else {})

    def documents(self) -> dict[str, Any]:
        """Return the JSON documents of a checkpoint, keyed by document name."""
        images = self.split.images
        state = RunState(
            self.step,
            self.pixels,
            self.model.shape.channels,
            tuple(images.classes),
            self.runtime,
            self.finite.in_a_row,
            self.best,
            {name: float(value) for name, value in self.sums.items()},
            self.plan,
            TrainedOn(images.fingerprint, len(self.split.train)),
            self.stopped,
            self.due,
            images.values,
        )
        return {"state": state.to_json(), "recipe": dump(self.recipe)}

    def restore(self, tensors: dict[str, dict[str, Tensor]], state: RunState) -> None:
        """Restore a checkpoint; the training then continues bit-identically to an uninterrupted run.

        Args:
            tensors: the tensors of the checkpoint, keyed as in the result of the method `tensors`.
            state: the document "state" of the checkpoint.

        Raises:
            UserError: if the images or their split differ from those of the checkpoint.
        """
        if state.images is None or state.images.fingerprint != self.split.images.fingerprint:
            raise UserError(
                "data has changed since the run began, so it cannot be resumed exactly; "
                "start a new run from its weights with --from"
            )
        check_same_split(self.split, state.images.train)
        self.step, self.finite = state.step, FiniteCheck(self.runtime.device, state.not_finite)
        self.best, self.plan, self.due = state.best, state.plan, state.due
        self.sums = {**state.sums}
        self.model.load_state_dict(tensors["model"])
        for profile, average in self.averages.items():
            for name, value in average.items():
                value.copy_(tensors[f"ema/{profile}"][name])
        if self.teacher:
            self.teacher.restore(tensors)
        if self.memory:
            self.memory.restore(tensors["times"])
        slots: dict[int, dict[str, Tensor]] = {}
        names = {name: i for i, name in enumerate(self.parameters)}
        for key, value in tensors["optimizer"].items():
            name, _, slot = key.rpartition("/")
            slots.setdefault(names[name], {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        for parameter, slot in self.optimizer.state.items():
            for key, value in slot.items():
                if value.shape == parameter.shape:
                    # The fused kernel reads memory in order, so a moment needs the memory format of its
                    # parameter. Moments in files are contiguous, but weights may be channels_last.
                    slot[key] = torch.empty_like(parameter).copy_(value)

    def start_from(self, tensors: dict[str, Tensor]) -> None:
        """Set the weights and all EMAs to another run's weights.

        Raises:
            UserError: if the weights do not fit this network.
        """
        if wrong := find_misfit(self.model.state_dict(), tensors):
            raise UserError(
                f"--from loads weights that do not fit the network of recipe {self.recipe.name}: {wrong} is "
                "missing or has another shape; leave out --recipe and --net to use the network of the weights"
            )
        self.model.load_state_dict(tensors)
        self.inherited = True
        newest = ema.select_averaged(self.model)
        for average in self.averages.values():
            for name, value in average.items():
                value.copy_(newest[name])

    def fix_total(self, total: int) -> None:
        """Set the training budget to about `total` images; see `Plan.fixed`."""
        self.plan = self.plan.fixed(total, self.seen, self.recipe.optim.batch)

    def set_threads(self, threads: int) -> None:
        """Change the number of threads, here and in torch; results may differ in the last bits."""
        self.runtime = replace(self.runtime, threads=threads)
        torch.set_num_threads(threads)
