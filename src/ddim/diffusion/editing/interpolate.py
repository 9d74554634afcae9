"""Interpolation between latents, along the sphere on which normal noise lies."""

from __future__ import annotations

import torch
from torch import Tensor

from ddim.errors import UserError


def slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    """The point from a (u = 0) to b (u = 1), both (B, C, H, W), on the great circle between them.

    Shoemake 1985, for each image by itself. Where the norms differ, the norm goes evenly from one to the
    other. A straight line would pass through latents whose norm is too small, at the middle by sqrt(1/2).
    Their samples are flat (Song et al. 2021, appendix D.5).

    Raises:
        UserError: if the latents are opposite, so that no one circle joins them.
    """
    # On the CPU: not every device has float64.
    flat = [v.cpu().double().flatten(1) for v in (a, b)]
    norms = [v.norm(dim=1, keepdim=True) for v in flat]
    p, q = (v / n.clamp(min=1e-300) for v, n in zip(flat, norms, strict=True))
    # From half the chord, since the arc cosine loses half the digits where the two are close.
    angle = 2 * torch.atan2((p - q).norm(dim=1, keepdim=True), (p + q).norm(dim=1, keepdim=True))
    if (torch.pi - angle < 1e-6).any():
        raise UserError("slerp needs two latents that are not opposite to each other")
    small = angle < 1e-6
    safe = torch.where(small, 1.0, angle)
    weights = [torch.where(small, part, (part * safe).sin() / safe.sin()) for part in (1 - u, u)]
    mixed = weights[0] * p + weights[1] * q
    return (mixed * ((1 - u) * norms[0] + u * norms[1])).reshape(a.shape).to(a)


def interpolate_latents(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """(frames, C, H, W) latents from a to b, both (C, H, W), with the ends.

    Raises:
        UserError: if frames < 2.
    """
    if frames < 2:
        raise UserError(f"an interpolation needs at least 2 frames, got {frames}")
    return torch.cat([slerp(a[None], b[None], k / (frames - 1)) for k in range(frames)])


def attribute_direction(having: Tensor, lacking: Tensor) -> Tensor:
    """(1, C, H, W) the mean of latents that have an attribute minus that of latents that lack it.

    `move_along` takes it.

    Raises:
        UserError: if either set is empty.
    """
    if not len(having) or not len(lacking):
        raise UserError("an attribute needs latents that have it and latents that lack it")
    return having.mean(0, keepdim=True) - lacking.mean(0, keepdim=True)


def move_along(latent: Tensor, direction: Tensor, amount: float) -> Tensor:
    """Latents (B, C, H, W) plus `amount` times a direction (1, C, H, W), each rescaled to its own norm."""
    changed = latent + amount * direction
    norm = [v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for v in (latent, changed)]
    return changed * (norm[0] / norm[1])
