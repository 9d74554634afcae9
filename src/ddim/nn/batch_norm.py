"""Batch norm over a batch that several processes share."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ddim.machine.distributed import current_processes


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm (Ioffe & Szegedy 2015) over the whole batch, of which each process of a training has a part.

    Unlike `torch.nn.SyncBatchNorm` it works on a CPU too. All processes must have the same number of images.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Normalise (B, C, H, W); the shape stays the same."""
        processes = current_processes().count if self.training else 1
        if processes == 1:
            return super().forward(input)
        x = input.float()
        mean = sum_over_processes(x.mean((0, 2, 3))) / processes
        centred = x - mean[:, None, None]
        variance = sum_over_processes(centred.square().mean((0, 2, 3))) / processes
        with torch.no_grad():
            count = processes * x.numel() / x.shape[1]
            self.get_buffer("running_mean").lerp_(mean, self.momentum or 0.0)
            self.get_buffer("running_var").lerp_(variance * (count / (count - 1)), self.momentum or 0.0)
            self.get_buffer("num_batches_tracked").add_(1)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        return (out + self.bias[:, None, None] if self.affine else out).to(input.dtype)


# This is a custom operation, because torch.compile does not look into such operations. Its backward pass is
# the same sum over all processes.
@torch.library.custom_op("ddim::sum_over_processes", mutates_args=())
def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of x over all processes."""
    total = x.clone()
    dist.all_reduce(total)
    return total


sum_over_processes.register_fake(torch.empty_like)
sum_over_processes.register_autograd(lambda ctx, gradient: sum_over_processes(gradient))
