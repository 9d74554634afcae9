"""What a power cut can leave of a folder: a disk that keeps only what was flushed to it, and perhaps more."""

import hashlib
import itertools
import os
import stat
from dataclasses import dataclass

# The functions themselves, because tests put others in their place.
_open, _close, _fstat = os.open, os.close, os.fstat

LEFT = (
    lambda now, synced: now,
    lambda now, synced: synced,
    lambda now, synced: synced + bytes(max(0, len(now) - len(synced))),
    lambda now, synced: synced + now[len(synced) : (len(synced) + len(now)) // 2],
)
"""Functions (now, synced) that return what may be left of a file; `synced` is its flushed content."""

NAMES = (
    *(lambda depth, place, k=k: depth <= k for k in range(-1, 4)),
    *(lambda depth, place, k=k: depth > k for k in range(4)),
    *(lambda depth, place, k=k: place % 2 == k for k in range(2)),
)
"""Functions (depth, place) that choose what is left of a name in a folder.

`depth` is that of the folder, and `place` that of the name in it. True chooses the present entry of the name,
and False the flushed one.
"""


@dataclass
class Entry:
    """A file or folder: its descriptor and its flushed content.

    The descriptor stays open, so that no other file gets the same inode number.
    """

    file: int
    is_folder: bool
    synced: bytes | dict


class Disk:
    """Follows the changes of a folder; all that is in it at the start counts as flushed.

    Call `fsync(file)` at each flush of an open file or folder, and `states()` wherever the power may be cut.
    """

    def __init__(self, root):
        self.entries = {}
        self.root = self._find(root)
        for key in self._walk(self.root):
            self.entries[key].synced = self._now(key)

    def close(self):
        """Close all descriptors."""
        for entry in self.entries.values():
            _close(entry.file)

    def fsync(self, file):
        """Take the flush of an open file into account."""
        found = _fstat(file)
        key = found.st_dev, found.st_ino
        if key not in self.entries:
            self._look()
        if key in self.entries:  # else it is elsewhere
            self.entries[key].synced = self._now(key)

    def states(self):
        """Yield what a power cut may leave now, as {path: bytes, or None for a folder}."""
        self._look()
        for data, names in itertools.product(LEFT, NAMES):
            yield dict(self._left(self.root, data, names))

    def _left(self, key, data, names, depth=0, place=""):  # noqa: PLR0913
        entry = self.entries[key]
        if not entry.is_folder:
            yield place, data(self._now(key), entry.synced)
            return
        if place:
            yield place, None
        now = self._now(key)
        # File systems keep the order of renames and removals, but new names may come in any order.
        grown = entry.synced.items() <= now.items()
        for k, name in enumerate(sorted(now.keys() | entry.synced)):
            inner = (now if names(depth, k if grown else 0) else entry.synced).get(name)
            if inner:
                yield from self._left(inner, data, names, depth + 1, f"{place}/{name}" if place else name)

    def _look(self):
        """Open what is new."""
        for _ in self._walk(self.root):
            pass

    def _walk(self, key):
        yield key
        if self.entries[key].is_folder:
            for inner in self._now(key).values():
                yield from self._walk(inner)

    def _now(self, key):
        """Return the bytes of a file, or the names of a folder with the keys of their entries."""
        file = self.entries[key].file
        if self.entries[key].is_folder:
            return {name: self._find(name, file) for name in sorted(os.listdir(file))}
        return os.pread(file, _fstat(file).st_size, 0)

    def _find(self, name, folder=None):
        """Return the key of the entry of a name; it is added if it is new."""
        file = _open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        found = _fstat(file)
        key = found.st_dev, found.st_ino
        if key in self.entries:
            _close(file)
        else:
            is_folder = stat.S_ISDIR(found.st_mode)
            self.entries[key] = Entry(file, is_folder, {} if is_folder else b"")
        return key


def hash_state(state):
    """Return a number that is the same for equal states."""
    return hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()
