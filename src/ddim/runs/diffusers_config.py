"""Convert recipes to and from the JSON files of diffusers for DDPM's network and scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddim.diffusion.conditioning import Timestep
from ddim.diffusion.grids import Spaced
from ddim.diffusion.parameterisation import PredictsImage, PredictsNoise, PredictsVelocity
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM
from ddim.diffusion.schedules import BetaTable, Linear
from ddim.errors import UserError
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.runs.codec import dump, load_recipe
from ddim.runs.kinds import kind_name
from ddim.runs.named_recipes import ddpm
from ddim.runs.pipeline import Pipeline
from ddim.runs.recipe import Recipe

VERSION = "0.42.1"
"""The version of diffusers from which the names and defaults in this module are taken."""

_NETWORK = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
"""Options that always have these values for DDPM's network; the values are the defaults of diffusers."""

_CHOSEN = {
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "downsample_padding": 1,
}
"""Options that a recipe can set too. The values are the defaults of diffusers for missing options."""

_NOISE = {
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "clip_sample": True,
    "clip_sample_range": 1.0,
}
"""Options of the schedulers of diffusers, with their defaults."""

_NEVER = ("set_alpha_to_one", "steps_offset", "trained_betas", "rescale_betas_zero_snr", "thresholding")
"""Options of a scheduler that can only be imported with their defaults."""

_WHOLE = ("layers_per_block", "norm_num_groups", "attention_head_dim", "num_train_timesteps")
_FRACTIONS = ("norm_eps", "dropout", "beta_start", "beta_end")

_SCHEDULERS = {DDIM: "DDIMScheduler", DDPM: "DDPMScheduler"}
_BETAS = {"linear": "linear", "beta_table": "scaled_linear"}
"""Names of schedules here and in diffusers. Only a "beta_table" with `betas` = "quad" is "scaled_linear"."""
_PREDICTS: dict[Any, str] = {
    PredictsNoise(): "epsilon",
    PredictsImage(): "sample",
    PredictsVelocity(): "v_prediction",
}
_EMBEDDINGS = {"sin_cos": (1, False), "cos_sin": (0, True)}
_PADDINGS = {"same": 0, "strided": 1}
_CLIPS = {False: False, "x0": True}
_VARIANCES = {DDPM("small"): "fixed_small", DDPM("large"): "fixed_large"}
_SPACINGS = {"leading": "leading", "trailing": "trailing"}


def make_network_config(pipeline: Pipeline) -> dict[str, Any]:
    """Return the config.json of diffusers for the network of a pipeline.

    Raises:
        UserError: if the network is not DDPM's, or has options that diffusers lacks.
    """
    net, channels = _check_network(pipeline), pipeline.model.shape.channels
    shift, flip = _EMBEDDINGS[net.embedding]
    down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in net.attention]
    return head_config("UNet2DModel") | {
        "sample_size": list(pipeline.recipe.data.size),
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(net.widths),
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "layers_per_block": net.blocks,
        "norm_num_groups": net.groups,
        "norm_eps": net.eps,
        "dropout": net.dropout,
        "attention_head_dim": net.head,
        "freq_shift": shift,
        "flip_sin_to_cos": flip,
        "downsample_padding": _PADDINGS[net.resample],
        **_NETWORK,
    }


def _check_network(pipeline: Pipeline) -> DDPMUNetSpec:
    """Return the options of the network; raise UserError for options that diffusers lacks."""
    recipe, net = pipeline.recipe, pipeline.recipe.net
    if not isinstance(net, DDPMUNetSpec):
        raise UserError(f"export to diffusers needs the net of recipe ddpm, ddpm_unet, not {kind_name(net)}")
    wanted = {"scale_shift": False, "sde": False, "pyramid": False, "group_channels": None}
    wanted |= {"classes": 0, "augment": 0, "outputs": 1}
    for name, value in wanted.items():
        if getattr(net, name) != value:
            raise UserError(
                f"export to diffusers needs net.{name} {value}, this run has {getattr(net, name)}"
            )
    if net.embedding not in _EMBEDDINGS or net.resample not in _PADDINGS:
        raise UserError(
            f"export to diffusers needs net.embedding {' or '.join(_EMBEDDINGS)} and net.resample "
            f"{' or '.join(_PADDINGS)}, this run has {net.embedding} and {net.resample}"
        )
    if net.multipliers[0] != 1 or (net.head is None and net.heads != 1):
        raise UserError(
            "export to diffusers needs net.multipliers that begin with 1, and net.heads 1 or net.head, "
            f"this run has {net.multipliers} and {net.heads}"
        )
    if any(side % net.multiple for side in recipe.data.size):
        height, width = recipe.data.size
        raise UserError(
            f"export to diffusers needs data.size in multiples of {net.multiple} for a network with "
            f"{len(net.widths)} stages, this run has {height}x{width}"
        )
    half = (0.5,) * pipeline.model.shape.channels
    if pipeline.pixels != Pixels(half, half):
        raise UserError(
            "export to diffusers needs pixels fixed with mean 0.5 and std 0.5, "
            f"this run has {pipeline.pixels.mean} and {pipeline.pixels.std}"
        )
    return net


def make_noise_config(recipe: Recipe) -> dict[str, Any]:
    """Return the scheduler_config.json of diffusers for the schedule, grid and sampler of a recipe.

    Raises:
        UserError: if diffusers lacks the schedule, grid, sampler or another option.
    """
    table, grid = _check_noise(recipe)
    return (
        head_config("DDIMScheduler")
        | _NOISE
        | {
            "beta_start": table.first,
            "beta_end": table.last,
            "num_train_timesteps": table.entries,
            "beta_schedule": _BETAS[kind_name(table)],
            "prediction_type": _PREDICTS[recipe.predicts],
            "timestep_spacing": grid.spacing,
            "clip_sample": _CLIPS[recipe.clip],
        }
    )


def _check_noise(recipe: Recipe) -> tuple[Linear | BetaTable, Spaced]:
    """Return schedule and grid; raise UserError for options of the recipe that diffusers lacks."""
    table = recipe.schedule
    if (
        not isinstance(table, Linear | BetaTable)
        or (isinstance(table, BetaTable) and table.betas != "quad")
        or (table.clip, table.read) != ("none", "log_snr")
    ):
        raise UserError(
            "export to diffusers needs schedule linear, or beta_table with betas quad; clip none, "
            f"read log_snr; this run has {dump(table, named=True)}"
        )
    if recipe.sampled_on:
        raise UserError(
            "export to diffusers needs sampled_on none, but this run samples on another schedule than it was "
            "trained on"
        )
    if recipe.clip not in _CLIPS:
        raise UserError(
            "export to diffusers needs clip no or x0, this run has yes, which leads to other samples"
        )
    if recipe.conditioning != Timestep(table.entries):
        raise UserError(
            f"export to diffusers needs conditioning timestep with entries {table.entries}, "
            f"this run has {dump(recipe.conditioning, named=True)}"
        )
    if recipe.predicts not in _PREDICTS:
        raise UserError(
            "export to diffusers needs predicts noise, image or velocity, "
            f"this run has {dump(recipe.predicts, named=True)}"
        )
    if not isinstance(recipe.grid, Spaced) or recipe.grid.entries != table.entries:
        raise UserError(
            f"export to diffusers needs --grid spaced --grid.entries {table.entries}, "
            f"this run has {dump(recipe.grid, named=True)}"
        )
    if recipe.sampler != DDIM():
        raise UserError(
            "export to diffusers needs sampler ddim with eta 0, "
            f"this run has {dump(recipe.sampler, named=True)}"
        )
    return table, recipe.grid


def read_configs(network: Mapping[str, Any], noise: Mapping[str, Any]) -> tuple[Recipe, int]:
    """Return the recipe `ddpm` with the options from two files of diffusers, and the number of channels.

    Args:
        network: the content of config.json.
        noise: the content of scheduler_config.json.

    Raises:
        UserError: if the files do not describe a DDPM.
    """
    _same(network, {"_class_name": "UNet2DModel"}, "config.json")
    _back(_SCHEDULERS, noise.get("_class_name", "DDIMScheduler"), "_class_name in scheduler_config.json")
    net: dict[str, Any] = {**_CHOSEN, **network}
    table: dict[str, Any] = {**_NOISE, **noise}
    _check_blocks(network, net)
    _same(noise, {name: _NOISE[name] for name in _NEVER}, "scheduler_config.json")
    if table["clip_sample"]:
        _same(noise, {"clip_sample_range": _NOISE["clip_sample_range"]}, "scheduler_config.json")
    sides = _find_sides(net.get("sample_size"))
    _check_numbers(net | table)
    tree = dump(ddpm())
    entries = table["num_train_timesteps"]
    tree["data"]["size"] = sides
    tree["net"] = _net_fields(net)
    tree["schedule"] |= {
        "entries": entries,
        "first": table["beta_start"],
        "last": table["beta_end"],
        "kind": _back(_BETAS, table["beta_schedule"], "beta_schedule"),
    }
    if tree["schedule"]["kind"] == "beta_table":
        tree["schedule"]["betas"] = "quad"
    tree["predicts"] = dump(_back(_PREDICTS, table["prediction_type"], "prediction_type"), named=True)
    tree["conditioning"]["entries"] = tree["objective"]["times"]["entries"] = entries
    spacing = _back(_SPACINGS, table["timestep_spacing"], "timestep_spacing")
    tree["grid"] |= {"entries": entries, "spacing": spacing}
    if noise.get("_class_name") == "DDPMScheduler":
        variance = noise.get("variance_type", "fixed_small")
        # fixed_small_log is the same variance as fixed_small, computed through its logarithm.
        variance = "fixed_small" if variance == "fixed_small_log" else variance
        tree["sampler"] = dump(_back(_VARIANCES, variance, "variance_type"), named=True)
    tree["clip"] = _back(_CLIPS, table["clip_sample"], "clip_sample")
    return load_recipe(tree), net["in_channels"]


def head_config(kind: str) -> dict[str, Any]:
    """Return the first entries of a file of diffusers: the class `kind` and the version."""
    return {"_class_name": kind, "_diffusers_version": VERSION}


def _check_blocks(network: Mapping[str, Any], net: Mapping[str, Any]) -> None:
    """Check channels and blocks; `network` is config.json, and `net` the same with defaults filled in."""
    for name, kind in {"block_out_channels": list, "down_block_types": list, "in_channels": int}.items():
        if not isinstance(net.get(name), kind) or not net[name]:
            raise UserError(f"config.json does not describe a UNet2DModel: its {name} is {net.get(name)}")
    widths, down, channels = net["block_out_channels"], net["down_block_types"], net["in_channels"]
    if not all(type(width) is int and width > 0 for width in widths):
        raise UserError(f"config.json needs block_out_channels that are whole numbers above 0, got {widths}")
    if type(channels) is not int or channels not in (1, 3, 4):
        raise UserError(f"config.json needs in_channels 1, 3 or 4, as images have, got {channels}")
    up = [str(kind).replace("Down", "Up") for kind in reversed(down)]
    _same(network, {**_NETWORK, "out_channels": channels, "up_block_types": up}, "config.json")
    known = all(kind in ("DownBlock2D", "AttnDownBlock2D") for kind in down)
    if not known or any(width % widths[0] for width in widths):
        raise UserError(
            "config.json can be imported with DownBlock2D and AttnDownBlock2D, and block_out_channels that "
            f"are multiples of the first, got {down} and {widths}"
        )


def _find_sides(size: Any) -> list[int]:  # noqa: ANN401 (JSON)
    """Return [height, width] from the sample_size of a config.json."""
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"config.json needs a sample_size of one or two whole numbers above 0, got {size}")
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
        "embedding": _back(_EMBEDDINGS, (net["freq_shift"], net["flip_sin_to_cos"]), "freq_shift"),
        "resample": _back(_PADDINGS, net["downsample_padding"], "downsample_padding"),
    }


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Check the ranges of numbers from diffusers; attention_head_dim None means one head."""
    for name in _WHOLE:
        value = given[name]
        if not (type(value) is int and value > 0) and (name, value) != ("attention_head_dim", None):
            raise UserError(f"{name} must be a whole number above 0 to be imported, got {value}")
    for name in _FRACTIONS:
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
            raise UserError(f"{file} has {name} {given[name]}, where only {value} can be imported")


def _back(table: Mapping[Any, Any], value: Any, name: str) -> Any:  # noqa: ANN401  (a row of any table)
    """Return the key of `table` with this value; raise UserError about `name` if there is none."""
    for ours, theirs in table.items():
        if theirs == value:
            return ours
    raise UserError(
        f"{name} must be one of {', '.join(map(str, table.values()))} to be imported, got {value}"
    )
