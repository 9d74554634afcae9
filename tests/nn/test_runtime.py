import copy
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

from ddim.nn import runtime
from ddim.machine.runtime import Compiled, Runtime, choose_runtime
from oracles import normal


class Net(nn.Module):
    """Two convolutions; the conditioning is added between them."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, conditioning: Tensor, label: Tensor | None = None) -> Tensor:
        return self.conv2(self.conv1(x) + conditioning[:, None, None, None] + (0 if label is None else 1))


def settings():
    """Return what a runtime sets for the process."""
    return torch.get_num_threads(), torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize("enter", [lambda runtime: runtime, Runtime.precise])
def test_a_runtime_holds_inside_its_context_and_is_restored_after_an_exception(enter):
    before, runtime = settings(), Runtime(threads=3)

    def fail():
        with enter(runtime):
            assert settings() == (3, "ieee")
            # The same runtime again, and another one.
            with runtime, enter(replace(runtime, threads=2)):
                assert settings() == (2, "ieee")
            assert settings() == (3, "ieee")
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert settings() == before


def test_runtimes_of_two_threads_do_not_restore_each_others_settings():
    """The first thread leaves while the second is inside."""
    before, inside, left = settings(), threading.Barrier(2, timeout=30), threading.Event()
    restored = []

    def other():
        first = torch.get_num_threads()
        with Runtime(threads=2):
            inside.wait()
            left.wait(30)
        restored.append(torch.get_num_threads() == first)

    thread = threading.Thread(target=other)
    thread.start()
    with Runtime(threads=3):
        inside.wait()
    assert torch.get_num_threads() == before[0]
    left.set()
    thread.join(30)
    assert restored == [True]
    torch.backends.cudnn.conv.fp32_precision = before[1]


@pytest.mark.parametrize(("device", "free"), [("cuda:1", True), ("mps", False), ("mps:0", False)])
def test_copies_to_apple_gpus_wait(device, free):
    class Image:
        def to(self, device, *, non_blocking):
            return device, non_blocking

    assert Runtime(device).move(Image()) == (device, free)
    assert Runtime(device, channels_last=False).images(Image()) == (device, free)


@pytest.mark.parametrize("device", ["mps", "mps:0"])
def test_a_numbered_apple_gpu_gets_the_runtime_of_an_apple_gpu(device, monkeypatch):
    monkeypatch.setattr(runtime, "find_device", lambda wanted: wanted)
    chosen = choose_runtime(device)
    assert (chosen.precision, chosen.channels_last) == ("fp32", False)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_choosing_a_runtime_leaves_the_settings_as_they_were(precision):
    before = settings()
    assert choose_runtime("cpu", precision, compiling=False, threads=2).threads == 2
    assert settings() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is")  # of the compiler itself
def test_a_frozen_network_equals_the_network_and_keeps_rounded_weights():
    """Equal up to rounding to 8 bits, with and without a label; changing the weights has no effect."""
    runtime = Runtime(precision="bf16", compile=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = runtime.place(Net().eval())
    x, ones = runtime.images(normal(2, 3, 8, 8, dtype=torch.float32)), torch.ones(2)
    filters = list(warnings.filters)
    quick = runtime.compiled(net, frozen=True)
    with runtime.precise(), torch.no_grad():
        for label in (ones, None):
            torch.testing.assert_close(quick(x, ones, label), net(x, ones, label), rtol=0, atol=0.02)
        assert net(x, ones).std() > 0.2
        for parameter in net.parameters():
            parameter.zero_()
        assert not net(x, ones).any()
        assert quick(x, ones).any()
    assert quick.classes == 3
    assert warnings.filters == filters


def test_a_frozen_network_is_copied_and_its_gradients_are_those_of_the_unfrozen_network():
    class Seen(Net):
        def forward(self, x: Tensor, conditioning: Tensor, label: Tensor | None = None) -> Tensor:
            seen.append(config.freezing)
            return super().forward(x, conditioning, label)

    with torch.random.fork_rng():
        seen, net = [], Seen()
    frozen = copy.deepcopy(Compiled(net, frozen=True))
    x, ones = normal(1, 3, 4, 4, dtype=torch.float32).requires_grad_(), torch.ones(1)
    for network in (net, frozen):
        network(x, ones).square().sum().backward()
    (twice,) = torch.autograd.grad(net(x, ones).square().sum() * 2, x)
    torch.testing.assert_close(x.grad, twice)
    with torch.no_grad():
        frozen(x, ones)
    assert seen == [False, False, False, True]
