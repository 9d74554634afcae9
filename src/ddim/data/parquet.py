"""Source of images in parquet files, in which Hugging Face stores data sets.

Such a file has a column of images and, optionally, a column of labels. This needs the extra `parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.data.decode import is_image_name
from ddim.data.sources import Member, Reject, Source, stamp_paths
from ddim.errors import UserError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SUFFIX = ".parquet"
_IMAGES, _LABELS = ("image", "img", "bytes"), ("label", "labels", "class", "cls")


def find_parquet(path: Path) -> tuple[Path, ...]:
    """Return the parquet files of a source: the file itself, or all below a folder that holds no images."""
    files = [path] if path.is_file() else path.rglob("*")
    if path.is_dir() and any(is_image_name(file.name, b"") for file in path.rglob("*")):
        return ()
    return tuple(sorted(file for file in files if file.name.lower().endswith(SUFFIX)))


@dataclass(frozen=True)
class Parquet(Source):
    """The images of parquet files, named by the number of their row, with the labels that the files have."""

    files: tuple[Path, ...]

    def stamp(self) -> str:
        """Return the paths, sizes and timestamps of the files; see `Source`."""
        return stamp_paths(*self.files)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the image of each row; see `Source`.

        Raises:
            UserError: if a file cannot be read, or has no column of images.
        """
        rows = chain.from_iterable(map(_read_rows, self.files))
        for number, (image, label) in enumerate(rows):
            yield _make_member(f"{number:09d}", image, label)

    @cached_property
    def class_names(self) -> Sequence[str]:
        """The names of the classes 0, 1, ... that Hugging Face stores in the first file, or ()."""
        with _open_file(self.files[0]) as file:
            stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
            label = _find_column(file.schema_arrow.names, _LABELS)
        try:
            return tuple(map(str, json.loads(stored)["info"]["features"][label]["names"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return ()


def _read_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the image and the label of each row; the label is None if there is no column of labels."""
    with _open_file(path) as file:
        # An image is binary, or a structure with a binary field, such as struct<bytes: binary, path: string>.
        binary = [field.name for field in file.schema_arrow if "binary" in str(field.type)]
        image = _find_column(binary, _IMAGES) or (binary[0] if len(binary) == 1 else None)
        if image is None:
            names = ", ".join(file.schema_arrow.names[:20])
            raise UserError(f"{path} needs a column 'image' with the bytes of image files, got {names}")
        label = _find_column(file.schema_arrow.names, _LABELS)
        # Only 16 rows are read together: each may be a photograph of many megabytes.
        for batch in file.iter_batches(16, columns=[image, label] if label else [image]):
            for row in batch.to_pylist():
                yield row[image], row.get(label)


def _make_member(name: str, image: object, label: object) -> Member | Reject:
    image = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(image, bytes):
        return Reject(name, "holds no bytes of an image")
    if isinstance(label, int) and not 0 <= label < 10**6:  # Hugging Face writes -1 for an unknown label.
        return Reject(name, f"its label {label} is no class index")
    return Member(name, image, label if isinstance(label, str | int) else None)


@contextmanager
def _open_file(path: Path) -> Generator[ParquetFile]:
    """Open a parquet file for a block, and explain the errors of reading it.

    Raises:
        UserError: if the file cannot be read, or the package `pyarrow` is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path} needs pyarrow: `pip install "ddim[parquet]"` lets ddim read it') from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a parquet file: {reason}") from None


def _find_column(names: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)
