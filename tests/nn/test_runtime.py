import copy

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

from ddim.nn.runtime import Frozen, Runtime
from oracles import normal


class Net(nn.Module):
    """Two convolutions, with what it is told between them."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, told: Tensor, label: Tensor | None = None) -> Tensor:
        return self.second(self.first(x) + told[:, None, None, None] + (0 if label is None else 1))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is")  # of the compiler itself
def test_a_frozen_network_is_the_network_and_keeps_rounded_weights():
    """The same to rounding to 8 bits, with a label or without; of weights that change it holds the old."""
    runtime = Runtime(precision="bf16", compile=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = runtime.place(Net().eval())
    x, told, label = runtime.images(normal(2, 3, 8, 8, dtype=torch.float32)), torch.ones(2), torch.ones(2)
    quick = runtime.compiled(net, frozen=True)
    with runtime.precise(), torch.no_grad():
        for labels in (label, None):
            torch.testing.assert_close(quick(x, told, labels), net(x, told, labels), rtol=0, atol=0.02)
        assert net(x, told).std() > 0.2
        for parameter in net.parameters():
            parameter.zero_()
        assert not net(x, told).any()
        assert quick(x, told).any()
    assert quick.classes == 3


def test_a_frozen_network_is_differentiated_unfrozen_and_copied():
    """Whoever asks for gradients has those of the network."""

    class Seen(Net):
        def forward(self, x: Tensor, told: Tensor, label: Tensor | None = None) -> Tensor:
            seen.append(config.freezing)
            return super().forward(x, told, label)

    with torch.random.fork_rng():
        seen, net = [], Seen()
    frozen = copy.deepcopy(Frozen(net))
    x, told = normal(1, 3, 4, 4, dtype=torch.float32).requires_grad_(), torch.ones(1)
    for network in (net, frozen):
        network(x, told).square().sum().backward()
    (twice,) = torch.autograd.grad(net(x, told).square().sum() * 2, x)
    torch.testing.assert_close(x.grad, twice)
    with torch.no_grad():
        frozen(x, told)
    assert seen == [False, False, False, True]
