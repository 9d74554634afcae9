"""The sets of images on which the page may train: those in one folder of the server, and a built-in one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ddim.data import arrays, sources
from ddim.data.decode import is_image_name
from ddim.web.answers import Refused
from ddim.web.runs import name_id

BUILT_IN = "blossoms"
"""The built-in set that needs no download."""
FILES = {
    "archive": (".zip", ".tar", ".tgz", ".txz", ".tar.gz", ".tar.xz"),
    "array": arrays.SUFFIXES,
    "parquet": (sources.SUFFIX,),
}
"""The ends of the names of files that hold many images, keyed by the kind of the set."""
MOST = 1000
"""The largest number of entries of the folder that are listed."""


@dataclass(frozen=True)
class DataSet:
    """A set of images: its id, its name, and its kind: "folder", "built-in" or a key of `FILES`."""

    id: str
    name: str
    kind: str


def list_data(folder: Path | None) -> dict[str, tuple[DataSet, str]]:
    """Return the image sets, each with its source for `ddim train`, keyed by id.

    These are the built-in set, and the subfolders, archives, arrays and parquet files of the folder; the
    folder itself too if it has images. Links are left out. Without a folder the page may not train, and there
    are none.
    """
    if folder is None:
        return {}
    sets = [(DataSet(f"built-in~{BUILT_IN}", BUILT_IN, "built-in"), BUILT_IN)]
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)[:MOST]
    # A link could lead out of the folder.
    entries = [entry for entry in entries if not entry.is_symlink() and not entry.name.startswith(".")]
    kinds = [(Path(entry.path), _find_kind(entry)) for entry in entries]
    if any(kind in ("folder", "parquet") or is_image_name(path.name, b"") for path, kind in kinds):
        sets.append((DataSet("folder", folder.resolve().name, "folder"), str(folder)))
    for path, kind in kinds:
        if kind:
            sets.append((DataSet(f"{kind}~{name_id(path, folder)}", path.name, kind), str(path)))
    return {entry.id: (entry, source) for entry, source in sets}


def _find_kind(entry: os.DirEntry[str]) -> str | None:
    kinds = (kind for kind, ends in FILES.items() if entry.name.lower().endswith(ends))
    return "folder" if entry.is_dir() else next(kinds, None)


def find_data(folder: Path | None, key: str) -> tuple[DataSet, str]:
    """Return the image set with an id, and its source for `ddim train`.

    Raises:
        Refused: if the server has no folder of images, or no image set has this id.
    """
    if folder is None:
        raise Refused(403, "this server shows no images: start it with --data FOLDER")
    if key not in (known := list_data(folder)):
        raise Refused(404, "there are no images of this name")
    return known[key]
