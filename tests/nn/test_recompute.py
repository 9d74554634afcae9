"""Recomputing the activations of each block changes the memory of a training, and nothing else."""

import copy

import pytest
import torch
from torch import nn

import tiny
from ddim.errors import UserError
from ddim.nn.blocks import Dropout
from ddim.nn.recompute import recompute_blocks
from oracles import made, shaken
from small_nets import SPECS, ask, build, images


def learn(net, x, call=ask):
    """Return the loss, gradients and buffers of a network after one pass, and the bytes kept for backward."""
    kept = []
    label = torch.tensor([0, 1]) if net.classes else None
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t),
    ):
        loss = call(net, x, label).square().mean()
        loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return {"loss": loss.detach(), **gradients, **dict(net.named_buffers())}, sum(kept)


@pytest.mark.parametrize("name", SPECS)
def test_gradients_masks_and_statistics_are_the_same_bits_with_fewer_bytes_kept(name):
    plain = shaken(build(SPECS[name])).train()
    for layer in plain.modules():
        if isinstance(layer, Dropout):
            layer.p = 0.5
    again, x = copy.deepcopy(plain), images(2, 3, 16, 16)
    recompute_blocks(again, True)
    assert list(again.state_dict()) == list(plain.state_dict())
    (before, whole), (after, little) = learn(plain, x), learn(again, x)
    assert tiny.different(before, after) == []
    assert little < whole / 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is")  # of the compiler itself
def test_a_compiled_network_updates_its_statistics_once_and_keeps_fewer_bytes():
    plain = shaken(build(SPECS["keras of one block"])).train()
    again, x = copy.deepcopy(plain), images(2, 3, 16, 16)
    recompute_blocks(again, True)

    def compiled(net, *given):
        torch._dynamo.reset()
        return ask(torch.compile(net, backend="aot_eager_decomp_partition", fullgraph=True), *given)

    (before, whole), (after, little) = learn(plain, x, compiled), learn(again, x, compiled)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6)
    assert little < 0.7 * whole


def test_a_network_without_such_blocks_is_refused_only_if_it_should_recompute():
    net = made(lambda: nn.Sequential(nn.Conv2d(3, 3, 1)))
    recompute_blocks(net, False)
    with pytest.raises(UserError, match="Sequential has no block"):
        recompute_blocks(net, True)
