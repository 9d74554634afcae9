"""Convert weights between our `DDPMUNet` and the `UNet2DModel` of diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ddim.errors import UserError

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
"""Replacements that turn our names of weights into the names of diffusers, applied in this order."""

_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention weights in diffusers before version 0.17, and the present names."""


def convert_to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a `DDPMUNet` with the names and shapes of a `UNet2DModel`."""
    theirs = {}
    for name, value in state.items():
        names = _theirs(name)
        # Attention in diffusers has linear layers; our attention has 1x1 convolutions.
        flat = value.flatten(1) if "attentions" in names[0] and value.ndim > 1 else value
        parts = [part.contiguous().clone() for part in flat.chunk(len(names))]
        theirs |= dict(zip(names, parts, strict=True))
    return theirs


def convert_from_diffusers(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a `UNet2DModel` with the names and shapes of a `DDPMUNet`.

    Args:
        weights: the weights of the `UNet2DModel`.
        state: the state dict of the `DDPMUNet`, for names and shapes.

    Raises:
        UserError: if a weight is missing, unknown or of another size; the message names this weight.
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
    """Return the names in diffusers of one of our weights: three names for a weight "qkv", else one name."""
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return tuple(name.replace("qkv", part) for part in ("to_q", "to_k", "to_v")) if "qkv" in name else (name,)
