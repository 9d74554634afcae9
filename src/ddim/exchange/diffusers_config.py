"""Make the contents of the JSON files of diffusers for a model with DDPM's network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ddim.diffusion.grids import Spaced, Uniform
from ddim.diffusion.parameterisation import Timestep
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM
from ddim.errors import UserError
from ddim.exchange.diffusers_options import (
    BETAS,
    EMBEDDINGS,
    NETWORK,
    NOISE,
    PADDINGS,
    PREDICTS,
    SCHEDULERS,
    SHIFTS,
    VARIANCES,
    head_config,
)
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.recipe.codec import dump, kind_name
from ddim.recipe.recipe import Recipe
from ddim.sampling.pipeline import Pipeline


@dataclass(frozen=True)
class DiffusersConfig:
    """The content of a JSON file of diffusers, and what the file cannot hold.

    Attributes:
        content: the content of the file.
        notes: sentences about options that the file cannot hold.
        arguments: arguments of the pipeline's call, which have the effect of such options.
    """

    content: dict[str, Any]
    notes: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


def make_network_config(pipeline: Pipeline) -> DiffusersConfig:
    """Return the config.json of diffusers for the network of a pipeline.

    Raises:
        UserError: if the network is not DDPM's, or if diffusers lacks its options, its image size or its map
            from pixels to model units.
    """
    net, channels = _check_network(pipeline), pipeline.model.shape.channels
    unconditional = pipeline.recipe.data.unconditional
    shift, flip = EMBEDDINGS[net.embedding]
    down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in net.attention]
    notes = []
    if net.outputs > 1:
        notes.append("the predicted variance is left out, because diffusers maps it in another way")
    if net.classes:
        unlabelled = f"label {net.classes} means no class" if unconditional else "each needs a class"
        notes.append(
            "DDIMPipeline and DDPMPipeline pass no class label, so call the network as the model card shows; "
            f"{unlabelled}"
        )
    content = head_config("UNet2DModel") | {
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
        "attention_head_dim": _find_head(net),
        "freq_shift": shift,
        "flip_sin_to_cos": flip,
        "downsample_padding": PADDINGS[net.resample],
        "resnet_time_scale_shift": SHIFTS[net.scale_shift],
        # With "scale_shift", the attention in the middle has a norm only if this is given.
        "attn_norm_num_groups": net.groups if net.scale_shift else None,
        # One more row for images without a class, if there were such images in training.
        "num_class_embeds": net.classes + unconditional if net.classes else None,
        **NETWORK,
    }
    return DiffusersConfig(content, tuple(notes))


def _check_network(pipeline: Pipeline) -> DDPMUNetSpec:
    """Return the options of the network; raise UserError for options that diffusers lacks."""
    recipe, net = pipeline.recipe, pipeline.recipe.net
    if not isinstance(net, DDPMUNetSpec):
        raise UserError(
            f"export to diffusers needs the net of recipe ddpm, ddpm_unet, not {kind_name(net)}: --to onnx "
            "and --to torch take any network without vectors, --to safetensors any network"
        )
    wanted = {"sde": False, "pyramid": False, "group_channels": None, "augment": 0, "vector": 0}
    for name, value in wanted.items():
        if getattr(net, name) != value:
            raise UserError(
                f"export to diffusers needs net.{name} {value}, this run has {getattr(net, name)}"
            )
    if net.embedding not in EMBEDDINGS or net.resample not in PADDINGS:
        raise UserError(
            f"export to diffusers needs net.embedding {' or '.join(EMBEDDINGS)} and net.resample "
            f"{' or '.join(PADDINGS)}, this run has {net.embedding} and {net.resample}"
        )
    if net.multipliers[0] != 1:
        raise UserError(
            f"export to diffusers needs net.multipliers that begin with 1, this run has {net.multipliers}"
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


def _find_head(net: DDPMUNetSpec) -> int | None:
    """Return the channels of each attention head, which diffusers stores; None for a single head."""
    if net.head is not None or net.heads == 1:
        return net.head
    widths = {width for width, attend in zip(net.widths, net.attention, strict=True) if attend}
    widths.add(net.widths[-1])
    if len(widths) > 1:
        raise UserError(
            "export to diffusers needs net.heads 1 or net.head, because diffusers stores the channels of a "
            f"head, and {net.heads} heads have different channels in the stages of this run"
        )
    return widths.pop() // net.heads


def make_noise_config(recipe: Recipe) -> DiffusersConfig:
    """Return the scheduler_config.json of diffusers for the schedule, grid and sampler of a recipe.

    Raises:
        UserError: if diffusers lacks the schedule, the conditioning or the parameterisation, or if the recipe
            samples on another schedule than it is trained on.
    """
    entries, notes = _check_noise(recipe), []
    arguments: dict[str, Any] = {}
    betas = _list_betas(recipe, entries)
    variance = next((name for sampler, name in VARIANCES.items() if sampler == recipe.sampler), None)
    ancestral = variance is not None
    if isinstance(recipe.sampler, DDIM) and recipe.sampler.eta:
        arguments["eta"] = recipe.sampler.eta
    elif not ancestral and recipe.sampler != DDIM():
        notes.append(
            "diffusers samples with DDIM, because its pipelines for images cannot hold the sampler "
            f"{kind_name(recipe.sampler)}"
        )
    if recipe.clip is True and not ancestral:
        arguments["use_clipped_model_output"] = True
    notes += [
        f"give {name}={value} to the pipeline, whose scheduler cannot hold it"
        for name, value in arguments.items()
    ]
    spacing = _find_spacing(recipe, entries)
    if spacing is None:
        notes.append(
            "diffusers samples at evenly spaced timesteps (trailing), because its schedulers cannot hold the "
            f"grid {kind_name(recipe.grid)}"
        )
    kind = SCHEDULERS[DDPM if ancestral else DDIM]
    content = (
        head_config(kind)
        | NOISE
        | betas
        | {
            "num_train_timesteps": entries,
            "prediction_type": PREDICTS[recipe.predicts],
            "timestep_spacing": spacing or "trailing",
            "clip_sample": bool(recipe.clip),
            **({"variance_type": variance} if ancestral else {}),
        }
    )
    return DiffusersConfig(content, tuple(notes), arguments)


def _check_noise(recipe: Recipe) -> int:
    """Return the number of timesteps; raise UserError for options of the recipe that diffusers lacks."""
    told = recipe.conditioning
    if not isinstance(told, Timestep) or told.scale != 1:
        raise UserError(
            "export to diffusers needs conditioning timestep with scale 1, "
            f"this run has {dump(told, named=True)}"
        )
    if recipe.sampled_on:
        raise UserError(
            "export to diffusers needs a recipe with sampled_on=none, but this run samples on another "
            "schedule than it was trained on"
        )
    if recipe.predicts not in PREDICTS:
        raise UserError(
            "export to diffusers needs predicts noise, image or velocity, "
            f"this run has {dump(recipe.predicts, named=True)}"
        )
    return told.entries or 1000


def _list_betas(recipe: Recipe, entries: int) -> dict[str, Any]:
    """Return the options of diffusers for the noise levels at the timesteps.

    Tables that diffusers knows have a name. All others are lists of betas.
    """
    table = recipe.schedule
    ends = {"beta_start": getattr(table, "first", 0.0), "beta_end": getattr(table, "last", 0.0)}
    plain = (getattr(table, "clip", None), getattr(table, "read", None)) == ("none", "log_snr")
    name = BETAS.get((kind_name(table), getattr(table, "betas", None)))
    if plain and name and table.entries == entries:
        return {"beta_schedule": name, **ends}
    at = table(torch.arange(1, entries + 1, dtype=torch.float64) / entries)
    if not torch.allclose(at.alpha**2 + at.sigma**2, torch.ones(()).double(), rtol=0, atol=1e-9):
        raise UserError(
            "export to diffusers needs a schedule with alpha^2 + sigma^2 = 1, "
            f"this run has {dump(table, named=True)}"
        )
    powers = at.alpha**2
    before = torch.cat([torch.ones(1, dtype=torch.float64), powers[:-1]])
    return {"trained_betas": (1 - powers / before).clamp(min=0).tolist()}


def _find_spacing(recipe: Recipe, entries: int) -> str | None:
    """Return the spacing in diffusers that gives the timesteps of the recipe's grid; None if none does."""
    grid = recipe.grid
    if isinstance(grid, Spaced) and grid.entries == entries:
        return grid.spacing
    # If the number of steps divides the number of entries, these are the same times.
    return "trailing" if grid == Uniform() else None
