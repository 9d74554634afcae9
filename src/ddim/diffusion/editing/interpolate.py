"""Interpolation between latents, along the sphere near which normal noise lies."""

from __future__ import annotations

import torch
from torch import Tensor

from ddim.errors import UserError, check_count


def slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    """Interpolate spherically from a (u = 0) to b (u = 1), both (B, C, H, W), each image separately.

    The direction follows the great circle (Shoemake 1985), and the norm changes linearly. Linear
    interpolation would give latents whose norm is too small, by a factor sqrt(1/2) in the middle. Their
    samples have little detail (Song et al. 2021, appendix D.5).

    Raises:
        UserError: if two latents are opposite: the great circle between them is then not unique.
    """
    # The CPU is used, because not every device has float64.
    flat = [v.cpu().double().flatten(1) for v in (a, b)]
    norms = [v.norm(dim=1, keepdim=True) for v in flat]
    p, q = (v / n.clamp(min=1e-300) for v, n in zip(flat, norms, strict=True))
    # The angle is computed from chords, because the arc cosine loses half the digits for close latents.
    angle = 2 * torch.atan2((p - q).norm(dim=1, keepdim=True), (p + q).norm(dim=1, keepdim=True))
    if (torch.pi - angle < 1e-6).any():
        raise UserError("slerp needs two latents that are not opposite, got b = -a: choose another latent")
    small = angle < 1e-6
    safe = torch.where(small, 1.0, angle)
    weights = [torch.where(small, part, (part * safe).sin() / safe.sin()) for part in (1 - u, u)]
    mixed = weights[0] * p + weights[1] * q
    return (mixed * ((1 - u) * norms[0] + u * norms[1])).reshape(a.shape).to(a)


def interpolate_latents(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """Return interpolated latents (frames, C, H, W) from a to b, both (C, H, W); both ends are included.

    Raises:
        UserError: if frames < 2, or the latents are opposite.
    """
    check_count("frames", frames, 0)
    if frames < 2:
        raise UserError(f"an interpolation needs at least 2 frames, got {frames}")
    return torch.cat([slerp(a[None], b[None], k / (frames - 1)) for k in range(frames)])


def attribute_direction(having: Tensor, lacking: Tensor) -> Tensor:
    """Return the direction (1, C, H, W) of an attribute in latent space, for `move_along`.

    It is the mean of the latents `having` the attribute minus the mean of the latents `lacking` it.

    Raises:
        UserError: if either set is empty.
    """
    if not len(having) or not len(lacking):
        raise UserError(
            "an attribute needs latents of images with it and without it, "
            f"got {len(having)} with and {len(lacking)} without"
        )
    return having.mean(0, keepdim=True) - lacking.mean(0, keepdim=True)


def move_along(latent: Tensor, direction: Tensor, amount: float) -> Tensor:
    """Return latents (B, C, H, W) plus `amount` times a direction (1, C, H, W), with unchanged norms."""
    changed = latent + amount * direction
    norm = [v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for v in (latent, changed)]
    return changed * (norm[0] / norm[1])
