"""Figures show the values of the schedules, embeddings, samples and losses that they plot."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from ddim.data.blossoms import source
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Cosine, Linear, LinearBeta, LinearIn
from ddim.errors import UserError
from ddim.evaluation import figures, schedule_figures
from ddim.machine.runtime import Runtime
from ddim.nn.conditioning import Sinusoidal
from ddim.plots import charts
from ddim.plots.pictures import to_uint8
from ddim.recipe.named import smoke
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup
from oracles import Gaussian, normal


def lines(axes):
    """Return the lines that have a name, as {name: (x, y)}."""
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in named}


@pytest.fixture
def strips(monkeypatch):
    """Record the arguments of `charts.plot_strip`, and draw the strip."""
    seen = []

    def strip(rows, heads, notes=None, title=""):
        seen.append((rows, heads, notes))
        return drawn(rows, heads, notes, title)

    drawn = charts.plot_strip
    monkeypatch.setattr(charts, "plot_strip", strip)
    return seen


# --- schedules ----------------------------------------------------------------------------------------------


def test_the_curves_of_a_schedule_are_its_own_values():
    figure = schedule_figures.plot_schedules()
    alpha, sigma, log_snr = (lines(axes) for axes in figure.axes)
    assert set(alpha) == set(sigma) == set(log_snr) == {"cosine", "linear", "linear_beta"}
    for name in alpha:
        t, a = alpha[name]
        s, snr = sigma[name][1], log_snr[name][1]
        assert np.allclose(t, np.linspace(0, 1, len(t)), atol=1e-12)
        at = schedule_figures.DEFAULT[name](torch.from_numpy(t))
        assert np.array_equal(a, at.alpha.numpy())
        assert np.array_equal(s, at.sigma.numpy())
        finite = s > 0
        assert np.allclose(snr[finite], at.log_snr.numpy()[finite])
        assert np.isnan(snr[~finite]).all()


def note(figure):
    return figure.get_supxlabel()


def test_a_note_gives_the_plateau_of_a_table_clipped_by_powers():
    words = note(schedule_figures.plot_schedules({"linear": Linear(clip="powers", read="floor")}))
    assert "38 % of all times have the noise level of t = 1" in words
    assert "7 % of all times have the noise level of t = 0" in words
    assert "12 % of all times have the noise level of t = 1" in note(
        schedule_figures.plot_schedules({"linear": Linear(clip="rates", read="floor")})
    )


def test_a_plateau_is_drawn_thick():
    for axes in schedule_figures.plot_schedules({"linear": Linear(clip="powers", read="floor")}).axes:
        t, y = lines(axes)["linear"]
        thick = [line for line in axes.get_lines() if line.get_linewidth() > 4]
        start, end = sorted(thick, key=lambda line: line.get_xdata()[0])
        # alpha^2 is 0.95 at its table's entry 67, and 0.02 from its entry 620 on.
        assert (start.get_xdata()[0], start.get_xdata()[-1]) == pytest.approx((0, 0.067), abs=0.002)
        assert (end.get_xdata()[0], end.get_xdata()[-1]) == pytest.approx((0.621, 1), abs=0.002)
        assert set(start.get_ydata()) == {y[0]}
        assert set(end.get_ydata()) == {y[-1]}


def test_a_schedule_and_a_field_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="perhaps you meant cosine"):
        schedule_figures.choose_schedules(["cosin"], {})
    with pytest.raises(UserError, match="schedule.clop is not a field"):
        schedule_figures.choose_schedules(["cosine", "linear"], {"clop": "powers"})


def test_schedules_are_chosen_by_name_with_fields_of_those_that_have_them():
    chosen = schedule_figures.choose_schedules(["linear", "cosine"], {"clip": "powers", "min_signal": "0.1"})
    assert chosen == {"cosine": Cosine(min_signal=0.1), "linear": Linear(clip="powers", min_signal=0.1)}
    assert schedule_figures.choose_schedules(["linear_in"], {"quantity": "log_noise"}) == {
        "linear_in": LinearIn("log_noise")
    }


# --- embeddings ---------------------------------------------------------------------------------------------


def test_the_drawn_embedding_is_blurred_to_the_width_of_a_pixel():
    net = Sinusoidal(8, 100.0)
    pixels = 50
    shown = schedule_figures.blur_embedding(net, 1.0, pixels)
    # The Gaussian mean by a sum over a fine grid, of angles written out.
    offsets = np.linspace(-5, 5, 4001)
    weights = np.exp(-(offsets**2) / 2) / np.exp(-(offsets**2) / 2).sum()
    turns = [100 ** (k / 3) for k in range(4)]
    for place in (0, 17, 49):
        x = (place + 0.5 + 0.6 * offsets) / pixels
        waves = [wave(2 * math.pi * turn * x) for wave in (np.sin, np.cos) for turn in turns]
        expected = [(weights * wave).sum() for wave in waves]
        assert np.allclose(shown[place], expected, atol=1e-4)


def test_with_fine_pixels_the_drawing_is_the_embedding():
    (left, right) = schedule_figures.plot_embedding().axes[:2]
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


# --- strips -------------------------------------------------------------------------------------------------


def test_the_first_flower_of_the_embedded_set_is_taken_without_drawing_the_others():
    image = figures.read_image("blossoms", (32, 48))
    assert np.array_equal(to_uint8(image)[0], source.draw_blossom(0, (32, 48)))


def test_a_float_tiff_is_shown_as_a_picture(tmp_path):
    Image.fromarray(np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "a.tiff")
    shown = to_uint8(figures.read_image(str(tmp_path / "a.tiff"), (16, 16)))[0]
    assert np.array_equal(shown, np.arange(256).reshape(16, 16, 1).repeat(3, 2))


def test_the_forward_strip_runs_from_the_image_to_the_same_noise_under_each_schedule(strips):
    image = figures.read_image("blossoms", (32, 32))
    shown = {"clean": LinearBeta(), "bounded": Cosine(0.02, 0.95)}
    figure = figures.plot_forward(image, shown, columns=5, seed=3)
    charts.rasterise(figure)
    rows, heads, notes = strips[0]
    title = figure.texts[0].get_text()
    assert heads == ["t = 0", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1"]
    # Only a schedule without noise at t = 0 begins with the image.
    assert np.array_equal(rows["clean"][0], to_uint8(image)[0])
    assert not np.array_equal(rows["bounded"][0], to_uint8(image)[0])
    assert notes["bounded"][0] == "alpha 0.95"
    assert title.endswith("; not clean at t = 0: bounded")
    assert notes["bounded"][4] == "alpha 0.02"
    # At t = 1 both are the same noise, with a standard deviation of a quarter around middle gray.
    ends = [row[4].astype(float) for row in rows.values()]
    unclipped = (ends[0] > 0) & (ends[0] < 255) & (ends[1] > 0) & (ends[1] < 255)
    assert np.abs(ends[0] - ends[1])[unclipped].max() <= 3
    assert ends[0].mean() / 255 == pytest.approx(0.5, abs=0.02)
    assert np.percentile(ends[0], 75) / 255 == pytest.approx(0.5 + 0.6745 * 0.25, abs=0.02)


def test_the_forward_strip_takes_bytes_and_arrays(strips):
    image = (figures.read_image("blossoms", (32, 32)) * 255).round().byte()
    mirrored = image.flip(3).numpy()
    for given in (image / 255, image, image.numpy(), (image / 255).numpy(), mirrored[..., ::-1]):
        figures.plot_forward(given, ["linear"], columns=2)
        assert np.array_equal(strips[-1][0]["linear"][0], strips[0][0]["linear"][0])
    with pytest.raises(UserError, match="images must be .* to 255: convert them"):
        figures.plot_forward(image.float(), ["linear"], columns=2)
    with pytest.raises(UserError, match=r"must have the shape \(1, 3, H, W\), got \(3, 32, 32\)"):
        figures.plot_forward(image[0], ["linear"], columns=2)


def test_the_forward_strip_depends_on_its_seed(strips):
    image = figures.read_image("blossoms", (32, 32))
    for seed in (1, 1, 2):
        figures.plot_forward(image, {"cosine": Cosine(0.02, 0.95)}, columns=2, seed=seed)
    first, again, other = (rows["cosine"][1] for rows, _, _ in strips)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@dataclass(frozen=True)
class Oracle(Gaussian):
    """An exact denoiser with the attributes of a model of images 8 x 8."""

    classes = 0

    def with_labels(self, label):
        return self

    def blank(self, n):
        return torch.zeros(n, 3, 8, 8)

    def modules(self):
        return ()

    def eval(self):
        return self


def trained():
    oracle = Oracle(Cosine(0.02, 0.999), mean=0.5, std=0.2)
    runtime = Runtime(micro_batch=2, channels_last=False)
    return Pipeline(oracle, Pixels.fixed(0.5, 0.5), smoke(), runtime)


def test_the_reverse_strip_ends_in_the_sample(strips):
    charts.rasterise(figures.plot_reverse(trained(), steps=20, seed=7))
    ((rows, heads, _),) = strips
    states, predictions, back = rows.values()
    images, _ = generate(SamplingSetup(trained(), 20), [7])
    for row in (states, predictions, back):
        assert len(row) == len(heads) == 10
        assert np.array_equal(row[-1], to_uint8(images)[0])
    assert (heads[0], heads[-1]) == ("t = 1", "t = 0")


def test_each_predicted_image_of_the_reverse_strip_belongs_to_the_state_above_it(strips):
    run = trained()
    figures.plot_reverse(run, steps=4, seed=1)
    ((rows, heads, _),) = strips
    assert heads == ["t = 1", "t = 0.75", "t = 0.5", "t = 0.25", "t = 0"]
    states, predictions, _ = rows.values()
    for state, prediction, t in zip(states, predictions, (1.0, 0.75, 0.5, 0.25), strict=False):
        # Only pixels that were not clamped can be read back. Rounding x_t to 8 bits changes x0 little.
        x = run.pixels.enter(torch.from_numpy(state.copy()).permute(2, 0, 1)[None] / 255)
        asked = to_uint8(run.pixels.leave(run.model(x, torch.tensor(t, dtype=torch.float64)).x0))[0]
        readable = (state > 0) & (state < 255)
        assert readable.mean() > 0.3
        assert np.abs(prediction.astype(int) - asked)[readable].max() <= 2


def test_the_forward_row_of_the_reverse_strip_uses_independent_noise(strips):
    run = trained()
    figures.plot_reverse(run, steps=4, seed=1)
    states, _, back = strips[0][0].values()
    # At t = 1 both are noise, but not the same noise.
    assert np.corrcoef(states[0].ravel(), back[0].ravel())[0, 1] < 0.3
    x0 = run.pixels.enter(torch.from_numpy(back[-1].copy()).permute(2, 0, 1)[None] / 255)
    at = run.model.schedule(torch.tensor(0.25, dtype=torch.float64))
    x = run.pixels.enter(torch.from_numpy(back[3].copy()).permute(2, 0, 1)[None] / 255)
    noise = ((x - at.alpha * x0) / at.sigma).flatten()[
        (torch.from_numpy(back[3].copy()) < 255).permute(2, 0, 1).flatten()
    ]
    assert noise.std() == pytest.approx(1, abs=0.25)


def test_one_step_is_a_strip_of_noise_and_sample(strips):
    figures.plot_reverse(trained(), steps=1)
    assert strips[0][1] == ["t = 1", "t = 0"]
    with pytest.raises(UserError, match="steps"):
        figures.plot_reverse(trained(), steps=0)


def test_noised_images_have_the_rates_of_the_schedule():
    x0, eps = torch.full((1, 1, 2, 2), 0.4), normal(1, 1, 2, 2)
    pixels = Pixels.fixed(0.5, 0.01, channels=1)  # nothing is clamped
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    first, last = (
        pixels.enter(image) for image in figures.add_noise(x0, eps, Cosine(0.02, 0.95), times, pixels)
    )
    assert torch.allclose(first, 0.95 * x0 + math.sqrt(1 - 0.95**2) * eps, atol=1e-5)
    assert torch.allclose(last, 0.02 * x0 + math.sqrt(1 - 0.02**2) * eps, atol=1e-5)


# --- losses -------------------------------------------------------------------------------------------------


def test_losses_are_plotted_against_images_seen_without_infinite_ones():
    log = [
        {"step": 1, "images": 64, "loss": 0.9},
        {"step": 2, "images": 128, "loss": None},
        {"step": 2, "images": 128, "noise_mae": 0.5, "image_mae": 0.2},
        {"step": 3, "images": 192, "loss": 0.7, "lr": 1e-3},
    ]
    other = [{"step": 1, "images": 32, "loss": 0.8}]
    figure = figures.plot_logs({"mine": log, "other": other})
    drawn = {axes.get_title(loc="left"): lines(axes) for axes in figure.axes}
    loss, noise, image = drawn.values()
    assert [values.tolist() for values in loss["mine"]] == [[64, 192], [0.9, 0.7]]
    assert [values.tolist() for values in loss["other"]] == [[32], [0.8]]
    assert [values.tolist() for values in noise["mine"]] == [[128], [0.5]]
    assert [values.tolist() for values in image["mine"]] == [[128], [0.2]]
    assert set(noise) == set(image) == {"mine"}
    charts.rasterise(figure)


def test_a_run_keeps_its_colour_in_every_panel():
    first = [{"step": 1, "images": 1, "loss": 0.9}]
    second = [{"step": 1, "images": 1, "loss": 0.8}, {"step": 1, "images": 1, "image_mae": 0.8}]
    figure = figures.plot_logs({"first": first, "second": second})
    colours = {
        line.get_color() for axes in figure.axes for line in axes.get_lines() if line.get_label() == "second"
    }
    assert len(figure.axes) == 2
    assert len(colours) == 1


def test_runs_are_named_by_the_shortest_distinct_ends_of_their_paths(tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(figures, "plot_logs", lambda runs: named.append(list(runs)))
    one, other = tmp_path / "runs" / "a", tmp_path / "elsewhere" / "a"
    for run in (one, other):
        run.mkdir(parents=True)
    for given in (one, [one, other], [one, one]):
        figures.plot_losses(given)
    assert named == [["a"], ["runs/a", "elsewhere/a"], ["a"]]


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("schedules", "linear"), ("embedding",), ("forward",)])
def test_a_figure_is_written_to_a_new_file_of_the_current_folder(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    options = {"size": "32x48", "fields": {"schedule.clip": "powers"} if "linear" in words else None}
    first, second = (figures.plot(*words, **options) for _ in range(2))
    assert [str(first), str(second)] == [f"{words[0]}.png", f"{words[0]}-2.png"]
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 1


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_has_the_format_of_its_name(tmp_path, ending, start):
    path = figures.plot("schedules", out=tmp_path / f"a.{ending}")
    assert path.read_bytes().startswith(start)
    # A second figure replaces it.
    assert figures.plot("schedules", out=path) == path


def test_a_figure_in_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="folder that does not exist"):
        figures.plot("schedules", out=tmp_path / "nowhere" / "a.png")
