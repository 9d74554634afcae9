"""Flowers, pets and CIFAR-10 from small imitations of their archives, with no network."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest

import tiny
from archives import as_folder, write_tar
from bad_images import encoded
from ddim.data import named, open_images, split_images
from ddim.data.cache import read_rejects
from ddim.data.open import find_source
from ddim.data.sources import Member
from ddim.errors import UserError
from ddim.runs.folder import record_in_run
from ddim.runs.images import open_run_images
from ddim.runs.pipeline import load
from ddim.training import resume


def photo(number, height=20, width=30):
    """Return a JPEG of one gray."""
    return encoded(np.full((height, width, 3), number, np.uint8), "JPEG")


def write(path, files, packed):
    """Write files as a folder (without the first part of each name) or as a .tar.gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        write_tar(path, files, "gz")
    else:
        as_folder(path.parent, files)


@pytest.fixture(params=["packed", "unpacked", "as torchvision unpacks it"])
def packing(request):
    return request.param


def flowers(root, packing):
    files = {f"jpg/image_{n:05d}.jpg": photo(20 * n) for n in (3, 1, 2, 5, 4)}
    below = root / "flowers-102" if "torchvision" in packing else root
    write(below / "102flowers.tgz", files, packing == "packed")


def pets(root, packing):
    breeds = ("Abyssinian_1", "Abyssinian_2", "great_pyrenees_1", "pug_7", "pug_8")
    images = {f"images/{name}.jpg": photo(30 * n) for n, name in enumerate(breeds)}
    images |= {"images/pug_7.mat": b"MATLAB", "images/unlisted_1.jpg": photo(200)}
    line = "{} 1 1 1\n".format
    lists = {
        "annotations/trainval.txt": "".join(map(line, (breeds[0], breeds[2], breeds[4]))).encode(),
        "annotations/test.txt": "".join(map(line, ("Abyssinian_2", "pug_7"))).encode(),
        "annotations/list.txt": b"#",
    }
    below = root / "oxford-iiit-pet" if "torchvision" in packing else root
    write(below / "images.tar.gz", images, packing == "packed")
    write(below / "annotations.tar.gz", lists, packing == "packed")


def arrange_pets(tmp_path):
    """Write pets, and a plain folder whose files have the same names and bytes; return both sources."""
    pets(tmp_path / "copy", "unpacked")
    source = f"pets:{tmp_path / 'copy'}"
    for item in find_source(source).members((8, 8)):
        if isinstance(item, Member):
            path = tmp_path / "arranged" / item.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(item.data)
    return source, str(tmp_path / "arranged")


def cifar10(root, packing, damage=False):
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    files = {}
    for batch, name in enumerate(names):
        planes = [np.full((32, 32), value, np.uint8).tobytes() for value in (batch, 100, 200)]
        records = [bytes([label]) + b"".join(planes) for label in (batch, 9)]
        files[f"cifar-10-batches-bin/{name}"] = b"".join(records)
    if damage:
        first = f"cifar-10-batches-bin/{names[0]}"
        files[first] = bytes([77]) + files[first][1:]
    write(root / "cifar-10-binary.tar.gz", files, packing == "packed")


def opened(source, tmp_path, size=(8, 8)):
    return open_images(source, size, cache=tmp_path / "cache")


def test_flowers_have_no_split_of_their_own(packing, tmp_path):
    flowers(tmp_path / "copy", packing)
    images = opened(f"flowers:{tmp_path / 'copy'}", tmp_path)
    assert images.names == tuple(f"image_{n:05d}.jpg" for n in range(1, 6))
    np.testing.assert_allclose(images.pixels[:, 4, 4, 0], [20, 40, 60, 80, 100], atol=2)
    assert images.labels is None
    assert images.official is None
    parts = split_images(images, 0.2, 0)
    assert (len(parts.train), len(parts.validation)) == (4, 1)


def test_pets_have_breeds_and_the_official_split(packing, tmp_path):
    pets(tmp_path / "copy", packing)
    images = opened(f"pets:{tmp_path / 'copy'}", tmp_path)
    assert images.classes == ("Abyssinian", "great_pyrenees", "pug")
    parts = split_images(images, 0.5, 3)
    train, valid = parts.train, parts.validation
    assert [images.names[place] for place in train] == [
        "train/Abyssinian/Abyssinian_1.jpg",
        "train/great_pyrenees/great_pyrenees_1.jpg",
        "train/pug/pug_8.jpg",
    ]
    assert [images.names[place] for place in valid] == [
        "test/Abyssinian/Abyssinian_2.jpg",
        "test/pug/pug_7.jpg",
    ]
    assert [images.classes[label] for label in images.labels[valid]] == ["Abyssinian", "pug"]


def test_cifar10_has_classes_and_the_official_split(packing, tmp_path):
    cifar10(tmp_path / "copy", packing)
    images = opened(f"cifar10:{tmp_path / 'copy'}", tmp_path, (32, 32))
    parts = split_images(images, 0.5, 3)
    train, valid = parts.train, parts.validation
    assert (len(train), len(valid)) == (10, 2)
    assert [images.classes[label] for label in images.labels[valid]] == ["dog", "truck"]
    assert len(images.classes) == 7
    assert images.pixels[valid][0, 5, 6].tolist() == [5, 100, 200]
    assert sorted({int(pixels[0, 0, 0]) for pixels in images.pixels[train]}) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", named.NAMED)
def test_the_data_sets_with_a_split_are_listed(name, tmp_path):
    {"flowers": flowers, "pets": pets, "cifar10": cifar10}[name](tmp_path, "packed")
    assert named.NAMED[name](tmp_path).official == (name in named.WITH_SPLIT)


@pytest.mark.parametrize("plain_first", [True, False])
def test_a_folder_with_the_files_of_pets_shares_their_pixels_but_not_their_split(plain_first, tmp_path):
    copy, folder = arrange_pets(tmp_path)
    opened(folder if plain_first else copy, tmp_path)
    plain, official = opened(folder, tmp_path), opened(copy, tmp_path)
    assert plain.folder == official.folder
    assert plain.official is None
    assert [len(part) for part in official.official] == [3, 2]


def test_a_run_whose_images_are_split_in_another_way_now_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    copy, folder = arrange_pets(tmp_path)
    run = tiny.train(tiny.recipe(images=8, data__size="8,8", data__validation="0"), tmp_path / "run", copy)
    assert len(open_run_images(load(run)).train) == 3
    message = "trained on 3 of these images, but they are now split into 5 training images and 0 held-out"
    with pytest.raises(UserError, match=message):
        tiny.train(tiny.recipe(images=8, data__size="8,8"), tmp_path / "child", folder, source=run)
    for _ in ("saved", "not saved"):
        with pytest.raises(UserError, match=message):
            resume(run, data=folder)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        record_in_run(run, checkpointed=False)


def test_the_split_of_pets_is_kept_where_their_files_are_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    copy, _ = arrange_pets(tmp_path)
    run = tiny.train(tiny.recipe(images=8, data__size="8,8"), tmp_path / "run", copy)
    shutil.rmtree(tmp_path / "copy")
    with pytest.warns(UserWarning, match="decoded copies"):
        assert len(open_run_images(load(run)).train) == 3


def test_a_record_with_an_impossible_label_is_refused(tmp_path):
    cifar10(tmp_path / "copy", "packed", damage=True)
    images = opened(f"cifar10:{tmp_path / 'copy'}", tmp_path, (32, 32))
    assert len(images) == 11
    assert [reject.reason for reject in read_rejects(images)] == ["label 77 is not in 0 ... 9"]


def test_a_copy_is_found_through_the_environment_variable(tmp_path, monkeypatch):
    flowers(tmp_path / "copies", "unpacked")
    monkeypatch.setenv("DDIM_DATA", str(tmp_path / "copies"))
    assert len(opened("flowers", tmp_path)) == 5


def test_the_path_of_the_archive_itself_can_be_given(tmp_path):
    flowers(tmp_path / "copy", "packed")
    assert len(opened(f"flowers:{tmp_path / 'copy' / '102flowers.tgz'}", tmp_path)) == 5


def test_the_error_for_an_incomplete_copy_names_the_missing_file(tmp_path):
    cifar10(tmp_path / "copy", "unpacked")
    (tmp_path / "copy" / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"lacks .*data_batch_3\.bin"):
        opened(f"cifar10:{tmp_path / 'copy'}", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [("flowers", "102flowers.tgz"), ("pets", "images.tar.gz"), ("cifar10", "cifar-10-binary.tar.gz")],
)
def test_the_error_for_an_empty_copy_names_the_archive(name, file, tmp_path):
    with pytest.raises(UserError, match=f"{file}.*https://"):
        opened(f"{name}:{tmp_path}", tmp_path)


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("File not found or corrupted.")])
def test_without_a_network_the_error_says_which_file_to_put_where(error, tmp_path, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(
        UserError, match=r"cannot be downloaded .*put 102flowers\.tgz from https.*flowers:FOLDER"
    ) as caught:
        open_images("flowers", (8, 8))
    assert "\n" not in str(caught.value)


def test_a_named_data_set_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    calls = []
    files = {f"jpg/image_{n:05d}.jpg": photo(20 * n) for n in (1, 2)}
    write(tmp_path / "served.tgz", files, packed=True)

    def download(url, root, filename):
        calls.append(url)
        shutil.copy(tmp_path / "served.tgz", root / filename)

    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    with pytest.raises(
        UserError, match=f"the md5 of the downloaded file is [0-9a-f]{{32}}, not {named.FLOWERS.md5}"
    ):
        open_images("flowers", (8, 8))
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []
    md5 = hashlib.md5((tmp_path / "served.tgz").read_bytes()).hexdigest()
    monkeypatch.setattr(named, "FLOWERS", replace(named.FLOWERS, md5=md5))
    assert len(open_images("flowers", (8, 8))) == len(open_images("flowers", (8, 8))) == 2
    assert calls == [named.FLOWERS.url] * 2


def test_the_archive_of_flowers_is_that_of_torchvision():
    from torchvision.datasets import Flowers102

    file, md5 = Flowers102._file_dict["image"]
    assert (named.FLOWERS.url, named.FLOWERS.md5) == (Flowers102._download_url_prefix + file, md5)


def test_the_archives_of_pets_are_those_of_torchvision():
    from torchvision.datasets import OxfordIIITPet

    archives = named.PETS, named.PETS_LISTS
    assert tuple((archive.url, archive.md5) for archive in archives) == OxfordIIITPet._RESOURCES
