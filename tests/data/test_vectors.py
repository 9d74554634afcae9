"""Vectors in CSV files: heads, names, order, and what is refused."""

import numpy as np
import pytest

from ddim.data import Images, SplitImages, open_images
from ddim.data.arrays import give_images
from ddim.data.vectors import ImageVectors, match_vectors
from ddim.errors import UserError

NAMES = ("red/1.png", "red/2.png", "white/1.png", "white/3.png")


def written(tmp_path, text):
    path = tmp_path / "vectors.csv"
    path.write_text(text)
    return path


def matched(tmp_path, text, names=NAMES):
    return match_vectors(written(tmp_path, text), names, np.array([0, 1, 3]))


@pytest.mark.parametrize(
    "text",
    [
        "name,size,hue\nwhite/3.png,7,8\nred/1.png,1,2\nwhite/1.png,5,6\nred/2.png,3,4\nother.png,9,9\n",
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


def test_row_k_belongs_to_image_k_also_if_images_have_labels(tmp_path):
    pixels = np.arange(4, dtype=np.uint8).repeat(64).reshape(4, 8, 8, 1)
    source = give_images(list(zip(pixels, [1, 0, 1, 0], strict=True)))
    images = open_images(source.text, (8, 8), cache=tmp_path / "cache")
    path = written(tmp_path, "0\n1\n2\n3\n")
    found = match_vectors(path, images.names, np.arange(4))
    assert found.rows[:, 0].tolist() == images.pixels[:, 0, 0, 0].tolist()


def test_training_images_have_mean_0_and_deviation_1(tmp_path):
    found = matched(tmp_path, "1,2\n3,40\n500,6\n7,8\n")
    standard = found.standardise(found.rows)[[0, 1, 3]]
    assert np.allclose(standard.mean(0), 0, atol=1e-6)
    assert np.allclose(standard.std(0), 1, atol=1e-6)
    again = ImageVectors.from_tensors({k: v.clone() for k, v in found.to_tensors().items()})
    assert again.sha256 == found.sha256
    assert np.array_equal(again.mean, found.mean)
    images = Images(np.zeros((4, 8, 8, 1), np.uint8), None, (), NAMES, "")
    labelled = SplitImages(images, found.train, np.array([2])).with_conditions(None, found)
    assert np.array_equal(labelled.images.vectors, found.standardise(found.rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\0\1", "must hold"),
        ("size,hue\n", "must hold"),
        ("1,2\n3\n5,6\n7,8\n", "rows of one length"),
        ("1,2\n3,nan\n5,6\n7,8\n", "finite numbers"),
        ("1,2\n3,4\n5,6\n", "each of the 4 images, got 3"),
        ("a.png,1\nred/1.png,2\n", "perhaps you meant red/1.png"),
        ("1.png,1\n2.png,2\n3.png,4\n", "a row for the image .red/1.png."),
        ("red/1.png,1\nred/1.png,2\n", "two rows for the same name"),
        ("1,2\n1,4\n5,6\n1,8\n", "column .0. .* the same for all"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        matched(tmp_path, text)
