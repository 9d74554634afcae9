"""Finds operations that a GPU refuses, on a machine without one: the meta device stands for the GPU."""

from torch import Tensor
from torch.ops import aten
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MixError(Exception):
    """An operation had tensors of several devices."""


class OneDevice(TorchDispatchMode):
    """Raises an error if an operation takes tensors of the CPU and of the meta device.

    A GPU accepts one scalar tensor of the CPU in an operation. But in `torch.where` it copies the scalar, and
    the program waits for this copy.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operation."""
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_cpu = [x for x in tensors if x.device.type == "cpu"]
        allowed = len(on_cpu) == 1 and not on_cpu[0].ndim and func is not aten.where.self
        if 0 < len(on_cpu) < len(tensors) and not allowed and func is not aten.copy_.default:
            raise MixError(f"{func} with tensors of shapes {[tuple(x.shape) for x in on_cpu]} on the CPU")
        return func(*args, **kwargs)
