"""Open Oxford Flowers 102, Oxford-IIIT Pets and CIFAR-10, from a local copy or by download.

The archives are read in place and not extracted, and nothing in them is run as code. CIFAR-10 is read in its
binary version, because the Python version is a pickle, which can run code. The labels of Flowers are MATLAB
files and are not read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ddim.data.archives import DAMAGED, Allowance, read_tar
from ddim.data.decode import MAX_BYTES
from ddim.data.folder import open_path, stamp_paths
from ddim.data.sources import OTHER, Member, Reject, Source
from ddim.errors import UserError, is_full_disk
from ddim.files import cache_folder, cache_folders, download_file, read_file


@dataclass(frozen=True)
class Archive:
    """A file to download, with its data set, address, MD5 (hex) and the name of its unpacked folder."""

    name: str
    url: str
    md5: str
    unpacked: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[-1]


_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
FLOWERS = Archive("flowers", f"{_VGG}/flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", "jpg")
PETS = Archive("pets", f"{_VGG}/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", "images")
PETS_LISTS = Archive(
    "pets", f"{_VGG}/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", "annotations"
)
CIFAR10 = Archive(
    "cifar10",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-batches-bin",
)
ARCHIVES = (FLOWERS, PETS, PETS_LISTS, CIFAR10)
"""All files that can be downloaded."""

# The folders that torchvision creates below its root folder.
_TORCHVISION = {"flowers": "flowers-102", "pets": "oxford-iiit-pet", "cifar10": "."}
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
_CIFAR10_RECORD = 1 + 3 * 32 * 32


def open_flowers(copy: Path | None) -> Source:
    """Return a source of the 8,189 photographs of Oxford Flowers 102, without labels or an official split.

    Args:
        copy: the user's copy of the archive; if None, `locate_archive` finds or downloads the archive.
    """
    path = locate_archive(FLOWERS, copy)
    return Renamed(open_path(path), lambda name: name.rsplit("/", 1)[-1], stamp_paths(path))


def open_pets(copy: Path | None) -> Source:
    """Return a source of Oxford-IIIT Pets: 3,680 images for training and 3,669 for validation, of 37 breeds.

    Args:
        copy: the user's copy of the archives; if None, `locate_archive` finds or downloads the archives.
    """
    path, lists = locate_archive(PETS, copy), locate_archive(PETS_LISTS, copy)
    parts: dict[str, str] = {}
    for name, data in _files(lists, ("trainval.txt", "test.txt")):
        part = "train" if name == "trainval.txt" else "test"
        parts |= {
            line.split()[0]: part for line in data.decode("utf-8", "replace").splitlines() if line.strip()
        }

    def rename(name: str) -> str | None:
        file = name.rsplit("/", 1)[-1]
        stem = file.rsplit(".", 1)[0]
        return f"{parts[stem]}/{stem.rsplit('_', 1)[0]}/{file}" if stem in parts else None

    return Renamed(open_path(path), rename, stamp_paths(path, lists), official=True)


def open_cifar10(copy: Path | None) -> Source:
    """Return a source of CIFAR-10: 50,000 images of 32x32 for training, 10,000 for validation, 10 classes.

    Args:
        copy: the user's copy of the archive; if None, `locate_archive` finds or downloads the archive.
    """
    return Cifar10(locate_archive(CIFAR10, copy))


NAMED: dict[str, Callable[[Path | None], Source]] = {
    "flowers": open_flowers,
    "pets": open_pets,
    "cifar10": open_cifar10,
}
WITH_SPLIT = ("pets", "cifar10")
"""The names of the data sets that define a split; see `Source.official`."""


@dataclass(frozen=True)
class Renamed(Source):
    """A source whose files get new names, which contain the split and the class if the data set has them.

    Attributes:
        source: the source of the files.
        rename: returns the new name of a file, or None for a file to leave out.
        stamped: the stamp of all files on which the new names depend; see `stamp_paths`.
        official: whether the data set defines a split.
    """

    source: Source
    rename: Callable[[str], str | None]
    stamped: str
    official: bool = False  # pyrefly: ignore[bad-override]  (a frozen field)

    def stamp(self) -> str:
        """Return the paths, sizes and timestamps of all files on which the source depends; see `Source`."""
        own = self.source.stamp()
        return f"{own}\0{self.stamped}\0{self.official}" if own and self.stamped else ""

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the files under their new names, such as train/Abyssinian/Abyssinian_1.jpg; see `Source`."""
        for item in self.source.members(size):
            if isinstance(item, Reject):
                yield item
            elif name := self.rename(item.name):
                yield Member(name, item.data)
            else:
                yield Reject(item.name, OTHER)


@dataclass(frozen=True)
class Cifar10(Source):
    """Source of CIFAR-10 in its binary version; records of a label and 3 x 32 x 32 bytes become PPM files."""

    path: Path
    official = True

    def stamp(self) -> str:
        """Return the paths, sizes and timestamps of the batch files, or of the archive; see `Source`."""
        return (
            stamp_paths(*(self.path / name for name in _CIFAR10_FILES))
            if self.path.is_dir()
            else stamp_paths(self.path)
        )

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield every record, in the order of the files; see `Source`."""
        import numpy as np

        for file, data in _files(self.path, _CIFAR10_FILES):
            part, batch = (
                ("test", "test") if file == "test_batch.bin" else ("train", file[len("data_batch_") : -4])
            )
            if len(data) % _CIFAR10_RECORD:
                yield Reject(file, f"{len(data)} bytes are not a multiple of a record of {_CIFAR10_RECORD}")
            for number in range(len(data) // _CIFAR10_RECORD):
                record = np.frombuffer(data, np.uint8, _CIFAR10_RECORD, number * _CIFAR10_RECORD)
                if record[0] >= len(_CIFAR10_CLASSES):
                    yield Reject(f"{file} record {number}", f"label {record[0]} is not in 0 ... 9")
                    continue
                pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes()
                name = f"{part}/{_CIFAR10_CLASSES[record[0]]}/{batch}-{number:05d}.ppm"
                yield Member(name, b"P6 32 32 255\n" + pixels)


def _files(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files, as (name, bytes), from a folder or a tar file.

    Raises:
        UserError: if a wanted file is missing or cannot be read.
    """
    missing = set(wanted)
    try:
        if path.is_dir():
            for name in wanted:
                data = read_file(path / name, MAX_BYTES)
                missing.discard(name)
                yield name, data
        else:
            allowance = Allowance(path)
            for info, file in read_tar(path, allowance):
                name = info.name.rsplit("/", 1)[-1]
                if file and name in missing and info.size <= MAX_BYTES:
                    allowance.take(info.size)
                    missing.discard(name)
                    yield name, file.read()
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(
            f"{str(path)!r} lacks {', '.join(sorted(missing))}, or cannot be read ({error}): get a new copy"
        ) from None
    if missing:
        raise UserError(f"{str(path)!r} lacks {', '.join(sorted(missing))}: get a new copy")


def locate_archive(archive: Archive, copy: Path | None) -> Path:
    """Return the path of a local copy (archive file or unpacked folder); download the archive if necessary.

    Args:
        archive: the file to find.
        copy: the folder or file to search. If None, $DDIM_DATA and earlier downloads are searched; if the
            archive is not there, it is downloaded.

    Raises:
        UserError: if `copy` does not hold the archive, or the download fails. The message says from which
            address to get which file.
    """
    downloads = cache_folder() / "downloads"
    if copy is not None:
        roots = [copy.parent if copy.is_file() else copy]
    else:
        roots = [Path(root) for root in (os.environ.get("DDIM_DATA"),) if root]
        roots += [folder / "downloads" for folder in cache_folders()]
    for root in roots:
        for folder in (root, root / _TORCHVISION[archive.name]):
            if (folder / archive.unpacked).is_dir():
                return folder / archive.unpacked
            if (folder / archive.file).is_file():
                return folder / archive.file
    if copy is not None:
        raise UserError(
            f"data.source '{archive.name}:{copy}' holds neither {archive.file} nor the folder "
            f"{archive.unpacked}: get it from {archive.url}"
        )
    try:
        return download_file(archive.url, downloads / archive.file, "md5", (archive.md5,))
    except (OSError, RuntimeError) as error:
        if is_full_disk(error):
            raise
        raise UserError(
            f"{archive.name} cannot be downloaded ({error}): put {archive.file} from {archive.url} "
            f"into a folder, and give {archive.name}:FOLDER as data.source"
        ) from None
