"""Flowers, pets and CIFAR-10 from small copies of torchvision's folders, and data sets of a simulated Hub."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from huggingface_hub import constants
from pyarrow import parquet
from scipy.io import savemat
from torchvision.datasets import CIFAR10, Flowers102

from archives import as_folder, file_bytes, write_tar, zipped
from bad_images import encoded
from ddim.data import open_images, split_images
from ddim.data.open import absolute_source, find_source, source_exists
from ddim.data.remote import NAMED, parse_repository
from ddim.errors import UserError


def gray(value, form="JPEG"):
    """The bytes of an image of one gray."""
    return encoded(np.full((20, 30, 3), value, np.uint8), form)


def write_flowers(root):
    """Six photographs of three classes, two in each part of the official split."""
    folder = as_folder(root / "flowers-102", {f"jpg/image_{n:05d}.jpg": gray(20 * n) for n in range(1, 7)})
    savemat(folder / "imagelabels.mat", {"labels": [54, 1, 54, 102, 1, 54]})
    savemat(folder / "setid.mat", {"trnid": [3, 5], "valid": [2, 6], "tstid": [1, 4]})


def write_pets(root):
    names = ("Abyssinian_1", "Abyssinian_2", "great_pyrenees_1", "pug_7", "pug_8")
    files = {f"images/{name}.jpg": gray(30 * n) for n, name in enumerate(names)}
    files["images/unlisted_1.jpg"] = gray(200)
    line = "{} 1 1 1\n".format
    files["annotations/trainval.txt"] = "".join(map(line, (names[0], names[2], names[4]))).encode()
    files["annotations/test.txt"] = "".join(map(line, (names[1], names[3]))).encode()
    as_folder(root / "oxford-iiit-pet", files)


def write_cifar10(root):
    """Two images in each of the six files: of class k with red k in file k, and of class 9."""
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for k, (name, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        planes = np.repeat(np.uint8([[k, 100, 200]] * 2), 1024, axis=1)
        (folder / name).write_bytes(pickle.dumps({"data": planes, "labels": [k, 9]}))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A folder that torchvision takes for its own copies, whose MD5 these cannot have."""
    for module in ("flowers102", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: True)
    for write in (write_flowers, write_pets, write_cifar10):
        write(tmp_path / "copy")
    return tmp_path / "copy"


def opened(source, tmp_path, size=(8, 8)):
    return open_images(source, size, cache=tmp_path / "cache")


def test_flowers_have_the_labels_of_torchvision_and_no_official_split(copy, tmp_path):
    images = opened(f"flowers:{copy}", tmp_path)
    assert images.names == tuple(f"image_{n:05d}.jpg" for n in range(1, 7))
    np.testing.assert_allclose(images.pixels[:, 4, 4, 0], range(20, 140, 20), atol=2)
    assert images.classes == tuple(Flowers102.classes)
    assert images.labels.tolist() == [53, 0, 53, 101, 0, 53]
    assert images.official is None


def test_pets_have_breeds_and_the_official_split(copy, tmp_path):
    images = opened(f"pets:{copy}", tmp_path)
    parts = split_images(images, 0.5, 3)
    breeds = [images.classes[label] for label in images.labels]
    assert [breeds[k] for k in parts.train] == ["Abyssinian", "great_pyrenees", "pug"]
    assert [breeds[k] for k in parts.validation] == ["Abyssinian", "pug"]
    np.testing.assert_allclose(images.pixels[parts.validation, 4, 4, 0], [30, 90], atol=2)


def test_cifar10_has_classes_and_the_official_split(copy, tmp_path):
    images = opened(f"cifar10:{copy}", tmp_path, (32, 32))
    parts = split_images(images, 0.5, 3)
    assert (len(parts.train), len(parts.validation)) == (10, 2)
    assert [images.classes[label] for label in images.labels[parts.validation]] == ["dog", "truck"]
    assert images.pixels[parts.validation][0, 5, 6].tolist() == [5, 100, 200]
    assert sorted(images.pixels[parts.train, 0, 0, 0]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_pickle_with_another_md5_than_that_of_cifar10_is_not_loaded(tmp_path, monkeypatch):
    """The MD5 is that of the file from which torchvision unpacks the pickles."""

    class Evil:
        def __reduce__(self):
            return (Path.mkdir, (tmp_path / "evil",))

    write_cifar10(tmp_path)
    for path in (tmp_path / CIFAR10.base_folder).iterdir():
        path.write_bytes(pickle.dumps(Evil()))
    write_tar(tmp_path / CIFAR10.filename, {}, "gz")
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", fail)
    with pytest.raises(UserError, match="cifar10 cannot be downloaded .*no network.*DDIM_DATA"):
        opened(f"cifar10:{tmp_path}", tmp_path)
    assert not (tmp_path / "evil").exists()


def fail(*args, **options):
    raise OSError("no network")


@pytest.mark.parametrize("name", NAMED)
def test_a_copy_is_found_through_the_environment_variable(name, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_DATA", str(copy))
    assert len(opened(name, tmp_path)) > 4
    assert find_source(name).official == (name != "flowers")


# The Hub

NAME = "hub:ada/photos"


def photos(values):
    return zipped({f"{value}.png": gray(value, "PNG") for value in values})


def table(values):
    images = [{"bytes": gray(value, "PNG"), "path": None} for value in values]
    return file_bytes(lambda file: parquet.write_table(pyarrow.table({"image": images}), file))


def array(values):
    pixels = np.repeat(np.uint8(values), 300).reshape(len(values), 10, 10, 3)
    return file_bytes(lambda file: np.save(file, pixels))


def grays(source=NAME):
    return sorted(open_images(source, (8, 8)).pixels[:, 0, 0, 0].tolist())


FORMS = {
    "parquet": {
        "data/train-00000-of-00002.parquet": table([10, 20]),
        "data/train-00001-of-00002.parquet": table([30]),
        "data/test-00000-of-00001.parquet": table([99]),
        "sample.png": gray(98),
    },
    "zip": {"photos.zip": photos([10, 20, 30]), "loader.py": b"import os"},
    "array": {"data/photos.npy": array([10, 20, 30])},
    "images": {f"train/{k}.PNG": gray(10 * k, "PNG") for k in (1, 2, 3)} | {"test/4.png": gray(99, "PNG")},
}


@pytest.mark.parametrize("files", FORMS.values(), ids=FORMS)
def test_the_training_images_of_a_data_set_are_read_and_nothing_else(hub, files):
    hub.repository("datasets/ada/photos", files)
    assert grays() == [10, 20, 30]
    asked = {path.split("/", 6)[-1] for method, path in hub.requests if method == "GET" and "resolve" in path}
    assert asked - {".gitattributes"} <= {name for name in files if not re.search("test|sample|loader", name)}


def test_other_files_of_the_same_snapshot_are_not_read(hub):
    """The user may have downloaded the whole repository before."""
    from huggingface_hub import snapshot_download

    hub.repository("datasets/ada/photos", FORMS["images"])
    snapshot_download("ada/photos", repo_type="dataset")
    hub.requests.clear()
    assert grays() == [10, 20, 30]
    assert "GET" not in {method for method, path in hub.requests if "resolve" in path}


def test_it_is_downloaded_once_and_then_needs_no_connection(hub, monkeypatch):
    repository = hub.repository("datasets/ada/photos", FORMS["zip"])
    assert grays() == [10, 20, 30]
    hub.requests.clear()
    assert grays(f"{NAME}@{repository.find('main')}") == [10, 20, 30]
    assert not hub.requests
    hub.status = 503
    assert grays() == [10, 20, 30]
    hub.status = None
    repository.add({"photos.zip": photos([40])})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert grays() == [10, 20, 30]
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        grays("hub:ada/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert grays() == [40]


def test_a_name_is_read_in_all_its_forms():
    assert source_exists(NAME)
    assert absolute_source(NAME) == NAME
    assert str(parse_repository("ada/photos")) == NAME
    found = parse_repository(Path("hub:ada/flowers.64@refs/pr/1"))
    assert found == ("ada/flowers.64", "refs/pr/1")


@pytest.mark.parametrize("name", [
    "hub:flowers", "hub:ada/flowers/best", "hub:ada/../evil", "hub:/ada/flowers", "hub:ada/flowers@",
    "hub:ada/flowers@../../evil", "hub:.ada/x", "hub:ada/x@-f", "hub:ada/flowers\n", "hub:https://evil.example/a",
])  # fmt: skip
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(UserError, match="is named hub:OWNER/NAME or"):
        parse_repository(name)


REFUSED = [(None, "Not Found"), (("a.zip", "b.zip"), "2 archives"), (("loader.py", "model.pkl"), "no images")]


@pytest.mark.parametrize("files, word", REFUSED)
def test_repositories_without_images_are_refused_and_not_downloaded(hub, files, word):
    if files:
        hub.repository("datasets/ada/photos", dict.fromkeys(files, b"1"))
    with pytest.raises(UserError, match=word):
        open_images(NAME, (8, 8))
    assert not list(Path(os.environ["DDIM_CACHE"]).rglob("*.py"))
