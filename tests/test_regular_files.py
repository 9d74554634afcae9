"""The files of an edit and of a log are opened only if they are regular files."""

import os

import pytest

from ddim.errors import UserError
from ddim.evaluation.run_figures import read_image
from ddim.runs.edit_inputs import read_images
from ddim.runs.log import METRICS, read_metrics

READERS = {
    "photo.png": lambda path: read_images([path], (8, 8), 3),
    "view.jpg": lambda path: read_image(str(path), (8, 8)),
    METRICS: lambda path: read_metrics(path.parent),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_not_opened(make, name, tmp_path):
    """Opening a named pipe, or reading a device, would never end."""
    make(tmp_path / name)
    with pytest.raises(UserError, match="not a regular file"):
        READERS[name](tmp_path / name)
