"""Parquet files, tars of WebDataset and rows of Hugging Face: images, classes, and what is refused."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from ddim.data import open_images
from ddim.data.arrays import give_images
from ddim.data.parquet import find_parquet
from ddim.errors import UserError
from refusals import check_refused

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 2, 0]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = [png(each) for each in PIXELS]


def write(path, columns, metadata=None, **options):
    table = pyarrow.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, **options)
    return str(path)


def by_class(images):
    found = {
        image.tobytes(): images.classes[k] for image, k in zip(images.pixels[:], images.labels, strict=True)
    }
    return [found[image.tobytes()] for image in PIXELS]


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


def test_new_class_names_of_hugging_face_are_read_although_the_images_are_cached(tmp_path):
    for names in (["aster", "rose", "tulip"], ["pink", "rose", "tulip"], None):
        features = {"info": {"features": {"label": {"names": names}}}}
        stored = {"huggingface": json.dumps(features)} if names else None
        path = write(tmp_path / "flowers.parquet", {"image": FILES, "label": LABELS}, stored)
        images = open_images(path, (8, 8), cache=tmp_path / "cache")
        assert images.classes == tuple(names or "012")


@pytest.mark.parametrize(
    "labels",
    [
        ["a b", "c", "a b", "c", "c", "d"],
        ["000002", "000000", "000001", "000001", "000002", "000000"],
        ["../up", "a/b", ".x", "a/b", "3", "3"],
        pyarrow.array(["b", "a", "a", "b", "b", "a"]).dictionary_encode(),
    ],
)
def test_texts_are_the_names_of_classes(labels, tmp_path):
    path = write(tmp_path / "a.parquet", {"img": FILES, "label": labels})
    images = open_images(path, (8, 8), cache=tmp_path / "cache")
    texts = [str(label) for label in labels]
    assert by_class(images) == texts
    assert images.classes == tuple(sorted(set(texts)))


@pytest.mark.parametrize("more", [{}, {"label": [0.5] * 6}, {"labels": [[1, 2]] * 6}, {"label": [None] * 6}])
def test_images_without_class_labels(more, tmp_path):
    images = open_images(
        write(tmp_path / "a.parquet", {"photo": FILES, **more}), (8, 8), cache=tmp_path / "cache"
    )
    assert np.array_equal(images.pixels, PIXELS)
    assert images.labels is None


def test_a_row_that_cannot_be_used_does_not_stop_the_others(tmp_path):
    path = write(
        tmp_path / "a.parquet", {"image": [*FILES[:4], b"no image", None], "label": [1, -1, 0, 10**7, 1, 1]}
    )
    images = open_images(path, (8, 8), cache=tmp_path / "cache")
    assert np.array_equal(images.pixels, PIXELS[[0, 2]])
    assert len(images.rejects) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": [1, 2]}, "needs a column 'image' .* got size"),
        ({"a": [b"1"], "b": [b"2"]}, "needs a column 'image'"),
        (b"PAR1 and nothing else PAR1", "cannot be read as a parquet file"),
        (b"", "cannot be read as a parquet file"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, content, message):
    check_refused(tmp_path / "a.parquet", content, message, write)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, {"image": FILES})
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read|contains no image"):
        open_images(str(path), (8, 8), cache=tmp_path / "cache")


def test_a_folder_of_images_stays_one_beside_a_parquet_file(tmp_path):
    path = write(tmp_path / "index.parquet", {"image": FILES})
    assert find_parquet(tmp_path) == (Path(path),)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.png").write_bytes(FILES[0])
    assert find_parquet(tmp_path) == ()


def tarred(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("prefix", ["", "./", "train/"])
def test_labels_of_a_webdataset_are_classes(tmp_path, prefix):
    files = []
    for k, (image, label) in enumerate(zip(FILES, LABELS, strict=True)):
        data = (f"{k:03d}.cls", b"%d\n" % label) if k % 2 else (f"{k:03d}.json", b'{"label": %d}' % label)
        both = [(f"{k:03d}.png", image), data]
        files += [(prefix + name, content) for name, content in (both if k < 3 else both[::-1])]
    images = open_images(tarred(tmp_path / "a.tar", files), (8, 8), cache=tmp_path / "cache")
    assert images.classes == ("0", "1", "2")
    assert by_class(images) == list(map(str, LABELS))


def test_a_tar_without_labels_is_read_as_before(tmp_path):
    files = [(f"{k}.png", each) for k, each in enumerate(FILES)]
    more = [("0.json", b'{"width": 8}'), ("1.json", b"[" * 10**5), ("note.txt", b"x"), ("2.cls", b" ")]
    plain = open_images(tarred(tmp_path / "a.tar", files), (8, 8), cache=tmp_path / "cache")
    other = open_images(tarred(tmp_path / "b.tar", sorted(files + more)), (8, 8), cache=tmp_path / "cache")
    assert plain.names == other.names == tuple(f"{k}.png" for k in range(6))
    assert plain.fingerprint == other.fingerprint
    assert plain.labels is None


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
