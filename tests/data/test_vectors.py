"""Vectors in CSV files: heads, names, order, and what is refused."""

import numpy as np
import pytest
import torch

from ddim.data import Images, SplitImages, open_images
from ddim.data.arrays import encode_array
from ddim.data.arrays import give_images
from ddim.data.vectors import ImageVectors, match_vectors, read_vectors
from ddim.errors import UserError

NAMES = ("red/1.png", "red/2.png", "white/1.png", "white/3.png")


def split(names=NAMES):
    images = Images(np.zeros((len(names), 8, 8, 1), np.uint8), None, (), names, "")
    return SplitImages(images, np.array([0, 1, 3]), np.array([2]))


def written(tmp_path, text):
    path = tmp_path / "vectors.csv"
    path.write_text(text)
    return path


def matched(tmp_path, text, names=NAMES):
    path = written(tmp_path, text)
    return match_vectors(read_vectors(path), split(names), path)


@pytest.mark.parametrize(
    "text",
    [
        "name,size,hue\nwhite/3.png,7,8\nred/1.png,1,2\nwhite/1.png,5,6\nred/2.png,3,4\nother.png,9,9\n",
        "white/3.png,7,8\nred/1.png,1,2\nwhite/1.png,5,6\nred/2.png,3,4\n",
        "2.png,3,4\n3.png,7,8\nred/1.png,1,2\nwhite/1.png,5,6\n",
        "size,hue\n1,2\n3,4\n5,6\n7,8\n",
        "1,2\n3,4\n5,6\n7,8\n",
        "\ufeff1, 2\r\n3,4e0\r\n\r\n5,6\r\n7,8",
    ],
)
def test_rows_find_their_images(tmp_path, text):
    found = matched(tmp_path, text)
    assert found.rows.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert found.columns in (("size", "hue"), ("0", "1"))


def test_numeric_names_need_a_head(tmp_path):
    found = matched(tmp_path, "file,x\n3,30\n2,20\n1,10\n0,5\n", ("0", "1", "2", "3"))
    assert found.rows[:, 0].tolist() == [5, 10, 20, 30]


@pytest.mark.parametrize("kind", ["npz", "given", "parquet"])
def test_row_k_belongs_to_image_k_also_if_images_have_labels(tmp_path, kind):
    pixels = np.arange(4, dtype=np.uint8).repeat(64).reshape(4, 8, 8, 1)
    labels = [1, 0, 1, 0]
    if kind == "npz":
        np.savez(tmp_path / "cells.npz", images=pixels, labels=labels)
        source = str(tmp_path / "cells.npz")
    elif kind == "given":
        source = give_images(list(zip(pixels, labels, strict=True))).text
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        files = [encode_array(image) for image in pixels]
        table = pyarrow.table({"image": files, "label": ["dog" if label else "cat" for label in labels]})
        parquet.write_table(table, tmp_path / "cells.parquet")
        source = str(tmp_path / "cells.parquet")
    images = open_images(source, (8, 8), cache=tmp_path / "cache")
    path = written(tmp_path, "0\n1\n2\n3\n")
    found = match_vectors(read_vectors(path), SplitImages(images, np.arange(4), np.array([], int)), path)
    assert images.pixels[:, 0, 0, 0].tolist() == [1, 3, 0, 2]
    assert found.rows[:, 0].tolist() == [1, 3, 0, 2]


def test_training_images_have_mean_0_and_deviation_1(tmp_path):
    found = matched(tmp_path, "1,2\n3,40\n500,6\n7,8\n")
    standard = found.standardise(found.rows)[[0, 1, 3]]
    assert np.allclose(standard.mean(0), 0, atol=1e-6)
    assert np.allclose(standard.std(0), 1, atol=1e-6)
    again = ImageVectors.from_tensors({k: v.clone() for k, v in found.to_tensors().items()})
    assert again.sha256 == found.sha256
    assert torch.equal(torch.from_numpy(again.mean), torch.from_numpy(found.mean))
    labelled = found.label(split())
    assert np.array_equal(labelled.images.vectors, found.standardise(found.rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no vectors"),
        ("size,hue\n", "holds no vectors"),
        ("1,2\n3\n5,6\n7,8\n", "equal lengths, got 2 cells in row 1 and 1 in row 2"),
        ("1,2\n3,nan\n5,6\n7,8\n", "finite numbers, got 'nan' in row 2"),
        ("1,2\n3,inf\n5,6\n7,8\n", "finite numbers, got 'inf'"),
        ("1,2\n3,blue\n5,6\n7,8\n", "finite numbers, got 'blue' in row 2"),
        ("1,2\n3,4\n5,6\n", "a row for each of the 4 images, got 3 rows"),
        ("a.png,1\nred/1.png,2\n", "has none for 'red/2.png'; perhaps you meant red/1.png"),
        ("1.png,1\n2.png,2\n3.png,4\n", "has none for 'red/1.png'"),
        ("red/1.png,1\nred/1.png,2\n", "two rows for 'red/1.png'"),
        ("1,2\n1,4\n5,6\n1,8\n", "got 1 for all training images in column '0'"),
        ("1," * 1100 + "1\n", "at most 1024 numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_in_one_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as refused:
        matched(tmp_path, text)
    assert "\n" not in str(refused.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_vectors(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\0\1")
    with pytest.raises(UserError, match="is not a CSV file"):
        read_vectors(tmp_path / "binary.csv")
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(2**29)
    with pytest.raises(UserError, match="larger than 256 MiB"):
        read_vectors(tmp_path / "large.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1.25," * 10**6, "lines of at most 65,536 letters"),
        ('1,"\n",' * 100, "is not a CSV file: unexpected end of data"),
        ("1\n" * 30, "at most 20 rows"),
        ("1,2\n1," + "y" * 50_000 + "\n", "finite numbers, got 'y{50}' in row 2"),
    ],
)
def test_lines_and_rows_are_bounded(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr("ddim.data.vectors.MOST_ROWS", 20)
    with pytest.raises(UserError, match=message) as refused:
        read_vectors(written(tmp_path, content))
    assert len(str(refused.value)) < 500


def test_a_name_that_stands_twice_among_many_is_found_at_once(tmp_path):
    """Comparing each name with all before it would take hours."""
    names = "".join(f"{k}.png,{k}\n" for k in range(100_000))
    with pytest.raises(UserError, match="two rows for '99999.png'"):
        read_vectors(written(tmp_path, f"{names}99999.png,1\n"))
