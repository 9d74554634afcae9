"""A run from the outside: its folder, where it starts from, and mistakes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import ddim
import tiny
from ddim.data import split_images
from ddim.errors import UserError
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import read_recipe
from ddim.recipe.recipe import Data, Recipe
from ddim.runs.state import Plan
from ddim.sampling import pipeline
from ddim.training import Callback, Machine, train
from ddim.training.start import measure_pixels, open_split
from ddim.training.trainer import Trainer


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A finished run."""
    return tiny.train(tiny.recipe(), tmp_path_factory.mktemp("parent") / "run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_json_describes_the_run(parent):
    facts = json.loads((parent / "run.json").read_text())
    assert read_recipe(parent / "recipe.yaml") == tiny.recipe()
    assert facts["data"]["train"] == 32
    assert facts["data"]["valid"] == 8
    assert len(facts["data"]["fingerprint"]) == 64
    assert facts["runtime"] | {"precision": "fp32", "compile": False, "threads": 1} == facts["runtime"]
    assert {"python", "torch", "ddim", "platform"} <= facts["versions"].keys()
    sheets = [path.name for path in sorted((parent / "samples").iterdir())]
    assert sheets == ["real.png", "step-000000005.png", "step-000000010.png"]
    lines = tiny.metrics(parent)
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9]
    assert [line["step"] for line in lines if "image_mae" in line] == [5, 10]
    assert [line["images"] for line in lines] == [8 * line["step"] for line in lines]


def test_tensorboard_has_the_recipe_in_its_table_of_runs(parent):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    contents = EventAccumulator(str(parent)).Reload().PluginTagToContent("hparams")
    session = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    asked = {name: value.string_value for name, value in session.hparams.items()}
    assert (asked["recipe"], asked["optim.batch"], asked["schedule"]) == ("tiny", "8", "cosine")
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    assert {one.name for one in experiment.hparam_infos} == set(asked)
    logged = {name for line in tiny.metrics(parent) for name in line}
    assert len({one.name.tag for one in experiment.metric_infos} & logged) == 2


def test_the_losses_logged_are_the_means_since_the_last_line(tmp_path):
    seen = []

    class Note(Callback):
        def on_step(self, training, values):
            seen.append(values)

    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[Note()])
    for line in tiny.metrics(folder):
        if "loss" in line:
            window = seen[line["step"] - 3 : line["step"]]
            for name in ("loss", "gradient_norm", "lr"):
                assert line[name] == pytest.approx(sum(values[name] for values in window) / 3)


def test_callbacks_are_called_in_order(tmp_path):
    said = []

    class Say(Callback):
        def on_start(self, training, folder):
            said.append("begin")

        def on_step(self, training, values):
            said.append(training.step)

        def on_checkpoint(self, training, path):
            assert (path / "MANIFEST.json").is_file()
            said.append("saved")

        def on_validation(self, training, values):
            assert {"noise_mae", "image_mae"} < values.keys()
            assert (tmp_path / "run" / "samples" / f"step-{training.step:09d}.png").is_file()
            said.append("event")

        def on_end(self, training):
            said.append("end")

    tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[Say()])
    assert said == ["begin", *range(1, 6), "event", "saved", *range(6, 11), "event", "saved", "end"]


def test_a_run_from_another_starts_with_its_ema_weights_and_its_pixels(parent, tmp_path):
    class Begin(Callback):
        def on_start(self, training, folder):
            self.bits = tiny.bits(training)
            self.pixels = training.pixels
            assert training.step == 0

    start = Begin()
    # Other images, so that its own pixels would be others.
    recipe = replace(tiny.recipe(images=8), data=Data("blossoms:24", (32, 32), validation=0.5))
    child = tiny.train(recipe, tmp_path / "run", source=parent, callbacks=[start])
    averaged, raw = ddim.load(parent), ddim.load(parent, weights="raw")
    for name, value in averaged.model.state_dict().items():
        assert torch.equal(start.bits[f"model/{name}"], value)
    assert any(
        not torch.equal(start.bits[f"model/{name}"], value) for name, value in raw.model.state_dict().items()
    )
    assert start.pixels == averaged.pixels
    plain = Begin()
    tiny.train(recipe, tmp_path / "plain", callbacks=[plain])
    assert plain.pixels != averaged.pixels
    facts = json.loads((child / "run.json").read_text())
    assert (facts["source"], facts["source_sha256"]) == (str(parent), averaged.checkpoint.sha256)
    assert json.loads((tmp_path / "plain" / "run.json").read_text())["source_sha256"] is None


def test_a_run_from_another_that_was_killed_early_starts_from_it_again(parent, tmp_path):
    whole = tiny.train(tiny.recipe(), tmp_path / "whole", source=parent)
    folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", tiny.At(2, tiny.crash), source=parent)
    ddim.training.resume(folder)
    assert tiny.digests(folder) == tiny.digests(whole)


def test_a_run_started_from_another_run_uses_its_own_number_of_threads(parent, tmp_path):
    used = []
    note = tiny.At(1, lambda training: used.append(torch.get_num_threads()))
    machine = replace(tiny.MACHINE, threads=3)
    tiny.train(tiny.recipe(images=8), tmp_path / "run", source=parent, machine=machine, callbacks=[note])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["runtime"]["threads"] == 3
    assert used == [3]


MISTAKES = {
    "a parent that is missing": ({"source": "nowhere"}, "run nowhere is not a folder"),
    "a network that does not fit": (
        {"recipe": tiny.recipe("keras"), "source": "parent"},
        "do not fit the network of recipe",
    ),
    "images that are missing": ({"data": "nowhere/"}, "nowhere"),
    "a device": ({"machine": Machine("abacus")}, "device must be one of auto, cpu"),
    "a precision": ({"machine": Machine("cpu", "fp8")}, "precision must be auto, fp32 or bf16"),
    "threads": ({"machine": Machine("cpu", "fp32", threads=0)}, "threads must be at least 1"),
    "no such threads": (
        {"machine": Machine("cpu", "fp32", threads=99999999999)},
        "got 9999999",
    ),
    "a recipe": ({"recipe": "fats"}, "perhaps you meant fast"),
    "a recipe without a name": ({"recipe": ""}, "recipe must be one of"),
    "a recipe of another type": ({"recipe": {"images": 8}}, "recipe must be one of"),
    "a class of recipes": ({"recipe": Recipe}, "recipe must be one of"),
    "levels it will not learn": ({"recipe": tiny.recipe(sampled_on="linear_in")}, "sampled_on must lead to"),
    "pixels of other weights": (
        {"recipe": tiny.recipe(pixels="fixed"), "source": "parent"},
        "pixels must be the same",
    ),
    "a table of two sizes": (
        {"recipe": tiny.recipe(schedule="linear", conditioning="timestep", conditioning__entries=100)},
        "conditioning.entries must be",
    ),
    "a batch beyond memory": ({"recipe": tiny.recipe(optim__batch="1e11")}, "of memory"),
    "a grid of other steps": ({"recipe": tiny.recipe(grid="listed", grid__times="1")}, "steps"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_user_error_is_one_sentence_and_leaves_no_files(mistake, parent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, said = MISTAKES[mistake]
    if given.get("source") == "parent":
        given = {**given, "source": parent}
    elif "source" in given:
        given = {**given, "source": tmp_path.__class__(given["source"])}
    words = {"data": "blossoms:40", "recipe": tiny.recipe(), "machine": tiny.MACHINE, **given}
    with pytest.raises(UserError, match=said) as error:
        train(**words)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_gets_no_more_threads_than_there_are_cores(monkeypatch):
    monkeypatch.setattr("ddim.training.start.count_allowed", lambda: 8)
    alone, shared = Processes(), Processes(local_count=4)
    for threads, processes, most in ((64, alone, 8), (2, alone, 2), (8, shared, 2)):
        assert Machine().change(Runtime(threads=threads), None, processes).threads == most
    # What the user asks for is used.
    assert Machine().change(Runtime(), 9, alone).threads == 9
    assert Machine(threads=3).change(Runtime(), 9, alone).threads == 3


@pytest.mark.parametrize(
    ("device", "size", "expected"),
    [("cuda", (32, 32), 64), ("cuda:1", (64, 64), 64), ("cuda", (128, 256), 8), ("cuda", (1024, 1024), 1)]
    + [("cpu", (256, 256), 16), ("mps", (64, 64), 16)],
)
def test_a_gpu_gets_micro_batches_that_fall_with_the_number_of_pixels(device, size, expected, monkeypatch):
    monkeypatch.setattr("ddim.machine.runtime.find_device", lambda wanted: wanted)
    monkeypatch.setattr("ddim.machine.runtime._has_bf16", lambda device: False)
    machine = Machine(device, "fp32", compiling=False, threads=1)
    assert machine.choose(tiny.recipe(data__size=size)).micro_batch == expected
    # A run of another kind of machine gets the runtime of this one, and other runs keep theirs.
    monkeypatch.setattr(pipeline, "find_device", lambda wanted: wanted)
    assert pipeline._runtime(Runtime("xpu"), size, device, 1).micro_batch == expected
    assert pipeline._runtime(Runtime(device, micro_batch=5), size, None, 1).micro_batch == 5


def test_a_folder_with_files_is_refused_before_images_are_read(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="new or empty"):
        tiny.train(tiny.recipe(), tmp_path, data="nowhere/")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(UserError, match="new or empty"):
        tiny.train(tiny.recipe(), tmp_path / "note.txt")
    with pytest.raises(UserError, match="cannot be created: .*note.txt is a file"):
        tiny.train(tiny.recipe(), tmp_path / "note.txt" / "run")
    assert (tmp_path / "note.txt").read_text() == "mine"


@pytest.mark.parametrize("lost", ["run.json", "checkpoints"])
def test_a_run_is_no_folder_of_images(lost, parent, tmp_path):
    run = shutil.copytree(parent, tmp_path / "photos" / "run")
    (run / lost).rename(tmp_path / lost)
    for use in (ddim.plan, train):
        with pytest.raises(UserError, match="run is a run"):
            use(str(run), tiny.recipe(images=8), machine=tiny.MACHINE)
    # A folder that contains runs may hold the images too.
    assert open_split(replace(tiny.BASE, data=replace(tiny.BASE.data, source=str(run.parent)))).images


def test_an_empty_folder_is_used(tmp_path):
    assert tiny.train(tiny.recipe(images=8), tmp_path) == tmp_path
    assert (tmp_path / "run.json").is_file()


def test_the_recipes_images_are_used_unless_others_are_given(tmp_path):
    for data, count in ((None, 32), ("blossoms:24", 19)):
        out = tmp_path / str(count)
        tiny.train(tiny.recipe(images=8), out, data=data)
        assert json.loads((out / "run.json").read_text())["data"]["train"] == count


def test_two_processes_cannot_train_the_same_run(parent):
    from ddim.files import lock_folder

    with lock_folder(parent), pytest.raises(UserError, match="another process is writing into"):
        ddim.training.resume(parent)


def test_a_compiled_network_and_its_eager_twin_share_their_weights(monkeypatch):
    """What is validated, sampled and saved is what is trained."""
    chosen, source = tiny.recipe("batch norm"), tiny.images()
    parts = split_images(source, 0.2, 0)
    runtime = Runtime(compile=True)
    # Nothing is compiled before the first step, which there is not.
    monkeypatch.setattr("ddim.machine.runtime.can_compile", lambda device: True)
    monkeypatch.setattr(torch, "compile", torch.nn.Sequential)
    run = Trainer(chosen, parts, measure_pixels(chosen, parts), runtime, Plan(80))
    assert run.compiled.net is not run.model.net
    for kind in ("parameters", "buffers"):
        ours, theirs = (list(getattr(model, kind)()) for model in (run.model, run.compiled))
        assert [tensor.data_ptr() for tensor in ours] == [tensor.data_ptr() for tensor in theirs]
        assert ours
