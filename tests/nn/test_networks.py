import pytest

from ddim.nn.networks import NETWORKS
from oracles import made


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_states_what_its_spec_states(kind):
    """Its classes, its augmentation labels and its outputs, which may be set only where they are fields."""
    spec = NETWORKS[kind]()
    net = made(lambda: spec.network(3))
    for name in ("classes", "augment", "outputs"):
        assert getattr(net, name) == getattr(spec, name)
    assert (spec.classes, spec.augment, spec.outputs) == (0, 0, 1)
    assert spec.takes_classes == ("classes" in vars(spec))
