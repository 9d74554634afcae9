"""Classes: from folders, from labels that a source stores, and from label files in a tar."""

import pytest

from archives import as_tar
from bad_images import encoded, picture
from ddim.data import open_images
from ddim.data.labels import find_classes
from ddim.errors import UserError


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["a.png", "b.png"], (), None),
        (["rose/a.png", "aster/b.png"], ("aster", "rose"), [1, 0]),
        (["rose/more/b.png", "rose/a.png", "aster/c.png"], ("aster", "rose"), [1, 1, 0]),
        (["rose/a.png", "aster/b.png", "cover.png"], (), None),
        (["train/rose/a.png", "train/aster/b.png", "test/rose/c.png"], ("aster", "rose"), [1, 0, 1]),
        (["train/rose/images/a.png", "train/aster/images/b.png"], ("aster", "rose"), [1, 0]),
        (["train/a/1.png", "train/b/2.png", "val/c/x/1.png"], ("a", "b", "c"), [0, 1, 2]),
        (["train/a/images/1.png", "val/b/images/2.png"], ("a", "b"), [0, 1]),
        (["train/1.png", "val/2.png"], (), None),
        ([], (), None),
    ],
)
def test_folders_are_classes_below_those_of_a_split(names, classes, labels):
    assert find_classes(names, [None] * len(names)) == (classes, labels)


@pytest.mark.parametrize(
    ("labels", "names", "classes", "indices"),
    [
        ([2, 0], (), ("0", "1", "2"), [2, 0]),
        ([1, 0], ("cat", "dog"), ("cat", "dog"), [1, 0]),
        ([2, 0], ("cat", "dog"), ("0", "1", "2"), [2, 0]),
        ([1, 0], ("cat", "cat"), ("0", "1"), [1, 0]),
        (["000123", "b"], (), ("000123", "b"), [0, 1]),
    ],
)
def test_labels_apart_from_names_come_before_folders(labels, names, classes, indices):
    assert find_classes(["x/1", "y/2"], labels, names) == (classes, indices)
    with pytest.raises(UserError, match="1 of 2"):
        find_classes(["x/1", "y/2"], [labels[0], None])


def test_label_files_of_a_tar_name_the_classes(tmp_path):
    files = {}
    for k, label in enumerate((b"rose\n", b'{"label": 7}', b'{"cls": "ash", "label": "x"}')):
        files[f"{k}.left.png"] = files[f"{k}.right.png"] = encoded(picture(8, 8 + k), "PNG")
        files[f"{k}.{'cls' if k == 0 else 'json'}"] = label
    images = open_images(as_tar("gz")(tmp_path / "web", files), (8, 8), cache=tmp_path / "cache")
    assert images.names == tuple(f"{k}.{side}.png" for k in range(3) for side in ("left", "right"))
    assert [images.classes[label] for label in images.labels] == ["rose", "rose", "7", "7", "ash", "ash"]
    assert images.skipped == 3


def test_files_of_one_long_key_are_all_used(tmp_path):
    files = {f"scan.{k:04d}.png": encoded(picture(8, 8), "PNG") for k in range(100)} | {"scan.json": b"[1"}
    images = open_images(as_tar("")(tmp_path / "scans", files), (8, 8), cache=tmp_path / "cache")
    assert (images.names, images.labels) == (tuple(sorted(files)[:100]), None)
