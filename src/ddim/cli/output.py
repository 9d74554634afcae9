"""What a command prints: results on standard output, and everything else on standard error.

The streams escape what could control a terminal, and drop what nobody can read.
"""

import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import IO, Any, TextIO

from ddim.errors import escape
from ddim.plots.table import wrap_text


def say(text: str) -> None:
    """Print lines on standard error; if a progress bar is drawn there, the bar stays below them."""
    # While a bar is drawn, sys.stderr is an object of rich, which does not escape.
    print(fit_terminal(escape(text, "\n\t"), sys.stderr), file=sys.stderr, flush=True)


def print_text(text: str) -> None:
    """Print lines on standard output."""
    print(fit_terminal(text.rstrip("\n"), sys.stdout), flush=True)


def fit_terminal(text: str, stream: IO[str]) -> str:
    """Return lines that fit a terminal without a broken word; lines for a file or a pipe stay as they are."""
    return wrap_text(text, shutil.get_terminal_size().columns) if stream.isatty() else text


def draw(images: Sequence[Any], terminal: IO[str], rows: int = 1) -> None:
    """Draw images (H, W, C) uint8 on standard error, if `terminal`, the file behind it, can show colours."""
    from ddim.plots.pictures import arrange_preview, can_preview, render_preview

    if can_preview(terminal):
        stream, columns = unescaped(sys.stderr), shutil.get_terminal_size().columns
        stream.write(render_preview(arrange_preview(images, columns, rows)) + "\n")
        stream.flush()


def print_json(value: object) -> None:
    """Print plain values, paths and dataclasses as JSON; see `to_plain`."""
    print(json.dumps(to_plain(value), indent=2), flush=True)


def to_plain(value: object) -> Any:  # noqa: ANN401 (JSON)
    """Return paths and dataclasses as plain values; numbers that are not finite become None."""
    text = json.dumps(value, default=lambda each: vars(each) if is_dataclass(each) else os.fspath(each))
    # The constants NaN and Infinity, which are no JSON, are read as None.
    return json.loads(text, parse_constant=lambda _: None)


# The streams


@contextmanager
def drop_unread_output() -> Generator[None]:
    """Inside the block, drop text that is written to standard output or error after the reader is gone.

    The reader may be `head`, a `tee` that died, or a terminal that was closed. Other errors, such as a full
    disk, are raised.

    Text for a terminal, and all messages, are escaped: see `escape`. Programs get the exact text of results;
    characters that the encoding of a stream lacks become escapes, such as \\u0446. Use `unescaped` to draw.
    """
    before = sys.stdout, sys.stderr
    # A stream is None if the shell closed its descriptor, as `>&-` does. Its text is dropped too.
    out, err = (stream or open(os.devnull, "w") for stream in before)  # noqa: SIM115
    streams = [_Stream(out, escaping=out.isatty()), _Stream(err, escaping=True)]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def unescaped(stream: TextIO) -> TextIO:
    """Return a stream without escaping, on which a bar or a picture can be drawn."""
    # pyrefly: ignore[bad-return]
    return _Stream(stream.stream, escaping=False) if isinstance(stream, _Stream) else stream


class _Stream:
    """A text stream whose output is dropped once nobody can read it.

    Args:
        stream: the stream that gets the text.
        escaping: whether characters that could control a terminal are escaped.
    """

    def __init__(self, stream: TextIO, escaping: bool) -> None:
        self.stream, self.escaping = stream, escaping

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (any attribute of the stream)
        """Return an attribute of the stream, such as its encoding."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it if nobody can read it."""
        text = escape(text, "\n\t") if self.escaping else text
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            return self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
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
        """Drop all further output. Raise the error again, unless it means that the reader is gone."""
        file = self.stream.fileno()
        terminal = stat.S_ISCHR(os.fstat(file).st_mode)
        # The descriptor now leads nowhere. Otherwise Python would try to write the rest again when it exits.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, file)
        os.close(null)
        if error.errno != errno.EPIPE and not (error.errno == errno.EIO and terminal):
            raise error
