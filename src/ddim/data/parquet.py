"""Source of images in parquet files, in which Hugging Face stores data sets.

Such a file has a column of images and, optionally, a column of labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from ddim.data.archives import DAMAGED, Allowance
from ddim.data.decode import MAX_BYTES, is_image_name
from ddim.data.folder import Folder, stamp_paths
from ddim.data.label_files import check_class
from ddim.data.labels import find_given_classes
from ddim.data.sources import Member, Reject, Source
from ddim.errors import UserError, explain_error
from ddim.files import measure_file

SUFFIX = ".parquet"
LARGEST_GROUP = 2**31
"""The largest row group of a file that is accepted, in bytes of its columns after decompression."""

_IMAGES, _LABELS = ("image", "img", "bytes"), ("label", "labels", "class", "cls")
_THRIFT = 2**26  # the largest text and the longest list in the description of a file


def is_parquet(path: Path) -> bool:
    """Return whether a path is a parquet file, or a folder that holds parquet files and no images."""
    if path.is_file():
        return path.name.lower().endswith(SUFFIX)
    # Here a subfolder that cannot be listed is no error: `Folder` names it if the folder holds images.
    if not any(_find_files(path)):
        return False
    return not any(is_image_name(name, b"") for name in Folder(path).list_names())


def _find_files(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield the parquet files below a folder; `on_error` gets the error of a folder that cannot be listed."""
    for place, _, names in os.walk(folder, onerror=on_error):
        yield from (Path(place, name) for name in names if name.lower().endswith(SUFFIX))


def _refuse(error: OSError) -> NoReturn:
    raise explain_error(error) from None


@dataclass(frozen=True)
class Parquet(Source):
    """The images of a parquet file, or of all parquet files below a folder, sorted by path."""

    path: Path

    @cached_property
    def _files(self) -> list[Path]:
        return [self.path] if self.path.is_file() else sorted(_find_files(self.path, _refuse))

    def stamp(self) -> str:
        """Return the paths, sizes and timestamps of the files; see `Source`."""
        return stamp_paths(*self._files)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield every image, named by its number, in a folder for its class; see `Source`.

        Raises:
            UserError: if a file cannot be read, or has no column of images.
        """
        number = 0
        for path in self._files:
            for image, label in self._read_rows(path):
                yield _make_member(number, image, label)
                number += 1

    def find_classes(self, names: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
        """Return the class names, and the class index of each member from the labels in the files.

        See `find_given_classes`.
        """
        folders = {name.partition("/")[0] for name in names if "/" in name}
        if folders and all(folder.isdecimal() and len(folder) == 6 for folder in folders):
            return find_given_classes(names, self.class_names)
        return super().find_classes(names)

    @cached_property
    def class_names(self) -> Sequence[str]:
        """The class names that Hugging Face stores in the metadata of the first file, or []."""
        with _open_file(self._files[0]) as file:
            stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
            label = _find_column(file.schema_arrow.names, _LABELS)
        try:
            names = json.loads(stored)["info"]["features"][label]["names"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return []
        return [str(name) for name in names] if isinstance(names, list) else []

    def _read_rows(self, path: Path) -> Iterator[tuple[Any, Any]]:
        """Yield the image and the label of each row; the label is None if there is no column of labels."""
        import pyarrow

        with _open_file(path) as file:
            image, label = _find_columns(file.schema_arrow, path)
            _check_groups(file.metadata, path)
            structured = pyarrow.types.is_struct(file.schema_arrow.field(image).type)
            # Other fields beside the bytes are not read.
            columns = [f"{image}.bytes" if structured else image, *([] if label is None else [label])]
            allowance = Allowance(path)
            try:
                # A small file can repeat a large value, so only one row is in memory.
                for batch in file.iter_batches(1, columns=columns, use_threads=False):
                    for row in batch.to_pylist():
                        allowance.take(_measure(row[image]))
                        yield row[image], None if label is None else row[label]
            except UserError:
                raise
            except (pyarrow.ArrowException, *DAMAGED) as error:
                raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from None


def _check_groups(metadata: Any, path: Path) -> None:  # noqa: ANN401  (of an optional package)
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if size > LARGEST_GROUP:
            raise UserError(
                f"row group {group} of {path} has {size:,} bytes, more than {LARGEST_GROUP:,}: write the "
                "file with smaller row groups"
            )


def _measure(image: object) -> int:
    content = image.get("bytes") if isinstance(image, dict) else image
    return len(content) if isinstance(content, bytes) else 0


def _make_member(number: int, image: object, label: object) -> Member | Reject:
    name = f"{number:09d}"
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        return Reject(name, "holds no bytes of an image")
    if len(content) > MAX_BYTES:
        return Reject(name, f"larger than {MAX_BYTES >> 20} MiB")
    if label is None:
        return Member(name, content)
    index = isinstance(label, int) and not isinstance(label, bool)
    if index and not 0 <= label < 10**6:
        return Reject(name, f"its label {label} is no class index")
    folder = f"{label:06d}" if index else str(label)
    reason = check_class(folder)
    return Reject(name, reason) if reason else Member(f"{folder}/{name}", content)


def _open_file(path: Path) -> Any:  # noqa: ANN401  (a file of an optional package)
    """Open a parquet file.

    Raises:
        UserError: if the file cannot be opened, or the package `pyarrow` is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path} needs pyarrow: `pip install "ddim[parquet]"` lets ddim read it') from None
    if not measure_file(path):
        raise UserError(f"{path} cannot be read as a parquet file: it is empty")
    limits = {"thrift_string_size_limit": _THRIFT, "thrift_container_size_limit": _THRIFT}
    try:
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20, **limits)
    except (pyarrow.ArrowException, *DAMAGED) as error:
        raise UserError(
            f"{path} cannot be read as a parquet file: {' '.join(str(error).split())[:200]}"
        ) from None


def _find_columns(schema: Any, path: Path) -> tuple[str, str | None]:  # noqa: ANN401
    """Return the names of the image column and of the label column.

    The name of the label column is None if there is no such column, or its type cannot be used.
    """
    import pyarrow.types as kinds

    possible = [
        field.name
        for field in schema
        if kinds.is_binary(field.type)
        or kinds.is_large_binary(field.type)
        or (kinds.is_struct(field.type) and "bytes" in [inner.name for inner in field.type])
    ]
    image = _find_column(possible, _IMAGES) or (possible[0] if len(possible) == 1 else None)
    if image is None:
        raise UserError(
            f"{path} has no column of images: a column 'image' with the bytes of image files is needed, got "
            f"{', '.join(schema.names[:20]) or 'no columns'}"
        )
    label = _find_column(schema.names, _LABELS)
    kind = None if label is None else schema.field(label).type
    usable = kind is not None and (
        kinds.is_integer(kind) or kinds.is_string(kind) or kinds.is_dictionary(kind)
    )
    return image, label if usable else None


def _find_column(names: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)
