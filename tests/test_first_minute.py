"""The first minute in a notebook: calls work as one would guess them, and change nothing global."""

import inspect
import json
import random
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ddim
import tiny
from oracles import made
from stubs import stub

MACHINE = replace(tiny.MACHINE, threads=2)


def global_state():
    """Return all process-wide settings and random states that a library could change."""
    return {
        "threads": torch.get_num_threads(),
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002  (the global one is what is asked for)
        "random": random.getstate(),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ddim.train(
        None, tiny.recipe(images=8), out=tmp_path_factory.mktemp("run") / "run", machine=tiny.MACHINE
    )


CALLS = {
    "train": lambda run: ddim.train(None, tiny.recipe(images=8), out=run.parent / "other", machine=MACHINE),
    "load": ddim.load,
    "sample": lambda run: ddim.sample(run, n=2, steps=2),
}


@pytest.mark.parametrize("call", CALLS)
def test_train_load_and_sample_change_no_global_state(call, run):
    before = global_state()
    CALLS[call](run)
    assert global_state() == before


def test_sampling_runs_with_the_threads_of_the_loaded_run(run):
    used = []
    trained = ddim.load(run, threads=2)
    trained.model.net.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    ddim.sample(trained, n=1, steps=1)
    assert used == [2]


def test_submodules_and_public_names_are_attributes():
    assert ddim.samplers.DDIM is ddim.DDIM
    assert ddim.schedules.Cosine is ddim.diffusion.schedules.Cosine is ddim.Cosine
    assert ddim.sampling.pipeline.load is ddim.load


def test_progress_is_given_by_name():
    values = [getattr(ddim, name) for name in ddim.__all__]
    taken = [inspect.signature(value).parameters for value in values if inspect.isfunction(value)]
    kinds = [parameters["progress"].kind for parameters in taken if "progress" in parameters]
    assert len(kinds) > 5
    assert set(kinds) == {inspect.Parameter.KEYWORD_ONLY}


def test_paths_may_be_text(run, tmp_path):
    images = ddim.sample(str(run), 2, 2)
    assert torch.equal(images, ddim.sample(run, 2, 2))
    assert torch.equal(images, ddim.sample(ddim.load(str(run)), 2, 2))
    ddim.resume(str(run))
    other = ddim.train(
        None, tiny.recipe(images=8), out=str(tmp_path / "other"), source=str(run), machine=tiny.MACHINE
    )
    assert other == tmp_path / "other"


class Net(torch.nn.Module):
    """A network as one writes it in a notebook."""

    def __init__(self, *more):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), *more, torch.nn.Dropout(0.5))

    def forward(self, x, t):
        return self.layers(x)


def test_a_network_of_your_own_is_sampled_and_left_in_training_mode():
    net = made(Net)
    for given in (net, lambda x, t: torch.zeros_like(x)):
        model = ddim.Model(given, ddim.Cosine(), predicts="velocity", shape=(3, 8, 8))
        images = ddim.sample(model, n=3, steps=4, sampler=ddim.DPMSolver(2), seeds=[5, 6, 7])
        assert images.shape == (3, 3, 8, 8)
        assert torch.equal(images[:1], ddim.sample(model, n=1, steps=4, sampler=ddim.DPMSolver(2), seed=5))
    assert model(torch.zeros(2, 3, 8, 8), 0.5).x0.shape == (2, 3, 8, 8)
    assert all(layer.training for layer in net.modules())


def test_a_model_may_have_any_channels_predict_a_variance_or_take_vectors():
    for channels in (2, 3, 5):
        model = ddim.Model(lambda x, t: x.tile(1, 2, 1, 1), "cosine", shape=(channels, 8, 8))
        for sampler in (ddim.DDIM(), ddim.DDPM("learned")):
            assert ddim.sample(model, n=1, steps=2, sampler=sampler).shape == (1, channels, 8, 8)
    plain = ddim.Model(lambda x, t: x, "cosine", shape=(3, 8, 8))
    with pytest.raises(ddim.errors.UserError, match="this network predicts no variance"):
        ddim.sample(plain, n=1, steps=2, sampler=ddim.DDPM("learned"))

    def shift(x, t, vector):
        return x if vector is None else x + vector.mean(1).reshape(-1, 1, 1, 1)

    shift.vector = 4
    model = ddim.Model(shift, "cosine", shape=(3, 8, 8))
    assert torch.equal(ddim.sample(model, n=1, steps=2), ddim.sample(plain, n=1, steps=2))
    x = torch.ones(2, 3, 8, 8)
    assert torch.equal(model.with_labels(torch.ones(2, 4))(x, 0.5).x0, model(x, 0.5, torch.ones(2, 4)).x0)
    with pytest.raises(ddim.errors.UserError, match="vector needs a run"):
        ddim.sample(model, n=1, steps=2, vector=[1.0, 2.0, 3.0, 4.0])


def test_edits_and_figures_leave_a_network_of_your_own_unchanged():
    net = made(lambda: Net(torch.nn.BatchNorm2d(3)))
    model = ddim.Model(net, ddim.Cosine(), shape=(3, 8, 8))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    image, mask = torch.full((1, 3, 8, 8), 0.25), torch.eye(8)
    calls = [
        lambda: ddim.vary(model, image, seeds=[3], steps=3).images,
        lambda: ddim.inpaint(model, image, [3], 3, mask=mask, resample=1).images,
        lambda: ddim.invert(model, image, steps=3).latents,
        lambda: ddim.interpolate(model, seeds=[3, 7], steps=3).images,
    ]
    for call in calls:
        assert torch.equal(call(), call())
    ddim.plot_reverse(model, steps=3)
    ddim.plot_samplers(model, (4,), 1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(layer.training for layer in net.modules())


def test_image_k_depends_on_seed_k_and_seeds_are_numbers_or_lists(run):
    three = ddim.sample(run, 3, 2, seed=4)
    assert torch.equal(three, ddim.sample(run, steps=2, seeds=[4, 5, 6]))
    assert torch.equal(three[1:2], ddim.sample(run, 1, 2, seed=np.int64(5)))
    assert len(ddim.sample(run, steps=2)) == 16
    for more in ({"n": 3}, {"seed": 5}):
        with pytest.raises(ddim.errors.UserError, match="give seeds, or n and seed"):
            ddim.sample(run, steps=2, seeds=[1, 2], **more)
    with pytest.raises(ddim.errors.UserError, match="a list of seeds is given as seeds="):
        ddim.sample(run, steps=2, seed=[1, 2, 3])


def test_numbers_of_numpy_are_as_good_as_those_of_python(tmp_path):
    one, machine = np.int64(1), ddim.Machine("cpu", "fp32", threads=np.int64(1))
    recipe = replace(tiny.recipe(), sampler=ddim.DPMSolver(np.int64(2)))
    options = {"seed": one, "images": np.int64(8), "size": np.array([32, 32]), "progress": False}
    run = ddim.train(None, recipe, out=tmp_path / "run", machine=machine, **options)
    pipeline = ddim.load(run, threads=np.int64(1))
    assert (pipeline.recipe.sampler, pipeline.recipe.seed) == (ddim.DPMSolver(2), 1)
    for sampler in (ddim.UniPC(np.int64(2)), ddim.AdamsBashforth(np.int64(2))):
        assert len(ddim.sample(pipeline, 2, sampler=sampler)) == 2
    counts = {"n": np.int64(20), "steps": np.int64(2), "seed": one}
    found = ddim.evaluate(pipeline, part="all", features=stub(), progress=False, **counts)
    assert found.record["sampling"]["seeds"] == list(range(1, 21))


def test_every_repr_fits_a_screen(run):
    pipeline = ddim.load(run)
    values = [
        pipeline,
        pipeline.model,
        pipeline.checkpoint,
        pipeline.checkpoint.state,
        pipeline.recipe,
        ddim.Recipe(),
        ddim.Noise(range(1000)),
        ddim.DPMSolver(2),
        ddim.KarrasSigma(),
    ]
    for value in values:
        assert len(repr(value)) < 1500, type(value)


def test_dir_lists_what_there_is_and_nothing_else():
    names = [name for name in dir(ddim) if name != "__version__"]
    modules = {name for name in names if isinstance(getattr(ddim, name), types.ModuleType)}
    assert set(names) == modules | set(ddim.__all__)
    assert len(ddim.__all__) == len(set(ddim.__all__))
    folders = {path.stem for path in Path(ddim.__file__).parent.iterdir() if not path.stem.startswith("_")}
    assert folders - modules == {"cli", "web", "files", "py"}
    with pytest.raises(AttributeError, match="'ddim' has no attribute 'grid'"):
        _ = ddim.grid


def test_type_checkers_know_every_name(tmp_path):
    """Each name is used in a file that pyrefly reads; an unknown one is an error, and a number is one."""
    lines = ["import ddim", *(f"ddim.{name}" for name in dir(ddim)), "ddim.sample(1.5)", "ddim.nothing"]
    (tmp_path / "notebook.py").write_text("\n".join(lines))
    (tmp_path / "pyrefly.toml").write_text(f"search-path = [{str(Path(ddim.__file__).parents[1])!r}]")
    command = [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable]
    command += ["--output-format", "json", "notebook.py"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    errors = json.loads(said.stdout)["errors"]
    assert sorted(error["line"] for error in errors) == [len(lines) - 1, len(lines)], said.stdout
