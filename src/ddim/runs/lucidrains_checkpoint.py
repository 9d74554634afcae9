"""Read checkpoints of denoising-diffusion-pytorch (Wang 2020 to 2026): its `Unet` and `GaussianDiffusion`.

The network follows from the names and shapes of the weights. The schedule and the meaning of the output
follow from the tables that `GaussianDiffusion` stores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from ddim.diffusion.conditioning import Timestep
from ddim.diffusion.grids import Spaced
from ddim.diffusion.loss import Objective
from ddim.diffusion.parameterisation import (
    Parameterisation,
    PredictsImage,
    PredictsNoise,
    PredictsVelocity,
)
from ddim.diffusion.prediction import On
from ddim.diffusion.schedules import BetaTable, Schedule
from ddim.diffusion.time_sampling import TableTimes
from ddim.errors import UserError
from ddim.nn.linear_attention_unet import LinearAttentionUNetSpec
from ddim.runs.beta_tables import find_schedule
from ddim.runs.named_recipes import ddpm
from ddim.runs.recipe import Recipe
from ddim.runs.tensor_file import Shapes, find_shape

MARK = "init_conv.weight"
"""The name of a weight that every `Unet` of denoising-diffusion-pytorch has."""

_PLACES = {
    "in_conv": "init_conv",
    "time_mlp.0": "time_mlp.1",
    "time_mlp.2": "time_mlp.3",
    "middle1": "mid_block1",
    "middle_attention": "mid_attn",
    "middle2": "mid_block2",
    "out_block": "final_res_block",
    "out_conv": "final_conv",
}
"""Prefixes of weight names outside the stages: those of the checkpoint, keyed by those of this library."""

_PARTS = {"block1": 0, "block2": 1, "attention": 2}

_INNER = (
    (r"\.proj\.", ".to_out."),
    (r"\.time_proj\.", ".mlp.1."),
    (r"\.conv(\d)\.", r".block\1.proj."),
    (r"\.norm(\d)\.weight", r".block\1.norm.g"),
    (r"\.shortcut\.", ".res_conv."),
    (r"\.out_norm\.weight", ".to_out.1.g"),
    (r"\.norm\.weight", ".norm.g"),
    (r"\.memory$", ".mem_kv"),
    (r"\.qkv\.", ".to_qkv."),
)
"""Replacements that turn this library's weight names into those of the checkpoint, in order of use.

They are for the weights inside a block or an attention layer.
"""


def find_network(shapes: Shapes) -> tuple[LinearAttentionUNetSpec, int]:
    """Return the options of the network with weights of these shapes, and its number of image channels.

    Raises:
        UserError: if this library has no such network.
    """
    stages = next(k for k in count() if f"downs.{k}.0.block1.proj.weight" not in shapes)
    widths = [_size(shapes, f"downs.{k}.0.block1.proj.weight", 0) for k in range(stages)]
    if not widths or "time_mlp.0.weights" in shapes:
        raise UserError(
            "the network cannot be imported: it has no stages, or its time embedding has learned frequencies"
        )
    width = _size(shapes, "time_mlp.3.weight", 0) // 4
    ends = [*widths[1:], _size(shapes, "mid_block1.block1.proj.weight", 0)]
    channels, outputs = _size(shapes, MARK, 1), _size(shapes, "final_conv.weight", 0)
    if channels != outputs:
        raise UserError(
            f"the network has {channels} input channels and {outputs} output channels: networks with "
            "self-conditioning or a learned variance cannot be imported"
        )
    # Weights of full attention have the name to_out.weight, those of linear attention to_out.0.weight.
    full = tuple(f"downs.{k}.2.to_out.weight" in shapes for k in range(stages))
    if "mid_attn.mem_kv" not in shapes or width < 1 or any(end % width for end in ends):
        raise UserError("the network is not the Unet of denoising-diffusion-pytorch 2")
    _, heads, memory, head = find_shape(shapes, "mid_attn.mem_kv", 4)
    spec = LinearAttentionUNetSpec(
        width, tuple(end // width for end in ends), full, heads, head, memory, stem=widths[0]
    )
    return (replace(spec, stem=None) if widths[0] == width else spec), channels


def translate_name(name: str) -> tuple[str, ...]:
    """Return two possible names in such a checkpoint for a weight of this library.

    Two are needed, because a convolution is alone in some stages and inside an `nn.Sequential` in others.
    """
    if match := re.match(r"(down|up)sample\.(\d+)\.(.*)", name):
        place, last = f"{match[1]}s.{match[2]}.3", match[3]
        return f"{place}.1.{last}", f"{place}.{last}"
    if (match := re.match(r"(down|up)\.(\d+)\.(\w+)(\..*)", name)) and match[3] in _PARTS:
        name = f"{match[1]}s.{match[2]}.{_PARTS[match[3]]}{match[4]}"
    else:
        own = next((place for place in _PLACES if name.startswith(f"{place}.")), "")
        name = _PLACES.get(own, own) + name[len(own) :]
    for pattern, new in _INNER:
        name = re.sub(pattern, new, name)
    return name, name.replace(".to_out.", ".to_out.0.")


def make_recipe(spec: LinearAttentionUNetSpec, tables: Mapping[str, Tensor]) -> Recipe:
    """Return the recipe of a checkpoint, with the image size of the recipe `ddpm`.

    Args:
        spec: the network.
        tables: the tensors `betas` and `loss_weight` of `GaussianDiffusion`. If they are missing, its
            defaults are used: 1000 noise levels, the sigmoid schedule, and a network that predicts velocity.

    Raises:
        UserError: if no schedule or no loss of this library has these tables.
    """
    schedule: Schedule = BetaTable(1000, clip="none", read="log_snr", betas="signal_sigmoid")
    predicts: Parameterisation = PredictsVelocity()
    if "betas" in tables:
        schedule = find_schedule(tables["betas"])
        if "loss_weight" in tables:
            predicts = _find_parameterisation(tables["betas"], tables["loss_weight"])
    entries = schedule.entries or 0
    on: On = "noise" if predicts == PredictsNoise() else "velocity"
    on = "image" if predicts == PredictsImage() else on
    return replace(
        ddpm(),
        name="lucidrains",
        net=spec,
        schedule=schedule,
        predicts=predicts,
        conditioning=Timestep(entries),
        objective=Objective(on, "mse", TableTimes(entries)),
        grid=Spaced(entries, "trailing"),
        clip=True,
    )


def _find_parameterisation(betas: Tensor, weight: Tensor) -> Parameterisation:
    """Return what the network predicts, found from the betas (T,) and the loss weights (T,).

    The loss weights may be those of min-SNR with gamma 5.
    """
    powers = (1 - betas.double()).cumprod(0)
    snr = powers / (1 - powers)
    for top in (torch.inf, 5.0):
        clipped = snr.clamp(max=top)
        kinds = (
            (clipped / snr, PredictsNoise()),
            (clipped, PredictsImage()),
            (clipped / (snr + 1), PredictsVelocity()),
        )
        for wanted, predicts in kinds:
            if weight.shape == wanted.shape and torch.allclose(weight.double(), wanted, rtol=1e-2, atol=1e-6):
                return predicts
    raise UserError("the loss weights of the checkpoint are not those of noise, image or velocity")


def _size(shapes: Shapes, name: str, axis: int) -> int:
    """Return the length of an axis of a weight, which is a matrix or a stack of filters."""
    return find_shape(shapes, name, 2 if name.startswith("time_mlp") else 4)[axis]
