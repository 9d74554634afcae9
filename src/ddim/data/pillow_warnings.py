"""Hide Pillow's warnings while images are decoded, also in several threads at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

# The modules whose lines the warnings name: that of the decoder, or the one that called it.
_DECODERS = r"(PIL|pillow_heif|ddim\.data)\b"


class _Filters:
    """The number of open blocks in all threads, and what restores the filters after the last of them."""

    lock = threading.Lock()
    blocks = 0
    restore = ExitStack()


@contextmanager
def hide_pillow_warnings() -> Generator[None]:
    """Hide the warnings of Pillow in a `with` block; all other warnings stay visible.

    The filters of warnings belong to the whole process. So the first thread that enters a block changes them,
    and the last thread that leaves one restores them. With one `warnings.catch_warnings` for each thread, a
    thread would restore the changed filters of another, which would then stay.
    """
    with _Filters.lock:
        if _Filters.blocks == 0:
            _Filters.restore.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=_DECODERS)
        _Filters.blocks += 1
    try:
        yield
    finally:
        with _Filters.lock:
            _Filters.blocks -= 1
            if _Filters.blocks == 0:
                _Filters.restore.close()
