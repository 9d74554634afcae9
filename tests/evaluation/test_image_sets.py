"""Features of a reference belong to the selected images, are computed once, and again if damaged."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

import ddim
import tiny
from damage import damage_file, flip_bit
from ddim.data.values import Values
from ddim.errors import UserError
from ddim.evaluation.image_sets import Reference, open_other_images
from ddim.files import cache_folder
from ddim.machine.progress import ignore_progress
from ddim.recipe.recipe import Data
from ddim.sampling import image_features
from ddim.sampling.image_features import ImageSet, compute_features, find_features
from stubs import stub

pytestmark = pytest.mark.usefixtures("empty_cache")


def some(which=range(40)):
    return ImageSet(tiny.images(), np.array(which), "memory", "all")


@pytest.mark.parametrize("change", [flip_bit, lambda content: content[:-40], lambda content: b"", None])
def test_damaged_features_are_computed_again(change):
    whole = compute_features(some(), stub())
    identity, seen = some().identity(stub()), []
    np.testing.assert_array_equal(find_features(identity, 40), whole)
    damage_file(cache_folder() / "features" / f"{identity}.parts" / "0-40", change)
    assert find_features(identity, 40) is None
    np.testing.assert_array_equal(compute_features(some(), stub(seen)), whole)
    assert sum(seen) == 40
    assert find_features(identity, 40) is not None


def test_stopped_features_continue_at_the_part_where_they_stopped(monkeypatch):
    backwards = some(range(39, -1, -1))
    whole = np.array(compute_features(backwards, stub()))
    shutil.rmtree(cache_folder())
    monkeypatch.setattr(image_features, "PART", 32)
    seen, progress = [], []

    def stop(done, total):
        progress.append((done, total))
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_features(backwards, stub(seen), stop)
    found = compute_features(backwards, stub(seen), lambda *done: progress.append(done))
    assert seen == [32, 8, 8]
    assert progress == [(32, 40), (40, 40), (40, 40)]
    np.testing.assert_array_equal(found, whole)


def test_the_identity_changes_with_everything_that_features_depend_on():
    sets = [some(), some(range(39)), some(range(39, -1, -1)), replace(some(), images=tiny.images(n=41))]
    identities = [images.identity(stub()) for images in sets]
    deep = replace(tiny.images(), pixels=tiny.images().pixels.astype(np.uint16))
    for low, high in ((0, 65535), (0, 4095), (5, 4095)):
        wide = replace(deep, values=Values("uint16", low, high))
        identities.append(replace(some(), images=wide).identity(stub()))
    for change in ({"name": "other"}, {"weights": "v" * 64}, {"resize": "3 px"}):
        identities.append(some().identity(replace(stub(), **change)))
    assert len(set(identities)) == len(identities)
    assert replace(some(), source="elsewhere", part="valid").identity(stub()) == identities[0]


DATA = Data(source="", size=(32, 32), validation=0.3)


def test_the_parts_of_a_reference_are_those_of_a_run_with_the_same_seed():
    def select(part=None, seed=3):
        return open_other_images(Reference("blossoms:50", part), DATA, ignore_progress, seed)

    valid, train, every = select("valid"), select("train"), select()
    assert (valid.part, len(valid.which), train.part, len(train.which)) == ("valid", 15, "train", 35)
    assert sorted([*valid.which, *train.which]) == list(every.which) == list(range(50))
    assert not np.array_equal(valid.which, select("valid", 4).which)
    assert (every.part, every.source) == ("all", "blossoms:50")
    assert every.images.pixels.shape == (50, 32, 32, 3)


@pytest.mark.parametrize("name", ["run.json", "checkpoints/step-000000001/MANIFEST.json"])
def test_a_run_is_no_reference(tmp_path, name):
    tiny.write_grays(tmp_path / "run" / "samples", [10, 200])
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    for run in (tmp_path / "run", file.parent):
        with pytest.raises(UserError, match="is a run: name images"):
            ddim.evaluate(np.zeros((2, 3, 8, 8)), run)
    assert Reference(tmp_path / "run" / "samples").data
