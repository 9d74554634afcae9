"""Pipelines of diffusers: DDPM's U-Net in the folder of a `DDIMPipeline` or `DDPMPipeline`, both ways.

A recipe becomes the options of `UNet2DModel` and of a scheduler, and back. An import is accepted if its
options survive this round trip. The package diffusers is an optional extra.
"""

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Model
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, explain_errors
from ddim.files import read_json
from ddim.machine.runtime import choose_runtime
from ddim.nn.ema import select_averaged
from ddim.recipe import parts
from ddim.recipe.codec import dump, kind_name, override
from ddim.recipe.model import build_on_meta
from ddim.recipe.named import ddpm
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs.folder import parse_out
from ddim.runs.state import Plan, RunState
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.record import list_versions
from ddim.training.writer import create_run

_CLASSES = "class_embedding.weight"
"""The name of the weights of the class embedding, here and in diffusers."""

Choices = tuple[tuple[str, Any, Mapping[str, Any]], ...]
"""Fields of a recipe with one of their values, and the options that mean it in diffusers."""

_OF_NETWORK: Choices = (
    ("net.embedding", "sin_cos", {"freq_shift": 1, "flip_sin_to_cos": False}),
    ("net.embedding", "cos_sin", {"freq_shift": 0, "flip_sin_to_cos": True}),
    ("net.resample", "same", {"downsample_padding": 0}),
    ("net.resample", "strided", {"downsample_padding": 1}),
    ("net.scale_shift", False, {"resnet_time_scale_shift": "default"}),
    ("net.scale_shift", True, {"resnet_time_scale_shift": "scale_shift"}),
)
_OF_NOISE: Choices = (
    ("predicts", parts.PredictsNoise(), {"prediction_type": "epsilon"}),
    ("predicts", parts.PredictsImage(), {"prediction_type": "sample"}),
    ("predicts", parts.PredictsVelocity(), {"prediction_type": "v_prediction"}),
    ("sampler", parts.DDPM("small"), {"_class_name": "DDPMScheduler", "variance_type": "fixed_small"}),
    ("sampler", parts.DDPM("large"), {"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}),
    ("sampler", parts.DDPM("learned"), {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}),
)
_SAME = {
    "net.blocks": "layers_per_block",
    "net.groups": "norm_num_groups",
    "net.eps": "norm_eps",
    "net.dropout": "dropout",
}
"""Fields and options of diffusers that have equal values."""

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


def import_extra(package: str, extra: str) -> Any:  # noqa: ANN401 (a module)
    """Return a package of an optional extra.

    Raises:
        UserError: if it is not installed.
    """
    with explain_errors(f"{package} is not installed", f'pip install "ddim[{extra}]"', ImportError):
        return import_module(package)


def export_to_diffusers(pipeline: Pipeline, folder: str | Path) -> dict[str, Any]:
    """Write a model as a folder from which a pipeline of diffusers samples the same images.

    The pipeline is a `DDPMPipeline` if the sampler is DDPM, and otherwise a `DDIMPipeline`. If diffusers
    cannot hold the grid or the sampler of the model, the notes of the result say so. On a grid with trailing
    spacing, the images are the same only if the number of steps divides the number of entries of the
    schedule. Otherwise diffusers steps to noise levels outside its own grid.

    Args:
        pipeline: a model that diffusers can hold, see `find_lacking`.
        folder: the folder.

    Returns:
        "kind", the class of the pipeline; "notes", sentences about what diffusers cannot hold; "arguments",
        what the scheduler cannot hold, as arguments of the pipeline's call.

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
    return {"kind": kind, "notes": _note_losses(recipe), "arguments": _find_arguments(recipe)}


def find_lacking(pipeline: Pipeline) -> str | None:
    """Return the field of the recipe that diffusers cannot hold, such as "net.augment"; None if it can."""
    recipe, net, channels = pipeline.recipe, pipeline.recipe.net, pipeline.model.shape.channels
    if not isinstance(net, parts.DDPMUNetSpec):
        return "net"
    head = _find_head(net)
    heads = {width // net.heads for width, attends in zip(net.widths, net.attention, strict=True) if attends}
    # diffusers stores the channels of a head, and they differ between the stages.
    if head and not net.head and heads - {head}:
        return "net.heads"
    level = recipe.schedule(torch.linspace(0.01, 1, 100, dtype=torch.float64))
    lacking = {
        "pixels": pipeline.pixels != Pixels.fixed(0.5, 0.5, channels),
        "conditioning": not isinstance(recipe.conditioning, parts.Timestep) or recipe.conditioning.scale != 1,
        "sampled_on": recipe.sampled_on is not None,
        "predicts": not _list_options(recipe, _OF_NOISE[:3]),
        "schedule": (level.alpha**2 + level.sigma**2 - 1).abs().max() > 1e-9,
        "data.size": any(side % net.multiple for side in recipe.data.size),
    }
    back, usual = _read_network(_describe_network(recipe, channels)), dump(ddpm().net)
    for name, value in dump(net).items():
        # Heads were compared above; an export may have other outputs, and one class more.
        if name not in ("heads", "head", "outputs", "classes"):
            lacking[f"net.{name}"] = value != back.get(f"net.{name}", usual[name])
    return next((name for name, lacks in lacking.items() if lacks), None)


def import_model(model: str | Path, out: str | Path | None = None) -> Path:
    """Convert a model of diffusers to a run.

    The model is a folder of a DDIMPipeline or DDPMPipeline with the U-Net of DDPM. The run can be sampled,
    evaluated, exported and trained further; it has no training images. Its sampler is DDIM or DDPM, like the
    scheduler of the pipeline. run.json in the run names the pipeline folder and the versions of packages.

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
    recipe, network = _read_pipeline(source)
    channels, count = network.shape.channels, sum(weight.numel() for weight in network.parameters())
    runtime = choose_runtime(precision="fp32", compiling=False, size=recipe.data.size)
    origin = {"folder": str(source.resolve()), "versions": list_versions()}
    names = tuple(map(str, range(recipe.net.classes)))
    state = RunState(0, Pixels.fixed(0.5, 0.5, channels), channels, names, runtime, plan=Plan(0))
    tensors = {"model": network.state_dict(), "ema/default": select_averaged(network)}
    documents = {"state": state.to_json(), "recipe": dump(recipe)}
    held = str(source), recipe, tensors, documents
    # With its run.json, lists, reports and the page find the run like a trained one.
    return create_run(parse_out(out), *held, {"imported": origin, "parameters": count})


def _read_pipeline(folder: Path) -> tuple[Recipe, Model]:
    """Return the recipe of a pipeline folder of diffusers, and its network. No code in the folder is run.

    The recipe is `ddpm` with the options in the folder.

    Raises:
        UserError: if diffusers is not installed, the recipe does not give the options of the pipeline again,
            or the weights cannot be read or do not fit.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; download a pipeline of the Hub with `hf download`")
    unet, scheduler = folder / "unet", folder / "scheduler"
    if not unet.is_dir():  # an older pipeline
        unet = scheduler = folder
    options = read_json(unet / "config.json"), read_json(scheduler / "scheduler_config.json")
    recipe, channels = _read_recipe(*options)
    build_on_meta(recipe, channels, folder)  # refuses options that would fill the memory
    # Building a network draws initial weights, which must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        # A damaged or hostile file can raise anything.
        with explain_errors(f"the weights in {unet} are missing or damaged, or more than tensors"):
            network, faults = import_extra("diffusers", "diffusers").UNet2DModel.from_pretrained(
                unet,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
                use_safetensors=any(unet.glob("*.safetensors")),
            )
        if names := [str(name) for kind in faults.values() for name in kind]:
            raise UserError(f"the weights in {unet} do not fit config.json: {min(names)}")
        theirs = network.float().state_dict()
        if (rows := theirs.get(_CLASSES)) is not None:
            # As `export_to_diffusers` writes it, the last row can mean no class.
            none = len(rows) > 1 and not rows[-1].any()
            theirs[_CLASSES] = rows[: len(rows) - none]
            # Without such a row, the network was trained with a class for every image.
            free = {} if none else {"data.unlabelled": 0.0}
            recipe = override(recipe, {"net.classes": len(rows) - none, **free})
        model = build_model(recipe, channels)
    ours = {}
    for name, like in model.net.state_dict().items():
        ours[name] = torch.cat([theirs[part] for part in _rename(name)]).reshape(like.shape)
    model.net.load_state_dict(ours)
    return recipe, model


# The network


def convert_to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a `DDPMUNet` with the names and shapes of a `UNet2DModel`."""
    theirs = {}
    for name, value in state.items():
        names = _rename(name)
        # Attention in diffusers has linear layers; our attention has 1x1 convolutions.
        flat = value.flatten(1) if "attentions" in names[0] and value.ndim > 1 else value
        pieces = [piece.contiguous().clone() for piece in flat.chunk(len(names))]
        theirs |= dict(zip(names, pieces, strict=True))
    return theirs


def _rename(name: str) -> tuple[str, ...]:
    """Return the names in diffusers of one of our weights: three names for a weight "qkv", else one name."""
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    ends = ("to_q", "to_k", "to_v") if "qkv" in name else ("qkv",)
    return tuple(name.replace("qkv", end) for end in ends)


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
    return 2 if recipe.sampler == parts.DDPM("learned") else 1


def _list_options(recipe: Recipe, choices: Choices) -> dict[str, Any]:
    """Return the options of diffusers that mean the values of a recipe."""
    options: dict[str, Any] = {}
    for path, value, theirs in choices:
        if attrgetter(path)(recipe) == value:
            options |= theirs
    return options


def _list_fields(options: Mapping[str, Any], choices: Choices) -> dict[str, Any]:
    """Return the values of a recipe that options of diffusers mean, keyed by field path."""
    return {path: value for path, value, theirs in choices if theirs.items() <= options.items()}


def _describe_network(recipe: Recipe, channels: int) -> dict[str, Any]:
    """Return the options of `UNet2DModel` for the network of a recipe."""
    net: Any = recipe.net
    down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in net.attention]
    return {
        "sample_size": [*recipe.data.size],
        "in_channels": channels,
        "out_channels": _count_outputs(recipe) * channels,
        "block_out_channels": [*net.widths],
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "attention_head_dim": _find_head(net),
        # With "scale_shift", the attention in the middle has a norm only if this is given.
        "attn_norm_num_groups": net.groups if net.scale_shift else None,
        # One more row for images without a class, if there were such images in training.
        "num_class_embeds": net.classes + recipe.data.unconditional if net.classes else None,
        **{theirs: attrgetter(ours)(recipe) for ours, theirs in _SAME.items()},
        **_list_options(recipe, _OF_NETWORK),
    }


def _find_head(net: parts.DDPMUNetSpec) -> int | None:
    """Return the channels of each attention head, which diffusers stores; None for a single head."""
    return net.head if net.head or net.heads == 1 else net.widths[-1] // net.heads


def _read_network(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe for options of `UNet2DModel`; it may lack some of them.

    `net.classes` is the number of rows of the class embedding.
    """
    width = options["block_out_channels"][0]
    return {
        "data.size": options["sample_size"],
        "data.labels": options["num_class_embeds"] is not None,
        "net.width": width,
        "net.multipliers": [each // width for each in options["block_out_channels"]],
        "net.attention": [kind == "AttnDownBlock2D" for kind in options["down_block_types"]],
        "net.head": options["attention_head_dim"],
        "net.classes": options["num_class_embeds"] or 0,
        "net.outputs": 2 if options["out_channels"] == 2 * options["in_channels"] else 1,
        **{ours: options[theirs] for ours, theirs in _SAME.items()},
        **_list_fields(options, _OF_NETWORK),
    }


# The schedule, the grid and the sampler


def _describe_noise(recipe: Recipe) -> dict[str, Any]:
    """Return the class of the scheduler and its options for the schedule, grid and sampler of a recipe."""
    conditioning: Any = recipe.conditioning
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": conditioning.entries,
        "trained_betas": _list_betas(recipe.schedule, conditioning.entries).tolist(),
        "timestep_spacing": _find_spacing(recipe) or "trailing",
        "clip_sample": bool(recipe.clip),
        **_list_options(recipe, _OF_NOISE),
    }


def _find_spacing(recipe: Recipe) -> str | None:
    """Return the spacing in diffusers that gives the timesteps of the recipe's grid; None if none does."""
    conditioning: Any = recipe.conditioning
    if isinstance(recipe.grid, parts.Spaced) and recipe.grid.entries == conditioning.entries:
        return recipe.grid.spacing
    # If the number of steps divides the number of entries, these are the same times.
    return "trailing" if recipe.grid == parts.Uniform() else None


def _find_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return what the scheduler cannot hold, as arguments of the pipeline's call."""
    clips = recipe.clip is True and not isinstance(recipe.sampler, parts.DDPM)
    eta = recipe.sampler.eta if isinstance(recipe.sampler, parts.DDIM) else 0
    arguments = {"eta": eta, "use_clipped_model_output": clips}
    return {name: value for name, value in arguments.items() if value}


def _note_losses(recipe: Recipe) -> list[str]:
    """Return sentences about what a pipeline of diffusers cannot hold."""
    notes = []
    if recipe.net.classes:
        none = f"label {recipe.net.classes}" if recipe.data.unconditional else "no label"
        notes.append(f"its pipelines pass no class: use the loop of the card, in which {none} means no class")
    if not isinstance(recipe.sampler, parts.DDIM | parts.DDPM) or _find_spacing(recipe) is None:
        theirs = f"{kind_name(recipe.sampler)} at the times of grid {kind_name(recipe.grid)}"
        notes.append(f"diffusers samples with DDIM or DDPM at evenly spaced timesteps, and not with {theirs}")
    return notes


def _read_recipe(network: Any, noise: Any) -> tuple[Recipe, int]:  # noqa: ANN401 (JSON)
    """Return the recipe `ddpm` with the options from two files of diffusers, and the number of channels.

    Raises:
        UserError: if the files do not describe a DDPM: the recipe must give their options again.
    """
    library = import_extra("diffusers", "diffusers")
    try:
        classes = "UNet2DModel", "DDIMScheduler", "DDPMScheduler"
        known = {name: getattr(library, name) for name in classes}
        name = noise["_class_name"]
        kinds = known[network["_class_name"]], known[name]
        network, noise = _fill_in(kinds[0], network), _fill_in(kinds[1], noise)
        if not isinstance(network["sample_size"], list):
            network["sample_size"] = [network["sample_size"]] * 2
        betas = noise["trained_betas"] or kinds[1](**noise).betas
        recipe = override(ddpm(), _read_network(network) | _read_noise({"_class_name": name, **noise}))
        recipe = replace(recipe, schedule=_find_schedule(torch.as_tensor(betas, dtype=torch.float64)))
        again = _describe_network(recipe, network["in_channels"]), _describe_noise(recipe)
    except Exception as error:
        wanted = "a UNet2DModel of DDPM with DDIMScheduler or DDPMScheduler"
        raise UserError(f"the pipeline must have {wanted}; its options do not fit ({error!s:.300})") from None
    for kind, options, back in zip(kinds, (network, noise), again, strict=True):
        for name, value in _fill_in(kind, back).items():
            if name not in _CHECKED_ELSEWHERE and options[name] != value:
                given = f"{options[name]!r:.100}"
                raise UserError(f"{kind.__name__} needs {name} {value!r:.100} to be imported, got {given}")
    return recipe, network["in_channels"]


def _fill_in(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a class of diffusers: those of a file, and the defaults of missing ones."""
    _, *parameters = inspect.signature(kind.__init__).parameters.values()
    options = {each.name: given.get(each.name, each.default) for each in parameters}
    return json.loads(json.dumps(options))


def _read_noise(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe for the class of a scheduler and its options, all but the schedule."""
    entries = options["num_train_timesteps"]
    return {
        "sampler": parts.DDIM(),
        "conditioning.entries": entries,
        "objective.times.entries": entries,
        "grid": parts.Spaced(entries, options["timestep_spacing"]),
        "clip": "x0" if options["clip_sample"] else False,
        **_list_fields(options, _OF_NOISE),
    }


def _find_schedule(betas: Tensor) -> Schedule:
    """Return the schedule whose betas these are, to within 0.2 %.

    Raises:
        UserError: if there is none.
    """
    entries, first, last = len(betas), _round(betas[0].item()), _round(betas[-1].item())
    tables = [parts.Linear(entries, first, last)]
    tables += [
        parts.BetaTable(entries, first, last, betas=form) for form in ("quad", "cosine", "signal_sigmoid")
    ]
    # The angle of a cosine schedule is linear in t.
    angles = (1 - betas).cumprod(0).sqrt().acos()
    start = angles[0] - (angles[-1] - angles[0]) / (entries - 1)
    cosine = parts.Cosine(_round(angles[-1].cos().item()), _round(start.cos().item()))
    for schedule in (*tables, cosine):
        if torch.allclose(_list_betas(schedule, entries), betas, rtol=2e-3, atol=1e-7):
            return schedule
    raise UserError("no schedule fits trained_betas: they are not linear, quadratic, cosine or sigmoid")


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _list_betas(schedule: Schedule, entries: int) -> Tensor:
    """Return the fraction of its power that the signal loses at each entry (entries,), float64."""
    powers = schedule(torch.arange(1, entries + 1, dtype=torch.float64) / entries).alpha ** 2
    before = torch.cat([torch.ones(1, dtype=torch.float64), powers[:-1]])
    return (1 - powers / before).clamp(min=0)
