"""The text that a user gives as DATA -> the source that it means."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ddim.data.blossoms.source import Blossoms
from ddim.data.folder import open_path
from ddim.data.named import NAMED
from ddim.data.sources import Source
from ddim.errors import UserError, suggest

NAMES = ("blossoms", *NAMED)


def there(text: str) -> bool:
    """Whether a text that was once the source of images still is one, as far as can be seen unopened."""
    return os.path.exists(os.path.expanduser(text)) or text.partition(":")[0] in NAMES


def find(text: str) -> Source:
    """The source of a path, of a name, of "blossoms:COUNT", or of "name:/local/copy".

    A path that exists wins over a name. UserError, with the nearest name, where there is neither.
    """
    path = os.path.expanduser(text)
    if text and os.path.lexists(path):
        return open_path(Path(path))
    name, _, copy = text.partition(":")
    if name == "blossoms" and (text == name or re.fullmatch("[1-9][0-9]{0,6}", copy)):
        return Blossoms(int(copy)) if copy else Blossoms()
    if name in NAMED and (copy or text == name):
        return NAMED[name](Path(os.path.expanduser(copy)) if copy else None)
    message = f"data.source {text!r} is neither a folder, a .zip or .tar file, nor one of {', '.join(NAMES)}"
    raise UserError(message + suggest(name, NAMES))
