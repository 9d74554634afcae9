"""Find the classes of images: from labels that a source stores, or from the folders in their names."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress

from ddim.errors import UserError

LABEL_SUFFIXES = (".cls", ".json")
"""The endings of the files in which WebDataset stores the class of an image: KEY.cls beside KEY.jpg."""

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def find_classes(
    names: Sequence[str], labels: Sequence[str | int | None], class_names: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[int] | None]:
    """Return the class names, and the class index of each image; ((), None) if there are no classes.

    The classes are those of the labels. Without labels, they are folders, see `name_folders`. Labels of texts
    are class names. Integers are indices into `class_names`, or into "0", "1", ... if these do not fit.

    Args:
        names: the names of the images, with "/" between folders.
        labels: the label of each image, or None.
        class_names: the names of the classes 0, 1, ...

    Raises:
        UserError: if only some images have a label, or a class index is below 0 or above a million.
    """
    known = [label for label in labels if label is not None]
    if known and len(known) < len(labels):
        raise UserError(f"every image needs a label, or none: {len(known)} of {len(labels)} have one")
    indices = [label for label in known if isinstance(label, int)]
    if len(indices) == len(known) > 0:
        if not 0 <= min(indices) <= max(indices) < 10**6:
            raise UserError(f"a class index must be 0 to 999,999, got {min(indices)} to {max(indices)}")
        count = max(*indices, len(class_names) - 1, 0) + 1
        fits = len(class_names) == count == len(set(class_names))
        return tuple(class_names if fits else map(str, range(count))), indices
    texts = list(map(str, known)) or name_folders(names)
    classes = tuple(sorted(set(texts)))
    places = {name: index for index, name in enumerate(classes)}
    return classes, [places[text] for text in texts] if texts else None


def name_folders(names: Sequence[str]) -> list[str]:
    """Return the folder that is the class of each image; [] if there are no class folders.

    Folders above all images do not count. If all folders below them have names such as train, val and test,
    these are no classes, and the rule holds below them. If all images are at the same depth, the class is the
    folder of an image, in train/rose/1.png the class rose. If depths differ, or all these folders have the
    same name, it is the first folder in which the paths differ. If an image lies beside the class folders,
    there are no classes.
    """
    folders = _drop_shared([tuple(name.split("/")[:-1]) for name in names])
    if all(folder and folder[0].lower() in _SPLITS for folder in folders):
        folders = _drop_shared([folder[1:] for folder in folders])
    if not folders or not all(folders):
        return []
    last = [folder[-1] for folder in folders]
    same_depth = len(set(map(len, folders))) == 1
    return last if same_depth and len(set(last)) > 1 else [folder[0] for folder in folders]


def _drop_shared(folders: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the paths without the folders at their start that are the same for all."""
    shared = len(os.path.commonprefix(folders))
    return [folder[shared:] for folder in folders]


def read_label(name: str, data: bytes) -> str | None:
    """Return the class that a file KEY.cls or KEY.json names; None if it names no class."""
    text = data.decode("utf-8", "replace").strip()
    if name.lower().endswith(".cls"):
        return text or None
    with suppress(ValueError, RecursionError, AttributeError, StopIteration):
        content = json.loads(text)
        label = next(content[key] for key in ("cls", "label", "class") if content.get(key) is not None)
        if isinstance(label, str | int) and not isinstance(label, bool):
            return str(label).strip() or None
    return None
