"""An evaluation compares samples of a run with held-out images; its folder is complete or absent."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.cli import main
from ddim.data import open_images, split_images
from ddim.errors import UserError
from ddim.evaluation import image_sets
from ddim.evaluation.image_sets import Reference, open_reference
from ddim.evaluation.measure import Difference, measure_difference, measure_metrics
from ddim.evaluation.record import read_evaluation
from ddim.files import read_sealed
from ddim.machine import distributed
from ddim.machine.distributed import Processes
from ddim.metrics.features import Extractor, extract_features
from ddim.metrics.fid import fid
from ddim.metrics.kid import kid
from ddim.metrics.prdc import prdc
from ddim.runs import checkpoint, names
from ddim.runs.state import TrainedOn
from ddim.sampling.pipeline import load
from oracles import made
from stubs import stub

pytestmark = pytest.mark.usefixtures("blank_figures")

FEW = {"n": 40, "steps": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The default features are quick."""
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda *_: stub())


def test_samples_and_training_images_are_compared_with_the_held_out_images(run):
    images, recipe = open_images("blossoms:60", (16, 16)), load(run).recipe
    split = split_images(images, recipe.data.validation, recipe.seed)
    reference, real = (
        extract_features(stub(), np.asarray(images.pixels)[which])
        for which in (split.validation, split.train)
    )
    samples = (ddim.sample(run, 40, 2).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    generated = extract_features(stub(), samples)
    found = ddim.evaluate(run, **FEW, features=stub())
    np.testing.assert_allclose(np.load(found.folder / "features.npy"), generated, atol=1e-6)
    for metrics, features in ((found, generated), (found.yardstick, real)):
        assert metrics.value("kid") == pytest.approx(kid(features, reference).value, abs=1e-6)
        assert metrics.value("fid") == pytest.approx(fid(features, reference), rel=1e-4)
        for name, value in asdict(prdc(features, reference)).items():
            assert metrics.value(name) == value
        low, high = metrics.interval("kid")
        assert low < metrics.value("kid") < high
    assert (found.yardstick.images, found.record["yardstick"]["part"]) == (30, "train")
    assert ddim.evaluate(run, **FEW, part="all", features=stub()).yardstick is None


def test_features_are_computed_on_the_device_of_the_run(run, monkeypatch):
    places = []
    monkeypatch.setattr(Extractor, "to", lambda self, device: places.append(device) or self)
    ddim.evaluate(load(run), **FEW, features=stub())
    ddim.memorisation(load(run), 20, 2, features=stub())
    assert places == ["cpu", "cpu"]


def test_the_record_holds_what_the_metrics_depend_on(run):
    found = ddim.evaluate(run, n=40, steps=3, seed=7, weights="raw", sampler="edm", features=stub())
    record = read_sealed(run / "evaluations" / "1" / "record.json")
    assert record == found.record
    sampling = record["sampling"]
    newest = names.find_checkpoint(run)
    assert sampling["checkpoint"]["sha256"] == checkpoint.hash_checkpoint(newest)
    assert (sampling["seeds"], sampling["sampler"]["kind"]) == (list(range(7, 47)), "edm")
    # Heun's method evaluates the network twice per step, and once in the last step.
    assert (len(sampling["times"]), sampling["nfe"], sampling["weights"]) == (3, 5, "raw")
    features = {"extractor": "stub", "weights": "w" * 64, "resize": "2 px", "dimensions": 12}
    assert record["features"] == features
    reference = {"source": "blossoms:60", "part": "valid", "images": 30, "size": [16, 16]}
    assert reference.items() <= record["reference"].items()
    digest = hashlib.sha256((found.folder / "features.npy").read_bytes()).hexdigest()
    generated = {"images": 40, "source": str(run), "fingerprint": None, "kept": 0}
    assert record["generated"] == generated | {"sha256": digest}
    assert {path.name for path in found.folder.iterdir()} == {"record.json", "features.npy", "grid.png"}


def test_samples_in_a_folder_are_evaluated_like_samples_of_their_run(run, here):
    reference = "blossoms:60"
    assert main(["sample", str(run), "-n", "41", "--steps", "2", "--sampler", "edm", "--out", "made"]) == 0
    of_run = ddim.evaluate(run, reference, 41, 2, sampler="edm", features=stub())
    of_files = ddim.evaluate("made", reference, 41, features=stub())
    assert of_run.record["sampling"] == of_files.record["sampling"]
    assert of_files.record["sampling"]["nfe"] == 3
    found = measure_difference(of_files, of_run, "kid")
    assert (found.value, found.low, found.high, found.paired) == (0, 0, 0, True)
    # If a sample is missing or damaged, or the record is of another kind, the sampling is unknown.
    (here / "made" / "00007.png").write_bytes(b"")
    with pytest.warns(match="1 file left out, such as '0000000007': contains no image"):
        of_some = ddim.evaluate("made", reference, features=stub())
    assert (of_some.record["generated"]["images"], of_some.record["sampling"]) == (40, None)
    assert of_some.record["generated"]["fingerprint"] != of_files.record["generated"]["fingerprint"]
    (here / "made" / "record.json").write_text("{")
    with pytest.raises(UserError, match="made/record.json is damaged"):
        ddim.evaluate("made", reference, features=stub())


def test_features_of_another_evaluation_are_not_reused(run):
    """With the same number of samples and the same network, only their bytes differ."""
    one, other = (ddim.evaluate(run, **FEW, seed=seed, features=stub()) for seed in (0, 40))
    assert isinstance(measure_difference(one, other, "kid"), Difference)
    theirs = shutil.copy(one.folder / "features.npy", other.folder / "features.npy")
    assert measure_difference(one, other, "kid") == f"{theirs} is missing or does not belong to its record"


def test_an_evaluation_computes_only_features_that_are_not_in_the_cache(run, empty_cache):
    def evaluate(run, kept, batches, **options):
        seen = []
        found = ddim.evaluate(run, **{**FEW, **options}, features=stub(seen))
        assert (found.record["generated"]["kept"], seen) == (kept, batches)
        return found

    # The 30 held-out images, 40 samples, and 30 training images for the yardstick.
    first = evaluate(run, 0, [30, 32, 8, 30])
    again = evaluate(run, 40, [])
    other = evaluate(Path(shutil.copytree(run, run.parent / "moved")), 40, [], part="train")
    for found in (again, other):
        for name in ("features.npy", "grid.png"):
            assert (found.folder / name).read_bytes() == (first.folder / name).read_bytes()
    assert again.record["metrics"] == first.record["metrics"]
    assert again.record["sampling"] == first.record["sampling"]
    # Batches are those of an evaluation without a cache, so that features are bit-identical.
    evaluate(run, 32, [32, 6], n=70)
    for changed in ({"steps": 3}, {"weights": "raw"}, {"seed": 1}):
        evaluate(run, 0, [32, 8], **changed)
    # A damaged part is made again.
    for part in (empty_cache / "features").glob("samples-*/0-32"):
        part.write_bytes(part.read_bytes()[:-1] + b"?")
    evaluate(run, 8, [32])


def test_other_features_of_the_same_samples_need_no_sampling(run, empty_cache, monkeypatch):
    other = stub(name="other")
    alone = ddim.evaluate(run, **FEW, features=other)
    shutil.rmtree(empty_cache)
    ddim.evaluate(run, **FEW, features=stub())
    with monkeypatch.context() as patch:
        patch.setattr(image_sets, "sample_uint8", None)
        second = ddim.evaluate(run, **FEW, features=other)
        ddim.memorisation(run, 40, 2)
    assert (second.record["generated"]["kept"], second.record["seconds"]["sampling"]) == (40, 0)
    assert second.record["metrics"] == alone.record["metrics"]
    # Samples of large evaluations are not kept: only their features, and the 36 samples that are shown.
    shutil.rmtree(empty_cache)
    monkeypatch.setattr(image_sets, "LARGEST_KEPT", 40 * 3 * 16 * 16 - 1)
    ddim.evaluate(run, n=70, steps=2, features=stub())
    assert ddim.evaluate(run, n=70, steps=2, features=other).record["generated"]["kept"] == 64


KILLED = """
import os, signal, sys
import ddim
from stubs import stub
seen = []
class Killer(list):
    def append(self, count):
        super().append(count)
        if len(self) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
ddim.evaluate(sys.argv[1], n=40, steps=2, features=stub(Killer()))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("batches", [2, 3])
def test_a_killed_evaluation_leaves_no_record(run, batches):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(run), str(batches)]
    # The first batch is of the reference, the second of samples.
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    left = list((run / "evaluations").iterdir())
    assert all(path.name.startswith(".tmp-") for path in left)
    with pytest.raises(UserError, match="holds no evaluation"):
        read_evaluation(run)
    seen = []
    assert ddim.evaluate(run, **FEW, features=stub(seen)).folder.name == "1"
    # With the 30 training images of the yardstick; a third batch is killed after the first 32 samples.
    assert sum(seen) == {2: 40, 3: 8}[batches] + 30
    # What the killed process left is removed after a week.
    assert [path.name for path in (run / "evaluations").iterdir() if path not in left] == ["1"]


def test_values_of_more_than_8_bits_have_one_scale(here):
    """Samples, also in files, the run's own images and named ones are scaled by the same range."""
    floats = tiny.images(60, channels=2).pixels / np.float32(64) - 1
    np.save("floats.npy", floats)
    np.save("darker.npy", floats[floats.mean((1, 2, 3)).argsort()[:40]].clip(-1, 1))
    run = tiny.train(tiny.recipe(data__range=(-2, 4), images="8"), here / "run", "floats.npy")
    own = ddim.evaluate(run, **FEW, part="all", features=stub()).record
    named = ddim.evaluate(run, "floats.npy", **FEW, features=stub())
    assert own["metrics"] == named.record["metrics"]
    assert own["reference"]["sha256"] == named.record["reference"]["sha256"]
    other = open_reference(load(run), Reference("darker.npy")).images
    assert (other.values.low, other.values.high) == (-2, 4)


def test_samples_in_arrays_are_evaluated_with_the_range_of_the_reference(here):
    np.save("floats.npy", tiny.images(60, channels=2).pixels / np.float32(64) - 1)
    tiny.train(tiny.recipe(images="8"), here / "run", "floats.npy")
    assert main(["sample", "run", "-n", "40", "--steps", "2", "--out", "made"]) == 0
    of_run = ddim.evaluate("run", "floats.npy", **FEW, features=stub())
    of_files = ddim.evaluate("made", "floats.npy", 40, features=stub())
    assert of_files.record["sampling"] == of_run.record["sampling"]
    one, other = (np.load(found.folder / "features.npy") for found in (of_run, of_files))
    np.testing.assert_allclose(one, other, atol=1 / 255)


def test_a_run_whose_images_changed_needs_another_reference(run, monkeypatch):
    def load_changed(*args, **options):
        opened = load(*args, **options)
        other = replace(opened.checkpoint.state, images=TrainedOn("0" * 64, 1))
        return replace(opened, checkpoint=replace(opened.checkpoint, state=other))

    monkeypatch.setattr("ddim.evaluation.evaluate.load", load_changed)
    with pytest.raises(UserError, match="put its images back"):
        ddim.evaluate(run, **FEW, features=stub())
    assert ddim.evaluate(run, "blossoms:60", **FEW, features=stub()).value("kid") is not None


def normal(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_fid_is_extrapolated_only_if_every_part_has_two_images_for_each_dimension():
    reference = normal(200, 8, 0)
    for n, enough in ((80, False), (81, True)):
        metrics, _ = measure_metrics(normal(n, 8, 1), reference)
        assert ("fid_infinity" in metrics) == enough
    assert metrics["fid_infinity"]["low"] < metrics["fid_infinity"]["value"] < metrics["fid_infinity"]["high"]


# In a notebook


def test_a_pipeline_is_evaluated_like_its_run_and_a_tensor_like_its_samples(run, here):
    of_run = ddim.evaluate(run, "blossoms:60", n=24, steps=3)
    of_pipeline = ddim.evaluate(ddim.load(run), "blossoms:60", n=24, steps=3)
    samples = ddim.sample(run, n=24, steps=3)
    of_tensor = ddim.evaluate(samples, "blossoms:60")
    photos = torch.from_numpy(np.array(open_images("blossoms:60", (16, 16)).pixels)).permute(0, 3, 1, 2)
    assert ddim.evaluate(samples, photos).record["metrics"] == of_tensor.record["metrics"]
    reversed_twice = samples.flip(1).numpy()[:, ::-1]
    for array in (samples.numpy(), reversed_twice):
        assert ddim.evaluate(array, "blossoms:60").record["metrics"] == of_tensor.record["metrics"]
    assert of_run.record["metrics"] == of_pipeline.record["metrics"] == of_tensor.record["metrics"]
    assert of_pipeline.folder.parent == run / "evaluations"
    assert of_tensor.folder.resolve() == here / "evaluations" / "tensor-1"
    assert of_tensor.record["generated"]["source"] == "tensor 24 x 3 x 16 x 16"
    with pytest.raises(UserError, match="images must be .* from nan"):
        ddim.evaluate(torch.full((24, 3, 16, 16), torch.nan), "blossoms:60")


def test_arrays_are_measured_in_one_call_that_writes_nothing(here):
    draw = torch.Generator().manual_seed(0)
    images, other = (torch.rand(count, 3, 32, 32, generator=draw) for count in (40, 30))
    found = ddim.measure(images.numpy(), (other * 255).round().byte())
    of, near = (
        extract_features(stub(), (x * 255).round().byte().permute(0, 2, 3, 1).numpy())
        for x in (images, other)
    )
    assert found.value("kid") == kid(of, near).value
    assert found.value("fid") == fid(of, near)
    assert not list(here.iterdir())
    with pytest.raises(UserError, match="at least 20 images of each kind, got 40 and 5"):
        ddim.measure(images, other[:5])


def test_a_model_of_your_own_is_evaluated_without_a_cache(here):
    net = made(lambda: torch.nn.Conv2d(3, 3, 3, padding=1))
    model = ddim.Model(lambda x, t: net(x), ddim.Cosine(), predicts="velocity", shape=(3, 32, 32))
    one = ddim.evaluate(model, "blossoms:60", n=24, steps=3)
    with torch.no_grad():
        net.weight.mul_(-1)
    other = ddim.evaluate(model, "blossoms:60", n=24, steps=3)
    assert one.value("kid") != other.value("kid")
    assert one.record["sampling"]["nfe"] == 3
    assert one.folder.resolve() == here / "evaluations" / "model-1"
    with pytest.raises(UserError, match="only a run has images of its own: name the reference"):
        ddim.evaluate(model)


# The command


def test_an_evaluation_prints_its_verdict_first_and_its_record_as_json(run, command):
    words = ["evaluate", run, "-n", 40, "--steps", 2, "--seed", 5]
    found = json.loads(command(*words, "--json").out)
    assert found["verdict"] == "30 images are too few to say whether these images differ from real ones"
    assert (found["sampling"]["seeds"][0], found["kind"]) == (5, "evaluation")
    folder = command(*words, "--quiet").out.strip()
    evaluation = read_evaluation(run / "evaluations" / folder.rsplit("/", 1)[-1])
    assert evaluation.record["metrics"] == found["metrics"]
    assert command(*words).out.replace("\n", " ").startswith(evaluation.verdict)
    assert "note: with so few images (30)" in command(*words, "--details").out.replace("\n", " ")


def test_other_processes_take_the_results_of_process_0_and_write_no_file(run, monkeypatch, command):
    words = ("evaluate", run, "-n", 40, "--seed", 7, "--steps", "1,2")
    command(*words)
    folders = sorted((run / "evaluations").iterdir(), key=lambda folder: int(folder.name))
    found = ["the table", *map(read_evaluation, folders[-2:])]

    class Other(Processes):
        def broadcast(self, value):
            assert value is None
            return found.pop()

        def interleave(self, mine):
            return [*mine, *mine]

        def local_first(self, work):
            return work()

    before = sorted(run.rglob("*"))
    monkeypatch.setattr(distributed, "_joined", [Other(rank=1, count=2)])
    assert command(*words).out == ""
    assert sorted(run.rglob("*")) == before
    assert found == []
