"""The sets of images on which the page may train: those in one folder of the server, and a built-in one."""

from dataclasses import dataclass
from pathlib import Path

from ddim.data.decode import is_image_name
from ddim.data.remote import ARCHIVES
from ddim.data.sources import SUFFIX
from ddim.web.answers import Refused
from ddim.web.runs import name_id

BUILT_IN = "blossoms"
"""The built-in set that needs no download."""
MOST = 1000
"""The largest number of entries of the folder that are listed."""


@dataclass(frozen=True)
class DataSet:
    """A set of images: its id, its name, and its kind: "folder", "built-in" or "file"."""

    id: str
    name: str
    kind: str


def list_data(folder: Path | None) -> dict[str, tuple[DataSet, str]]:
    """Return the image sets, each with its source for `ddim train`, keyed by id.

    These are the folder itself if it has images, its subfolders, archives, arrays and parquet files, and last
    the built-in set. Links are left out. Without a folder the page may not train, and there are none.
    """
    if folder is None:
        return {}
    sets = list[tuple[DataSet, str]]()
    paths = sorted(folder.iterdir())[:MOST]
    # A link could lead out of the folder.
    paths = [path for path in paths if not path.is_symlink() and path.name[0] != "."]
    if any(is_image_name(path.name, b"") or path.is_dir() or path.suffix == SUFFIX for path in paths):
        sets.append((DataSet("folder", folder.resolve().name, "folder"), str(folder)))
    for path in paths:
        kind = "folder" if path.is_dir() else "file"
        if kind == "folder" or path.name.lower().endswith((*ARCHIVES, SUFFIX)):
            sets.append((DataSet(f"{kind}~{name_id(path, folder)}", path.name, kind), str(path)))
    sets.append((DataSet(f"built-in~{BUILT_IN}", BUILT_IN, "built-in"), BUILT_IN))
    return {entry.id: (entry, source) for entry, source in sets}


def find_data(folder: Path | None, key: str) -> tuple[DataSet, str]:
    """Return the image set with an id, and its source for `ddim train`.

    Raises:
        Refused: if no image set has this id.
    """
    if key not in (known := list_data(folder)):
        raise Refused(404, "there are no images of this name")
    return known[key]
