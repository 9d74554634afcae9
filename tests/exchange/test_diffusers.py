"""To diffusers and back: the same output, and the same pictures of the same noise, by its own classes."""

import json
import re
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cases import mark_slow
from ddim.diffusion.grids import Spaced
from ddim.diffusion.noise import Noise
from ddim.errors import UserError
from ddim.exchange.diffusers import export_to_diffusers, import_from_diffusers
from ddim.exchange.diffusers_weights import WEIGHTS, convert_from_diffusers, convert_to_diffusers
from ddim.exchange.export import export_run
from ddim.experiments.index import find_runs
from ddim.recipe.codec import override
from ddim.recipe.named import ddpm
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import SamplingSetup
from oracles import made, normal, shaken
from untrained import recipe, run_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]
SEEDS = [0, 7, 8]
QUAD = {"schedule": "beta_table", "schedule__clip": "none", "schedule__read": "log_snr"}
SCHEDULER = "scheduler_config.json"
few_or_many_steps = pytest.mark.parametrize("steps", [10, pytest.param(50, marks=pytest.mark.slow)])


@pytest.fixture
def run(tmp_path):
    return run_of(recipe(), tmp_path / "run")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of an exported run, which tests copy."""
    folder = tmp_path_factory.mktemp("exported")
    export_to_diffusers(load(run_of(recipe(), folder / "run")), folder / "out")
    return folder / "out"


def opened(folder):
    return diffusers.DDIMPipeline.from_pretrained(folder, local_files_only=True)


def pictures(pipeline, steps, **options):
    """(N, C, H, W) by diffusers, image k of a generator of seed k."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    made_by = pipeline(len(SEEDS), generators, num_inference_steps=steps, output_type="np", **options).images
    return torch.from_numpy(np.asarray(made_by)).permute(0, 3, 1, 2)


def test_weights_survive_the_conversion_of_names_bit_for_bit(run):
    state = load(run).model.net.state_dict()
    theirs = convert_to_diffusers(state)
    assert not set(theirs) & set(state)
    back = convert_from_diffusers(theirs, state)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_attention_may_have_the_names_of_old_files(run):
    state = load(run).model.net.state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    theirs = {}
    for name, value in convert_to_diffusers(state).items():
        for new, word in old.items():
            name = name.replace(new, word)  # noqa: PLW2901
        theirs[name] = value
    assert any("proj_attn" in name for name in theirs)
    back = convert_from_diffusers(theirs, state)
    assert all(torch.equal(back[name], value) for name, value in state.items())


@pytest.mark.parametrize("size", ["16", "16x24"])
def test_an_exported_network_gives_the_same_output(tmp_path, size):
    source = run_of(recipe(data__size=size), tmp_path / "run")
    export_to_diffusers(load(source), tmp_path / "out")
    net, other = load(source).model.net, opened(tmp_path / "out").unet
    index = torch.tensor([0, 1, 500, 999])
    x = normal(4, 3, 16, 24, dtype=torch.float32)
    with torch.no_grad():
        found, wanted = net(x, index.float()), other(x, index).sample
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)


@few_or_many_steps
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grid__spacing": "trailing"},
        {**QUAD, "schedule__betas": "quad", "predicts": "velocity"},
        {
            "predicts": "image",
            "schedule__entries": "500",
            "conditioning__entries": "500",
            "grid__entries": "500",
        },
        {"net__embedding": "cos_sin", "net__resample": "strided", "net__head": "8", "net__eps": "1e-5"},
        {"clip": "x0", "predicts": "velocity", "grid__spacing": "trailing"},
        {**QUAD, "schedule__betas": "cosine", "net__scale_shift": "true", "net__heads": "2"},
        {"schedule": "cosine", "schedule__min_signal": "0.02", "grid": "uniform", "net__outputs": "2"},
        {"schedule__clip": "rates", "schedule__read": "floor"},
    ],
    ids=str,
)
def test_diffusers_opens_an_exported_run_and_samples_the_same_images(tmp_path, changes, steps):
    source = run_of(recipe(**changes), tmp_path / "run")
    export_to_diffusers(load(source), tmp_path / "out")
    wanted = pictures(opened(tmp_path / "out"), steps)
    found, nfe = generate(SamplingSetup(load(source), steps), SEEDS)
    assert nfe == steps
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes, options, note",
    [
        ({"clip": "true"}, {"use_clipped_model_output": True}, "give use_clipped_model_output=True"),
        ({"grid": "quadratic"}, {}, r"evenly spaced timesteps \(trailing\), .* the grid quadratic"),
        ({"sampler": "dpm_solver", "grid__spacing": "trailing"}, {}, "hold the sampler dpm_solver"),
        ({"net__outputs": "2"}, {}, "the predicted variance is left out"),
    ],
)
def test_notes_say_what_diffusers_cannot_hold(tmp_path, changes, options, note):
    """With what they say, diffusers samples the same images."""
    source = run_of(recipe(**changes), tmp_path / "run")
    (found,) = export_to_diffusers(load(source), tmp_path / "out").notes
    assert re.search(note, found)
    assert "\n" not in found
    plain = {"grid": "spaced", "sampler": "ddim"} if "clip" not in changes else {}
    ours = load(source)
    if plain and "grid" in changes:
        plain["grid"] = Spaced(1000, "trailing")
    ours = ours.with_recipe(**{name: value for name, value in plain.items() if name in changes})
    wanted = pictures(opened(tmp_path / "out"), 10, **options)
    assert torch.allclose(generate(SamplingSetup(ours, 10), SEEDS)[0], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_run_with_the_sampler_ddpm_becomes_a_pipeline_of_ddpm(tmp_path, variance):
    source = run_of(recipe(sampler="ddpm", sampler__variance=variance, clip="true"), tmp_path / "run")
    exported = export_to_diffusers(load(source), tmp_path / "out")
    assert (exported.kind, exported.notes) == ("DDPMPipeline", ())
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert torch.allclose(
        generate(SamplingSetup(load(source), 10), SEEDS)[0], pictures(pipeline, 10), rtol=0, atol=1e-4
    )


def test_the_noise_of_ddim_is_an_argument_of_the_pipeline(tmp_path):
    source = run_of(recipe(sampler__eta="0.5"), tmp_path / "run")
    assert export_to_diffusers(load(source), tmp_path / "out").notes == (
        "give eta=0.5 to the pipeline, whose scheduler cannot hold it",
    )
    wanted = pictures(opened(tmp_path / "out"), 10, eta=0.5)
    assert torch.allclose(generate(SamplingSetup(load(source), 10), SEEDS)[0], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("label", mark_slow([None, 2], lambda label: label))
def test_classes_go_to_diffusers_and_back(tmp_path, label):
    """By the loop that the model card shows, because its pipelines pass no label."""
    chosen = recipe(data__labels="true", net__classes="4")
    source = run_of(chosen, tmp_path / "run", classes=("a", "b", "c", "d"))
    exported = export_run(source, tmp_path / "out")
    assert "label 4 means no class" in exported.notes[0]
    card = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    noise = Noise(SEEDS).like(torch.zeros(3, 3, 16, 16))
    code = code.replace('from_pretrained(".")', "from_pretrained(folder)").replace("(4, 3, 16, 16)", "noise")
    code = code.replace("torch.randnnoise", "noise").replace(
        "(4,), 0", f"(3,), {4 if label is None else label}"
    )
    code = code.replace("set_timesteps(20)", "set_timesteps(10)")
    names = {"folder": tmp_path / "out", "noise": noise}
    exec(code, names)
    back = load(import_from_diffusers(tmp_path / "out", tmp_path / "back"))
    assert back.classes == ("0", "1", "2", "3")
    for pipeline in (load(source), back):
        found, _ = generate(SamplingSetup(pipeline, 10, label), SEEDS)
        assert torch.allclose(found, names["images"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("labels", [False, True])
def test_the_code_of_the_card_gives_the_arguments_that_the_notes_name(tmp_path, labels):
    chosen = {"data__labels": "true", "net__classes": "2"} if labels else {}
    source = run_of(recipe(sampler__eta="0.5", clip="true", **chosen), tmp_path / "run")
    notes = export_run(source, tmp_path / "out").notes
    assert sum(note.startswith("give ") for note in notes) == 2
    card = (tmp_path / "out" / "README.md").read_text()
    place = "x, " if labels else "num_inference_steps=20, "
    assert f"{place}eta=0.5, use_clipped_model_output=True)" in card


def test_a_network_that_torch_pickled_is_read(run, tmp_path):
    export_to_diffusers(load(run), tmp_path / "out")
    weights = tmp_path / "out" / "unet" / WEIGHTS
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    back = load(import_from_diffusers(tmp_path / "out", tmp_path / "back"))
    assert torch.equal(
        generate(SamplingSetup(back, 4), [3])[0], generate(SamplingSetup(load(run), 4), [3])[0]
    )


@few_or_many_steps
@pytest.mark.parametrize("old", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("said", [{}, {"clip_sample": False, "timestep_spacing": "trailing"}], ids=str)
def test_an_imported_model_gives_the_samples_of_diffusers(tmp_path, steps, old, said):
    """Also as diffusers has it by default, clipped at each step with the noise as predicted."""
    pipeline = diffusers.DDIMPipeline(network(), diffusers.DDIMScheduler(**said))
    pipeline.save_pretrained(tmp_path / "theirs")
    if old:
        # As the first pipelines: all files in one folder.
        for path in (tmp_path / "theirs").glob("*/*"):
            shutil.move(path, tmp_path / "theirs" / path.name)
    made_run = import_from_diffusers(tmp_path / "theirs", tmp_path / "run")
    found, _ = generate(SamplingSetup(load(made_run), steps), SEEDS)
    wanted = pictures(pipeline, steps)
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=1e-4)
    assert json.loads((made_run / "import.json").read_text())["folder"] == str(tmp_path / "theirs")
    assert [(run.path, run.state) for run in find_runs(tmp_path)] == [(made_run, "finished")]
    # And back.
    export_to_diffusers(load(made_run), tmp_path / "ours")
    assert torch.equal(pictures(opened(tmp_path / "ours"), steps), wanted)


@few_or_many_steps
@pytest.mark.parametrize("clips", mark_slow([False, True], lambda clips: clips))
@pytest.mark.parametrize(
    ("variance", "spacing"),
    mark_slow(
        [
            ("fixed_small", "leading"),
            ("fixed_small", "trailing"),
            ("fixed_small_log", "leading"),
            ("fixed_large", "leading"),
        ],
        lambda pair: pair[0] == "fixed_small",
    ),
)
def test_a_model_with_the_ddpm_scheduler_is_sampled_with_ddpm(tmp_path, variance, spacing, clips, steps):
    scheduler = diffusers.DDPMScheduler(
        variance_type=variance, timestep_spacing=spacing, clip_sample=clips, prediction_type="v_prediction"
    )
    pipeline = diffusers.DDPMPipeline(network(), scheduler)
    pipeline.save_pretrained(tmp_path / "theirs")
    found, _ = generate(
        SamplingSetup(load(import_from_diffusers(tmp_path / "theirs", tmp_path / "run")), steps), SEEDS
    )
    wanted = pictures(pipeline, steps)
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=1e-4)


def network():
    """A network of diffusers, small, with random weights."""
    unet = made(
        lambda: diffusers.UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D"),
            norm_num_groups=8,
        )
    )
    return shaken(unet)


def test_a_run_that_is_exported_and_imported_is_the_same_run(run, tmp_path):
    export_to_diffusers(load(run), tmp_path / "out")
    back = load(import_from_diffusers(tmp_path / "out", tmp_path / "back"))
    before = load(run)
    assert replace(back.recipe, ema=before.recipe.ema) == before.recipe
    assert back.pixels == before.pixels
    assert torch.equal(generate(SamplingSetup(back, 4), [3])[0], generate(SamplingSetup(before, 4), [3])[0])


def test_an_imported_run_clips_like_its_pipeline_and_by_default(run, tmp_path):
    export_to_diffusers(load(run), tmp_path / "out")
    path = tmp_path / "out" / "scheduler" / SCHEDULER
    there = json.loads(path.read_text())
    assert there["clip_sample"] is False
    for name, clips in (("a", True), ("b", False), ("c", None)):
        said = {key: value for key, value in there.items() if key != "clip_sample"}
        path.write_text(json.dumps(said if clips is None else {**said, "clip_sample": clips}))
        made_run = load(import_from_diffusers(tmp_path / "out", tmp_path / name))
        assert made_run.recipe.clip == (False if clips is False else "x0")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"net": "unet"}, "the net of recipe ddpm"),
        ({"pixels__mean": "0.4"}, "pixels"),
        ({"conditioning": "log_snr"}, "conditioning"),
        ({"predicts": "edm"}, "predicts"),
        ({"data__size": "17"}, "data.size"),
        ({"augment__probability": "0.1", "net__augment": "9"}, "net.augment"),
        ({"net__multipliers": "2,2"}, "net.width"),
    ],
)
def test_options_that_diffusers_lacks_are_refused(tmp_path, changes, said):
    # A network of another kind has not the fields that make this one small.
    chosen = override(ddpm(), changes) if "net" in changes else recipe(**changes)
    source = run_of(chosen, tmp_path / "run", (0.4, 0.5) if said == "pixels" else (0.5, 0.5))
    with pytest.raises(UserError, match=said):
        export_to_diffusers(load(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


REFUSED = {
    "unet/config.json": [
        {"act_fn": "relu"},
        {"freq_shift": 5},
        {"block_out_channels": [16, 24]},
        {"block_out_channels": [16, "a"]},
        {"block_out_channels": [2**40, 2**41]},
        {"in_channels": -3, "out_channels": -3},
        {"down_block_types": ["X"] * 2, "up_block_types": ["X"] * 2},
        {"layers_per_block": 20000},
        {"norm_eps": "small"},
        {"sample_size": [16, 0]},
        {"num_class_embeds": 10**6},
    ],
    "scheduler/scheduler_config.json": [
        {"_class_name": "PNDMScheduler"},
        {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
        {"beta_schedule": "laplace"},
        {"num_train_timesteps": 10**12},
        {"trained_betas": [0.5] * 1000},
        {"prediction_type": "flow"},
        {"timestep_spacing": "linspace"},
        {"clip_sample": True, "clip_sample_range": 2.0},
    ],
}


@pytest.mark.parametrize(
    ("file", "changes"), [(file, each) for file, many in REFUSED.items() for each in many]
)
def test_pipelines_that_are_no_ddpm_are_refused_in_one_sentence(exported, tmp_path, file, changes):
    shutil.copytree(exported, tmp_path / "out")
    path = tmp_path / "out" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError) as error:
        import_from_diffusers(tmp_path / "out", tmp_path / "back")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "back").exists()


def test_a_folder_that_is_no_pipeline_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"holds no unet/config\.json"):
        import_from_diffusers(tmp_path)
    export_to_diffusers(load(run), tmp_path / "out")
    (tmp_path / "out" / "unet" / WEIGHTS).write_bytes(b"a pickle, not safetensors")
    with pytest.raises(UserError, match="is damaged"):
        import_from_diffusers(tmp_path / "out", tmp_path / "back")
    (tmp_path / "out" / "unet" / WEIGHTS).unlink()
    with pytest.raises(UserError, match="holds no unet/diffusion_pytorch_model.safetensors"):
        import_from_diffusers(tmp_path / "out", tmp_path / "back")
