"""Pipelines of diffusers: DDPM's U-Net in the folder of a `DDIMPipeline` or `DDPMPipeline`, both ways.

A recipe becomes the options of `UNet2DModel` and of a scheduler, and back. An import is accepted if its
options survive this round trip. The package diffusers is an optional extra.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddim.diffusion.grids import Spaced, Uniform
from ddim.diffusion.loss import Objective
from ddim.diffusion.parameterisation import PredictsImage, PredictsNoise, PredictsVelocity, Timestep
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM
from ddim.diffusion.schedules import BetaTable, Cosine, Linear, Schedule
from ddim.diffusion.times import TableTimes
from ddim.errors import UserError
from ddim.exchange.extras import import_extra
from ddim.files import read_json, write_atomic, write_sealed
from ddim.machine.runtime import choose_runtime
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.ema import select_averaged
from ddim.recipe.codec import dump, kind_name, override, write_recipe
from ddim.recipe.model import build_on_meta
from ddim.recipe.named import ddpm
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs import checkpoint
from ddim.runs.folder import CHECKPOINTS, RUN, make_run_folder
from ddim.runs.state import Plan, RunState
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.record import list_versions

_CLASSES = "class_embedding.weight"
"""The name of the weights of the class embedding, here and in diffusers."""

_BETAS = {"linear": "linear", "quad": "scaled_linear", "cosine": "squaredcos_cap_v2"}
"""Our tables of betas and their names in diffusers; other tables are stored as a list of betas."""
_PREDICTS: dict[Any, str] = {
    PredictsNoise(): "epsilon",
    PredictsImage(): "sample",
    PredictsVelocity(): "v_prediction",
}
_VARIANCES = {
    "fixed_small": DDPM("small"),
    "fixed_large": DDPM("large"),
    "learned_range": DDPM("learned"),
}
_SAME = {"blocks": "layers_per_block", "groups": "norm_num_groups", "eps": "norm_eps", "dropout": "dropout"}
"""Fields of our network and options of diffusers that have equal values."""
_EMBEDDINGS = {"sin_cos": (1, False), "cos_sin": (0, True)}
_PADDINGS = {"same": 0, "strided": 1}

_CHECKED_ELSEWHERE = ("num_class_embeds", "trained_betas", "beta_schedule", "beta_start", "beta_end")
"""Options that are compared as weights or as betas, not by value."""

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
"""Replacements that turn our names of weights into the names of diffusers, applied in this order."""


class DiffusersExport(NamedTuple):
    """The result of an export.

    Attributes:
        kind: the class of the pipeline.
        notes: sentences about what diffusers cannot hold.
        arguments: arguments of the pipeline's call that the notes name.
    """

    kind: str
    notes: tuple[str, ...]
    arguments: dict[str, Any]


def export_to_diffusers(pipeline: Pipeline, folder: str | Path) -> DiffusersExport:
    """Write a model as a folder from which a pipeline of diffusers samples the same images.

    The pipeline is a `DDPMPipeline` if the sampler is DDPM, and otherwise a `DDIMPipeline`. If diffusers
    cannot hold the grid or the sampler of the model, the notes of the result say so. On a grid with trailing
    spacing, the images are the same only if the number of steps divides the number of entries of the
    schedule. Otherwise diffusers steps to noise levels outside its own grid.

    Args:
        pipeline: a model that diffusers can hold, see `find_lacking`.
        folder: the folder.

    Raises:
        UserError: if diffusers is not installed.
    """
    library, recipe = import_extra("diffusers", "diffusers"), pipeline.recipe
    network, noise = _describe_network(recipe, pipeline.model.shape.channels), _describe_noise(recipe)
    with torch.device("meta"):
        unet = library.UNet2DModel.from_config(network)
    unet.load_state_dict(convert_to_diffusers(_complete_weights(pipeline)), assign=True)
    scheduler = getattr(library, noise["_class_name"])
    kind = noise["_class_name"].replace("Scheduler", "Pipeline")
    getattr(library, kind)(unet, scheduler.from_config(noise)).save_pretrained(folder)
    arguments = _find_arguments(recipe)
    return DiffusersExport(kind, tuple(_note_losses(recipe, arguments)), arguments)


def find_lacking(pipeline: Pipeline) -> str | None:
    """Return the field of the recipe that diffusers cannot hold, such as "net.augment"; None if it can."""
    recipe, net, channels = pipeline.recipe, pipeline.recipe.net, pipeline.model.shape.channels
    if not isinstance(net, DDPMUNetSpec):
        return "net"
    level = recipe.schedule(torch.linspace(0.01, 1, 100, dtype=torch.float64))
    heads = {width // net.heads for width, on in zip(net.widths, net.attention, strict=True) if on}
    lacking = {
        "pixels": pipeline.pixels != Pixels.fixed(0.5, 0.5, channels),
        "conditioning": not isinstance(recipe.conditioning, Timestep) or recipe.conditioning.scale != 1,
        "sampled_on": recipe.sampled_on is not None,
        "predicts": recipe.predicts not in _PREDICTS,
        "schedule": (level.alpha**2 + level.sigma**2 - 1).abs().max() > 1e-9,
        "data.size": any(side % net.multiple for side in recipe.data.size),
        # diffusers stores the channels of a head, and they differ between the stages.
        "net.heads": not net.head and net.heads > 1 and heads | {_find_head(net)} != {_find_head(net)},
    }
    back = _read_network(_describe_network(recipe, channels))
    kept = replace(net, heads=1, head=_find_head(net), outputs=back.outputs, classes=back.classes)
    lacking |= {f"net.{f.name}": getattr(kept, f.name) != getattr(back, f.name) for f in fields(net)}
    return next((name for name, lacks in lacking.items() if lacks), None)


def import_model(model: str | Path, out: str | Path | None = None) -> Path:
    """Convert a model of diffusers to a run.

    The model is a folder of a DDIMPipeline or DDPMPipeline with the U-Net of DDPM. The run can be sampled,
    evaluated, exported and trained further; it has no training images. Its sampler is DDIM or DDPM, like the
    scheduler of the pipeline. import.json in the run names the pipeline folder and the versions of packages.

    Samples are those of the pipeline. They differ if a grid has trailing spacing and its number of steps does
    not divide the number of timesteps, and for the variance "fixed_large" with fewer steps than timesteps.

    Args:
        model: the pipeline folder.
        out: the run folder; by default a new one, runs/MODEL-ddpm-N.

    Returns:
        The run folder.

    Raises:
        UserError: if diffusers is not installed, the model is not such a pipeline, its weights are damaged or
            unsafe, or the run folder is not empty.

    Example:
        >>> run = ddim.import_model("ddpm-cifar10-32")
        >>> images = ddim.sample(run, n=16)

    Commands:
        ddim import ddpm-cifar10-32
    """
    source = Path(model)
    recipe, channels, weights = _read_pipeline(source)
    if (rows := weights.get(_CLASSES)) is not None:
        # As `export_to_diffusers` writes it, the last row can mean no class.
        none = len(rows) > 1 and not rows[-1].any()
        weights[_CLASSES] = rows[: len(rows) - none]
        # Without such a row, the network was trained with a class for every image.
        classes = {"net.classes": len(rows) - none}
        recipe = override(recipe, classes if none else classes | {"data.unlabelled": 0.0})
    with torch.random.fork_rng(devices=[]):
        network = build_model(recipe, channels)
    network.net.load_state_dict(weights)
    runtime = choose_runtime(precision="fp32", compiling=False, size=recipe.data.size)
    run = make_run_folder(None if out is None else Path(out), str(source), recipe.name)
    write_sealed(run / "import.json", {"folder": str(source.resolve()), "versions": list_versions()})
    # With this file, lists, reports and the page find the run like a trained one.
    count = sum(weight.numel() for weight in network.parameters())
    write_sealed(run / RUN, {"recipe": dump(recipe), "imported": True, "parameters": count})
    write_atomic(run / "recipe.yaml", write_recipe(recipe).encode())
    names = tuple(map(str, range(recipe.net.classes)))
    pixels = Pixels.fixed(0.5, 0.5, channels)
    state = RunState(0, pixels, channels, names, runtime, plan=Plan(0))
    tensors = {"model": network.state_dict(), "ema/default": select_averaged(network)}
    documents = {"state": state.to_json(), "recipe": dump(recipe)}
    checkpoint.save(run / CHECKPOINTS, 0, tensors, documents)
    return run


def _read_pipeline(folder: Path) -> tuple[Recipe, int, dict[str, Tensor]]:
    """Return the recipe of a pipeline folder of diffusers, the number of channels, and the weights.

    The recipe is `ddpm` with the options in the folder. The weights have the names of our network. No code in
    the folder is run.

    Raises:
        UserError: if diffusers is not installed, the recipe does not give the options of the pipeline again,
            or the weights cannot be read or do not fit.
    """
    # Older pipelines have all files in one folder.
    unet, scheduler = (path if (path := folder / name).is_dir() else folder for name in ("unet", "scheduler"))
    options = read_json(unet / "config.json"), read_json(scheduler / "scheduler_config.json")
    recipe, channels = _read_recipe(*options)
    state = build_on_meta(recipe, channels, folder).state_dict()
    try:
        # Building a network draws initial weights, which must not change the caller's random state.
        with torch.random.fork_rng(devices=[]):
            network, faults = import_extra("diffusers", "diffusers").UNet2DModel.from_pretrained(
                unet,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
                use_safetensors=any(unet.glob("*.safetensors")),
            )
    # A damaged or hostile file can raise anything.
    except Exception as error:
        raise UserError(f"the weights in {unet} are missing or damaged, or more than tensors") from error
    if names := [str(name) for kind in faults.values() for name in kind]:
        raise UserError(f"the weights in {unet} do not fit config.json: {min(names)}")
    theirs, ours = network.float().state_dict(), {}
    for name, like in state.items():
        parts = [theirs[part] for part in _rename(name)]
        ours[name] = torch.cat(parts).reshape(like.shape)
    return recipe, channels, ours


# The network


def convert_to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a `DDPMUNet` with the names and shapes of a `UNet2DModel`."""
    theirs = {}
    for name, value in state.items():
        names = _rename(name)
        # Attention in diffusers has linear layers; our attention has 1x1 convolutions.
        flat = value.flatten(1) if "attentions" in names[0] and value.ndim > 1 else value
        parts = [part.contiguous().clone() for part in flat.chunk(len(names))]
        theirs |= dict(zip(names, parts, strict=True))
    return theirs


def _rename(name: str) -> tuple[str, ...]:
    """Return the names in diffusers of one of our weights: three names for a weight "qkv", else one name."""
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    parts = ("to_q", "to_k", "to_v") if "qkv" in name else ("qkv",)
    return tuple(name.replace("qkv", part) for part in parts)


def _complete_weights(pipeline: Pipeline) -> dict[str, Tensor]:
    """Return the weights of the network with an embedding row for "no class", if it was trained so.

    A predicted variance that the sampler does not use is left out.
    """
    state, recipe = dict(pipeline.model.net.state_dict()), pipeline.recipe
    for name in ("out_conv.weight", "out_conv.bias"):
        state[name] = state[name][: _count_outputs(recipe) * pipeline.model.shape.channels]
    if _CLASSES in state and recipe.data.unconditional:
        # Here, images without a class get a vector of zeros.
        state[_CLASSES] = torch.cat([state[_CLASSES], torch.zeros_like(state[_CLASSES][:1])])
    return state


def _count_outputs(recipe: Recipe) -> int:
    """Return the output channels for each channel of x; only one scheduler accepts a predicted variance."""
    return 2 if recipe.sampler == DDPM("learned") else 1


def _describe_network(recipe: Recipe, channels: int) -> dict[str, Any]:
    """Return the options of `UNet2DModel` for the network of a recipe."""
    net: Any = recipe.net
    down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in net.attention]
    shift, flip = _EMBEDDINGS.get(net.embedding, (None, None))
    return {
        "sample_size": [*recipe.data.size],
        "in_channels": channels,
        "out_channels": _count_outputs(recipe) * channels,
        "block_out_channels": [*net.widths],
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        **{theirs: getattr(net, ours) for ours, theirs in _SAME.items()},
        "attention_head_dim": _find_head(net),
        "freq_shift": shift,
        "flip_sin_to_cos": flip,
        "downsample_padding": _PADDINGS.get(net.resample),
        "resnet_time_scale_shift": "scale_shift" if net.scale_shift else "default",
        # With "scale_shift", the attention in the middle has a norm only if this is given.
        "attn_norm_num_groups": net.groups if net.scale_shift else None,
        # One more row for images without a class, if there were such images in training.
        "num_class_embeds": net.classes + recipe.data.unconditional if net.classes else None,
    }


def _find_head(net: DDPMUNetSpec) -> int | None:
    """Return the channels of each attention head, which diffusers stores; None for a single head."""
    return net.head if net.head or net.heads == 1 else net.widths[-1] // net.heads


def _read_network(options: Mapping[str, Any]) -> DDPMUNetSpec:
    """Return the network for options of `UNet2DModel`; it may lack some of them."""
    widths, embedding = options["block_out_channels"], (options["freq_shift"], options["flip_sin_to_cos"])
    return DDPMUNetSpec(
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        attention=tuple(kind == "AttnDownBlock2D" for kind in options["down_block_types"]),
        head=options["attention_head_dim"],
        embedding="cos_sin" if embedding == _EMBEDDINGS["cos_sin"] else "sin_cos",
        scale_shift=options["resnet_time_scale_shift"] == "scale_shift",
        classes=options["num_class_embeds"] or 0,
        outputs=2 if options["out_channels"] == 2 * options["in_channels"] else 1,
        resample="strided" if options["downsample_padding"] == 1 else "same",
        **{ours: options[theirs] for ours, theirs in _SAME.items()},
    )


# The schedule, the grid and the sampler


def _describe_noise(recipe: Recipe) -> dict[str, Any]:
    """Return the class of the scheduler and its options for the schedule, grid and sampler of a recipe."""
    variance = next((name for name, sampler in _VARIANCES.items() if sampler == recipe.sampler), None)
    conditioning: Any = recipe.conditioning
    table, entries = recipe.schedule, conditioning.entries
    options = {
        "_class_name": "DDPMScheduler" if variance else "DDIMScheduler",
        "num_train_timesteps": entries,
        "prediction_type": _PREDICTS.get(recipe.predicts),
        "timestep_spacing": _find_spacing(recipe) or "trailing",
        "clip_sample": bool(recipe.clip),
    } | ({"variance_type": variance} if variance else {})
    name = isinstance(table, Linear) and _BETAS.get(getattr(table, "betas", "linear"))
    if name and table == replace(table, entries=entries, clip="none", read="log_snr"):
        return options | {"beta_schedule": name, "beta_start": table.first, "beta_end": table.last}
    return options | {"trained_betas": _list_betas(table, entries).tolist()}


def _find_spacing(recipe: Recipe) -> str | None:
    """Return the spacing in diffusers that gives the timesteps of the recipe's grid; None if none does."""
    conditioning: Any = recipe.conditioning
    if isinstance(recipe.grid, Spaced) and recipe.grid.entries == conditioning.entries:
        return recipe.grid.spacing
    # If the number of steps divides the number of entries, these are the same times.
    return "trailing" if recipe.grid == Uniform() else None


def _find_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return what the scheduler cannot hold, as arguments of the pipeline's call."""
    eta = {"eta": recipe.sampler.eta} if isinstance(recipe.sampler, DDIM) and recipe.sampler.eta else {}
    clips = recipe.clip is True and recipe.sampler not in _VARIANCES.values()
    return eta | ({"use_clipped_model_output": True} if clips else {})


def _note_losses(recipe: Recipe, arguments: Mapping[str, Any]) -> list[str]:
    """Return sentences about what a pipeline of diffusers cannot hold."""
    notes = [f"give {n}={v} to the pipeline, whose scheduler cannot hold it" for n, v in arguments.items()]
    if recipe.net.outputs > _count_outputs(recipe):
        notes.append("the predicted variance is left out, because only DDPM with learned variance uses it")
    if recipe.net.classes:
        none = f"label {recipe.net.classes}" if recipe.data.unconditional else "no label"
        notes.append(f"its pipelines pass no class: use the loop of the card, in which {none} means no class")
    if not isinstance(recipe.sampler, DDIM) and recipe.sampler not in _VARIANCES.values():
        notes.append(f"diffusers samples with DDIM, and not with {kind_name(recipe.sampler)}")
    if _find_spacing(recipe) is None:
        notes.append(
            f"diffusers samples at evenly spaced timesteps, not at those of {kind_name(recipe.grid)}"
        )
    return notes


def _read_recipe(network: Any, noise: Any) -> tuple[Recipe, int]:  # noqa: ANN401 (JSON)
    """Return the recipe `ddpm` with the options from two files of diffusers, and the number of channels.

    `net.classes` is the number of rows of the class embedding.

    Raises:
        UserError: if the files do not describe a DDPM: the recipe must give their options again.
    """
    library = import_extra("diffusers", "diffusers")
    names = [str(isinstance(part, dict) and part.get("_class_name")) for part in (network, noise)]
    if names[0] != "UNet2DModel" or names[1] not in ("DDIMScheduler", "DDPMScheduler"):
        wanted = "a UNet2DModel with DDIMScheduler or DDPMScheduler"
        raise UserError(f"the pipeline must have {wanted}, got {names[0]:.100} with {names[1]:.100}")
    kinds = [getattr(library, name) for name in names]
    try:
        network, noise = _fill_in(kinds[0], network), _fill_in(kinds[1], noise)
        if not isinstance(network["sample_size"], list):
            network["sample_size"] = [network["sample_size"]] * 2
        if noise.get("variance_type") == "fixed_small_log":
            noise["variance_type"] = "fixed_small"  # the same, computed through its logarithm
        recipe, channels = _make_recipe(kinds[1], network, noise), network["in_channels"]
        again = _describe_network(recipe, channels), _describe_noise(recipe)
    except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"these options of diffusers do not describe a DDPM: {error!s:.300}") from None
    for kind, options, back in zip(kinds, (network, noise), again, strict=True):
        for name, value in _fill_in(kind, back).items():
            if name not in _CHECKED_ELSEWHERE and options[name] != value:
                given = f"{options[name]!r:.100}"
                raise UserError(f"{kind.__name__} needs {name} {value!r:.100} to be imported, got {given}")
    return recipe, channels


def _fill_in(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a class of diffusers: those of a file, and the defaults of missing ones."""
    _, *parameters = inspect.signature(kind.__init__).parameters.values()
    options = {each.name: given.get(each.name, each.default) for each in parameters}
    return json.loads(json.dumps(options))


def _make_recipe(scheduler: type, network: Mapping[str, Any], noise: Mapping[str, Any]) -> Recipe:
    usual, entries = ddpm(), noise["num_train_timesteps"]
    size, labels = tuple(network["sample_size"]), network["num_class_embeds"] is not None
    return replace(
        usual,
        data=replace(usual.data, size=size, labels=labels),
        net=_read_network(network),
        schedule=_read_schedule(scheduler, noise),
        predicts={name: part for part, name in _PREDICTS.items()}[noise["prediction_type"]],
        conditioning=Timestep(entries),
        objective=Objective("noise", "mse", TableTimes(entries)),
        grid=Spaced(entries, noise["timestep_spacing"]),
        sampler=_VARIANCES[noise["variance_type"]] if "variance_type" in noise else DDIM(),
        clip="x0" if noise["clip_sample"] else False,
    )


def _read_schedule(scheduler: type, noise: Mapping[str, Any]) -> Schedule:
    """Return the schedule for options of a scheduler.

    Raises:
        UserError: if it is a list of betas that no schedule gives to within 0.2 %.
    """
    entries, betas = noise["num_train_timesteps"], noise["trained_betas"]
    first, last = noise["beta_start"], noise["beta_end"]
    if betas:
        first, last = _round(betas[0]), _round(betas[-1])
    tables = [Linear(entries, first, last)]
    tables += [BetaTable(entries, first, last, betas=form) for form in ("quad", "cosine", "signal_sigmoid")]
    theirs = torch.as_tensor(betas or scheduler(**noise).betas, dtype=torch.float64)
    # The angle of a cosine schedule is linear in t.
    angles = (1 - theirs).cumprod(0).sqrt().acos()
    start = angles[0] - (angles[-1] - angles[0]) / (entries - 1)
    cosine = Cosine(_round(angles[-1].cos().item()), _round(start.cos().item()))
    for schedule in (*tables, cosine):
        if torch.allclose(_list_betas(schedule, entries), theirs, rtol=2e-3, atol=1e-7):
            return schedule
    raise UserError("no schedule fits trained_betas: they are not linear, quadratic, cosine or sigmoid")


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _list_betas(schedule: Schedule, entries: int) -> Tensor:
    """Return the fraction of its power that the signal loses at each entry (entries,), float64."""
    powers = schedule(torch.arange(1, entries + 1, dtype=torch.float64) / entries).alpha ** 2
    before = torch.cat([torch.ones(1, dtype=torch.float64), powers[:-1]])
    return (1 - powers / before).clamp(min=0)
