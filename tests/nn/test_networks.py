"""What holds for every network."""

import pytest
import torch
from torch.nn import functional as F

from ddim.nn.networks import NETWORKS
from oracles import made, shaken
from small_nets import DDPMS, SPECS, ask, build, images

every_network = pytest.mark.parametrize("name", SPECS)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_states_what_its_spec_states(kind):
    """Its classes, its augmentation labels and its outputs, which may be set only where they are fields."""
    spec = NETWORKS[kind]()
    net = made(lambda: spec.network(3))
    for name in ("classes", "augment", "outputs"):
        assert getattr(net, name) == getattr(spec, name)
    assert (spec.classes, spec.augment, spec.outputs) == (0, 0, 1)
    assert spec.takes_classes == ("classes" in vars(spec))


@every_network
@pytest.mark.parametrize(
    "channels, height, width", [(1, 8, 8), (3, 13, 7), (4, 1, 17), (3, 24, 40), (1, 1, 1)]
)
def test_any_size_and_channels_start_as_the_zero_function(name, channels, height, width):
    x = images(2, channels, height, width)
    out = ask(build(SPECS[name], channels), x)
    assert out.shape == (2, SPECS[name].outputs * channels, height, width)
    assert not out.any()


@every_network
@pytest.mark.parametrize("height, width", [(1, 1), (13, 7), (12, 20), (5, 16)])
def test_any_size_is_that_of_the_padded_image_cropped(name, height, width):
    net, x = shaken(build(SPECS[name])), images(2, 3, height, width)
    whole = F.pad(x, (0, -width % net.multiple, 0, -height % net.multiple))
    with torch.no_grad():
        assert torch.equal(ask(net, x), ask(net, whole)[..., :height, :width])


@every_network
def test_every_weight_has_a_gradient(name):
    net = shaken(build(SPECS[name])).train()
    label = torch.tensor([0, 1]) if net.classes else None
    ask(net, images(2, 3, 16, 16), label).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@every_network
def test_evaluation_repeats_its_bits_moves_nothing_and_keeps_images_independent(name):
    net, x = shaken(build(SPECS[name])), images(4, 3, 16, 16)
    conditioning = torch.tensor([1.0, 50.0, 300.0, 999.0]) / (1 if name in DDPMS else 1000)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        first = net(x, conditioning)
        assert torch.equal(first, net(x, conditioning))
        assert torch.allclose(first[1:3], net(x[1:3], conditioning[1:3]), atol=1e-4)
        assert not torch.allclose(first[0], net(x, conditioning.flip(0))[0], atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
