"""Images and runs from elsewhere: data sets of torchvision, and repositories of the Hugging Face Hub.

Strangers write the content of a repository. So only files that the caller names are downloaded, and no code
in them runs. The Hub needs the extra `hub`.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddim.data.arrays import SUFFIXES
from ddim.data.decode import is_image_name
from ddim.data.sources import SUFFIX, Member, Source, stamp_paths
from ddim.errors import UserError, explain_errors
from ddim.files import cache_folder, publish_folder, temporary_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hub:"
"""The prefix that tells the name of a repository from a path."""
ADVICE = "check its name and the connection; a private repository needs `hf auth login` or HF_TOKEN"
"""What to do if the Hub refuses a request."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", *SUFFIXES)
"""The ends of the names of archives and of files of arrays."""

_COPY = "try again, or set DDIM_DATA to a folder with torchvision's copy of it"
_NAME = re.compile(rf"(?:{PREFIX})?(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_TRAIN = re.compile(r"(?:^|[/_.-])train(?:ing)?(?=[/_.-])", re.IGNORECASE)


@dataclass(frozen=True)
class Files(Source):
    """Image files with their names and, perhaps, class labels.

    Attributes:
        files: (name, path, label) of each file.
        official: as in `Source`.
        class_names: as in `Source`.
    """

    files: Sequence[tuple[str, Path, int | None]]
    official: bool = False  # pyrefly: ignore[bad-override]  (a frozen field)
    class_names: Sequence[str] = ()  # pyrefly: ignore[bad-override]

    def stamp(self) -> str:
        """Return all names and labels, and the paths, sizes and timestamps of the files; see `Source`."""
        stamp = stamp_paths(*(path for _, path, _ in self.files))
        return stamp and f"{stamp}\0{self!r}"

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield the files; see `Source`."""
        for name, path, label in self.files:
            yield Member(name, path.read_bytes(), label)

    def count_files(self) -> int:
        """Return the number of files; see `Source`."""
        return len(self.files)


# The data sets of torchvision


def open_flowers(root: Path) -> Source:
    """Return the 8,189 photographs of Oxford Flowers 102, with 102 labels.

    Its official split is not used, because it has only 1,020 images for training.
    """
    from torchvision.datasets import Flowers102

    parts = [Flowers102(root, part, download=True, loader=Path) for part in ("train", "val", "test")]
    files = sorted((path.name, path, label) for part in parts for path, label in part)
    return Files(files, class_names=tuple(Flowers102.classes))


def open_pets(root: Path) -> Source:
    """Return Oxford-IIIT Pets: 3,680 images for training and 3,669 for validation, of 37 breeds."""
    from torchvision.datasets import OxfordIIITPet

    files = []
    for part, split in (("train", "trainval"), ("test", "test")):
        for path in OxfordIIITPet(root, split, download=True)._images:
            files.append((f"{part}/{path.stem.rpartition('_')[0]}/{path.name}", path, None))
    return Files(files, official=True)


@dataclass(frozen=True)
class Cifar10(Source):
    """CIFAR-10: 50,000 images of 32x32 for training, 10,000 for validation, of 10 classes.

    Its files are pickles, which can run code. torchvision loads only files with the published MD5.
    """

    root: Path
    official = True

    def stamp(self) -> str:
        """Return a constant, because only files with the published MD5 are read; see `Source`."""
        return "CIFAR-10"

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield every image as an array, in a folder of its class; see `Source`."""
        from torchvision.datasets import CIFAR10

        for part in ("train", "test"):
            with explain_errors("cifar10 cannot be downloaded", _COPY):
                data = CIFAR10(self.root, part == "train", download=True)
            for number, (pixels, label) in enumerate(zip(data.data, data.targets, strict=True)):
                yield Member(f"{part}/{data.classes[label]}/{number:05d}", pixels)


NAMED: dict[str, Callable[[Path], Source]] = {"flowers": open_flowers, "pets": open_pets, "cifar10": Cifar10}


def open_named(name: str, copy: Path | None) -> Source:
    """Return a data set of torchvision, which downloads what is missing.

    Args:
        name: "flowers", "pets" or "cifar10".
        copy: the folder that torchvision calls root. None means $DDIM_DATA, or else a folder in the cache.

    Raises:
        UserError: if the download fails.
    """
    root = copy or Path(os.environ.get("DDIM_DATA") or cache_folder() / "downloads")
    with explain_errors(f"{name} cannot be downloaded", _COPY):
        return NAMED[name](root)


# The Hub


class Repository(NamedTuple):
    """A repository on the Hub.

    Attributes:
        id: its name, OWNER/NAME.
        revision: a branch, tag or commit; None for the main branch.
    """

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.id}" + (f"@{self.revision}" if self.revision else "")


def names_repository(run: str | Path) -> bool:
    """Return whether the name of a run or data set begins with "hub:"."""
    return str(run).startswith(PREFIX)


def parse_repository(text: str | Path) -> Repository:
    """Return the repository that OWNER/NAME or OWNER/NAME@REVISION names; "hub:" may stand before it.

    Raises:
        UserError: if the name has another form.
    """
    shown = text.as_posix() if isinstance(text, Path) else text
    parts = _NAME.fullmatch(str(shown))
    if not parts or ".." in shown:
        raise UserError(f"a repository is named hub:OWNER/NAME or hub:OWNER/NAME@REVISION, got {shown!r}")
    return Repository(*parts.groups())


def connect_to_hub(purpose: str) -> HfApi:
    """Return a client for the Hub.

    Args:
        purpose: the subject of the message, such as "pushing a run".

    Raises:
        UserError: if the package `huggingface_hub` is not installed.
    """
    with explain_errors(f"{purpose} needs huggingface_hub", 'pip install "ddim[hub]"', ImportError):
        from huggingface_hub import HfApi
    return HfApi(library_name="ddim", library_version=version("ddim"))


def fetch(repository: Repository, kind: str, choose: Callable[[list[str]], list[str]]) -> Path:
    """Return a folder with files of a repository; its parent has the name of their commit.

    What the cache has is not downloaded again. If the Hub does not answer, the newest commit in the cache is
    used.

    Args:
        repository: the repository.
        kind: "model" or "dataset".
        choose: returns the names of the files to download, given the names of all files.

    Raises:
        UserError: if the download fails, or the package `huggingface_hub` is not installed.
    """
    api, name = connect_to_hub(str(repository)), repository.id
    with explain_errors(f"{repository} cannot be downloaded", ADVICE):
        # Every repository has this small file. Its path names the commit, also without a connection.
        mark = api.hf_hub_download(name, ".gitattributes", repo_type=kind, revision=repository.revision)
        owner, _, last = name.partition("/")
        commit = Path(mark).parent.name
        folder = cache_folder() / "hub" / f"{kind}s--{owner}--{last}" / commit / last
        if folder.is_dir():
            return folder
        chosen = choose(api.list_repo_files(name, repo_type=kind, revision=commit))
        patterns = list(map(glob.escape, chosen))
        snapshot = api.snapshot_download(name, repo_type=kind, revision=commit, allow_patterns=patterns)
        # Links to these files, because the user may have downloaded others into the same snapshot.
        with temporary_folder(folder) as temporary:
            for file in chosen:
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(Path(snapshot, file).resolve(), temporary / file)
                except OSError:  # another disk
                    shutil.copyfile(Path(snapshot, file), temporary / file)
            if not folder.is_dir():  # Another process may have been quicker.
                publish_folder(temporary, folder)
    return folder


def fetch_data(repository: Repository) -> Path:
    """Return the folder of the images of a data set on the Hub, or the path of its archive or arrays.

    Raises:
        UserError: if the download fails, or there are no images, or several archives.
    """
    folder = fetch(repository, "dataset", _choose_files)
    return next((path for path in folder.rglob("*") if path.name.lower().endswith(ARCHIVES)), folder)


def _choose_files(names: list[str]) -> list[str]:
    """Return the names of parquet files, else that of an archive or of arrays, else those of image files.

    If some of these files belong to a split "train", the other files are left out.
    """
    parquet = [name for name in names if name.lower().endswith(SUFFIX)]
    archives = [name for name in names if name.lower().endswith(ARCHIVES)]
    files = parquet or archives or [name for name in names if is_image_name(name, b"")]
    chosen = [name for name in files if _TRAIN.search(name)] or files
    if not chosen or (files is archives and len(chosen) > 1):
        what = f"{len(chosen)} archives or files of arrays" if chosen else "no images"
        raise UserError(f"the data set holds {what}: download images with `hf download`, and give their path")
    return chosen
