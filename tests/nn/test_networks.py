"""What holds for every network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.nn.clear_unet import ClearUNet, ClearUNetSpec
from ddim.nn.ddpm_unet import Block, DDPMUNet, DDPMUNetSpec
from ddim.nn.dit import DiT, DiTSpec
from ddim.nn.networks import NETWORKS
from ddim.nn.residual_unet import ResidualUNet, ResidualUNetSpec
from ddim.nn.unet import UNet, UNetSpec
from oracles import shaken
from small_nets import DDPMS, PAPERS, SPECS, ask, build, images

every_network = pytest.mark.parametrize("name", SPECS)
KERAS = {"widths": (32, 64, 96), "middle": (128, 128), "keras": True}
PARAMETERS = {
    # Counted in the original programs.
    "luz": (ResidualUNetSpec(), 3_562_211),
    "keras": (ResidualUNetSpec(**KERAS), 1_950_627),
    "clear": (ClearUNetSpec(), 29_828_419),
    "small clear": (ClearUNetSpec((32, 64, 96, 128), (False,) * 4), 2_030_563),
    "ddpm": (DDPMUNetSpec(), 35_746_307),
    "iddpm of ImageNet-64": (DDPMUNetSpec(**PAPERS["iddpm of ImageNet-64"]), 121_575_942),
    "ddpm++": (DDPMUNetSpec(**PAPERS["ddpm++"]), 55_733_891),
    "ncsn++": (DDPMUNetSpec(**PAPERS["ncsn++"]), 56_397_827),
    "adm of ImageNet-64": (DDPMUNetSpec(**PAPERS["adm of ImageNet-64"]), 295_899_267),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters_is_that_of_the_original(name):
    spec, count = PARAMETERS[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in spec.network(3).parameters()) == count


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_says_which_labels_it_takes(kind):
    spec = NETWORKS[kind]()
    assert spec.takes("classes") == spec.takes("vector") == (kind in ("unet", "ddpm_unet", "dit"))


@every_network
@pytest.mark.parametrize("channels, height, width", [(1, 8, 8), (3, 13, 7), (4, 1, 17), (1, 1, 1)])
def test_any_size_and_channels_start_as_the_zero_function(name, channels, height, width):
    out = ask(build(SPECS[name], channels), images(2, channels, height, width))
    assert out.shape == (2, SPECS[name].outputs * channels, height, width)
    assert not out.any()


@every_network
@pytest.mark.parametrize("height, width", [(1, 1), (13, 7), (12, 20)])
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


LABELLED = {
    "unet": UNetSpec((16, 24), (1, 2), (2, 1), (False, True), embedding=16, classes=3, augment=9),
    "ddpm": DDPMUNetSpec(8, (1, 2), 1, (False, True), groups=4, dropout=0.0, classes=3, augment=9),
    "ncsn++": DDPMUNetSpec(**{**PAPERS["ncsn++"], "width": 8, "groups": 4, "blocks": 1, "classes": 3}),
    "dit": DiTSpec(4, 16, 2, 4, classes=3, augment=9),
}


@pytest.mark.parametrize("name", LABELLED)
def test_every_label_changes_the_output_and_no_label_is_minus_one_or_zeros(name):
    net, x, value = shaken(build(LABELLED[name])), images(2, 3, 8, 8), torch.tensor([0.1, 0.9])
    with torch.no_grad():
        plain = net(x, value)
        assert torch.equal(net(x, value, torch.tensor([-1, -1]), torch.zeros(2, 9)), plain)
        others = [net(x, value, torch.full((2,), k)) for k in range(3)]
        others += [net(x, value, augment=torch.eye(9)[[k, k]]) for k in range(9)]
        one = net(x, value, torch.tensor([-1, 2]))
    assert not any(torch.allclose(other, plain, atol=1e-4) for other in others)
    assert torch.allclose(one, torch.stack([plain[0], others[2][1]]), atol=1e-5)


def find_branches(net):
    """The last layers of all branches that are added to the path of the image at full resolution."""
    if isinstance(net, DiT):
        return [layer for block in net.blocks for layer in (block.proj, block.mlp[2])] + [net.out_modulation]
    top = [module for stage in (net.down[0], net.up[-1]) for module in stage.modules()]
    if isinstance(net, UNet):
        top = [*net.down[0].modules(), *net.up[0].modules(), *net.upsample[:1]]
    if isinstance(net, ResidualUNet):
        top = list(net.modules())
    return [layer for layer in top if isinstance(layer, nn.ConvTranspose2d)] + [
        getattr(layer, last) for layer in top for last in ("conv2", "proj") if hasattr(layer, last)
    ]


@every_network
def test_the_path_of_the_image_at_full_resolution_stays_float32_under_autocast(name):
    net, x = shaken(build(SPECS[name])), images(2, 3, 16, 16)
    with torch.no_grad():
        for parameter in [p for layer in find_branches(net) for p in layer.parameters()]:
            parameter.zero_()
        if isinstance(net, DDPMUNet | ClearUNet):
            # The input from the stages below, which the first block on the way up concatenates.
            first = next(module for module in net.up[-1].modules() if isinstance(module, Block))
            first.shortcut.weight[:, : first.conv1.in_channels - first.conv1.out_channels] = 0
        plain = ask(net, x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = ask(net, x)
    assert plain.std() > 0.01
    assert rounded.dtype == torch.float32
    assert torch.allclose(plain, rounded, rtol=0, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize(
    "kind, options, said",
    [
        ("unet", {"widths": (8, 16)}, "one entry per stage"),
        ("unet", {"down": (0, 1, 1, -2)}, r"net\.down must be at least 0"),
        ("ddpm_unet", {"width": 48}, r"a multiple of net\.groups, got 48 and 32"),
        ("ddpm_unet", {"heads": 3}, r"net\.heads must divide"),
        ("clear_unet", {"heads": 0}, r"net\.heads must be above 0"),
        ("dit", {"width": 64, "heads": 3}, r"a multiple of 4 and of net\.heads, got 64 and 3"),
    ],
)
def test_impossible_networks_are_refused(kind, options, said):
    with pytest.raises(UserError, match=said):
        NETWORKS[kind](**options)
