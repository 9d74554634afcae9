"""The functions at the top of the package that measure, with plain values, as a notebook calls them."""

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.data import open_images
from ddim.errors import UserError
from ddim.files import read_sealed
from ddim.metrics.features import extract_features
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid
from oracles import made
from stubs import stub

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = tiny.recipe(images=16, data__validation=0.5)
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "run", data="blossoms:60", progress=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Evaluate with a quick network, in an empty folder."""
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda *_: stub())
    monkeypatch.chdir(tmp_path)


def test_a_pipeline_is_evaluated_like_its_run_and_a_tensor_like_its_samples(run, tmp_path):
    of_run = ddim.evaluate(run, "blossoms:60", n=24, steps=3)
    of_pipeline = ddim.evaluate(ddim.load(run), "blossoms:60", n=24, steps=3)
    samples = ddim.sample(run, n=24, steps=3)
    of_tensor = ddim.evaluate(samples, "blossoms:60")
    photos = torch.from_numpy(np.array(open_images("blossoms:60", (32, 32)).pixels)).permute(0, 3, 1, 2)
    assert ddim.evaluate(samples, photos).record["metrics"] == of_tensor.record["metrics"]
    reversed_twice = samples.flip(1).numpy()[:, ::-1]
    for array in (samples.numpy(), reversed_twice):
        assert ddim.evaluate(array, "blossoms:60").record["metrics"] == of_tensor.record["metrics"]
    assert of_run.record["metrics"] == of_pipeline.record["metrics"] == of_tensor.record["metrics"]
    assert of_pipeline.folder.parent == run / "evaluations"
    assert of_tensor.folder.resolve() == tmp_path / "evaluations" / "tensor-1"
    assert of_tensor.record["generated"]["source"] == "tensor 24 x 3 x 32 x 32"
    with pytest.raises(UserError, match="images must be .* from nan"):
        ddim.evaluate(torch.full((24, 3, 32, 32), torch.nan), "blossoms:60")


def test_n_takes_the_first_given_images(tmp_path):
    images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "images"
    folder.mkdir()
    for k, image in enumerate(images):
        ddim.sheet(image, zoom=1).save(folder / f"{k:02}.png")
    for given in (images, folder):
        first = ddim.evaluate(given, "blossoms:60", n=24)
        assert first.record["metrics"] == ddim.evaluate(images[:24], "blossoms:60").record["metrics"]
        assert ddim.evaluate(given, "blossoms:60").record["generated"]["images"] == 40


def test_arrays_are_measured_in_one_call_that_writes_nothing(tmp_path):
    draw = torch.Generator().manual_seed(0)
    images, other = (torch.rand(count, 3, 32, 32, generator=draw) for count in (40, 30))
    found = ddim.measure(images.numpy(), (other * 255).round().byte())
    of, near = (
        extract_features(stub(), (x * 255).round().byte().permute(0, 2, 3, 1).numpy())
        for x in (images, other)
    )
    assert found.value("kid") == kid(of, near).value
    assert found.value("fid") == fid(of, near)
    low, high = found.interval("kid")
    assert low < found.value("kid") < high
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="at least 20 images of each kind, got 40 and 5"):
        ddim.measure(images, other[:5])


def test_a_model_of_your_own_is_evaluated_without_a_cache(tmp_path):
    net = made(lambda: torch.nn.Conv2d(3, 3, 3, padding=1))
    model = ddim.Model(lambda x, t: net(x), ddim.Cosine(), predicts="velocity", shape=(3, 32, 32))
    one = ddim.evaluate(model, "blossoms:60", n=24, steps=3)
    with torch.no_grad():
        net.weight.mul_(-1)
    other = ddim.evaluate(model, "blossoms:60", n=24, steps=3)
    assert one.value("kid") != other.value("kid")
    assert one.record["sampling"]["nfe"] == 3
    assert one.folder.resolve() == tmp_path / "evaluations" / "model-1"
    with pytest.raises(UserError, match="only a run has images of its own: name the reference"):
        ddim.evaluate(model)


def test_an_evaluation_is_read_as_a_table(run):
    found = ddim.evaluate(run, n=24, steps=3)
    lines = repr(found).splitlines()
    assert lines[0] == "24 images are too few to say whether these images differ from real ones"
    assert "dpm_solver, 3 steps, 3 NFE: 24 samples against 30 held-out images" in repr(found)
    real = found.yardstick.value("kid")
    assert ["KID", f"{found.value('kid'):.4g}", f"{real:.4g}"] in [line.split()[:3] for line in lines]
    # 24 images are too few for FID; a reader of the number must learn this.
    details = " ".join(found.details.split())
    assert all(f"note: {note}" in details for note in found.record["notes"])
    assert any("FID" in note for note in found.record["notes"])
    assert f'<p class="note">note: {found.record["notes"][0]}</p>' in found._repr_html_()


def test_features_are_named_or_given(run):
    named = ddim.evaluate(run, n=24, steps=2, features="efficientnet-lite0")
    given = ddim.evaluate(run, n=24, steps=2, features=stub(name="own"))
    assert (named.features.extractor, given.features.extractor) == ("stub", "own")
    record = ddim.memorisation(run, 20, 2, features="scattering").folder / "record.json"
    assert read_sealed(record)["features"]["extractor"] == "stub"
