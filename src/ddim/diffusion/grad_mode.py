"""Gradients in functions whose caller may have turned them off."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that records gradients even if its caller has turned them off.

    The mode of the caller, such as `torch.no_grad` or `torch.inference_mode`, is restored after each call.
    """

    # The decorators of torch would add a frame of torch, which `warn_user` would name as the caller's line.
    @wraps(function)
    def recorded(*args: P.args, **options: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **options)

    return recorded
