"""To diffusers and back: the same output, and the same images of the same noise, by its own classes."""

import json
import re
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ddim
from cases import mark_slow
from ddim.diffusion.grids import Spaced
from ddim.diffusion.noise import Noise
from ddim.errors import UserError
from ddim.exchange.diffusers import export_to_diffusers, find_lacking
from ddim.experiments.index import find_runs
from ddim.recipe.codec import override
from ddim.recipe.named import find_recipe
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import SamplingSetup
from untrained import SMALL, recipe, run_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]
SEEDS = [0, 7, 8]
QUAD = {"schedule": "beta_table", "schedule__clip": "none", "schedule__read": "log_snr"}
FITTING = {"net": "ddpm_unet", "pixels": "fixed", "conditioning": "timestep", **SMALL}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of an exported run, which tests copy."""
    folder = tmp_path_factory.mktemp("exported")
    export_to_diffusers(load(run_of(recipe(), folder / "run")), folder / "out")
    return folder / "out"


def sample(pipeline, steps=10):
    """Images (N, C, H, W) of this library."""
    return generate(SamplingSetup(pipeline, steps), SEEDS)[0]


def sample_diffusers(pipeline, steps=10, **options):
    """Images (N, C, H, W) by diffusers; image k has a generator of seed k."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    images = pipeline(len(SEEDS), generators, num_inference_steps=steps, output_type="np", **options).images
    return torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2)


def assert_equal_images(found, wanted, tolerance=1e-5):
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=tolerance)


def fitted(name, **changes):
    """A recipe with the parts that diffusers can hold in place of its own."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return override(find_recipe(name), FITTING | {"data.size": "16"} | changes)


def case(chosen, *notes, **nearest):
    """A recipe, the notes of its export, and what diffusers samples in place of choices of the recipe."""
    return pytest.param(chosen, notes, nearest)


@pytest.mark.parametrize("steps", [10, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "chosen, notes, nearest",
    [
        case(recipe()),
        case(fitted("luz")),
        case(fitted("luz", schedule="linear", schedule__clip="powers", schedule__read="floor")),
        case(fitted("fast", sampler="ddim", grid="uniform")),
        case(fitted("fast"), "at evenly spaced timesteps", sampler="ddim", grid=Spaced(1000, "trailing")),
        case(recipe(grid__spacing="trailing", data__size="16x24")),
        case(recipe(**QUAD, schedule__betas="quad", predicts="velocity")),
        case(recipe(predicts="image", schedule__entries="500")),
        case(recipe(net__embedding="cos_sin", net__resample="strided", net__head="8", net__eps="1e-5")),
        case(recipe(clip="x0", predicts="velocity", grid__spacing="trailing")),
        case(recipe(**QUAD, schedule__betas="cosine", net__scale_shift="true", net__heads="2")),
        case(recipe(sampler__eta="0.5")),
        case(recipe(net__outputs="2")),
        case(recipe(sampler="ddpm", sampler__variance="large")),
        case(recipe(sampler="ddpm", sampler__variance="learned", net__outputs="2")),
    ],
)
def test_a_run_gives_the_same_images_in_diffusers_and_back(tmp_path, chosen, notes, nearest, steps):
    run = load(run_of(chosen, tmp_path / "run")).with_recipe(**nearest)
    exported = export_to_diffusers(load(tmp_path / "run"), tmp_path / "out")
    assert len(exported["notes"]) == len(notes)
    assert all(text in note for text, note in zip(notes, exported["notes"], strict=True))
    theirs = getattr(diffusers, exported["kind"]).from_pretrained(tmp_path / "out", local_files_only=True)
    wanted = sample(run, steps)
    # Each step of diffusers rounds its noise levels to float32.
    assert_equal_images(sample_diffusers(theirs, steps, **exported["arguments"]), wanted, 1e-4)
    if getattr(chosen.schedule, "clip", "none") == "none":  # else no schedule without a clip has its betas
        back = load(ddim.import_model(tmp_path / "out", tmp_path / "back"))
        back = back.with_recipe(sampler=run.recipe.sampler, clip=run.recipe.clip)
        assert_equal_images(sample(back, steps), wanted)


def test_a_run_that_is_exported_and_imported_has_the_same_recipe(exported, tmp_path):
    before = load(run_of(recipe(), tmp_path / "run"))
    folder = ddim.import_model(exported, tmp_path / "back")
    back = load(folder)
    assert replace(back.recipe, ema=before.recipe.ema) == before.recipe
    assert back.pixels == before.pixels
    assert torch.equal(sample(back), sample(before))
    assert json.loads((folder / "run.json").read_text())["imported"]["folder"] == str(exported)
    for name in ("diagnose", "memorisation", "likelihood", "evaluate", "resume"):
        with pytest.raises(UserError, match="was imported and has no training images"):
            getattr(ddim, name)(folder)
    assert [(run.path, run.state) for run in find_runs(tmp_path) if run.path != tmp_path / "run"] == [
        (folder, "finished")
    ]


@pytest.mark.parametrize("label", mark_slow([None, 2], lambda label: label))
def test_classes_go_to_diffusers_and_back(tmp_path, label):
    """By the loop that the model card shows, because its pipelines pass no label."""
    chosen = recipe(data__labels="true", net__classes="4", sampler__eta="0", clip="true")
    source = run_of(chosen, tmp_path / "run", classes=("a", "b", "c", "d"))
    exported = ddim.export(source, out=tmp_path / "out")
    assert "label 4 means no class" in exported.notes[0]
    card = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    changes = {
        'from_pretrained(".")': "from_pretrained(folder)",
        "torch.randn(4, 3, 16, 16)": "noise",
        "(4,), 0": f"(3,), {4 if label is None else label}",
        "set_timesteps(20)": "set_timesteps(10)",
    }
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    names = {"folder": tmp_path / "out", "noise": Noise(SEEDS).like(torch.zeros(3, 3, 16, 16))}
    exec(code, names)
    back = load(ddim.import_model(tmp_path / "out", tmp_path / "back")).with_recipe(clip=True)
    assert back.classes == ("0", "1", "2", "3")
    for pipeline in (load(source), back):
        found, _ = generate(SamplingSetup(pipeline, 10, label), SEEDS)
        assert_equal_images(found, names["images"], 1e-4)


@pytest.mark.parametrize("steps", [10, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind, options",
    [
        ("DDIM", {}),
        ("DDIM", {"clip_sample": False, "timestep_spacing": "trailing"}),
        ("DDPM", {"variance_type": "fixed_small", "prediction_type": "v_prediction"}),
        ("DDPM", {"variance_type": "fixed_small", "timestep_spacing": "trailing", "clip_sample": False}),
        ("DDPM", {"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_an_imported_model_gives_the_samples_of_diffusers(exported, tmp_path, kind, options, steps):
    """Also as diffusers has it by default, clipped at each step with the noise as predicted."""
    unet = diffusers.UNet2DModel.from_pretrained(exported / "unet")
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**options)
    pipeline = getattr(diffusers, f"{kind}Pipeline")(unet, scheduler)
    pipeline.save_pretrained(tmp_path / "theirs")
    found = sample(load(ddim.import_model(tmp_path / "theirs", tmp_path / "run")), steps)
    # Each step of diffusers rounds its noise levels to float32, and clipping makes such differences grow.
    assert_equal_images(found, sample_diffusers(pipeline, steps), 1e-4 if options or steps == 10 else 2e-4)


@pytest.mark.parametrize(
    "changes, lacking",
    [
        ({"net__heads": "2", "net__attention": "true,true"}, "net.heads"),
        ({"pixels__mean": "0.4"}, "pixels"),
        ({"augment__probability": "0.1", "net__augment": "9"}, "net.augment"),
        ({"net__multipliers": "2,2"}, "net.width"),
        ({"net__width": "12", "net__group_channels": "2"}, "net.group_channels"),
    ],
)
def test_what_diffusers_lacks_is_named(tmp_path, changes, lacking):
    source = run_of(recipe(**changes), tmp_path / "run", (0.4, 0.5) if lacking == "pixels" else (0.5, 0.5))
    assert find_lacking(load(source)) == lacking
    with pytest.raises(UserError, match=lacking):
        ddim.export(source, "diffusers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "part, changes",
    [
        ("unet", {"act_fn": "relu"}),
        ("scheduler", {"num_train_timesteps": 10**12}),
        ("scheduler", {"trained_betas": [0.5, 0.1] * 500}),
        ("scheduler", {"clip_sample": True, "clip_sample_range": 2.0}),
    ],
)
def test_a_pipeline_that_is_no_ddpm_is_refused_in_one_sentence(exported, tmp_path, part, changes):
    shutil.copytree(exported, tmp_path / "out")
    (path,) = (tmp_path / "out" / part).glob("*config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError) as error:
        ddim.import_model(tmp_path / "out", tmp_path / "back")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "back").exists()


def test_weights_that_do_not_fit_are_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "out")
    path = tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_in.weight"]
    save_file(weights, path)
    with pytest.raises(UserError, match="weights in"):
        ddim.import_model(tmp_path / "out", tmp_path / "back")
