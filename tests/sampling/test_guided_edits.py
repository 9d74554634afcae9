"""Edits that a weaker model guides, and edits that cannot be guided."""

import json
from dataclasses import replace

import pytest
import torch

import ddim
import tiny
from ddim.cli import main
from ddim.diffusion.samplers import EDM
from ddim.errors import UserError
from ddim.evaluation.discretisation_error import TimeRange, error_against_reference
from ddim.plots.pictures import save_png
from ddim.sampling.guidance import collect_guidance, open_guidance
from ddim.sampling.pipeline import load

STEPS = 4
GUIDED = {"guidance": 3.0, "guide_with": "@guide"}
FAR = {**GUIDED, "guidance_interval": (60.0, 70.0)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.train(tiny.recipe(report__guide=0.3), tmp_path_factory.mktemp("run") / "one")


IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
HOLE = torch.zeros(32, 32)
HOLE[8:24, 8:24] = 1
EDITS = {
    "vary": lambda run, **options: ddim.vary(run, IMAGE, 0.9, range(2), STEPS, **options),
    "inpaint": lambda run, **options: ddim.inpaint(run, IMAGE, HOLE, [3], STEPS, resample=2, **options),
    "interpolate": lambda run, **options: ddim.interpolate(run, None, 3, STEPS, seeds=[3, 7], **options),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_guided_edit_evaluates_two_networks_in_its_interval_only(name, run):
    plain, guided, far = (EDITS[name](run, **options) for options in ({}, GUIDED, FAR))
    assert torch.equal(plain.images, far.images)
    assert torch.equal(plain.images, EDITS[name](run, **{**GUIDED, "guidance": 1}).images)
    assert not torch.allclose(plain.images, guided.images, atol=1e-3)
    assert plain.calls == far.calls == guided.calls / 2
    assert guided.facts["guide"]["name"] == "@guide"
    assert "guidance" not in plain.facts


@pytest.mark.parametrize(("name", "count"), [("vary", 2), ("inpaint", 1), ("interpolate", 3)])
def test_the_states_of_an_edit_are_shown_with_the_places_of_their_images(name, count, run):
    seen, pipeline = [], load(run)
    small = replace(pipeline, runtime=replace(pipeline.runtime, micro_batch=2))
    plain = EDITS[name](small)
    watched = EDITS[name](small, watch=lambda places, state: seen.append((list(places), len(state.x))))
    assert torch.equal(plain.images, watched.images)
    assert all(len(places) == images for places, images in seen)
    assert sorted({place for places, _ in seen for place in places}) == list(range(count))
    assert {places[0] for places, _ in seen} == set(range(0, count, 2))


def test_the_ends_of_a_guided_interpolation_are_the_guided_samples(run):
    frames = EDITS["interpolate"](run, **GUIDED).images
    samples = ddim.sample(run, None, STEPS, seeds=[3, 7], **GUIDED)
    assert torch.allclose(frames[[0, -1]], samples, atol=1e-5)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda run: ddim.invert(run, IMAGE, STEPS, **GUIDED),
            "an inversion cannot be guided, because guidance",
        ),
        (
            lambda run: ddim.interpolate(run, IMAGE.expand(2, -1, -1, -1), 3, STEPS, **GUIDED),
            r"an interpolation of images cannot be guided, because .*Mokady .*: leave guidance out, got 3",
        ),
        (
            lambda run: ddim.vary(run, IMAGE, guidance=2.0),
            "guidance needs a label, .* or a weaker model, guide_with",
        ),
        (lambda run: ddim.vary(run, IMAGE, guide_with="@guide"), "need a guidance scale"),
        (
            lambda run: ddim.invert(run, IMAGE, STEPS, guide_with="@guide"),
            "an inversion cannot be guided, .*: leave guide_with out, got @guide",
        ),
        (lambda run: ddim.invert(run, IMAGE, 1), "steps must be at least 2 and at most 1,000,000, got 1"),
    ],
)
def test_edits_that_cannot_be_guided_are_refused_in_one_sentence(edit, said, run):
    with pytest.raises(UserError, match=said):
        edit(run)


def test_a_command_records_the_guidance_of_its_edit(run, tmp_path, capsys):
    save_png(tmp_path / "a.png", (IMAGE[0].permute(1, 2, 0) * 255).byte().numpy())
    words = [
        "vary",
        str(run),
        str(tmp_path / "a.png"),
        "-n",
        "1",
        "--steps",
        "3",
        "--out",
        str(tmp_path / "b"),
    ]
    options = ["--guidance", "2", "--guide-with", "@guide", "--guidance-interval", "-3,"]
    assert main([*words, *options]) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "b" / "record.json").read_text())
    assert (record["guidance"], record["guidance_interval"]) == (2.0, [-3.0, None])
    assert record["guide"]["step"] == 3
    assert main(["invert", str(run), str(tmp_path / "a.png"), "--guidance", "2"]) == 2


def test_the_sampling_error_of_guided_samples_is_measured_against_guided_samples(run):
    """The reference is Heun's method on this grid, so its own error is 0; without guidance it is not."""
    pipeline = load(run)
    guidance = open_guidance(pipeline, None, STEPS, collect_guidance(**GUIDED))
    times = TimeRange(pipeline.recipe.sampling_schedule, 0.2).space("uniform_log_snr", 9)
    ends = TimeRange(pipeline.recipe.sampling_schedule, 0.2)
    error = error_against_reference(pipeline, ends, range(2), 9, guidance=guidance)
    assert error(EDM(), times) == 0
    assert error(EDM(), times[::2]) > 0
    plain = error_against_reference(pipeline, ends, range(2), 9)
    assert plain(EDM(), times) == 0
    assert plain(EDM(), times[::2]) != error(EDM(), times[::2])


@pytest.mark.slow
def test_an_ablation_can_be_guided(run, capsys):
    words = ["ablate", str(run), "--evaluations", "3", "--seeds", "1", "--json"]
    found = []
    for options in ([], ["--guidance", "3", "--guide-with", "@guide"]):
        assert main([*words, *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [result["guidance"] for result in found] == [1.0, 3.0]
    assert found[0]["errors"] != found[1]["errors"]
    assert main([*words, "--guidance", "2"]) == 2
    assert "an ablation uses no class label, so only a weaker model can guide it" in capsys.readouterr().err
