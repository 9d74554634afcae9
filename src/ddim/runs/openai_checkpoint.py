"""Read state dicts of the `UNetModel` of improved-diffusion and guided-diffusion (Nichol & Dhariwal 2021).

The options of the network follow from the names and shapes of its weights, except the number of attention
heads. The schedule and the timesteps are not stored either; the defaults are those of improved-diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

from torch import Tensor

from ddim.errors import UserError
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.runs.named_recipes import ddpm
from ddim.runs.recipe import Data, Recipe
from ddim.runs.tensor_file import Shapes, find_shape

MARK = "input_blocks.0.0.weight"
"""The name of a weight that every `UNetModel` has."""

VARIANCE = ("out.2.weight", "out.2.bias")
"""The weights whose second half predicts the variance.

That half is left out, because this library maps the variance in another way.
"""

_BLOCK = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("shortcut", "skip_connection"),
)
_TOP = {
    "time_mlp.0": "time_embed.0",
    "time_mlp.2": "time_embed.2",
    "class_embedding": "label_emb",
    "in_conv": "input_blocks.0.0",
    "out_norm": "out.0",
    "out_conv": "out.2",
    "middle.0.block": "middle_block.0",
    "middle.0.attention": "middle_block.1",
    "middle.1.block": "middle_block.2",
}
"""Prefixes of weight names outside the stages: those of the state dict, keyed by those of this library."""


def find_openai_network(shapes: Shapes) -> tuple[DDPMUNetSpec, int, bool]:
    """Return the options of the network with weights of these shapes, its image channels, and a flag.

    The flag says whether the network also predicts a variance. The returned options leave the variance out.

    Raises:
        UserError: if this library has no such network.
    """
    width, channels = find_shape(shapes, MARK, 4)[:2]
    outputs = find_shape(shapes, "out.2.weight", 4)[0]
    if outputs not in (channels, 2 * channels):
        raise UserError(
            f"the network has {channels} input channels and {outputs} output channels: a network can be "
            "imported if it has as many output channels, or twice as many (with a learned variance)"
        )
    total = next(k for k in count() if f"output_blocks.{k}.0.in_layers.0.weight" not in shapes)
    ups = [k for k in range(total) if _resampling_place(shapes, k)]
    blocks = ups[0] if ups else total - 1
    stages = total // (blocks + 1) if blocks > 0 else 0
    if (
        not stages
        or total != stages * (blocks + 1)
        or ups != [k * (blocks + 1) + blocks for k in range(stages - 1)]
    ):
        raise UserError("the network has stages that this library does not have")
    first = [1 + stage * (blocks + 1) for stage in range(stages)]
    widths = [find_shape(shapes, f"input_blocks.{k}.0.out_layers.3.weight", 4)[0] for k in first]
    if any(other % width for other in widths):
        raise UserError(f"the network has stages of {widths} channels, which are not multiples of {width}")
    in_blocks = stages > 1 and f"input_blocks.{first[1] - 1}.0.in_layers.0.weight" in shapes
    label = shapes.get("label_emb.weight")
    spec = DDPMUNetSpec(
        width=width,
        multipliers=tuple(other // width for other in widths),
        blocks=blocks,
        attention=tuple(f"input_blocks.{k}.1.qkv.weight" in shapes for k in first),
        heads=4,
        eps=1e-5,
        dropout=0.0,
        embedding="cos_sin",
        scale_shift=find_shape(shapes, "middle_block.0.emb_layers.1.weight", 2)[0] == 2 * widths[-1],
        resample="box" if in_blocks else "strided",
        classes=label[0] if label else 0,
    )
    return spec, channels, outputs > channels


def complete_table_fields(fields: Mapping[str, str], *, linear: bool) -> dict[str, str]:
    """Return fields of a recipe together with those that follow from another table of noise levels.

    A table of another kind has the same meaning as DDPM's. Its number of entries holds for all fields that
    count them. A linear table of fewer entries has larger steps, so that it ends at the same noise level.

    Args:
        fields: fields that the user gives, keyed by path.
        linear: whether the table is linear.
    """
    found: dict[str, str] = {}
    if fields.get("schedule", "linear") in ("linear", "beta_table"):
        found |= {"schedule.clip": "none", "schedule.read": "log_snr"}
    if entries := fields.get("schedule.entries"):
        counting = ("conditioning", "objective.times", "grid")
        found |= {f"{part}.entries": entries for part in counting if part not in fields}
        scale = 1000 / int(entries) if entries.isdecimal() and int(entries) > 1 else 1.0
        if linear and scale != 1 and 0.02 * scale < 1:
            found |= {"schedule.first": repr(1e-4 * scale), "schedule.last": repr(0.02 * scale)}
    return {**found, **fields}


def make_openai_recipe(spec: DDPMUNetSpec, fields: Mapping[str, str]) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe of a state dict, and `fields` together with the fields that follow from them.

    Without fields, the recipe has DDPM's table of 1000 entries, as in improved-diffusion. If
    `schedule.entries` is given, timesteps are scaled to 0 ... 1000, as with the option `rescale_timesteps` of
    improved-diffusion.

    Args:
        spec: the network.
        fields: fields of the recipe that the user gives, keyed by path.
    """
    base = ddpm()
    fields = complete_table_fields(fields, linear=True)
    entries = fields.get("schedule.entries", "")
    if entries.isdecimal() and int(entries) > 1 and "conditioning" not in fields:
        fields = {"conditioning.scale": repr(1000 / int(entries)), **fields}
    # These models were trained with a class for every image.
    data = Data(labels=True, unlabelled=0.0) if spec.classes else Data()
    return replace(base, name="openai", net=spec, data=data, clip=True), fields


def make_translator(spec: DDPMUNetSpec) -> Callable[[str], Sequence[str]]:
    """Return a function that maps our name of a weight to its possible names in a state dict."""
    stages, step = len(spec.multipliers), spec.blocks + 1

    def translate(name: str) -> Sequence[str]:
        if match := re.match(r"(down|up)\.(\d+)\.(\d+)\.(block|attention)\.(.*)", name):
            way, stage, block, part, rest = match[1], int(match[2]), int(match[3]), match[4], match[5]
            place = stage * step + block
            theirs = f"input_blocks.{place + 1}" if way == "down" else f"output_blocks.{place}"
            return [f"{theirs}.{'0' if part == 'block' else '1'}.{_inner(rest)}"]
        if match := re.match(r"(down|up)sample\.(\d+)\.(.*)", name):
            stage, rest = int(match[2]), match[3]
            end = stage * step + spec.blocks
            if match[1] == "down":
                place = f"input_blocks.{end + 1}.0"
                return [f"{place}.op.{rest}", f"{place}.{_inner(rest)}"]
            after = 2 if spec.attention[stages - 1 - stage] else 1
            place = f"output_blocks.{end}.{after}"
            return [f"{place}.conv.{rest}", f"{place}.{_inner(rest)}"]
        own = next((place for place in _TOP if name.startswith(f"{place}.")), "")
        return [_TOP.get(own, own) + _inner(name[len(own) :])]

    return translate


def order_heads(name: str, value: Tensor, spec: DDPMUNetSpec) -> Tensor:
    """Return a weight with the order of channels of this library.

    Improved-diffusion stores the queries, keys and values of the first head, then those of the second head,
    and so on. This library stores all queries, then all keys, then all values.
    """
    if ".qkv." not in name:
        return value
    heads = value.shape[0] // 3 // spec.head if spec.head else spec.heads
    parts = value.reshape(heads, 3, -1, *value.shape[1:])
    return parts.transpose(0, 1).reshape(value.shape)


def _resampling_place(shapes: Shapes, block: int) -> int:
    """Return the place of the layer that doubles the resolution after an output block; 0 if there is none."""
    ends = ("conv.weight", "in_layers.0.weight")
    return next((k for k in (1, 2) if any(f"output_blocks.{block}.{k}.{end}" in shapes for end in ends)), 0)


def _inner(rest: str) -> str:
    """Return the name that improved-diffusion gives to a weight inside a block or an attention layer."""
    for ours, theirs in _BLOCK:
        if rest.lstrip(".").startswith(f"{ours}."):
            return rest.replace(ours, theirs, 1)
    return re.sub(r"\bproj\b", "proj_out", rest)
