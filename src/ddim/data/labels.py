"""Class indices that are stored as folder names: the member "000003/000000017" has class 3."""

from __future__ import annotations

from collections.abc import Sequence

from ddim.errors import UserError


def find_given_classes(
    names: Sequence[str], class_names: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[int] | None]:
    """Return the class names, and the class index of each member; ((), None) if there are no labels.

    Args:
        names: the names of the members.
        class_names: the names of the classes, used if each class has one name and all names differ.

    Raises:
        UserError: if only some images have a label.
    """
    labels = [int(folder) for folder, slash, _ in (name.partition("/") for name in names) if slash]
    if not labels:
        return (), None
    if len(labels) < len(names):
        raise UserError(f"every image needs a label, or none: {len(labels)} of {len(names)} have one")
    count = max(*labels, len(class_names) - 1, 0) + 1
    known = len(class_names) == count == len(set(class_names))
    return tuple(class_names if known else map(str, range(count))), labels
