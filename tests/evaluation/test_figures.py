"""Figures show the values of the schedules, embeddings, samples and losses that they plot."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ddim.data import blossoms
from ddim.diffusion.denoiser import Model
from ddim.diffusion.schedules import Cosine, Linear, LinearBeta
from ddim.errors import UserError
from ddim.evaluation import figures
from ddim.plots import charts
from ddim.plots.pictures import to_uint8
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import open_pipeline
from ddim.sampling.sampling_setup import SamplingSetup


def lines(axes):
    """Return the lines that have a name, as {name: (x, y)}."""
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): np.array(line.get_data()) for line in named}


@pytest.fixture
def strips(monkeypatch):
    """Record the arguments of `charts.plot_strip`, and draw the strip."""
    seen, draw = [], charts.plot_strip

    def strip(rows, heads, notes=None, title=""):
        seen.append((rows, heads, notes))
        return draw(rows, heads, notes, title)

    monkeypatch.setattr(charts, "plot_strip", strip)
    return seen


def test_the_curves_of_a_schedule_are_its_own_values():
    figure = figures.plot_schedules()
    alpha, sigma, log_snr = (lines(axes) for axes in figure.axes)
    shown = figures.name_schedules(figures.DEFAULT)
    assert set(alpha) == set(sigma) == set(log_snr) == set(shown) == set(figures.DEFAULT)
    for name, (t, values) in alpha.items():
        assert np.allclose(t, np.linspace(0, 1, len(t)), atol=1e-12)
        at = shown[name](torch.from_numpy(t))
        assert np.array_equal(values, at.alpha.numpy())
        assert np.array_equal(sigma[name][1], at.sigma.numpy())
        assert np.array_equal(log_snr[name][1], at.log_snr.numpy())


def test_a_note_gives_the_plateau_of_a_table_clipped_by_powers():
    clipped = Linear(clip="powers", read="floor")
    words = figures.plot_schedules({"powers": clipped}).get_supxlabel().splitlines()
    assert words == [
        "powers: 38 % of all times have log-SNR -3.89",
        "powers: 7 % of all times have log-SNR 2.94",
    ]


def test_named_schedules_get_the_given_fields():
    fields = {"schedule.clip": "powers"}
    expected = {"linear clip powers": Linear(clip="powers")}
    assert figures.name_schedules(["linear"], fields) == figures.name_schedules("linear", fields) == expected
    assert figures.name_schedules([Linear(clip="powers")]) == expected
    assert figures.name_schedules({"mine": Cosine()}) == {"mine": Cosine()}
    with pytest.raises(UserError, match="perhaps you meant cosine"):
        figures.name_schedules(["cosin"])


def test_with_fine_pixels_the_drawing_is_the_embedding():
    (left, right) = figures.plot_embedding().axes[:2]
    for axes, channels in ((left, 3), (right, 16)):
        values = np.asarray(axes.images[0].get_array())
        assert values.shape[0] == 32
        _, end, _, _ = axes.images[0].get_extent()
        x = (np.arange(values.shape[1]) + 0.5) * end / values.shape[1]
        # The slow channels on the left, all of them on the right.
        for k in range(channels):
            angle = 2 * math.pi * 1000 ** (k / 15) * x
            assert np.allclose(values[k], np.sin(angle), atol=0.02)
            assert np.allclose(values[16 + k], np.cos(angle), atol=0.02)


def test_the_forward_strip_runs_from_the_image_to_the_same_noise_under_each_schedule(strips):
    image = figures.read_image("blossoms", (32, 32))
    assert np.array_equal(to_uint8(image)[0], blossoms.draw_blossom(0, (32, 32)))
    shown = {"clean": LinearBeta(), "bounded": Cosine(0.02, 0.95)}
    figures.plot_forward(image, shown, seed=3)
    figures.plot_forward((image * 255).round().byte().numpy(), shown, seed=4)
    (rows, heads, notes), (others, _, _) = strips
    assert heads[::2] == ["t = 0", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1"]
    assert [notes["bounded"][k] for k in (0, 8)] == ["alpha 0.95\nsigma 0.31", "alpha 0.02\nsigma 1.00"]
    assert not np.array_equal(rows["bounded"][1], others["bounded"][1])
    # Only a schedule without noise at t = 0 begins with the image.
    assert np.array_equal(rows["clean"][0], to_uint8(image)[0])
    assert np.array_equal(others["clean"][0], to_uint8(image)[0])
    assert not np.array_equal(rows["bounded"][0], to_uint8(image)[0])
    # At t = 1 both are the same noise, with a standard deviation of a quarter around middle gray.
    ends = [row[8].astype(float) for row in rows.values()]
    unclipped = (ends[0] > 0) & (ends[0] < 255) & (ends[1] > 0) & (ends[1] < 255)
    assert np.abs(ends[0] - ends[1])[unclipped].max() <= 3
    assert ends[0].mean() / 255 == pytest.approx(0.5, abs=0.02)
    assert np.percentile(ends[0], 75) / 255 == pytest.approx(0.5 + 0.6745 * 0.25, abs=0.02)


def test_the_reverse_strip_ends_in_the_sample(strips):
    run = open_pipeline(Model(lambda x, _: x / 2, Cosine(0.02, 0.999), "image", shape=(3, 8, 8)))
    figures.plot_reverse(run, steps=20, seed=1)
    figures.plot_reverse(run, steps=4, seed=1)
    ((many, _, _), (rows, heads, _)) = strips
    assert {len(row) for row in many.values()} == {10}
    assert len(heads) == 5
    assert (heads[0], heads[-1]) == ("t = 1", "t = 0")
    states, predictions, back = rows.values()
    figures.plot_reverse(run, steps=4, seed=1, fields={"sampler.eta": 0})
    assert not np.array_equal([*strips[2][0].values()][0][-1], [*rows.values()][0][-1])
    sample = to_uint8(generate(SamplingSetup(run, 4), [1])[0])[0]
    assert all(np.array_equal(row[-1], sample) for row in rows.values())
    # At t = 1 the last row has independent noise.
    assert np.corrcoef(states[0].ravel(), back[0].ravel())[0, 1] < 0.3
    for state, prediction in zip(states[:-1], predictions, strict=False):
        # The model predicts half of x_t, here in [-1, 1]. Only pixels that were not clamped can be read back.
        readable = (state > 0) & (state < 255)
        assert readable.mean() > 0.3
        assert np.abs(prediction - (state / 2 + 255 / 4))[readable].max() <= 1


def test_losses_are_plotted_against_images_seen_without_infinite_ones():
    log = [
        {"step": 1, "images": 64, "loss": 0.9},
        {"step": 2, "images": 128, "loss": None},
        {"step": 2, "images": 128, "noise_mae": 0.5},
        {"step": 3, "images": 192, "loss": 0.7, "lr": 1e-3},
    ]
    other = [{"step": 1, "images": 32, "loss": 0.8}]
    figure = figures.plot_logs({"other": other, "mine": log})
    loss, noise = map(lines, figure.axes)
    assert [values.tolist() for values in loss["mine"]] == [[64, 192], [0.9, 0.7]]
    assert [values.tolist() for values in loss["other"]] == [[32], [0.8]]
    assert [values.tolist() for values in noise["mine"]] == [[128], [0.5]]
    assert set(noise) == {"mine"}
    # A run keeps its colour in every panel.
    every = [line for axes in figure.axes for line in axes.get_lines() if line.get_label() == "mine"]
    assert len({line.get_color() for line in every}) == 1


@pytest.mark.parametrize("what", ["schedules", "embedding", "forward"])
def test_a_figure_is_written_to_a_new_file_of_the_current_folder(here, what):
    first, second = (figures.plot(what) for _ in range(2))
    assert [str(first), str(second)] == [f"{what}.png", f"{what}-2.png"]
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 1


@pytest.mark.parametrize(
    ("words", "options", "wrong"),
    [
        (["forward"], {"fields": {"schedule": "linear"}}, "schedule"),
        (["forward"], {"steps": 3}, "'steps'"),
        (["reverse"], {}, "missing .* 'model'"),
    ],
)
def test_a_figure_refuses_what_it_does_not_use(tmp_path, words, options, wrong):
    with pytest.raises(UserError, match=wrong):
        figures.plot(*words, **options, out=tmp_path / "a.png")
