"""Read the JSON files of diffusers for DDPM's network and scheduler as a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError
from ddim.exchange.beta_tables import find_schedule, make_table
from ddim.exchange.diffusers_options import (
    BETAS,
    CHOSEN,
    CLIPS,
    EMBEDDINGS,
    FRACTIONS,
    NETWORK,
    NEVER,
    NOISE,
    NOT_GIVEN,
    PADDINGS,
    PREDICTS,
    SCHEDULERS,
    SHIFTS,
    SPACINGS,
    VARIANCES,
    WHOLE,
)
from ddim.recipe.codec import dump, load_recipe
from ddim.recipe.named import ddpm
from ddim.recipe.recipe import Recipe

LARGEST_NUMBER = 1_000_000
"""The largest whole number in a file; a larger one would need unbounded memory."""


def read_configs(network: Mapping[str, Any], noise: Mapping[str, Any]) -> tuple[Recipe, int]:
    """Return the recipe `ddpm` with the options from two files of diffusers, and the number of channels.

    `net.classes` is the number of rows of the class embedding.

    Args:
        network: the content of config.json.
        noise: the content of scheduler_config.json.

    Raises:
        UserError: if the files do not describe a DDPM.
    """
    _same(network, {"_class_name": "UNet2DModel"}, "config.json")
    _back(SCHEDULERS, noise.get("_class_name", "DDIMScheduler"), "_class_name in scheduler_config.json")
    net: dict[str, Any] = {**CHOSEN, **network}
    table: dict[str, Any] = {**NOISE, **noise}
    _check_blocks(network, net)
    _same(noise, {name: NOISE[name] for name in NEVER}, "scheduler_config.json")
    if table["clip_sample"]:
        _same(noise, {"clip_sample_range": NOISE["clip_sample_range"]}, "scheduler_config.json")
    sides = _find_sides(net.get("sample_size"))
    _check_numbers(net | table)
    tree = dump(ddpm())
    entries = table["num_train_timesteps"]
    tree["data"] |= {"size": sides, "labels": net["num_class_embeds"] is not None}
    tree["net"] = _net_fields(net)
    tree["schedule"] = dump(_read_schedule(table), named=True)
    tree["predicts"] = dump(_back(PREDICTS, table["prediction_type"], "prediction_type"), named=True)
    tree["conditioning"]["entries"] = tree["objective"]["times"]["entries"] = entries
    spacing = _back(SPACINGS, table["timestep_spacing"], "timestep_spacing")
    tree["grid"] |= {"entries": entries, "spacing": spacing}
    if noise.get("_class_name") == "DDPMScheduler":
        variance = noise.get("variance_type", "fixed_small")
        # fixed_small_log is the same variance as fixed_small, computed through its logarithm.
        variance = "fixed_small" if variance == "fixed_small_log" else variance
        tree["sampler"] = dump(_back(VARIANCES, variance, "variance_type"), named=True)
    tree["clip"] = _back(CLIPS, table["clip_sample"], "clip_sample")
    return load_recipe(tree), net["in_channels"]


def _check_blocks(network: Mapping[str, Any], net: Mapping[str, Any]) -> None:
    """Check channels and blocks. `network` is config.json; `net` is config.json with defaults filled in."""
    for name, kind in {"block_out_channels": list, "down_block_types": list, "in_channels": int}.items():
        if not isinstance(net.get(name), kind) or not net[name]:
            raise UserError(f"config.json does not describe a UNet2DModel: its {name} is {net.get(name)}")
    widths, down, channels = net["block_out_channels"], net["down_block_types"], net["in_channels"]
    if not all(type(width) is int and 0 < width <= LARGEST_NUMBER for width in widths):
        raise UserError(
            f"config.json needs block_out_channels that are whole numbers above 0, got {widths!r:.200}"
        )
    if type(channels) is not int or channels not in (1, 3, 4):
        raise UserError(f"config.json needs in_channels 1, 3 or 4, as images have, got {channels}")
    groups = net["norm_num_groups"]
    wanted = (groups,) if net["resnet_time_scale_shift"] == "scale_shift" else (None, groups)
    if net["attn_norm_num_groups"] not in wanted:
        raise UserError(
            f"config.json has attn_norm_num_groups {net['attn_norm_num_groups']!r:.200}, but only "
            f"{wanted[-1]} can be imported"
        )
    up = [str(kind).replace("Down", "Up") for kind in reversed(down)]
    _same(network, {**NETWORK, "out_channels": channels, "up_block_types": up}, "config.json")
    known = all(kind in ("DownBlock2D", "AttnDownBlock2D") for kind in down)
    if not known or any(width % widths[0] for width in widths):
        raise UserError(
            "config.json can be imported with DownBlock2D and AttnDownBlock2D, and block_out_channels that "
            f"are multiples of the first, got {down} and {widths}"
        )


def _read_schedule(table: Mapping[str, Any]) -> Schedule:
    """Return the schedule of a scheduler_config.json, whose missing options are filled in."""
    entries = table["num_train_timesteps"]
    if (betas := table["trained_betas"]) is not None:
        numbers = isinstance(betas, list) and all(
            type(beta) in (int, float) and 0 <= beta <= 1 for beta in betas
        )
        if not numbers or len(betas) != entries:
            raise UserError(
                "trained_betas must be a list of num_train_timesteps numbers from 0 to 1 to be imported"
            )
        return find_schedule(torch.tensor(betas, dtype=torch.float64))
    kind, name = _back(BETAS, table["beta_schedule"], "beta_schedule")
    return make_table(name or kind, entries, table["beta_start"], table["beta_end"])


def _find_sides(size: Any) -> list[int]:  # noqa: ANN401 (JSON)
    """Return [height, width] from the sample_size of a config.json."""
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(
            f"config.json needs a sample_size of one or two whole numbers above 0, got {size!r:.200}"
        )
    return sides


def _net_fields(net: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `DDPMUNetSpec` for the options of a config.json."""
    widths, down = net["block_out_channels"], net["down_block_types"]
    return {
        "kind": "ddpm_unet",
        "width": widths[0],
        "multipliers": [width // widths[0] for width in widths],
        "blocks": net["layers_per_block"],
        "attention": [kind == "AttnDownBlock2D" for kind in down],
        "head": net["attention_head_dim"],
        "groups": net["norm_num_groups"],
        "eps": net["norm_eps"],
        "dropout": net["dropout"],
        "embedding": _back(
            EMBEDDINGS, (net["freq_shift"], net["flip_sin_to_cos"]), "freq_shift and flip_sin_to_cos"
        ),
        "scale_shift": _back(SHIFTS, net["resnet_time_scale_shift"], "resnet_time_scale_shift"),
        "classes": net["num_class_embeds"] or 0,
        "resample": _back(PADDINGS, net["downsample_padding"], "downsample_padding"),
    }


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Check the ranges of numbers from diffusers; attention_head_dim None means one head."""
    for name in WHOLE:
        value = given[name]
        known = type(value) is int and 0 < value <= LARGEST_NUMBER
        if not known and (name, value) not in NOT_GIVEN:
            raise UserError(
                f"{name} must be a whole number above 0, and at most {LARGEST_NUMBER:,}, to be imported, "
                f"got {value!r:.200}"
            )
    for name in FRACTIONS:
        value = given[name]
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise UserError(f"{name} must be at least 0 and less than 1 to be imported, got {value}")
    if not 0 < given["beta_start"] < given["beta_end"]:
        raise UserError(
            "beta_start must be above 0 and less than beta_end to be imported, "
            f"got {given['beta_start']} and {given['beta_end']}"
        )


def _same(given: Mapping[str, Any], wanted: Mapping[str, Any], file: str) -> None:
    """Check that options of a file have the wanted values; options that are missing are not compared."""
    for name, value in wanted.items():
        if given.get(name, value) != value:
            raise UserError(f"{file} has {name} {given[name]}, but only {value} can be imported")


def _back(table: Mapping[Any, Any], value: Any, name: str) -> Any:  # noqa: ANN401  (a row of any table)
    """Return the key of `table` with this value; raise UserError about `name` if there is none."""
    for ours, theirs in table.items():
        if theirs == value:
            return ours
    raise UserError(
        f"{name} must be one of {', '.join(map(str, table.values()))} to be imported, got {value}"
    )
