"""One run in progress: what a checkpoint holds; and one update, a function of the run and of its number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddim.data import Images
from ddim.data.batch import batch as gather
from ddim.data.batch import unit
from ddim.diffusion.denoiser import Model
from ddim.diffusion.noise import DROPOUT, VALIDATION, WEIGHTS, stream
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.time_sampling import LossAware, Memory
from ddim.errors import NotFinite, UserError
from ddim.nn import ema
from ddim.runs import classes as labels
from ddim.runs.codec import dump
from ddim.runs.pipeline import misfit
from ddim.runs.recipe import Recipe, build
from ddim.runs.state import Plan, RunState, TrainedOn
from ddim.training.batches import draw
from ddim.training.engine import Engine, streaming
from ddim.training.validation import means

IN_A_ROW = 3
"""So many updates that are not finite, one after the other, end a run."""


@dataclass(frozen=True)
class Split:
    """The images of a run and which of them train and which validate, as sorted indices."""

    images: Images
    train: np.ndarray
    valid: np.ndarray


class Training:
    """A run between two updates.

    Its state is what a checkpoint holds: weights, their averages by profile, the optimiser, the losses that
    times may be drawn by, counters, and what the next line of the log is made of (`sums` since the last line;
    `best`, the least value of `report.best`). All else, order and flips of the images, times, noise and
    dropout, is a function of the recipe's seed and `step`.
    """

    def __init__(self, recipe: Recipe, split: Split, pixels: Pixels, engine: Engine, plan: Plan) -> None:
        self.recipe, self.split, self.pixels = recipe, split, pixels
        self.engine, self.plan = engine, plan
        self.step, self.updates, self.not_finite = 0, 0, 0
        self.best: float | None = None
        self.sums: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(stream("cpu", recipe.seed, WEIGHTS, 0).get_state())
            self.model = build(recipe, split.images.pixels.shape[-1])
        engine.runtime.place(self.model)
        self.quick = Model(
            engine.ready(self.model.net),
            recipe.schedule,
            recipe.predicts,
            recipe.conditioning,
            self.model.shape,
        ).train()
        self.rules = ema.name_averages(recipe.ema)
        newest = ema.averaged_tensors(self.model)
        self.averages = {
            profile: {name: value.float().clone() for name, value in newest.items()} for profile in self.rules
        }
        times = recipe.objective.times
        self.memory = Memory(times) if isinstance(times, LossAware) else None
        o = recipe.optim
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay, fused=True
        )

    @property
    def average(self) -> dict[str, Tensor]:
        """The average that is validated and shown: the default one."""
        return self.averages["default"]

    @property
    def seen(self) -> int:
        """Images seen so far."""
        return self.step * self.recipe.optim.batch

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.plan.total is not None and self.seen >= self.plan.total

    @property
    def sound(self) -> bool:
        """Whether every weight and statistic is finite, so that a checkpoint can go on from here."""
        return all(bool(value.isfinite().all()) for value in ema.averaged_tensors(self.model).values())

    def events(self) -> set[int]:
        """The steps after which a run of known length validates, `report.events` of them; its last is one."""
        total, count = self.plan.total or 0, self.recipe.report.events
        return {math.ceil(total * k / count / self.recipe.optim.batch) for k in range(1, count + 1)}

    def advance(self) -> dict[str, float]:
        """One update; its loss, gradient norm and learning rate.

        An update whose loss or gradient is not finite is skipped: nothing but `step` moves. `NotFinite` at
        the third in a row.
        """
        o = self.recipe.optim
        rate = self.plan.rate(o, self.seen)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Batch norm moves its statistics in the forward pass, before anyone knows that the loss is finite.
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        loss, times, losses = self._backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), o.clip or math.inf, foreach=True)
        values = {"loss": loss.item(), "gradient_norm": norm.item(), "lr": rate}
        if all(math.isfinite(value) for value in values.values()):
            self.optimizer.step()
            if self.memory:
                self.memory.update(times, losses)
            self.updates += 1
            self.not_finite = 0
            newest = ema.averaged_tensors(self.model)
            for profile, rule in self.rules.items():
                average = [self.averages[profile][name] for name in newest]
                ema.update_average(average, list(newest.values()), rule(self.updates, o.batch))
        else:
            for buffer, before in buffers:
                buffer.copy_(before)
            self.not_finite += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        for name, value in {**values, "updates": 1.0}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.not_finite == IN_A_ROW:
            raise NotFinite(f"loss or gradient was not finite {IN_A_ROW} times in a row, at step {self.step}")
        return values

    def _backward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of this step's batch, part by part; the mean loss, and the times (B,) and losses (B,)."""
        o, runtime = self.recipe.optim, self.engine.runtime
        images, train = self.split.images, self.split.train
        batch = draw(self.recipe, images, train, self.model, runtime.device, self.step, self.memory)
        bins = self.recipe.data.bins(self.pixels)
        losses = torch.zeros(o.batch, device=runtime.device)
        total = torch.zeros((), device=runtime.device)
        with streaming(runtime.device, self.recipe.seed, DROPOUT, self.step):
            for part in range(o.accumulate):
                mine = slice(part, None, o.accumulate)
                denoise, x0, t, eps = batch.part(mine, self.quick, self.pixels, runtime)
                with self.engine.precise():
                    each = self.recipe.objective(denoise, x0, t, eps, bins)
                    loss = (each * batch.counts[mine].to(each)).mean() / o.accumulate
                losses[mine] = each.detach()
                self.engine.backward(loss)
                total += loss.detach()
        return self.engine.mean(total), batch.times, losses

    @contextmanager
    def averaged(self) -> Iterator[Model]:
        """The model in eval mode with its averaged weights; what was there comes back whatever happens."""
        state = self.model.state_dict(keep_vars=True)
        before = {name: state[name].detach().clone() for name in self.average}
        try:
            with torch.no_grad():
                for name, value in self.average.items():
                    state[name].copy_(value)
            yield self.model.eval()
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    state[name].copy_(value)
            self.model.train()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Noise and image MAE, in model units, of the averaged weights on the validation images.

        Always the same images, times (one in each equal slice) and noise; the network is told their classes
        where it was trained with labels. Under names as in "noise_mae/log_snr_-4" also the means of the
        images whose log-SNR lies in [-4, -2), and so on, with intervals (`validation.means`). Empty without
        validation images.
        """
        runtime, seed = self.engine.runtime, self.recipe.seed
        count = min(self.recipe.report.valid, len(self.split.valid))
        if not count:
            return {}
        draw = stream("cpu", seed, VALIDATION, 0)
        which = self.split.valid[torch.randperm(len(self.split.valid), generator=draw)[:count].numpy()]
        times = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        sums = torch.zeros(2, dtype=torch.float64)
        each = torch.zeros(2, count, dtype=torch.float64)
        with self.averaged() as model, runtime.precise():
            for part in torch.arange(count).split(runtime.micro_batch):
                x0 = runtime.images(self.pixels.enter(unit(gather(self.split.images, which[part.numpy()]))))
                eps = runtime.images(torch.randn(x0.shape, generator=draw))
                told = labels.label_images(self.recipe, self.split.images, which[part.numpy()])
                x_t = model.schedule(times[part]).noisy(x0, eps)
                p = model.given(told)(x_t, times[part])
                for k, error in enumerate((p.eps - eps, p.x0 - x0)):
                    sums[k] += error.abs().mean().item() * len(part)
                    each[k, part] = error.abs().flatten(1).mean(1).double().cpu()
        noise_mae, image_mae = (sums / count).tolist()
        log_snr = self.recipe.schedule(times).log_snr
        return {
            "noise_mae": noise_mae,
            "image_mae": image_mae,
            **means(log_snr, {"noise_mae": each[0], "image_mae": each[1]}),
        }

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds, by file and name."""
        slots = self.optimizer.state_dict()["state"]
        names = list(self.parameters)
        kept = {f"{names[i]}/{key}": value for i, slot in slots.items() for key, value in slot.items()}
        averages = {f"ema/{profile}": average for profile, average in self.averages.items()}
        held = {"model": self.model.state_dict(), **averages, "optimizer": kept}
        return held | ({"times": self.memory.state()} if self.memory else {})

    def documents(self) -> dict[str, Any]:
        """What a checkpoint holds, as JSON."""
        images = self.split.images
        state = RunState(
            self.step,
            self.pixels,
            self.model.shape.channels,
            tuple(images.classes),
            self.engine.runtime,
            self.updates,
            self.not_finite,
            self.best,
            self.sums,
            self.plan,
            TrainedOn(images.fingerprint, len(self.split.train)),
        )
        return {"state": state.to_json(), "recipe": dump(self.recipe)}

    def restore(self, tensors: dict[str, dict[str, Tensor]], state: RunState) -> None:
        """Become the run that wrote these, bit for bit. UserError where the images are not that run's."""
        if state.images is None or state.images.fingerprint != self.split.images.fingerprint:
            raise UserError(
                "data has changed since the run began, so it cannot be resumed exactly; "
                "start a new run from its weights with --from"
            )
        self.step, self.updates, self.not_finite = state.step, state.updates, state.not_finite
        self.best, self.sums, self.plan = state.best, dict(state.sums), state.plan
        self.model.load_state_dict(tensors["model"])
        for profile, average in self.averages.items():
            for name, value in average.items():
                value.copy_(tensors[f"ema/{profile}"][name])
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
                    # The fused kernel walks memory and not indices: a moment that does not lie as its
                    # parameter does (files are contiguous, weights channels_last) would be another's.
                    slot[key] = torch.empty_like(parameter).copy_(value)

    def begin_from(self, tensors: dict[str, Tensor]) -> None:
        """Start from another run's weights, in the averages too. UserError where they do not fit."""
        if wrong := misfit(self.model, tensors):
            raise UserError(
                f"--from gives weights of another network than recipe {self.recipe.name} has: "
                f"{wrong} is missing or of another shape; leave --recipe and --net out to take that run's"
            )
        self.model.load_state_dict(tensors)
        newest = ema.averaged_tensors(self.model)
        for average in self.averages.values():
            for name, value in average.items():
                value.copy_(newest[name])

    def settle(self, total: int) -> None:
        """Fix the number of images: a whole number of batches, at least what has been seen."""
        batch = self.recipe.optim.batch
        self.plan = replace(self.plan, total=max(self.seen, round(total / batch) * batch), settled=self.seen)
