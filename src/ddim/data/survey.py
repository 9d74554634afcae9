"""Survey the files of a source: read them once, and keep the result in the cache until they change."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ddim.data import decode
from ddim.data.high_bit_depth import VERSION, read_any_header, read_pixels, stored_type
from ddim.data.sources import OTHER, Member, Reject, Source, Survey, Unreadable
from ddim.data.values import ValueType
from ddim.errors import UserError, explain_os_error
from ddim.files import make_folder
from ddim.files.documents import read_sealed, write_sealed


def survey_source(source: Source, root: Path, checking: Callable[[int, int], None] | None = None) -> Survey:
    """Return the survey of a source.

    A survey that is stored in the cache folder `root` is used if the files have not changed since then. Else
    the files are read, and `checking` is called as in `open_images`.

    Raises:
        UserError: if the cache folder cannot be written.
        NoSpace: if the disk is full.
    """
    if known := source.survey():
        return known
    stamp = source.stamp()
    note = _name_note(root, stamp)
    if stamp:
        with suppress(UserError, TypeError):
            return Survey(**read_sealed(note))
    found, lasting = _read_all(source, checking)
    if stamp and lasting and source.stamp() == stamp:
        with explained_writing(root):
            make_folder(note.parent)
            # JSON has no infinity, which is the bound if there are no float images.
            facts = asdict(found).items()
            write_sealed(note, {key: value for key, value in facts if value not in _NO_BOUNDS})
    return found


def forget_survey(source: Source, root: Path) -> None:
    """Remove the stored survey of a source, because its files have other contents than the survey says."""
    with explained_writing(root):
        _name_note(root, source.stamp()).unlink(missing_ok=True)


def _name_note(root: Path, stamp: str) -> Path:
    # Which formats can be read depends on packages too.
    packages = [name for name in ("tifffile", "imagecodecs") if find_spec(name)]
    key = " ".join((*decode.list_readable(), *packages, VERSION, stamp))
    return root / "surveys" / f"{hash_text(key)}.json"


_NO_BOUNDS = (math.inf, -math.inf)


def _read_all(source: Source, checking: Callable[[int, int], None] | None) -> tuple[Survey, bool]:
    """Return the survey of a source, and whether it stays true as long as the files do not change.

    It does not if a file could not be read because of a fault that may be temporary; see `Unreadable`.
    """
    contents, tally = Contents(source), Tally()
    count = others = 0
    total = source.count_files() if checking else 0
    for done, item in enumerate(source.members((64, 64)), 1):
        header = contents.add(item)
        count += isinstance(item, Member)
        others += isinstance(item, Reject) and item.reason == OTHER
        if header and isinstance(item, Member):
            with suppress(decode.UnusableError):
                tally.add(header, read_bytes(item))
        if checking:
            checking(done, max(done, total))
    return tally.complete(contents.hash(), count, others), not contents.unreadable


@dataclass
class Tally:
    """Counts the types of values and the numbers of channels of images, and finds the range of floats."""

    _types: Counter[ValueType] = field(default_factory=Counter)
    _channels: Counter[int] = field(default_factory=Counter)
    _low: float = math.inf
    _high: float = -math.inf

    def add(self, header: decode.Header, data: bytes) -> None:
        """Count the image in a file with this header and these bytes.

        Raises:
            UnusableError: if it has floats that cannot be decoded; it is counted even then.
        """
        kind = stored_type(header)
        self._types[kind] += 1
        self._channels[header.channels] += 1
        if kind == "float32":
            pixels = read_pixels(data)
            self._low = min(self._low, float(pixels.min()))
            self._high = max(self._high, float(pixels.max()))

    def complete(self, content: str, count: int, others: int = 0) -> Survey:
        """Return the survey of these images; the arguments are those of `Survey`."""
        # RGB wins a tie: it represents gray images without loss, and transparency is seldom intended.
        channels = max((3, 4, 1, *sorted(self._channels)), key=lambda wanted: self._channels[wanted])
        kinds: tuple[ValueType, ...] = ("uint8", "uint16", "float32")
        values = max(kinds, key=lambda wanted: self._types[wanted])
        return Survey(content, channels, count, others, values, self._low, self._high)


@dataclass
class Contents:
    """The names and hashes of the files that have been read so far.

    Attributes:
        source: the source of the files.
        unreadable: the files that could not be read this time.
    """

    source: Source
    unreadable: list[Unreadable] = field(default_factory=list)
    _lines: list[tuple[str, str]] = field(default_factory=list)

    def add(self, item: Member | Reject) -> decode.Header | None:
        """Take a file into account, and return its header, or None if it is not an image that can be used."""
        header = None
        if isinstance(item, Member):
            data = read_bytes(item)
            digest = hashlib.sha256(data).hexdigest()
            with suppress(decode.UnusableError):
                header = read_any_header(data)
                # A machine that cannot read this format decodes fewer images from the same files, so it must
                # get another fingerprint.
                digest += header.format if header.format in ("AVIF", "HEIF") else ""
            self._lines.append((item.name, digest if item.label is None else f"{digest} {item.label!r}"))
        elif item.reason != OTHER:
            self._lines.append((item.name, item.reason))
            if isinstance(item, Unreadable):
                self.unreadable.append(item)
        return header

    def hash(self) -> str:
        """Return the SHA-256 of all names and hashes, which does not depend on their order.

        If the source stores class names apart from the names of its files, they are part of it.
        """
        classes, lines = self.source.class_names, sorted(self._lines)
        return hash_text(json.dumps([classes, lines] if classes else lines))


@contextmanager
def explained_writing(root: Path) -> Generator[None]:
    """Turn an OSError of the block into an error for users about the cache folder `root`."""
    try:
        yield
    except OSError as error:
        what = f"the cache folder {str(root)!r} cannot be written"
        raise explain_os_error(error, what, "set DDIM_CACHE to a folder that can be written") from None


def read_bytes(member: Member) -> bytes:
    """Return the image of a member as the bytes of a file."""
    from ddim.data.arrays import encode_array

    return member.data if isinstance(member.data, bytes) else encode_array(member.data)


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
