"""Pipelines of diffusers: DDPM's U-Net in the folder of a `DDIMPipeline` or `DDPMPipeline`, both ways.

A recipe becomes the options of `UNet2DModel` and of a scheduler, and back. What is lost on this round trip
cannot be exported or imported. The package diffusers is an optional extra.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.grids import Spaced, Uniform
from ddim.diffusion.parameterisation import PredictsImage, PredictsNoise, PredictsVelocity, Timestep
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM
from ddim.diffusion.schedules import BetaTable, Linear, Schedule
from ddim.errors import UserError
from ddim.exchange.diffusers_weights import WEIGHTS, convert_from_diffusers, convert_to_diffusers
from ddim.exchange.imported_run import save_imported
from ddim.files import read_json
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.recipe.codec import dump, kind_name, load_recipe, override
from ddim.recipe.model import build_on_meta
from ddim.recipe.named import ddpm
from ddim.recipe.recipe import Recipe
from ddim.sampling.pipeline import Pipeline

CLASSES = "class_embedding.weight"
"""The name of the weights of the class embedding, here and in diffusers."""

_BETAS = {"linear": "linear", "quad": "scaled_linear", "cosine": "squaredcos_cap_v2", "signal_sigmoid": None}
"""Names of tables of betas in diffusers; a table without a name is a list of betas."""
_PREDICTS: dict[Any, str] = {
    PredictsNoise(): "epsilon",
    PredictsImage(): "sample",
    PredictsVelocity(): "v_prediction",
}
_EMBEDDINGS = {"sin_cos": (1, False), "cos_sin": (0, True)}
_PADDINGS = {"same": 0, "strided": 1}
_VARIANCES = {"fixed_small": DDPM("small"), "fixed_small_log": DDPM("small"), "fixed_large": DDPM("large")}


@dataclass(frozen=True)
class DiffusersExport:
    """The result of an export.

    Attributes:
        kind: the class of the pipeline.
        notes: sentences about what diffusers cannot hold.
        arguments: arguments of the pipeline's call that the notes name.
    """

    kind: str
    notes: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


def export_to_diffusers(pipeline: Pipeline, folder: str | Path) -> DiffusersExport:
    """Write a model as a folder from which a pipeline of diffusers samples the same images.

    The pipeline is a `DDPMPipeline` if the sampler is DDPM with variance "small" or "large", and otherwise a
    `DDIMPipeline`. If diffusers cannot hold the grid or the sampler of the model, the notes of the result say
    so. On a grid with trailing spacing, the images are the same only if the number of steps divides the
    number of entries of the schedule. Otherwise diffusers steps to noise levels outside its own grid.

    Args:
        pipeline: a model with DDPM's network.
        folder: the folder.

    Raises:
        UserError: if diffusers is not installed, or lacks the network, pixels, schedule, conditioning or
            parameterisation of the model.
    """
    library, channels, recipe = _open_library(), pipeline.model.shape.channels, pipeline.recipe
    _check_exportable(pipeline)
    network, noise = _describe_network(recipe, channels), _describe_noise(recipe)
    arguments, notes = _find_arguments(recipe), []
    if len(pipeline.model.net.state_dict()["out_conv.bias"]) > channels:
        notes.append("the predicted variance is left out, because diffusers maps it in another way")
    if recipe.net.classes:
        none = f"label {recipe.net.classes} means no class"
        notes.append(
            "DDIMPipeline and DDPMPipeline pass no class label, so call the network as the model card shows; "
            f"{none if recipe.data.unconditional else 'each needs a class'}"
        )
    if not isinstance(recipe.sampler, DDIM) and recipe.sampler not in _VARIANCES.values():
        notes.append(
            "diffusers samples with DDIM, because its pipelines for images cannot hold the sampler "
            f"{kind_name(recipe.sampler)}"
        )
    notes += [f"give {n}={v} to the pipeline, whose scheduler cannot hold it" for n, v in arguments.items()]
    if _find_spacing(recipe) is None:
        notes.append(
            "diffusers samples at evenly spaced timesteps (trailing), because its schedulers cannot hold the "
            f"grid {kind_name(recipe.grid)}"
        )
    with torch.device("meta"):
        unet = library.UNet2DModel(**network)
    unet.load_state_dict(convert_to_diffusers(_complete_weights(pipeline)), assign=True)
    scheduler = noise.pop("_class_name")
    kind = scheduler.replace("Scheduler", "Pipeline")
    getattr(library, kind)(unet, getattr(library, scheduler)(**noise)).save_pretrained(folder)
    return DiffusersExport(kind, tuple(notes), arguments)


def import_from_diffusers(folder: str | Path, out: str | Path | None = None) -> Path:
    """Create a run from a `DDIMPipeline` or `DDPMPipeline` folder of diffusers; return the run folder.

    The run has the recipe `ddpm`, with the options from the pipeline's files, and no training images. Its
    sampler is DDIM or DDPM, like the scheduler of the pipeline, and the network runs in float32. import.json
    records the pipeline folder and the versions of packages.

    Samples differ from the samples of diffusers in two cases, both with trailing spacing. In the first case,
    the number of steps does not divide the number of entries (see `export_to_diffusers`). In the second case,
    DDPM with variance "fixed_large" takes fewer steps than there are entries. Then diffusers leaves noise in
    the samples.

    Args:
        folder: the pipeline folder.
        out: the run folder, by default one under runs/.

    Raises:
        UserError: if diffusers is not installed, the pipeline is not a DDPM that this library can sample, or
            the run folder is not empty.
    """
    folder = Path(folder)
    recipe, channels = _read_recipe(
        read_json(_find_file(folder, "unet", "config.json")),
        read_json(_find_file(folder, "scheduler", "scheduler_config.json")),
    )
    classes = 0
    stored = _read_tensors(_find_file(folder, "unet", WEIGHTS, "diffusion_pytorch_model.bin"))
    state = build_on_meta(recipe, channels, folder).state_dict()
    weights = convert_from_diffusers(stored, state)
    if (rows := weights.get(CLASSES)) is not None:
        # As `export_to_diffusers` writes it, the last row can mean no class.
        none = len(rows) > 1 and not rows[-1].any()
        classes = len(rows) - none
        weights[CLASSES] = rows[:classes]
        # Without such a row, the network was trained with a class for every image.
        recipe = override(recipe, {"net.classes": classes, **({} if none else {"data.unlabelled": 0.0})})
    return save_imported(recipe, channels, weights, folder, out, [str(k) for k in range(classes)])


def _open_library() -> Any:  # noqa: ANN401 (a module)
    try:
        import diffusers
    except ImportError:
        raise UserError(
            'models of diffusers need its package, which is not installed: pip install "ddim[diffusers]"'
        ) from None
    return diffusers


# From a recipe to the options of diffusers


def _describe_network(recipe: Recipe, channels: int) -> dict[str, Any]:
    """Return the options of `UNet2DModel` for the network of a recipe."""
    net: Any = recipe.net
    down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in net.attention]
    shift, flip = _EMBEDDINGS.get(net.embedding, (None, None))
    return {
        "sample_size": [*recipe.data.size],
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [*net.widths],
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "layers_per_block": net.blocks,
        "norm_num_groups": net.groups,
        "norm_eps": net.eps,
        "dropout": net.dropout,
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


def _describe_noise(recipe: Recipe) -> dict[str, Any]:
    """Return the class of the scheduler and its options for the schedule, grid and sampler of a recipe."""
    variance = next((name for name, sampler in _VARIANCES.items() if sampler == recipe.sampler), None)
    entries = _count_timesteps(recipe)
    return {
        "_class_name": "DDPMScheduler" if variance else "DDIMScheduler",
        **({"variance_type": variance} if variance else {}),
        **_describe_schedule(recipe.schedule, entries),
        "num_train_timesteps": entries,
        "prediction_type": _PREDICTS.get(recipe.predicts),
        "timestep_spacing": _find_spacing(recipe) or "trailing",
        "clip_sample": bool(recipe.clip),
    }


def _count_timesteps(recipe: Recipe) -> int:
    return recipe.conditioning.entries or 0 if isinstance(recipe.conditioning, Timestep) else 0


def _describe_schedule(table: Schedule, entries: int) -> dict[str, Any]:
    """Return the options for the noise levels: the name of a table with its ends, or a list of betas."""
    name = _BETAS.get(getattr(table, "betas", "linear" if isinstance(table, Linear) else ""))
    plain = (getattr(table, "clip", None), getattr(table, "read", None)) == ("none", "log_snr")
    if isinstance(table, Linear) and plain and name and table.entries == entries:
        return {"beta_schedule": name, "beta_start": table.first, "beta_end": table.last}
    powers = table(torch.arange(1, entries + 1, dtype=torch.float64) / entries).alpha ** 2
    before = torch.cat([torch.ones(1, dtype=torch.float64), powers[:-1]])
    return {"trained_betas": (1 - powers / before).clamp(min=0).tolist()}


def _find_spacing(recipe: Recipe) -> str | None:
    """Return the spacing in diffusers that gives the timesteps of the recipe's grid; None if none does."""
    if isinstance(recipe.grid, Spaced) and recipe.grid.entries == _count_timesteps(recipe):
        return recipe.grid.spacing
    # If the number of steps divides the number of entries, these are the same times.
    return "trailing" if recipe.grid == Uniform() else None


def _find_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return what the scheduler cannot hold, as arguments of the pipeline's call."""
    arguments: dict[str, Any] = {}
    if isinstance(recipe.sampler, DDIM) and recipe.sampler.eta:
        arguments["eta"] = recipe.sampler.eta
    if recipe.clip is True and recipe.sampler not in _VARIANCES.values():
        arguments["use_clipped_model_output"] = True
    return arguments


def _complete_weights(pipeline: Pipeline) -> dict[str, Tensor]:
    """Return the weights of the network with an embedding row for "no class", if it was trained so, and
    without a predicted variance.
    """
    state, channels = dict(pipeline.model.net.state_dict()), pipeline.model.shape.channels
    for name in ("out_conv.weight", "out_conv.bias"):
        state[name] = state[name][:channels]
    if CLASSES in state and pipeline.recipe.data.unconditional:
        # Here, images without a class get a vector of zeros.
        state[CLASSES] = torch.cat([state[CLASSES], torch.zeros_like(state[CLASSES][:1])])
    return state


def _check_exportable(pipeline: Pipeline) -> None:
    """Check that diffusers has the options of a model: those of its network must survive the round trip.

    Raises:
        UserError: if it lacks one; the message names the field and its value.
    """
    recipe, net, channels = pipeline.recipe, pipeline.recipe.net, pipeline.model.shape.channels
    if not isinstance(net, DDPMUNetSpec):
        raise UserError(
            f"export to diffusers needs the net of recipe ddpm, ddpm_unet, not {kind_name(net)}: --to onnx "
            "takes any network without vectors"
        )
    half, told, schedule = Pixels.fixed(0.5, 0.5, channels), recipe.conditioning, recipe.schedule
    level = schedule(torch.linspace(0.01, 1, 100, dtype=torch.float64))
    heads = {width // net.heads for width, on in zip(net.widths, net.attention, strict=True) if on}
    lacking = {
        "pixels": pipeline.pixels != half,
        "conditioning": not isinstance(told, Timestep) or told.scale != 1,
        "sampled_on": recipe.sampled_on is not None,
        "predicts": recipe.predicts not in _PREDICTS,
        "schedule": (level.alpha**2 + level.sigma**2 - 1).abs().max() > 1e-9,
        "data.size": any(side % net.multiple for side in recipe.data.size),
        # diffusers stores the channels of a head, and they differ between the stages.
        "net.heads": not net.head and net.heads > 1 and heads | {_find_head(net)} != {_find_head(net)},
    }
    if not any(lacking.values()):
        back = _read_network(_describe_network(recipe, channels))
        kept = replace(net, heads=1, head=_find_head(net), outputs=1, classes=back.classes)
        lacking = {f"net.{f.name}": getattr(kept, f.name) != getattr(back, f.name) for f in fields(net)}
    if names := [name for name, lacks in lacking.items() if lacks]:
        tree = dump(recipe)
        for part in names[0].split("."):
            tree = tree[part]
        raise UserError(f"diffusers cannot hold {names[0]} {json.dumps(tree)} of this run: --to onnx can")


# From the options of diffusers to a recipe


def _read_recipe(network: Any, noise: Any) -> tuple[Recipe, int]:  # noqa: ANN401 (JSON)
    """Return the recipe `ddpm` with the options from two files of diffusers, and the number of channels.

    `net.classes` is the number of rows of the class embedding.

    Raises:
        UserError: if the files do not describe a DDPM: the recipe must give their options again.
    """
    library = _open_library()
    names = [part.get("_class_name") if isinstance(part, dict) else part for part in (network, noise)]
    if names[0] != "UNet2DModel" or names[1] not in ("DDIMScheduler", "DDPMScheduler"):
        raise UserError(
            "only a UNet2DModel with DDIMScheduler or DDPMScheduler can be imported, got "
            f"{names[0]!r:.100} with {names[1]!r:.100}"
        )
    kind = names[1]
    try:
        network = _fill_in(library.UNet2DModel, network)
        noise = {"_class_name": kind, **_fill_in(getattr(library, kind), noise)}
        if not isinstance(network["sample_size"], list):
            network["sample_size"] = [network["sample_size"]] * 2
        recipe, channels = _make_recipe(network, noise), network["in_channels"]
        again = {"UNet2DModel": _describe_network(recipe, channels), kind: _describe_noise(recipe)}
    except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"these options of diffusers do not describe a DDPM: {error!r:.300}") from None
    # The rows of the class embedding are counted when the weights are read.
    kept = ["num_class_embeds"]
    # fixed_small_log is the same variance as fixed_small, computed through its logarithm.
    kept += ["variance_type"] if noise.get("variance_type") == "fixed_small_log" else []
    kept += ["trained_betas", "beta_schedule", "beta_start", "beta_end"] if noise["trained_betas"] else []
    for part, options in (("UNet2DModel", network), (kind, noise)):
        for name, value in _fill_in(getattr(library, part), again[part]).items():
            if name not in kept and options[name] != value:
                raise UserError(
                    f"{part} has {name} {options[name]!r:.100}, only {value!r:.100} can be imported"
                )
    return recipe, channels


def _fill_in(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a class of diffusers: those of a file, and the defaults of missing ones."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return json.loads(json.dumps({p.name: given.get(p.name, p.default) for p in parameters}))


def _make_recipe(network: Mapping[str, Any], noise: Mapping[str, Any]) -> Recipe:
    tree, entries = dump(ddpm()), noise["num_train_timesteps"]
    labelled = network["num_class_embeds"] is not None
    tree["data"] |= {"size": network["sample_size"], "labels": labelled}
    tree["net"] = dump(_read_network(network), named=True)
    tree["schedule"] = dump(_read_schedule(noise), named=True)
    predicts = next((part for part, name in _PREDICTS.items() if name == noise["prediction_type"]), None)
    tree["predicts"] = dump(predicts or PredictsNoise(), named=True)
    tree["conditioning"]["entries"] = tree["objective"]["times"]["entries"] = entries
    tree["grid"] |= {"entries": entries, "spacing": noise["timestep_spacing"]}
    if noise["_class_name"] == "DDPMScheduler":
        tree["sampler"] = dump(_VARIANCES[noise["variance_type"]], named=True)
    tree["clip"] = "x0" if noise["clip_sample"] else False
    return load_recipe(tree)


def _read_network(options: Mapping[str, Any]) -> DDPMUNetSpec:
    """Return the network for options of `UNet2DModel`; it may lack some of them."""
    widths, embedding = options["block_out_channels"], (options["freq_shift"], options["flip_sin_to_cos"])
    return DDPMUNetSpec(
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=options["layers_per_block"],
        attention=tuple(kind == "AttnDownBlock2D" for kind in options["down_block_types"]),
        head=options["attention_head_dim"],
        groups=options["norm_num_groups"],
        eps=options["norm_eps"],
        dropout=options["dropout"],
        embedding="cos_sin" if embedding == _EMBEDDINGS["cos_sin"] else "sin_cos",
        scale_shift=options["resnet_time_scale_shift"] == "scale_shift",
        classes=options["num_class_embeds"] or 0,
        resample="strided" if options["downsample_padding"] == 1 else "same",
    )


def _read_schedule(noise: Mapping[str, Any]) -> Schedule:
    """Return the schedule for options of a scheduler.

    Raises:
        UserError: if it is a list of betas that no table gives to within 0.2 %.
    """
    entries, betas = noise["num_train_timesteps"], noise["trained_betas"]
    if not betas:
        named = [form for form, name in _BETAS.items() if name and name == noise["beta_schedule"]]
        form = named[0] if named else "linear"
        return _make_table(form, entries, noise["beta_start"], noise["beta_end"])
    theirs = torch.tensor(betas, dtype=torch.float64)
    ends = [float(f"{value:.6g}") for value in (betas[0], betas[-1])]
    tables = [_make_table(form, entries, *ends) for form in ("linear", "quad") if 0 < ends[0] < ends[1] < 1]
    for table in (*tables, *(_make_table(form, entries) for form in ("cosine", "signal_sigmoid"))):
        powers = torch.cat([torch.ones(1, dtype=torch.float64), table.powers])
        if torch.allclose(1 - powers[1:] / powers[:-1], theirs, rtol=2e-3, atol=1e-7):
            return table
    raise UserError("no schedule fits trained_betas: they are not linear, quadratic, cosine or sigmoid")


def _make_table(form: Any, entries: int, first: float = 1e-4, last: float = 0.02) -> Linear | BetaTable:  # noqa: ANN401
    """Return a table of betas without clipping: `Linear` for "linear", else the `BetaTable` of this form."""
    if form == "linear":
        return Linear(entries, first, last, clip="none", read="log_snr")
    return BetaTable(entries, first, last, clip="none", read="log_snr", betas=form)


def _find_file(folder: Path, part: str, *files: str) -> Path:
    """Return the path of a pipeline's file: in the folder `part`, or at the top in older pipelines.

    The first of `files` that exists is used.
    """
    for file in files:
        for path in (folder / part / file, folder / file):
            if path.is_file():
                return path
    raise UserError(f"{folder} holds no {part}/{files[0]}, which a pipeline of diffusers has")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, mapped into memory. No code in the file is run.

    Raises:
        UserError: if the file is damaged, or holds anything but tensors.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {str(name): value.float() for name, value in stored.items()}
    # A damaged or hostile file can raise anything.
    except Exception as error:
        raise UserError(
            f"{path} cannot be read: it is damaged, or holds more than tensors ({type(error).__name__})"
        ) from error
