"""Data sets on a Hub: which files are downloaded, the images of local files, and hostile names."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from ddim.data import open_images
from ddim.data.hub import Repository
from ddim.data.hub_data import choose_files
from ddim.data.open import absolute_source, source_exists
from ddim.errors import NoSpace, UserError
from hub_server import hub_in_use

NAME = "hub:ada/photos"
PLACE = Repository("ada", "photos", kind="dataset")


@pytest.fixture
def hub(tmp_path):
    with hub_in_use(tmp_path / "home") as hub:
        yield hub


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


def zipped(values):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for value in values:
            archive.writestr(f"{value}.png", png(value))
    return file.getvalue()


def parquet(values):
    import pyarrow
    from pyarrow import parquet as pq

    file = io.BytesIO()
    pq.write_table(pyarrow.table({"image": [{"bytes": png(value), "path": None} for value in values]}), file)
    return file.getvalue()


def grays(images):
    return sorted(images.pixels[:, 0, 0, 0].tolist())


FORMS = {
    "parquet": {
        "data/train-00000-of-00002.parquet": parquet([10, 20]),
        "data/train-00001-of-00002.parquet": parquet([30]),
        "data/test-00000-of-00001.parquet": parquet([99]),
    },
    "one parquet": {"photos.parquet": parquet([10, 20, 30])},
    "zip": {"photos.zip": zipped([10, 20, 30]), "loader.py": b"import os"},
    "images": {f"train/{k}.png": png(10 * k) for k in (1, 2, 3)} | {"test/4.png": png(99)},
}


@pytest.mark.parametrize("files", FORMS.values(), ids=FORMS)
def test_the_images_of_a_data_set_are_read(hub, files):
    hub.repository("datasets/ada/photos", files)
    assert grays(open_images(NAME, (32, 32))) == [10, 20, 30]
    asked = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert len(asked) == len([name for name in files if "test" not in name and not name.endswith(".py")])


def test_it_is_downloaded_once_and_then_needs_no_connection(hub, monkeypatch):
    repository = hub.repository("datasets/ada/photos", FORMS["zip"])
    first, commit = open_images(NAME, (32, 32)), repository.find("main")
    hub.requests.clear()
    open_images(NAME, (32, 32))
    assert not any("/resolve/" in path for _, path in hub.requests)
    hub.requests.clear()
    assert open_images(f"{NAME}@{commit}", (32, 32)).fingerprint == first.fingerprint
    assert not hub.requests
    hub.status = 503
    with pytest.warns(UserWarning, match=f"out of order; the local copy of commit {commit[:12]} is used"):
        assert open_images(NAME, (32, 32)).fingerprint == first.fingerprint
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_images(NAME, (32, 32)).fingerprint == first.fingerprint


def test_a_branch_that_moved_is_downloaded_again(hub):
    repository = hub.repository("datasets/ada/photos", {"photos.zip": zipped([10, 20])})
    assert grays(open_images(NAME, (32, 32))) == [10, 20]
    repository.add({"photos.zip": zipped([30, 40])})
    assert grays(open_images(NAME, (32, 32))) == [30, 40]


def test_the_name_stays_as_it_is():
    assert source_exists(NAME)
    assert absolute_source(NAME) == NAME


@pytest.mark.parametrize("name", ["../../e.zip", "/etc/e.zip", "a/../e.zip", ".git/e.zip", "C:\\e.zip"])
def test_a_name_that_leads_outside_is_not_downloaded(name):
    with pytest.raises(UserError, match="hub:ada/photos holds no images"):
        choose_files({name: 10}, PLACE)
    assert choose_files({name: 10, "a.zip": 5}, PLACE) == {"a.zip": 5}


def test_each_refusal_is_one_sentence(hub, monkeypatch):
    with pytest.raises(
        UserError, match="^the Hub has no public data set ada/photos; if it is private, log in"
    ):
        open_images(NAME, (32, 32))
    hub.repository("datasets/ada/photos", {"a.zip": b"1", "b.zip": b"2"})
    with pytest.raises(
        UserError,
        match="^hub:ada/photos holds 2 archives or files of arrays: download one with `hf download ada/ph",
    ):
        open_images(NAME, (32, 32))
    hub.repository("datasets/ada/photos", {"loader.py": b"1", "model.pkl": b"2"})
    with pytest.raises(
        UserError,
        match="^hub:ada/photos holds no images: no parquet file, archive, file of arrays or image file",
    ):
        open_images(NAME, (32, 32))
    hub.repository("datasets/ada/photos", {"a.zip": b"not a zip"})
    with pytest.raises(UserError, match="is not an archive"):
        open_images(NAME, (32, 32))
    hub.repository("datasets/ada/photos", {"b.zip": b"1"})
    hub.sizes["b.zip"] = 2**60
    with pytest.raises(NoSpace, match="^hub:ada/photos needs 1,152,921,504.6 GB, "):
        open_images(NAME, (32, 32))
    hub.sizes["b.zip"] = 2
    with pytest.raises(UserError, match="file should be of size 2 but has size 1"):
        open_images(NAME, (32, 32))
    assert not list(Path(os.environ["DDIM_CACHE"]).rglob("*.py"))
