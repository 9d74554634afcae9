"""Inception networks with random weights, in files like the published ones."""

import hashlib

import pytest
import torch
from torchvision.models import Inception3

from ddim.metrics.features import WEIGHTS


def random_inception(path, classes, seed, **options):
    """Write weights whose features neither vanish nor explode, drawn from a generator of their own."""
    draw = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        names = Inception3(classes, init_weights=False, **options).state_dict()
    tensors = {}
    for name, like in names.items():
        noise = torch.randn(like.shape, generator=draw)
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
        elif like.ndim > 1:
            tensors[name] = noise * (2 / like[0].numel()) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            tensors[name] = 1 + 0.2 * noise.clamp(-3, 3)
        else:
            tensors[name] = 0.2 * noise
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="session")
def weights_2015(tmp_path_factory):
    return random_inception(tmp_path_factory.mktemp("weights") / "2015.pth", 1008, 0, aux_logits=False)


@pytest.fixture(scope="session")
def weights_torchvision(tmp_path_factory):
    return random_inception(tmp_path_factory.mktemp("weights") / "torchvision.pth", 1000, 1)


@pytest.fixture
def known(monkeypatch):
    """Return a function (name, file) that declares the file to be the published weights of that network."""

    def add(name, path):
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(WEIGHTS, name, (WEIGHTS[name][0], sha, WEIGHTS[name][2]))
        return sha

    return add
