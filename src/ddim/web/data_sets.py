"""The image sets on which the page may train: those in the folder of --data, and the built-in set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ddim.data import arrays, parquet
from ddim.data.decode import is_image_name
from ddim.web.answers import Refused
from ddim.web.rows import name_id, show_text

BUILT_IN = "blossoms"
"""The built-in set that needs no download."""
FILES = {
    "archive": (".zip", ".tar", ".tgz", ".txz", ".tar.gz", ".tar.xz"),
    "array": arrays.SUFFIXES,
    "parquet": (parquet.SUFFIX,),
}
"""The ends of the names of files that hold many images, keyed by the kind of the set."""
MOST = 1000
"""The largest number of entries of the folder that are considered."""


@dataclass(frozen=True)
class DataSet:
    """A set of images: its id, its name, and its kind: "folder", "built-in" or a key of `FILES`."""

    id: str
    name: str
    kind: str


def list_data(folder: Path | None) -> dict[str, tuple[DataSet, str]]:
    """Return the image sets, each with its source for `ddim train`, keyed by id.

    These are the built-in set, and the subfolders, archives, arrays and parquet files of the folder. The
    folder itself is listed if it has images, subfolders or parquet files. Links are left out.

    Without a folder (None) the page may not train, and the result is empty.
    """
    if folder is None:
        return {}
    found = [(DataSet(f"built-in~{BUILT_IN}", BUILT_IN, "built-in"), BUILT_IN)]
    paths: dict[str, list[Path]] = {"folder": [], **{kind: [] for kind in FILES}}
    images = False
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name)[:MOST]:
            # A link could lead out of the folder.
            if entry.is_symlink() or entry.name.startswith("."):
                continue
            name = entry.name.lower()
            kinds = (kind for kind, ends in FILES.items() if name.endswith(ends))
            kind = "folder" if entry.is_dir() else next(kinds, None)
            if kind is not None:
                paths[kind].append(Path(entry.path))
            images = images or (entry.is_file() and is_image_name(entry.name, b""))
    # Parquet files are read as images of their folder too, see `find_parquet`.
    if images or paths["folder"] or paths["parquet"]:
        found.append((DataSet("folder", show_text(folder.resolve().name), "folder"), str(folder)))
    found += [
        (DataSet(f"{kind}~{name_id(path, folder)}", show_text(path.name), kind), str(path))
        for kind, several in paths.items()
        for path in several
    ]
    return {entry.id: (entry, source) for entry, source in found}


def find_data(folder: Path | None, own: str) -> tuple[DataSet, str]:
    """Return the image set with the id `own`, and its source for `ddim train`.

    Raises:
        Refused: if the server has no folder of images, or no image set has this id.
    """
    if folder is None:
        raise Refused(403, "this server shows no images: start it with --data FOLDER")
    found = list_data(folder).get(own)
    if found is None:
        raise Refused(404, "there are no images of this name")
    return found
