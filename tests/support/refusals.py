"""Files of images that are refused."""

import pytest

from ddim.data import open_images
from ddim.errors import UserError


def check_refused(path, content, message, save):
    """Write a file, and check that its images are refused in one sentence.

    Args:
        path: the path of the file.
        content: its bytes, or a value that `save(path, value)` writes.
        message: a pattern that the sentence contains.
        save: see `content`.
    """
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save(path, content)
    with pytest.raises(UserError, match=message) as refused:
        open_images(str(path), (8, 8), cache=path.parent / "cache")
    assert "\n" not in str(refused.value)
