"""The state of a training in memory, and the update that advances it by one step."""

import math
from collections import UserDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddim.data import SplitImages
from ddim.diffusion.denoiser import Model
from ddim.diffusion.loss import LossFunction, Objective
from ddim.diffusion.noise import DROPOUT, WEIGHTS, stream
from ddim.diffusion.pixels import Pixels
from ddim.errors import NotFinite, UserError, explain_error, is_full_memory
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, ignore_progress
from ddim.machine.runtime import Runtime
from ddim.nn import ema
from ddim.nn.batch_norm import sum_over_processes
from ddim.nn.blocks import Dropout
from ddim.nn.power_averages import track_averages
from ddim.nn.recompute import recompute_blocks
from ddim.recipe.codec import dump
from ddim.recipe.model import find_misfit
from ddim.recipe.recipe import Recipe, build_model, may_leave_weights_unused
from ddim.recipe.user_parts import is_user_part
from ddim.runs.state import Plan, RunState, TrainedOn
from ddim.sampling.pipeline import Pipeline, list_conditions
from ddim.training.batches import Batches, draw_times
from ddim.training.machine import plan_validations, validation_cost
from ddim.training.optim import Muon, divide_parameters
from ddim.training.student import load_teacher, make_own_teacher

IN_A_ROW = 3
"""After this number of steps in a row whose loss or gradient is not finite, the weights change no more.

The training ends when this is noticed: at the next line of the log or validation.
"""


class StepValues(UserDict[str, Any]):
    """The loss, gradient norm and learning rate of a step, keyed "loss", "gradient_norm" and "lr".

    Each value is read from the device only when it is asked for. On an accelerator, reading waits for the
    step, so a callback that reads values at every step slows training down.
    """

    def __getitem__(self, key: str) -> float:
        """Return one of the values."""
        return float(self.data[key])


class Trainer:
    """A training in memory; it writes no files, and calls no callbacks.

    A checkpoint holds the weights, all EMA weights, the state of the optimiser, the past losses if the choice
    of times t depends on them, the clusters or vectors that label the images, the recipe and `RunState`.
    Everything else is a function of the recipe's seed and of `step`: the order of the images, their
    mirroring, times, noise and dropout.

    With several processes (see `ddim.machine.distributed`), each process has the whole state, and trains on
    its part of each batch. Gradients and losses are combined over all processes, so that all processes have
    the same state. Up to rounding, this state equals that of a training in one process.

    Args:
        recipe: the recipe of the run.
        split: the images of the run, split into training and validation images.
        pixels: the map between images and model units.
        runtime: how the network runs.
        plan: the training budget.

    Attributes:
        step: the number of steps so far, with or without an update.
        due: whether the validation of `step` must still be made.
        best: the lowest value so far of the metric `report.best`.
        stopped: the reason for which a callback stopped the run; None if no callback did.
        in_a_row: on the device, the number of steps in a row, up to now, that did not change the weights.
        past_losses: the losses of recent steps, if times depend on them, else None.
        updating: whether the optimiser is changing the weights; True for good after an error in it.
        sums: sums of loss, gradient norm and learning rate, and the number of steps, since the last line of
            the log.
        samples: the samples (n, C, H, W) of the newest validation since this process started.
        check_signals: called between the sampling steps of a validation; it may end the validation.
    """

    def __init__(
        self, recipe: Recipe, split: SplitImages, pixels: Pixels, runtime: Runtime, plan: Plan
    ) -> None:
        self.recipe, self.split, self.pixels = recipe, split, pixels
        self.runtime, self.plan = runtime, plan
        self.processes = current_processes()
        divisor = recipe.optim.accumulate * self.processes.count
        if recipe.optim.batch % divisor:
            raise UserError(f"optim.batch must be a multiple of {divisor}, accumulate times the processes")
        self.step, self.due, self.samples = 0, False, torch.empty(0, device="cpu")
        self.updating = False
        self.best: float | None = None
        self.stopped: str | None = None
        self.sums: dict[str, Tensor | float] = {}
        self.in_a_row = torch.tensor(0, device=runtime.device)
        self.check_signals: Progress = ignore_progress
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(stream("cpu", recipe.seed, WEIGHTS, 0).get_state())
            self.model = build_model(recipe, split.images.pixels.shape[-1])
        self.model.pixels = pixels
        runtime.place(self.model)
        recompute_blocks(self.model.net, runtime.recompute)
        net = runtime.compiled(self.model.net)
        # `model` is neither compiled nor replicated. `compiled` may be both, and trains the same weights.
        self.compiled = Model(net, recipe.schedule, recipe.predicts, recipe.conditioning, self.model.shape)
        if self.processes.count > 1:
            # Each backward pass of the replica averages the gradients over all processes.
            replica = DistributedDataParallel(
                net, gradient_as_bucket_view=True, find_unused_parameters=may_leave_weights_unused(recipe)
            )
            replica.broadcast_buffers = False  # they are equal in all processes
            self.compiled.net = replica
        self.compiled.train()
        self.batches = Batches(recipe, split, self.model.shape, runtime, self.processes)
        self.teacher = load_teacher(recipe, runtime)
        self.past_losses = recipe.objective.times.memory(runtime.exact_device)
        others, matrices = divide_parameters(self.model, recipe.optim)
        self.parameters = others | matrices
        dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
        self.optimizer = Muon([*others.values()], [*matrices.values()], dtype, recipe.optim)
        self.rules = track_averages(recipe.ema, recipe.report.snapshots)
        self._start_averages()
        # The layers and buffers that each step needs are listed once. A network may replace a buffer in a
        # step, so the list has the layer and the name of each buffer and not the tensor.
        self._dropouts = [layer for layer in self.model.modules() if isinstance(layer, Dropout)]
        self._buffers = {
            f"{path}.{name}": (layer, name)
            for path, layer in self.model.named_modules(remove_duplicate=False)
            for name, _ in layer.named_buffers(recurse=False)
        }
        weights = self.model.named_parameters(remove_duplicate=False)
        self._weights = {name: weight.detach() for name, weight in weights}

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

    @property
    def complete(self) -> bool:
        """Whether the training budget is used up and the last validation is made."""
        return self.finished and not self.due

    @property
    def learns_guidance(self) -> bool:
        """Whether the newest step learnt guidance by the early weights, so that validation errors rise."""
        loss = self._loss_after(self.seen - self.recipe.optim.batch)
        return isinstance(loss, Objective) and loss.guidance != 1 and ema.GUIDE in self.averages

    @property
    def savable(self) -> bool:
        """Whether a checkpoint is worth writing: the weights are finite, and steps still change them."""
        weights = ema.select_averaged(self.model).values()
        return int(self.in_a_row) < IN_A_ROW and all(bool(value.isfinite().all()) for value in weights)

    def raise_if_not_finite(self) -> None:
        """Raise an error if too many steps in a row were not finite; this waits for the device.

        Raises:
            NotFinite: if at least `IN_A_ROW` steps in a row were not finite. The message names the
                `IN_A_ROW`-th of them. Later steps changed no weights.
        """
        if (count := int(self.in_a_row)) >= IN_A_ROW:
            text = f"loss or gradient was not finite {IN_A_ROW} times in a row, at step"
            advice = "the last good checkpoint is kept; a lower optim.lr or --precision fp32 may help"
            raise NotFinite(f"{text} {self.step - count + IN_A_ROW}: {advice}")

    def stop(self, reason: str = "by a callback") -> None:
        """Ask the loop to save and to end after this step; `resume` continues the run.

        Callbacks call this. The state of the checkpoint records `reason`.
        """
        self.stopped = reason or "by a callback"

    def validation_steps(self) -> set[int]:
        """Return the steps after which a run of known length validates; see `Plan.validation_steps`."""
        count, _ = self.plan_validations(self.plan.total or 0)
        return self.plan.validation_steps(count, self.recipe.optim.batch)

    def plan_validations(self, images: int) -> tuple[int, float]:
        """Return the number of validations in a training on so many images, and their size from 0 to 1."""
        return plan_validations(self.recipe, self.validation_cost, images)

    @property
    def validation_cost(self) -> float:
        """How many images could be trained in the time of one validation."""
        return validation_cost(self.recipe, len(self.split.validation))

    def advance(self) -> StepValues:
        """Train for one step, and return its loss, gradient norm and learning rate.

        If the loss or gradient is not finite, the weights are not updated, but the averages are, and `step`
        increases. A call that raises OutOfMemory before the optimiser has begun leaves the training
        unchanged, so it can be repeated with a larger `optim.accumulate`. After an error in the optimiser,
        weights are changed in part: only a checkpoint continues the training.

        On an accelerator the call does not wait until the step is computed. A loss is read only when it is
        asked for, and `raise_if_not_finite` raises an error if too many steps in a row were not finite.
        """
        optim, processes, runtime = self.recipe.optim, self.processes, self.runtime
        rate = self.plan.rate(optim, self.seen)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._undone_after_error() as buffers:
            batch = self.batches[self.step]
            times, weights = draw_times(self.recipe, batch.uniform, self.past_losses)
            objective = self._choose_loss()
            bins = self.recipe.data.bins(self.pixels)
            losses = torch.zeros(optim.batch, device=runtime.device)
            for k in range(optim.accumulate):
                # Micro-batch k of a single process has the images k, k + accumulate, ... of the batch.
                # Several processes divide these images among themselves, as in `Batches`.
                which = slice(k + optim.accumulate * processes.rank, None, optim.accumulate * processes.count)
                with self._prepare_micro_batch(which, last=k == optim.accumulate - 1):
                    part = slice(k, None, optim.accumulate)
                    denoise, x0, eps = batch.micro_batch(part, self.compiled, self.pixels, runtime)
                    with runtime.precise():
                        if self.teacher:
                            places = torch.arange(optim.batch, device="cpu")[which]
                            x0, eps = self.teacher.move(denoise, x0, times[which], eps, places, self.step)
                        loss_per_image = objective(denoise, x0, times[which], eps, bins)
                        loss = (loss_per_image * weights[which].to(loss_per_image)).mean() / optim.accumulate
                    loss.backward()
                losses[which] = loss_per_image.detach()
            losses = sum_over_processes(losses) if processes.count > 1 else losses
            loss = (losses * weights.to(losses)).mean()
            norm = nn.utils.clip_grad_norm_(self.parameters.values(), optim.clip or math.inf)
            finite = self.judge(loss, norm)
            # Reading `finite` would wait for a GPU. On a GPU, the optimiser gets `found_inf` instead, and
            # changes nothing if this is 1. Apple's GPUs ignore `found_inf`, so for them `finite` is read.
            asynchronous = not runtime.device.startswith(("cpu", "mps"))
            self.optimizer.found_inf = (~finite).float() if asynchronous else None
            if asynchronous or finite.item():
                self.updating = True
                self.optimizer.step()
                self.updating = False
        # The forward pass has changed the buffers. If the step is not finite, they are restored.
        for buffer, old in zip(self._read_buffers(), buffers, strict=True):
            buffer.copy_(torch.where(finite, buffer, old))
        if self.past_losses:
            self.past_losses.update(times, *(each.to(runtime.exact_device) for each in (losses, finite)))
        self.optimizer.zero_grad(set_to_none=True)
        self.in_a_row = torch.where(finite, 0, self.in_a_row + 1)
        self.step += 1
        self._average_weights()
        return self._sum_up({"loss": loss, "gradient_norm": norm, "lr": rate})

    def _choose_loss(self) -> LossFunction:
        """Return the loss of the next step; make the teacher if the run begins to learn guidance."""
        loss, guide = self._loss_after(self.seen), self.averages.get(ema.GUIDE)
        if self.teacher is None and guide and isinstance(loss, Objective) and loss.guidance != 1:
            self.teacher = make_own_teacher(loss, self.model, self.average, guide, self.runtime)
        return loss

    def _loss_after(self, seen: int) -> LossFunction:
        """Return the loss of the step after so many images, without guidance by a teacher."""
        return self.recipe.objective.at(self.plan.fraction(seen), seen)

    @contextmanager
    def _undone_after_error(self) -> Generator[list[Tensor]]:
        """Yield copies of the buffers; after an error, restore the buffers, and clear the gradients."""
        before = [buffer.clone() for buffer in self._read_buffers()]
        try:
            yield before
        except BaseException as error:
            for buffer, old in zip(self._read_buffers(), before, strict=True):
                buffer.copy_(old)
            self.optimizer.zero_grad(set_to_none=True)
            if is_full_memory(error):
                raise explain_error(error) from error
            raise

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return, on the device, whether a step with this loss and gradient norm changes the weights.

        After `IN_A_ROW` steps in a row that are not finite, no later step changes them.
        """
        return loss.isfinite() & norm.isfinite() & (self.in_a_row < IN_A_ROW)

    def _read_buffers(self) -> Iterator[Tensor]:
        """Yield the present tensor of each buffer."""
        return (getattr(layer, name) for layer, name in self._buffers.values())

    @contextmanager
    def _prepare_micro_batch(self, which: slice, *, last: bool) -> Generator[None]:
        """Seed a micro-batch's random numbers; only the last micro-batch exchanges gradients.

        Layers can draw only from torch's global generators. Those of the CPU and of CUDA are seeded here, and
        restored at the end.
        """
        recipe, device, net = self.recipe, self.runtime.device, self.compiled.net
        rows = torch.arange(recipe.optim.batch, device=device)[which] if self._dropouts else None
        for layer in self._dropouts:
            layer.rows = rows
        # Our `Dropout` draws the mask of each image from the seed and the row of the image in the batch. All
        # micro-batches share one seed, so their size changes no mask. Without a `Dropout` of p > 0, or with
        # a user's loss, numbers may be drawn for a whole micro-batch. Then each micro-batch has a seed of its
        # own, because with one seed all would get the same numbers.
        by_row = any(layer.p > 0 for layer in self._dropouts) and not is_user_part(recipe.objective)
        seed = recipe.seed + (0 if by_row else which.start) * 2**32
        cuda = [device] if device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            torch.default_generator.set_state(stream("cpu", seed, DROPOUT, self.step).get_state())
            for name in cuda:
                torch.cuda.set_rng_state(stream(name, seed, DROPOUT, self.step).get_state(), name)
            with net.no_sync() if self.processes.count > 1 and not last else nullcontext():
                yield

    def _sum_up(self, values: dict[str, Tensor | float]) -> StepValues:
        """Add the values of a step to `sums`, and return the values of this step."""
        for name, value in {**values, "steps": 1.0}.items():
            added = value.to(self.runtime.exact_device).double() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + added
        return StepValues(values)

    def _start_averages(self) -> None:
        """Begin all averages with the newest weights."""
        newest = ema.select_averaged(self.model)
        self.averages = {
            profile: {name: value.float().clone() for name, value in newest.items()}
            for profile in [*self.rules, *([ema.GUIDE] if self.recipe.report.guide else [])]
        }

    def _average_weights(self) -> None:
        """Update all averages with the newest weights."""
        newest = self._weights | dict(zip(self._buffers, self._read_buffers(), strict=True))
        weights = [newest[name] for name in self.average]
        for profile, rule in self.rules.items():
            factor = rule(self.step, self.recipe.optim.batch)
            ema.update_average(list(self.averages[profile].values()), weights, factor)
        # The guide is the average up to its share of the budget, and stays as it is from then on.
        share, total = self.recipe.report.guide, self.plan.total or math.inf
        if share and self.seen < share * total + self.recipe.optim.batch:
            ema.update_average(list(self.averages[ema.GUIDE].values()), list(self.average.values()), 1.0)

    @contextmanager
    def averaged(self) -> Generator[Pipeline]:
        """Yield a pipeline with the EMA weights, its model in eval mode; then restore weights and mode."""
        before = {name: value.clone() for name, value in ema.select_averaged(self.model).items()}
        try:
            self.model.load_state_dict(self.average, strict=False)
            given = {"clusters": self.split.clusters, "vectors": self.split.vectors}
            yield Pipeline(self.model.eval(), self.pixels, self.recipe, self.runtime, **given)
        finally:
            self.model.load_state_dict(before, strict=False)
            self.model.train()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of a checkpoint, keyed by file name and then by tensor name."""
        slots = {name: self.optimizer.state.get(p, {}) for name, p in self.parameters.items()}
        kept = {f"{name}/{key}": value for name, slot in slots.items() for key, value in slot.items()}
        held = {f"ema/{profile}": average for profile, average in self.averages.items()}
        held |= {"model": self.model.state_dict(), "optimizer": kept}
        held |= list_conditions(self.split.clusters, self.split.vectors)
        return held | ({"times": self.past_losses.state()} if self.past_losses else {})

    def documents(self) -> dict[str, Any]:
        """Return the JSON documents of a checkpoint, keyed by document name."""
        images, same = self.split.images, ("step", "pixels", "runtime", "best", "plan", "stopped", "due")
        state = RunState(
            **{name: getattr(self, name) for name in same},
            channels=self.model.shape.channels,
            classes=tuple(images.classes),
            not_finite=int(self.in_a_row),
            sums={name: float(value) for name, value in self.sums.items()},
            images=TrainedOn(images.fingerprint, len(self.split.train)),
            values=images.values,
        )
        return {"state": state.to_json(), "recipe": dump(self.recipe)}

    def load(self, tensors: dict[str, dict[str, Tensor]], state: RunState) -> None:
        """Load a checkpoint; the training then continues bit-identically to an uninterrupted run.

        Args:
            tensors: the tensors of the checkpoint, as `Trainer.tensors` returns them.
            state: the document "state" of the checkpoint.
        """
        self.step, self.best, self.plan, self.due = state.step, state.best, state.plan, state.due
        self.sums = {**state.sums}
        self.in_a_row.fill_(state.not_finite)
        self.model.load_state_dict(tensors["model"])
        for profile, average in self.averages.items():
            for name, value in average.items():
                value.copy_(tensors[f"ema/{profile}"][name])
        if self.past_losses:
            self.past_losses.restore(tensors["times"])
        for key, value in tensors["optimizer"].items():
            name, _, slot = key.rpartition("/")
            parameter = self.parameters[name]
            # A moment of AdamW must have the memory format of its weight. In files all tensors are
            # contiguous, but weights may be channels_last.
            same = value.shape == parameter.shape
            moved = torch.empty_like(parameter).copy_(value) if same else value.to(parameter.device)
            self.optimizer.state[parameter][slot] = moved

    def start_from(self, tensors: dict[str, Tensor]) -> None:
        """Set the weights and all EMAs to another run's weights.

        Raises:
            UserError: if the weights do not fit this network.
        """
        if wrong := find_misfit(self.model.state_dict(), tensors):
            advice = "leave out --recipe and --net to use the network of the weights"
            name = self.recipe.name
            raise UserError(f"weights of --from do not fit the network of recipe {name}: {wrong}; {advice}")
        self.model.load_state_dict(tensors)
        self._start_averages()

    def fix_total(self, total: int) -> None:
        """Set the training budget to about `total` images; see `Plan.fixed`."""
        self.plan = self.plan.fixed(total, self.seen, self.recipe.optim.batch)
