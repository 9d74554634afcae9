"""Drop output that nobody reads any more, so that the command can finish its work."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def drop_unread_output() -> Iterator[None]:
    """Inside the block, drop text that is written to standard output or error after its reader is gone.

    The reader may be `head`, a `tee` that died, or a terminal that was closed. Other errors, such as a full
    disk, are raised.
    """
    before = sys.stdout, sys.stderr
    # A stream is None if the shell closed its descriptor, as `>&-` does. Its text is dropped too.
    streams = [_Stream(stream or open(os.devnull, "w")) for stream in before]  # noqa: SIM115
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


class _Stream:
    """A text stream whose output is dropped once nobody can read it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (any attribute of the stream)
        """Return an attribute of the stream, such as its encoding."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it if nobody can read it."""
        try:
            return self.stream.write(text)
        except OSError as error:
            self._close(error)
            return len(text)

    def flush(self) -> None:
        """Flush the written text, or drop it if nobody can read it."""
        try:
            self.stream.flush()
        except OSError as error:
            self._close(error)
            self.stream.flush()

    def _close(self, error: OSError) -> None:
        """Drop all further output. Raise the error again if its cause is not that the reader is gone."""
        file = self.stream.fileno()
        terminal = stat.S_ISCHR(os.fstat(file).st_mode)
        # The descriptor now leads nowhere. Otherwise Python would try to write the rest again when it exits.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, file)
        os.close(null)
        if error.errno != errno.EPIPE and not (error.errno == errno.EIO and terminal):
            raise error
