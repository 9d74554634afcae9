"""Read the files in which WebDataset stores the class of an image: KEY.cls or KEY.json beside KEY.jpg."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ddim.data.sources import OTHER, Member, Reject, explain_bad_name

LABEL_SUFFIXES = (".cls", ".json")
LARGEST_LABEL = 2**20
"""The largest file of a label, in bytes."""

_LARGEST_SAMPLE, _MOST_FILES = 2**28, 64
"""The bytes and files of the largest sample of a WebDataset."""

_KEYS = ("cls", "label", "class")


@dataclass(frozen=True)
class LabelFile:
    """A file that may contain the class of the images with the same key."""

    name: str
    data: bytes

    def read(self) -> str | None:
        """Return the name of the class; None if the file names no class."""
        text = self.data.decode("utf-8", "replace").strip()
        if self.name.lower().endswith(".json"):
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                return None
            values = [content.get(key) for key in _KEYS] if isinstance(content, dict) else []
            label = next((value for value in values if value is not None), None)
            if not isinstance(label, str | int) or isinstance(label, bool):
                return None
            text = str(label).strip()
        return text or None


def check_class(text: str) -> str | None:
    """Return the reason why a text cannot be the name of a class; None if it can."""
    if not text or len(text) > 200 or "/" in text or text.startswith(".") or explain_bad_name(text):
        return f"its label cannot be the name of a class: {text[:50]!r}"
    return None


def name_classes(files: Iterable[Member | Reject | LabelFile]) -> Iterator[Member | Reject]:
    """Yield images and rejected files; an image whose key has a label file is renamed to CLASS/NAME.

    The files of one key must follow each other; only the files of one key are in memory together. A key with
    too many files or bytes for one sample, such as "scan" of scan.0001.png to scan.9999.png, gives no class.
    """
    group: list[Member | Reject | LabelFile] = []
    key, size = None, 0
    try:
        for file in files:
            if _key(file.name) != key:
                yield from _name_group(group)
                group, key, size = [], _key(file.name), 0
            size += 0 if isinstance(file, Reject) else len(file.data)
            group.append(file)
            if size > _LARGEST_SAMPLE or len(group) > _MOST_FILES:
                yield from _name_group(
                    [LabelFile(f.name, b"") if isinstance(f, LabelFile) else f for f in group]
                )
                group, size = [], _LARGEST_SAMPLE
    except Exception:
        # The archive is damaged further on: the files before the damage can be used.
        yield from _name_group(group)
        raise
    yield from _name_group(group)


def _key(name: str) -> str:
    """Return the path of a file up to the first dot of its last part."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    return folder + slash + last.partition(".")[0]


def _name_group(group: list[Member | Reject | LabelFile]) -> Iterator[Member | Reject]:
    labels = [file.read() for file in group if isinstance(file, LabelFile)]
    label = next((text for text in labels if text), None)
    for file in group:
        if isinstance(file, LabelFile):
            yield Reject(file.name, OTHER)
        elif isinstance(file, Reject) or label is None:
            yield file
        elif reason := check_class(label):
            yield Reject(file.name, reason)
        else:
            folder, slash, last = file.name.rpartition("/")
            yield Member(f"{folder}{slash}{label}/{last}", file.data)
