"""Options of DDPM's network and schedulers in diffusers: names, defaults, and matching parts of a recipe."""

from __future__ import annotations

from typing import Any

from ddim.diffusion.parameterisation import PredictsImage, PredictsNoise, PredictsVelocity
from ddim.diffusion.samplers import DDIM, DDPM

VERSION = "0.42.1"
"""The version of diffusers from which the names and defaults in this module are taken."""

NETWORK = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "add_attention": True,
    "class_embed_type": None,
}
"""Options that always have these values for DDPM's network; the values are the defaults of diffusers."""

CHOSEN = {
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "downsample_padding": 1,
    "resnet_time_scale_shift": "default",
    "num_class_embeds": None,
    "attn_norm_num_groups": None,
}
"""Options of the network that a recipe can set. The values are what diffusers uses for missing options."""

NOISE = {
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

NEVER = ("set_alpha_to_one", "steps_offset", "rescale_betas_zero_snr", "thresholding")
"""Options of a scheduler that can only be imported with their defaults."""

WHOLE = (
    "num_class_embeds",
    "layers_per_block",
    "norm_num_groups",
    "attention_head_dim",
    "num_train_timesteps",
)
NOT_GIVEN = (("attention_head_dim", None), ("num_class_embeds", None))
"""Options that can be None. For the first, None means one attention head; for the second, no classes."""
FRACTIONS = ("norm_eps", "dropout", "beta_start", "beta_end")

SCHEDULERS = {DDIM: "DDIMScheduler", DDPM: "DDPMScheduler"}
BETAS = {
    ("linear", None): "linear",
    ("beta_table", "quad"): "scaled_linear",
    ("beta_table", "cosine"): "squaredcos_cap_v2",
}
"""Names of tables of betas in diffusers, keyed by the kind of the schedule and its field `betas`.

diffusers has no names for other tables. They are stored as lists of betas, in `trained_betas`.
"""
PREDICTS: dict[Any, str] = {
    PredictsNoise(): "epsilon",
    PredictsImage(): "sample",
    PredictsVelocity(): "v_prediction",
}
EMBEDDINGS = {"sin_cos": (1, False), "cos_sin": (0, True)}
SHIFTS = {False: "default", True: "scale_shift"}
PADDINGS = {"same": 0, "strided": 1}
CLIPS = {False: False, "x0": True}
VARIANCES = {DDPM("small"): "fixed_small", DDPM("large"): "fixed_large"}
SPACINGS = {"leading": "leading", "trailing": "trailing"}


def head_config(kind: str) -> dict[str, Any]:
    """Return the first entries of a file of diffusers: the class `kind` and the version."""
    return {"_class_name": kind, "_diffusers_version": VERSION}
