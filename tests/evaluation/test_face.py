"""The functions at the top of the package that measure, with plain values, as a notebook calls them."""

import pytest
import torch

import ddim
import tiny
from ddim.errors import UserError
from ddim.evaluation.evaluate import evaluate_source
from ddim.evaluation.record import read_evaluation
from ddim.evaluation.samples import Samples
from ddim.files import read_sealed
from ddim.sampling.pipeline import open_pipeline
from ddim.sampling.searched import SearchedGrid
from oracles import made
from stubs import stub, written


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = tiny.recipe(images=16, data__validation=0.5)
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "run", data="blossoms:60", progress=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Evaluate with a quick network, in an empty folder."""
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda name: stub())
    monkeypatch.chdir(tmp_path)


def test_plain_values_are_those_of_samples(run):
    plain = ddim.evaluate(run, n=24, steps=3, sampler=ddim.DDIM(eta=0.5), grid=ddim.Uniform())
    fields = {"sampler": "ddim", "sampler.eta": "0.5", "grid": "uniform"}
    given = evaluate_source(run, Samples(24, 3, fields=fields), extractor=stub())
    assert plain.record["metrics"] == given.record["metrics"]
    assert plain.record["sampling"] == given.record["sampling"]
    assert plain.folder.parent == run / "evaluations"


def test_a_pipeline_is_evaluated_like_its_run_and_a_tensor_like_its_samples(run, tmp_path):
    of_run = ddim.evaluate(run, "blossoms:60", n=24, steps=3)
    of_pipeline = ddim.evaluate(ddim.load(run), "blossoms:60", n=24, steps=3)
    samples = ddim.sample(run, n=24, steps=3)
    of_tensor = ddim.evaluate(samples, "blossoms:60")
    reversed_twice = samples.flip(1).numpy()[:, ::-1]
    for array in (samples.numpy(), reversed_twice):
        assert ddim.evaluate(array, "blossoms:60").record["metrics"] == of_tensor.record["metrics"]
    assert of_run.record["metrics"] == of_pipeline.record["metrics"] == of_tensor.record["metrics"]
    assert of_pipeline.folder.parent == run / "evaluations"
    assert of_tensor.folder.resolve() == tmp_path / "evaluations" / "tensor-1"
    assert of_tensor.record["generated"]["source"] == "tensor 24 x 3 x 32 x 32"
    with pytest.raises(UserError, match="images need a reference: name the images"):
        ddim.evaluate(torch.zeros(24, 3, 32, 32))
    with pytest.raises(UserError, match="images must be .* from nan"):
        ddim.evaluate(torch.full((24, 3, 32, 32), torch.nan), "blossoms:60")


def test_options_that_have_no_effect_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="a model in memory has its own weights: .* load it with 'raw'"):
        ddim.evaluate(ddim.load(run), n=24, weights="raw")
    with pytest.raises(UserError, match="images in memory are not sampled: leave steps out, got 5"):
        ddim.evaluate(torch.zeros(24, 3, 32, 32), "blossoms:60", steps=5)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="of a folder or archive are not sampled: leave guidance out, got 2"):
        ddim.evaluate(tmp_path / "images", "blossoms:60", guidance=2)


def test_a_grid_of_ones_own_needs_not_have_the_steps_of_the_run(run):
    shares = ddim.load(run).with_recipe(grid=ddim.Listed((0.9, 0.5, 0.1)))
    found = ddim.evaluate(shares, n=24, steps=2, grid="karras")
    assert found.record["sampling"]["grid"]["kind"] == "karras"


def test_n_takes_the_first_given_images_and_is_refused_beyond_their_number(tmp_path):
    images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "images"
    folder.mkdir()
    for k, image in enumerate(images):
        ddim.sheet(image, zoom=1).save(folder / f"{k:02}.png")
    for given in (images, folder):
        first = ddim.evaluate(given, "blossoms:60", n=24)
        assert first.record["metrics"] == ddim.evaluate(images[:24], "blossoms:60").record["metrics"]
        assert ddim.evaluate(given, "blossoms:60").record["generated"]["images"] == 40
        with pytest.raises(UserError, match="n must be at most the number of images, 40, or .*, got 41"):
            ddim.evaluate(given, "blossoms:60", n=41)


def test_a_reference_is_a_path_or_a_name(run):
    said = r"the reference must be a folder, an archive or a name, got a tensor \(24, 3, 8, 8\)$"
    for measure in (lambda x: ddim.evaluate(x, x), lambda x: ddim.likelihood(run, x)):
        with pytest.raises(UserError, match=said):
            measure(torch.zeros(24, 3, 8, 8))
    with pytest.raises(UserError, match="method must be vlb or ode, got 'nll'"):
        ddim.likelihood(run, method="nll")


def test_evaluations_are_compared_as_arguments_or_as_a_list(tmp_path):
    one, other = (read_evaluation(written(tmp_path / name)) for name in ("a", "b"))
    for given in ((one, other), (tmp_path / "a", str(tmp_path / "b")), ([one, other],)):
        assert [row.evaluation for row in ddim.compare(*given, metric="FID-infinity").rows] == [one, other]
    for given in ((one,), (str(tmp_path / "a"),), ([one],)):
        with pytest.raises(UserError, match="at least two evaluations, got 1: give another"):
            ddim.compare(*given)
    with pytest.raises(UserError, match="a result of ddim.evaluate or a path, got 3"):
        ddim.compare(one, 3)
    with pytest.raises(UserError, match="metric must be one of kid, .*'FIT'; perhaps you meant fid"):
        ddim.compare(one, other, metric="FIT")


def test_metrics_are_found_in_any_case_and_other_names_are_refused(tmp_path):
    found = read_evaluation(written(tmp_path / "a"))
    assert found.value("KID") == found.value("kid") == 0.02
    assert found.interval("KID") == (0.01, 0.03)
    for read in (found.value, found.interval):
        with pytest.raises(UserError, match="got 'precison'; perhaps you meant precision"):
            read("precison")


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
    compared = ddim.compare([one, other], metric="fid_infinity") if one.value("fid_infinity") else None
    assert compared is None or len(compared.to_records()) == 2
    with pytest.raises(UserError, match="a model has no images of its own: name the reference"):
        ddim.evaluate(model)


def test_an_evaluation_is_read_as_a_table(run):
    found = ddim.evaluate(run, n=24, steps=3)
    lines = repr(found).splitlines()
    assert lines[0].startswith("dpm_solver, 3 steps, 3 NFE: 24 images against 30 held-out images")
    assert lines[2].split()[:2] == ["KID", f"{found.value('kid'):.4g}"]
    assert "<td>KID</td>" in found._repr_html_()
    sheet = found.folder / "grid.png"
    kept = sheet.read_bytes()
    sheet.write_bytes(b"")
    assert "<td>KID</td>" in found._repr_html_()
    sheet.write_bytes(kept)
    # 24 images are too few for FID; a reader of the number must learn this.
    assert [line for line in lines if line.startswith("note: ")] == [
        f"note: {note}" for note in found.record["notes"]
    ]
    assert any("FID" in line for line in lines[-3:])
    assert f'<p class="note">note: {found.record["notes"][0]}</p>' in found._repr_html_()


def test_a_searched_grid_is_read_as_a_table():
    found = SearchedGrid((1.0, 0.5), 0.125, {"uniform": 0.25})
    assert repr(found).splitlines()[0] == "times 1, 0.5"
    assert found.to_records()[0] == {"grid": "searched", "mean_squared_error": 0.125}
    assert "<td>uniform</td><td>0.25</td>" in found._repr_html_()


def test_images_with_nan_or_of_another_type_are_refused():
    images = torch.full((24, 3, 8, 8), 0.5)
    images[5, 1, 2, 3] = float("nan")
    for given in (images, images.numpy()):
        with pytest.raises(UserError, match="images must be uint8 or floats in .* from nan to nan"):
            ddim.evaluate(given, "blossoms:60")
    with pytest.raises(UserError, match="a pipeline or a model, got a list$"):
        ddim.evaluate(list(images), "blossoms:60")


MODEL = ddim.Model(torch.nn.Identity(), "cosine")


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda run: ddim.diagnose(MODEL), "this needs a run folder, such as .*, got a Model$"),
        (lambda run: ddim.likelihood(MODEL), "this needs a run folder, .* got a Model$"),
        (lambda run: ddim.memorisation(open_pipeline(MODEL)), "this needs a run folder, .* got a Pipeline$"),
        (lambda run: ddim.search(MODEL), "this needs a run folder, .* got a Model$"),
        (lambda run: ddim.tabulate(run, {"steps": 2}, 20), r"samples must be .*Samples\(n=1000\), got 20$"),
        (lambda run: ddim.tabulate(run, [2, 4]), r"choices must be a dictionary, such as .*, got a list$"),
        (
            lambda run: ddim.tabulate(run, {}, reference="photos"),
            r"Reference\(.photos/.\), got 'photos'",
        ),
        (
            lambda run: ddim.memorisation(run, 20, 2, fields={"clip": True, "data.flip": False}),
            "data.flip cannot be changed for sampling; only sampler, grid, sampled_on, clip can$",
        ),
        (
            lambda run: ddim.tabulate(run, {"steps": 2}, Samples(20, fields={"schedule": "linear"})),
            "schedule cannot be changed for sampling",
        ),
        (lambda run: ddim.search(run, "3"), "steps must be a whole number, got '3'"),
        (lambda run: ddim.reconstruct_average(run, "0.08"), "width must be a number, got '0.08'"),
        (lambda run: ddim.push(run, None), "hub:OWNER/NAME.*, got None"),
        (lambda run: ddim.import_model(None), "source must be the path of a folder, got None"),
        (lambda run: ddim.plot_samplers(run, []), "evaluations must be numbers .*, got none"),
        (lambda run: ddim.plot_reverse(run, 3, columns=0), "columns must be at least 1"),
        (lambda run: ddim.plot_forward(columns=0), "columns must be at least 1"),
    ],
)
def test_arguments_of_another_type_are_refused_in_a_sentence(measure, said, run):
    with pytest.raises(UserError, match=said):
        measure(run)


@pytest.mark.parametrize(
    "use",
    [
        ddim.load,
        ddim.export,
        ddim.distill,
        ddim.list_averages,
        lambda given: ddim.reconstruct_average(given, 0.08),
    ],
)
def test_a_loaded_run_is_refused_where_its_folder_is_needed(use, run):
    with pytest.raises(UserError, match="this needs a run folder, .* got a LoadedRun$"):
        use(ddim.load(run))


def test_none_is_no_run():
    with pytest.raises(UserError, match="this needs a run folder, .* got None$"):
        ddim.load(None)


def test_features_are_named_or_given(run):
    named = ddim.evaluate(run, n=24, steps=2, features="efficientnet-lite0")
    given = ddim.evaluate(run, n=24, steps=2, features=stub(name="own"))
    assert (named.features.extractor, given.features.extractor) == ("stub", "own")
    table = ddim.tabulate(run, {"steps": [2]}, Samples(24), features="scattering")
    assert table.cells[0].evaluation.features.extractor == "stub"
    choices = {}, {"features": "scattering"}, {"features": stub(name="own")}
    records = [ddim.memorisation(run, 20, 2, **words).folder / "record.json" for words in choices]
    found = [read_sealed(record)["features"] for record in records]
    assert [each and each["extractor"] for each in found] == [None, "stub", "own"]
