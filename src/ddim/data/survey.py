"""Survey the files of a source: read them once, and keep the result in the cache until they change."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ddim.data import decode
from ddim.data.high_bit_depth import VERSION, read_any_header, read_pixels, stored_type
from ddim.data.sources import OTHER, Member, Reject, Source, Survey, Unreadable, count_votes
from ddim.data.values import ValueType
from ddim.errors import UserError, explain_os_error
from ddim.files import make_folder
from ddim.files.documents import read_sealed, write_sealed


def survey_source(source: Source, root: Path) -> Survey:
    """Return what is known about a source before its images are decoded; see `Survey`.

    A survey that is stored in the cache folder `root` is used if the files have not changed since then.
    Otherwise all files are read.

    Raises:
        UserError: if the cache folder cannot be written.
    """
    if known := source.survey():
        return known
    stamp = source.stamp()
    key = " ".join((*decode.list_readable(), *(["tiff"] if find_spec("tifffile") else []), VERSION, stamp))
    note = root / "surveys" / f"{hash_text(key)}.json"
    if stamp:
        with suppress(UserError, TypeError):
            return Survey(**read_sealed(note))
    builder = SurveyBuilder()
    for item in source.members((0, 0)):
        builder.add(item)
    found = builder.survey()
    # A file that could not be read now may be readable next time, and its times do not show it.
    if stamp and not builder.unreadable and source.stamp() == stamp:
        with explained_writing(root):
            make_folder(note.parent)
            # JSON has no infinity, which is the bound if there are no float images.
            write_sealed(
                note, {key: value for key, value in asdict(found).items() if value not in _NO_BOUNDS}
            )
    return found


_NO_BOUNDS = (math.inf, -math.inf)


@dataclass
class SurveyBuilder:
    """The survey of the files that have been read so far.

    Attributes:
        count: number of image files.
        others: number of files that are not images.
        unreadable: the files that could not be read.
    """

    count: int = 0
    others: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    _lines: list[tuple[str, str]] = field(default_factory=list)
    _votes: Counter[tuple[ValueType, int]] = field(default_factory=Counter)
    _low: float = math.inf
    _high: float = -math.inf

    def add(self, item: Member | Reject) -> None:
        """Add a file to the survey."""
        if isinstance(item, Member):
            self.count += 1
            digest = hashlib.sha256(item.data).hexdigest()
            with suppress(decode.UnusableError):
                header = read_any_header(item.data)
                self._votes[stored_type(header), header.channels] += 1
                # A machine that cannot read this format decodes fewer images from the same files, so it must
                # get another fingerprint.
                digest += header.format if header.format in ("AVIF", "HEIF") else ""
                if stored_type(header) == "float32":
                    pixels = read_pixels(item.data)
                    self._low = min(self._low, float(pixels.min()))
                    self._high = max(self._high, float(pixels.max()))
            self._lines.append((item.name, digest))
        elif item.reason == OTHER:
            self.others += 1
        else:
            self._lines.append((item.name, item.reason))
            if isinstance(item, Unreadable):
                self.unreadable.append(item)

    def survey(self) -> Survey:
        """Return the survey of the files that were added."""
        values, channels = count_votes(self._votes)
        content = hash_text(json.dumps(sorted(self._lines)))
        return Survey(content, channels, self.count, self.others, values, self._low, self._high)


@contextmanager
def explained_writing(root: Path) -> Generator[None]:
    """Turn an OSError of the block into an error for users about the cache folder `root`."""
    try:
        yield
    except OSError as error:
        what = f"the cache folder {str(root)!r} cannot be written"
        raise explain_os_error(error, what, "set DDIM_CACHE to a folder that can be written") from None


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
