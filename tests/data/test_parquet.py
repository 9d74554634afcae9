"""Parquet files and rows of Hugging Face: images, classes, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from bad_images import encoded
from ddim.data import open_images
from ddim.data.arrays import give_images
from ddim.data.sources import find_parquet
from ddim.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 2, 0]


FILES = [encoded(each, "PNG") for each in PIXELS]


def write(path, columns, metadata=None, **options):
    table = pyarrow.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, **options)
    return str(path)


def by_class(images):
    assert np.array_equal(images.pixels, PIXELS)
    return [images.classes[k] for k in images.labels]


def test_images_and_class_names_of_hugging_face(tmp_path):
    structs = [{"bytes": each, "path": "../../evil.png"} for each in FILES]
    features = {"info": {"features": {"label": {"names": ["aster", "rose", "tulip"], "_type": "ClassLabel"}}}}
    path = tmp_path / "repo" / "data" / "train-0.parquet"
    stored = {"huggingface": json.dumps(features)}
    write(path, {"image": structs[:4], "label": LABELS[:4]}, stored, row_group_size=2)
    write(path.with_name("train-1.PARQUET"), {"image": structs[4:], "label": LABELS[4:]}, stored)
    images = open_images(str(tmp_path / "repo"), (8, 8), cache=tmp_path / "cache")
    assert images.classes == ("aster", "rose", "tulip")
    assert images.labels.tolist() == LABELS
    assert np.array_equal(images.pixels, PIXELS)


TEXTS = [["a b", "c", "000002", "c", "c", "d"], ["../up", "a/b", ".x", "a/b", "3", "3"]]


@pytest.mark.parametrize("labels", [*TEXTS, pyarrow.array(TEXTS[0]).dictionary_encode()])
def test_texts_are_the_names_of_classes(labels, tmp_path):
    path = write(tmp_path / "a.parquet", {"img": FILES, "label": labels})
    images = open_images(path, (8, 8), cache=tmp_path / "cache")
    texts = [str(label) for label in labels]
    assert by_class(images) == texts
    assert images.classes == tuple(sorted(set(texts)))


def test_a_row_that_cannot_be_used_does_not_stop_the_others(tmp_path):
    columns = {"image": [*FILES[:4], b"no image", None], "label": [1, -1, 0, 10**7, 1, 1]}
    path = write(tmp_path / "a.parquet", columns)
    images = open_images(path, (8, 8), cache=tmp_path / "cache")
    assert np.array_equal(images.pixels, PIXELS[[0, 2]])
    assert len(images.rejects) == 4


def test_a_table_without_images_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {"size": [1, 2]})
    with pytest.raises(UserError, match="needs a column 'image' .* got size"):
        open_images(path, (8, 8), cache=tmp_path / "cache")


def test_a_folder_of_images_stays_one_beside_a_parquet_file(tmp_path):
    path = write(tmp_path / "index.parquet", {"image": FILES})
    assert find_parquet(tmp_path) == (Path(path),)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.png").write_bytes(FILES[0])
    assert find_parquet(tmp_path) == ()


class Rows:
    """What a split of a data set of Hugging Face looks like."""

    column_names, shape = ("image", "label"), (6, 2)
    features = {"image": object(), "label": type("ClassLabel", (), {"names": ["aster", "rose", "tulip"]})()}

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, k):
        return {"image": Image.fromarray(PIXELS[k]), "label": LABELS[k]}


def test_rows_of_hugging_face(tmp_path):
    source = give_images(Rows())
    images = open_images(source.text, source.size, cache=tmp_path)
    assert by_class(images) == [("aster", "rose", "tulip")[k] for k in LABELS]
