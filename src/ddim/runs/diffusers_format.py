"""Models of diffusers, in and out: DDPM's U-Net in a `DDIMPipeline` folder.

What is theirs is written here as tables: how they name weights, and how their JSON says what a network and
its noise are. Weights travel as safetensors, nothing is unpickled, and diffusers itself is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.conditioning import Timestep
from ddim.diffusion.grids import Spaced
from ddim.diffusion.parameterisation import PredictsImage, PredictsNoise, PredictsVelocity
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM
from ddim.diffusion.schedules import BetaTable, Linear
from ddim.errors import UserError
from ddim.files import make_folder, read_json, write_atomic, write_json
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.ema import averaged_tensors
from ddim.nn.runtime import choose_runtime
from ddim.runs import checkpoint
from ddim.runs.codec import dump, kind_name, load_recipe, write_recipe
from ddim.runs.folder import make_run_folder
from ddim.runs.named_recipes import ddpm
from ddim.runs.pipeline import Pipeline
from ddim.runs.provenance import list_versions
from ddim.runs.recipe import Recipe, build
from ddim.runs.state import RunState

VERSION = "0.42.1"
"""The version of diffusers whose names and defaults these are."""

WEIGHTS = "diffusion_pytorch_model.safetensors"

_NAMES = (
    (r"^in_conv\.", "conv_in."),
    (r"^time_mlp\.0\.", "time_embedding.linear_1."),
    (r"^time_mlp\.2\.", "time_embedding.linear_2."),
    (r"^out_norm\.", "conv_norm_out."),
    (r"^out_conv\.", "conv_out."),
    (r"^downsample\.(\d+)\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"^upsample\.(\d+)\.", r"up_blocks.\1.upsamplers.0.conv."),
    (r"^middle\.(\d+)\.", r"mid_block.\1."),
    (r"^(down|up)\.(\d+)\.(\d+)\.", r"\1_blocks.\2.\3."),
    (r"\.(\d+)\.block\.", r".resnets.\1."),
    (r"\.(\d+)\.attention\.", r".attentions.\1."),
    (r"\.time_proj\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.proj\.", r"\1.to_out.0."),
)
"""Our names to theirs, one rule after the other."""

_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""How they named attention before version 0.17, to how they do."""

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
"""What DDPM's network never is other than, by their name; these are their defaults."""

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
"""What we have an option for, and their default, which a file may leave out."""

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
"""What their schedulers say of the noise, and their default."""

_NEVER = ("set_alpha_to_one", "steps_offset", "trained_betas", "rescale_betas_zero_snr", "thresholding")
"""Of these, what can only be imported as it is here."""

_WHOLE = ("layers_per_block", "norm_num_groups", "attention_head_dim", "num_train_timesteps")
_FRACTIONS = ("norm_eps", "dropout", "beta_start", "beta_end")

_SCHEDULERS = {DDIM: "DDIMScheduler", DDPM: "DDPMScheduler"}
_BETAS = {"linear": "linear", "beta_table": "scaled_linear"}
"""Kinds of schedule, the latter with betas quad, and their words for them."""
_PREDICTS = {PredictsNoise(): "epsilon", PredictsImage(): "sample", PredictsVelocity(): "v_prediction"}
_EMBEDDINGS = {"sin_cos": (1, False), "cos_sin": (0, True)}
_PADDINGS = {"same": 0, "strided": 1}
_CLIPS = {False: False, "x0": True}
_VARIANCES = {DDPM("small"): "fixed_small", DDPM("large"): "fixed_large"}
_SPACINGS = {"leading": "leading", "trailing": "trailing"}


def export(trained: Pipeline, folder: Path) -> None:
    """Write a model as a `DDIMPipeline` folder of diffusers, new or empty, that samples the same images.

    On a trailing grid in numbers of steps that divide its entries: in others diffusers steps to levels that
    are not those of its own grid. UserError, in one sentence, for what diffusers has no words for: other
    pixels, sizes, schedules, conditionings and networks than DDPM's, other grids and samplers than DDIM's.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and not an empty folder; name a new one to export to")
    network = _network_config(trained)
    noise = _noise_config(trained.recipe)
    weights = to_diffusers(trained.model.net.state_dict())
    for part in ("unet", "scheduler"):
        make_folder(folder / part)
    write_atomic(folder / "unet" / WEIGHTS, _packed(weights))
    write_json(folder / "unet" / "config.json", network)
    write_json(folder / "scheduler" / "scheduler_config.json", noise)
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    # Last: with it the folder is a pipeline.
    write_json(folder / "model_index.json", _headed("DDIMPipeline") | index)


def import_(folder: Path, out: Path | None = None) -> Path:
    """Make a run folder, `out` or one under runs/, of a pipeline folder of diffusers, and return it.

    DDIM's or DDPM's pipeline. The run has the recipe `ddpm` but for what their files say, no images, and is
    sampled in float32, by DDIM or DDPM as their scheduler does. (Not on a trailing grid in numbers of steps
    that do not divide its entries, see `export`; nor, trailing, of variance fixed_large in fewer steps than
    entries, where theirs leaves noise in the pictures.) import.json says where it came from. UserError, in
    one sentence, for what is no DDPM.
    """
    network = _read(folder, "unet", "config.json")
    noise = _read(folder, "scheduler", "scheduler_config.json")
    recipe, channels = _recipe(network, noise)
    with torch.random.fork_rng(devices=[]):
        model = build(recipe, channels)
    weights = _unpacked(_part(folder, "unet", WEIGHTS))
    model.net.load_state_dict(from_diffusers(weights, model.net.state_dict()))
    pixels, runtime = Pixels.fixed(0.5, 0.5, channels), choose_runtime(precision="fp32", compiling=False)
    run = make_run_folder(out, str(folder), recipe.name)
    facts = {"folder": str(folder.resolve()), "versions": list_versions()}
    write_json(run / "import.json", facts)
    (run / "recipe.yaml").write_text(write_recipe(recipe), encoding="utf-8")
    state = RunState(0, pixels, channels, (), runtime)
    checkpoint.save(
        run / "checkpoints",
        0,
        {"model": model.state_dict(), "ema/default": averaged_tensors(model)},
        {"state": state.to_json(), "recipe": dump(recipe)},
    )
    return run


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `DDPMUNet` by the names, and in the shapes, of a `UNet2DModel`."""
    theirs = {}
    for name, value in state.items():
        names = _theirs(name)
        # Their attention is of linear layers, where ours is of convolutions of one pixel.
        flat = value.flatten(1) if "attentions" in names[0] and value.ndim > 1 else value
        theirs |= dict(zip(names, flat.chunk(len(names)), strict=True))
    return theirs


def from_diffusers(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `UNet2DModel` by the names, and in the shapes, of the `DDPMUNet` that has this state.

    UserError names the first that is missing, too many or of another size.
    """
    old = re.compile(rf"\b({'|'.join(_OLD)})\b")
    left = {old.sub(lambda found: _OLD[found[0]], name): value for name, value in weights.items()}
    ours = {}
    for name, like in state.items():
        names = _theirs(name)
        parts = [left.pop(part) for part in names if part in left]
        if len(parts) < len(names) or sum(part.numel() for part in parts) != like.numel():
            raise UserError(
                f"the weights do not fit their config.json: {names[0]} is missing or of another size"
            )
        ours[name] = torch.cat(parts).reshape(like.shape).to(like.dtype)
    if left:
        raise UserError(f"the weights do not fit their config.json, which has no place for {min(left)}")
    return ours


def _theirs(name: str) -> tuple[str, ...]:
    """Their name of one of our weights; of queries, keys and values, which we keep in one, their three."""
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return tuple(name.replace("qkv", part) for part in ("to_q", "to_k", "to_v")) if "qkv" in name else (name,)


def _network_config(trained: Pipeline) -> dict[str, Any]:
    """Their config.json of our network; UserError where it is not DDPM's."""
    recipe, net, channels = trained.recipe, trained.recipe.net, trained.model.shape.channels
    if not isinstance(net, DDPMUNetSpec):
        raise UserError("export to diffusers needs net ddpm_unet, which this run has not")
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
            f"export to diffusers needs data.size in multiples of {net.multiple} with so many levels, "
            f"this run has {height}x{width}"
        )
    half = (0.5,) * channels
    if trained.pixels != Pixels(half, half):
        raise UserError(
            "export to diffusers needs pixels fixed with mean 0.5 and std 0.5, "
            f"this run has {trained.pixels.mean} and {trained.pixels.std}"
        )
    shift, flip = _EMBEDDINGS[net.embedding]
    down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in net.attention]
    return _headed("UNet2DModel") | {
        "sample_size": list(recipe.data.size),
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


def _noise_config(recipe: Recipe) -> dict[str, Any]:
    """Their scheduler_config.json of our schedule and grid; UserError where they have no such table."""
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
        raise UserError("export to diffusers needs sampled_on none, this run samples on another schedule")
    if recipe.clip not in _CLIPS:
        raise UserError(
            "export to diffusers needs clip no or x0, this run has yes, with which pictures would be others"
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
            f"export to diffusers needs grid spaced with entries {table.entries}, "
            f"this run has {dump(recipe.grid, named=True)}"
        )
    if recipe.sampler != DDIM():
        raise UserError(
            "export to diffusers needs sampler ddim with eta 0, "
            f"this run has {dump(recipe.sampler, named=True)}"
        )
    return (
        _headed("DDIMScheduler")
        | _NOISE
        | {
            "beta_start": table.first,
            "beta_end": table.last,
            "num_train_timesteps": table.entries,
            "beta_schedule": _BETAS[kind_name(table)],
            "prediction_type": _PREDICTS[recipe.predicts],
            "timestep_spacing": recipe.grid.spacing,
            "clip_sample": _CLIPS[recipe.clip],
        }
    )


def _recipe(network: Mapping[str, Any], noise: Mapping[str, Any]) -> tuple[Recipe, int]:
    """The recipe `ddpm` with what their two files say, and the channels of its images."""
    _same(network, {"_class_name": "UNet2DModel"}, "config.json")
    _back(_SCHEDULERS, noise.get("_class_name", "DDIMScheduler"), "_class_name in scheduler_config.json")
    net: dict[str, Any] = {**_CHOSEN, **network}
    table: dict[str, Any] = {**_NOISE, **noise}
    for name, kind in {"block_out_channels": list, "down_block_types": list, "in_channels": int}.items():
        if not isinstance(net.get(name), kind) or not net[name]:
            raise UserError(f"config.json is not that of a UNet2DModel: its {name} is {net.get(name)}")
    widths, down, channels = net["block_out_channels"], net["down_block_types"], net["in_channels"]
    if not all(type(width) is int and width > 0 for width in widths):
        raise UserError(f"config.json needs block_out_channels that are whole numbers above 0, got {widths}")
    if type(channels) is not int or channels not in (1, 3, 4):
        raise UserError(f"config.json needs in_channels 1, 3 or 4, as pictures have, got {channels}")
    up = [str(kind).replace("Down", "Up") for kind in reversed(down)]
    _same(network, {**_NETWORK, "out_channels": channels, "up_block_types": up}, "config.json")
    _same(noise, {name: _NOISE[name] for name in _NEVER}, "scheduler_config.json")
    if table["clip_sample"]:
        _same(noise, {"clip_sample_range": _NOISE["clip_sample_range"]}, "scheduler_config.json")
    known = all(kind in ("DownBlock2D", "AttnDownBlock2D") for kind in down)
    if not known or any(width % widths[0] for width in widths):
        raise UserError(
            "config.json can be imported with DownBlock2D and AttnDownBlock2D, and block_out_channels that "
            f"are multiples of the first, got {down} and {widths}"
        )
    size = net.get("sample_size")
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"config.json needs a sample_size of one or two whole numbers above 0, got {size}")
    _check_numbers(net | table)
    tree = dump(ddpm())
    entries = table["num_train_timesteps"]
    tree["data"]["size"] = sides
    tree["net"] = {
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
        # By its logarithm it is the same one.
        variance = "fixed_small" if variance == "fixed_small_log" else variance
        tree["sampler"] = dump(_back(_VARIANCES, variance, "variance_type"), named=True)
    tree["clip"] = _back(_CLIPS, table["clip_sample"], "clip_sample")
    return load_recipe(tree), channels


def _check_numbers(given: Mapping[str, Any]) -> None:
    """UserError, in their words, for what cannot be a number of theirs; no width of heads is one head."""
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
    """UserError where a file says something else than what is wanted; what it leaves out is so."""
    for name, value in wanted.items():
        if given.get(name, value) != value:
            raise UserError(f"{file} has {name} {given[name]}, where only {value} can be imported")


def _back(table: Mapping[Any, Any], value: Any, name: str) -> Any:  # noqa: ANN401  (a row of any table)
    """Our name of what they call `value`; UserError where we have none."""
    for ours, theirs in table.items():
        if theirs == value:
            return ours
    raise UserError(
        f"{name} must be one of {', '.join(map(str, table.values()))} to be imported, got {value}"
    )


def _headed(kind: str) -> dict[str, Any]:
    return {"_class_name": kind, "_diffusers_version": VERSION}


def _part(folder: Path, part: str, file: str) -> Path:
    """A file of a pipeline, in a folder of its own or, in older ones, beside the others; else UserError."""
    for path in (folder / part / file, folder / file):
        if path.is_file():
            return path
    raise UserError(f"{folder} holds no {part}/{file}, which a diffusers pipeline with safetensors has")


def _read(folder: Path, part: str, file: str) -> dict[str, Any]:
    found = read_json(_part(folder, part, file))
    if not isinstance(found, dict):
        raise UserError(f"{part}/{file} of {folder} is not a table")
    return found


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    # Without this word diffusers does not know whose tensors they are.
    return save(plain, metadata={"format": "pt"})


def _unpacked(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error
