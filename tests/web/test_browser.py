"""What a reader of the page sees and can do, in Chromium, on a telephone and on a desk."""

import inspect
import io
import json
import re
import shutil
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import stubs
import sweeping
from browsing import CHROMIUM, WIDTHS, contrasts, open_browser, open_page
from ddim.files import lock_folder
from ddim.plots.pictures import to_uint8
from serving import running_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

RUN = "photos-tiny-1"
HTML = "<img src=x onerror=alert(1)>"
"""A name that would run code if a page took it for HTML."""
VIEWS = {
    "": ".card",
    f"#/run/{RUN}": ".chart path.line",
    f"#/play/{RUN}": ".play-form",
    f"#/compare?runs={RUN},second": "[aria-label^='Runs'], .fault, p:has-text('None of these runs')",
    "#/data": ".sets a",
    "#/new": ".sheet-form",
}
"""The views, with what is there once the server has answered."""


@pytest.fixture(scope="module")
def served(trained, vector_run, deep_run, tmp_path_factory):
    """A server of five runs, one of them with vectors and one of 8 channels, and a sweep."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("served") / "runs")
    for name in ("second", HTML):
        shutil.copytree(folder / RUN, folder / name)
    sweeping.plan_sweep(folder / "rates", ["0.001", "0.002"])
    small = folder.parent / "photos" / "small"
    small.mkdir(parents=True)
    for k, image in enumerate(np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(image).save(small / f"{k}.png")
    with running_server(folder, "--data", folder.parent / "photos") as server:
        yield SimpleNamespace(address=server.address, folder=folder)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture(params=WIDTHS)
def width(request):
    return request.param


@pytest.fixture
def visit(browser, served):
    """Open the page of the served runs; see `open_page`."""
    return lambda width, **options: open_page(browser, served.address, width, **options)


def wait_until(check, seconds=30):
    """Wait until something is true: a page answers a click when it has the time."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"this never came true: {inspect.getsource(check).strip()}"
        time.sleep(0.05)


def names(page):
    """The names of the runs on the cards, in their order."""
    return page.locator(".card h3").all_inner_texts()


def is_loaded(image):
    """Whether an image is decoded, and not a broken one."""
    return image.evaluate("image => image.complete && image.naturalWidth > 0")


# All runs


def test_runs_are_cards_that_can_be_filtered_and_sorted(visit, width):
    with visit(width) as page:
        page.go()
        page.locator(".card").nth(4).wait_for()
        card = page.locator(".card", has_text=RUN)
        wait_until(lambda: "80 of 80 images" in card.inner_text())
        wait_until(lambda: "finished" in card.inner_text())
        wait_until(lambda: "32 × 32 px" in card.inner_text())
        # Images load when they come near the window, and another test may have put more cards above.
        card.scroll_into_view_if_needed()
        wait_until(lambda: is_loaded(card.locator("img")))
        wait_until(
            lambda: (
                card.locator("img").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
            )
        )
        wait_until(lambda: page.locator("section", has_text="Sweep rates").locator(".card").count() == 2)

        page.get_by_label("Filter").fill("tiny-1")
        wait_until(lambda: names(page) == [RUN])
        # Another test may have started a run.
        told = page.locator("[role=status]:visible").all_inner_texts()
        assert any(re.fullmatch(r"1 run of \d+", text) for text in told)
        page.get_by_label("Filter").fill("")
        page.get_by_label("State").select_option("waiting")
        wait_until(lambda: all("waiting" in text for text in page.locator(".card").all_inner_texts()))
        page.get_by_label("State").select_option("")
        page.get_by_label("Sort by").select_option(label="Name")
        alone = page.locator(".groups > .deck .card h3").all_inner_texts()
        assert alone == sorted(alone, key=str.lower)
        page.get_by_label("Filter").fill("no such run")
        wait_until(lambda: page.get_by_text("No run matches the filter").is_visible())


def test_html_in_the_name_of_a_run_is_text(visit, width):
    with visit(width) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.go()
        page.locator(".card h3", has_text=HTML).get_by_role("link").click()
        page.locator("h1", has_text=HTML).wait_for()
        assert page.title().startswith(HTML) or page.title().startswith("run-")
        page.get_by_role("link", name="Open in the playground").click()
        page.locator("h1", has_text="Playground").wait_for()
        wait_until(lambda: HTML in page.get_by_label("Run", exact=True).inner_text())
        wait_until(lambda: page.locator("[onerror], img[src=x]").count() == 0)


def test_a_run_that_trains_changes_without_reloading(visit, served, width):
    log = served.folder / "second" / "metrics.jsonl"
    before = log.read_text()
    line = json.loads(before.splitlines()[-1])
    with visit(width) as page:
        page.go()
        card = page.locator(".card", has_text="second")
        card.get_by_text("finished").wait_for()
        page.evaluate("window.same = true")
        card.get_by_role("checkbox").focus()
        try:
            with lock_folder(served.folder / "second"):
                log.write_text(
                    before + json.dumps({**line, "step": 99, "images": 96, "image_mae": 0.123}) + "\n"
                )
                card.get_by_text("running").wait_for()
                card.get_by_text("96 of 80 images").wait_for()
                wait_until(lambda: card.locator("progress").is_visible())
                wait_until(lambda: "0.123" in card.inner_text())
        finally:
            log.write_text(before)
        card.get_by_text("finished").wait_for()
        wait_until(lambda: page.evaluate("window.same"))
        wait_until(
            lambda: page.evaluate("document.activeElement.getAttribute('aria-label')") == "Compare second"
        )


def test_an_empty_folder_shows_what_to_do(browser, tmp_path, width):
    (tmp_path / "runs").mkdir()
    with running_server(tmp_path / "runs") as server, open_page(browser, server.address, width) as page:
        page.go()
        wait_until(lambda: page.get_by_role("heading", name="No runs yet").is_visible())
        wait_until(lambda: "ddim train photos/" in page.locator("pre").inner_text())
        wait_until(lambda: not page.get_by_role("link", name="New run").is_visible())


# One run


def test_a_chart_zooms_by_drag_wheel_and_keys(visit, width):
    with visit(width) as page:
        page.go(f"#/run/{RUN}")
        box = page.locator(".chart-box", has=page.get_by_role("heading", name="Held-out error"))
        chart = box.locator("svg.chart")
        chart.scroll_into_view_if_needed()

        def move_to(share, **options):
            # Where the chart is now: images that arrive above it move it down.
            area = chart.bounding_box()
            page.mouse.move(area["x"] + area["width"] * share, area["y"] + area["height"] / 2, **options)
            return re.search(r"\d+ images: .*\d\.\d+", box.locator("output").inner_text())

        wait_until(lambda: is_loaded(page.locator(".sheet-frame img")))
        # A chart learns its width after it is drawn for the first time, and a narrow one has fewer ticks.
        wait_until(lambda: chart.evaluate("one => Math.abs(one.viewBox.baseVal.width - one.clientWidth) < 1"))
        whole = chart.locator(".axis").all_text_contents()
        wait_until(lambda: move_to(0.3))
        page.mouse.down()
        move_to(0.6, steps=3)
        page.mouse.up()
        wait_until(lambda: chart.locator(".axis").all_text_contents() != whole)
        box.get_by_role("button", name="Reset zoom").click()
        wait_until(lambda: chart.locator(".axis").all_text_contents() == whole)

        chart.focus()
        wait_until(lambda: move_to(0.5))
        page.mouse.wheel(0, -300)
        wait_until(lambda: chart.locator(".axis").all_text_contents() != whole)
        page.keyboard.press("0")
        wait_until(lambda: chart.locator(".axis").all_text_contents() == whole)
        page.mouse.move(0, 0)
        page.keyboard.press("ArrowRight")
        wait_until(lambda: box.locator("output").inner_text().startswith("40 images"))
        page.keyboard.press("ArrowRight")
        wait_until(lambda: box.locator("output").inner_text().startswith("80 images"))
        page.keyboard.press("+")
        wait_until(lambda: chart.locator(".axis").all_text_contents() != whole)

        lines = chart.locator("path.line").count()
        toggle = box.locator(".legend button").first
        toggle.click()
        wait_until(lambda: chart.locator("path.line").count() == lines - 1)
        wait_until(lambda: toggle.get_attribute("aria-pressed") == "false")


def test_the_slider_shows_the_sheets_over_the_training(visit, served, width):
    with visit(width) as page:
        page.go(f"#/run/{RUN}")
        image, slider = page.locator(".sheet-frame img"), page.get_by_label("Position in the training")
        newest = image.get_attribute("src")
        wait_until(lambda: page.get_by_text("after 80 images").is_visible())
        slider.focus()
        page.keyboard.press("ArrowLeft")
        wait_until(lambda: image.get_attribute("src") != newest)
        wait_until(lambda: slider.get_attribute("aria-valuetext") == "after 40 images")
        sheet = page.request.get(served.address + image.get_attribute("src")).body()
        assert sheet == min((served.folder / RUN / "samples").glob("step-*.png")).read_bytes()
        page.get_by_role("button", name="Play").click()
        page.get_by_text("after 80 images").wait_for()
        page.get_by_role("button", name="Show real images").click()
        wait_until(lambda: page.locator(".sheet-frame img").get_attribute("alt") == "Real images")
        wait_until(lambda: is_loaded(page.locator(".sheet-frame img")))


def test_the_view_of_a_run_follows_its_training(visit, served, width):
    run = served.folder / "second"
    log, sheet = run / "metrics.jsonl", run / "samples" / "step-000000012.png"
    before = log.read_text()
    line = json.loads(before.splitlines()[-1])
    with visit(width) as page:
        page.go("#/run/second")
        page.get_by_text("after 80 images").wait_for()
        page.evaluate("window.same = true")
        page.locator("summary", has_text="other").click()
        try:
            with lock_folder(run):
                shutil.copy(run / "samples" / "real.png", sheet)
                log.write_text(before + json.dumps({**line, "step": 12, "images": 96}) + "\n")
                page.get_by_text("after 96 images").wait_for()
                page.locator(".log", has_text="step 12").wait_for()
                page.locator(".badge", has_text="running").wait_for()
        finally:
            log.write_text(before)
            sheet.unlink()
            # The server looks into its folder about once a second: other tests begin when it has.
            runs = f"{served.address}/api/runs"
            wait_until(lambda: "sheets/12" not in page.request.get(runs).text())
        wait_until(lambda: page.evaluate("window.same"))
        wait_until(lambda: page.locator("details[open]").count() == 1)


# Looks and keys


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_background(visit, scheme, width):
    with visit(width, color_scheme=scheme) as page:
        for view, part in VIEWS.items():
            page.go(view)
            page.locator(f"main :is({part})").first.wait_for()
            found = contrasts(page)
            assert len(found) > 8
            assert {text: round(value, 2) for text, value in found.items() if value < 4.5} == {}
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (min(map(int, re.findall(r"\d+", background)[:3])) > 200) == (scheme == "light")


def test_the_switch_of_the_theme_is_kept(visit, width):
    with visit(width, color_scheme="light") as page:
        page.go()
        paper = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(paper)
        page.get_by_role("button", name="Switch between light and dark").click()
        dark = page.evaluate(paper)
        assert dark != light
        page.reload()
        wait_until(lambda: page.evaluate(paper) == dark)
        wait_until(lambda: min(contrasts(page).values()) >= 4.5)
        page.get_by_role("button", name="Switch between light and dark").click()
        wait_until(lambda: page.evaluate(paper) == light)


def test_each_control_has_a_name_and_each_view_its_landmarks(visit, width):
    roles = ("button", "link", "textbox", "combobox", "spinbutton", "slider", "checkbox", "searchbox")
    with visit(width) as page:
        for view, part in VIEWS.items():
            page.go(view)
            page.locator(f"main :is({part})").first.wait_for()
            lines = page.locator("body").aria_snapshot().splitlines()
            controls = [line for line in lines if re.match(rf"\s*- ({'|'.join(roles)})\b", line)]
            assert len(controls) > 5
            assert [line for line in controls if not re.match(r'\s*- \w+ ".+"', line)] == []
            wait_until(lambda: page.get_by_role("banner").count() == page.get_by_role("main").count() == 1)
            wait_until(lambda: page.get_by_role("navigation", name="Views").count() == 1)
            wait_until(lambda: page.locator("h1").count() == 1)


def test_the_keyboard_reaches_a_run_and_shows_where_it_is(visit, width):
    with visit(width) as page:
        page.go()
        page.keyboard.press("Tab")
        wait_until(lambda: page.locator(":focus").inner_text() == "Skip to the content")
        page.keyboard.press("Enter")
        wait_until(lambda: page.evaluate("document.activeElement.id") == "main")
        for _ in range(40):
            page.keyboard.press("Tab")
            outline = page.locator(":focus").evaluate("one => getComputedStyle(one).outlineStyle")
            assert outline != "none"
            if page.locator(":focus").inner_text() == RUN:
                break
        page.keyboard.press("Enter")
        page.locator("h1", has_text=RUN).wait_for()
        wait_until(lambda: page.evaluate("document.activeElement.id") == "main")


# The playground


@contextmanager
def playing(visit, width, seeds="0-3", **options):
    """The playground of the tiny run, with samples of some seeds."""
    with visit(width, **options) as page:
        page.go(f"#/play/{RUN}")
        page.get_by_label("Seeds", exact=True).fill(seeds)
        page.get_by_role("button", name="Make samples").click()
        finish_entry(page, 1)
        yield page


def finish_entry(page, number):
    """Wait until so many entries are there and the newest is finished; returns it."""
    entry = page.locator(".entry").first
    wait_until(lambda: page.locator(".entry").count() == number, 60)
    entry.locator(".links, .fault, .ended").first.wait_for(timeout=90_000)
    wait_until(lambda: entry.locator(".fault").all_inner_texts() == [])
    return entry


def pixels(data):
    """The pixels of an image file, (H, W, 3) uint8."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def tile_files(page, entry):
    """The files that the tiles of an entry show, after each has got its file."""
    tiles, images = entry.locator(".tile"), entry.locator(".tile img")
    wait_until(lambda: images.count() == tiles.count() and all(map(is_loaded, images.all())))
    return [
        page.request.get(tile.evaluate("image => image.src")).body()
        for tile in entry.locator(".tile img").all()
    ]


def download(page, link):
    with page.expect_download() as found:
        link.click()
    return Path(found.value.path()).read_bytes()


def test_samples_become_clear_and_can_be_saved(visit, served, width):
    with playing(visit, width) as page:
        entry = page.locator(".entry").first
        wait_until(lambda: entry.locator(".tile").all_inner_texts() == [f"seed {k}" for k in range(4)])
        files = tile_files(page, entry)
        body = {"seeds": [0, 1, 2, 3]}
        result = page.request.post(f"{served.address}/api/runs/{RUN}/samples", data=body).json()
        assert files == [page.request.get(served.address + image["url"]).body() for image in result["images"]]
        for name in ("sheet", "record", "all (zip)"):
            link = entry.get_by_role("link", name=name, exact=True)
            assert (
                download(page, link) == page.request.get(served.address + link.get_attribute("href")).body()
            )
        with zipfile.ZipFile(
            io.BytesIO(page.request.get(served.address + result["archive"]).body())
        ) as archive:
            assert archive.read("00003.png") == files[3]

        entry.locator(".tile").nth(2).click()
        wait_until(lambda: "Chosen: seed 2" in page.locator(".panel").inner_text())
        assert download(page, page.get_by_role("link", name="Save PNG")) == files[2]


def test_the_steps_are_shown_while_the_server_samples(visit, width):
    with visit(width) as page:
        page.go(f"#/play/{RUN}")
        # A sheet of each step, drawn into the canvas of each tile, before the files replace them.
        page.evaluate("""() => {
            window.drawn = 0;
            const draw = CanvasRenderingContext2D.prototype.drawImage;
            CanvasRenderingContext2D.prototype.drawImage = function (...parts) {
                if (this.canvas.closest(".tile")) window.drawn++;
                return draw.apply(this, parts);
            };
        }""")
        page.get_by_label("Seeds", exact=True).fill("0-3")
        page.get_by_label("Steps", exact=True).first.fill("40")
        page.get_by_role("button", name="Make samples").click()
        page.locator(".entry progress[value]").wait_for()
        wait_until(lambda: page.get_by_role("button", name="Make samples").is_disabled())
        finish_entry(page, 1)
        wait_until(lambda: page.evaluate("window.drawn") >= 8)
        wait_until(lambda: page.get_by_role("button", name="Make samples").is_enabled())
        wait_until(lambda: "ready" in page.locator("#announcer").inner_text())


def test_samples_can_be_cancelled(visit, width):
    with visit(width) as page:
        page.go(f"#/play/{RUN}")
        page.get_by_label("Steps", exact=True).first.fill("1000")
        page.get_by_role("button", name="Make samples").click()
        page.locator(".entry progress[value]").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.").wait_for()
        page.get_by_label("Seeds", exact=True).fill("7")
        page.get_by_label("Steps", exact=True).first.fill("2")
        page.get_by_role("button", name="Make samples").click()
        assert finish_entry(page, 2).locator(".tile").count() == 1


def test_the_command_and_the_python_can_be_copied(visit, width):
    with playing(visit, width, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.locator("summary", has_text="Repeat this elsewhere").click()
        for title in ("Command line", "Python"):
            text = page.locator(".code", has_text=title).locator("pre").inner_text()
            page.get_by_role("button", name=f"Copy: {title}").click()
            page.locator("#announcer", has_text=f"{title} copied").wait_for()
            assert page.evaluate("navigator.clipboard.readText()") == text
            assert RUN in text


def test_the_python_shown_makes_the_same_image(visit, served):
    with playing(visit, 1440, "5") as page:
        entry = page.locator(".entry").first
        (file,) = tile_files(page, entry)
        page.locator("summary", has_text="Repeat this elsewhere").click()
        code = page.locator(".code", has_text="Python").locator("pre").inner_text()
    names = {}
    exec(code, names)
    (made,) = (value for value in names.values() if isinstance(value, torch.Tensor))
    assert np.array_equal(to_uint8(made)[0], pixels(file))


def make_samples(page, run, seeds, **fields):
    """Fill in the form of the playground of a run by the names of its fields, and make samples."""
    page.go(f"#/play/{run}")
    form = page.locator(".play-form")
    form.get_by_label("Seeds", exact=True).fill(seeds)
    for name, value in fields.items():
        form.get_by_label(name.replace("_", " "), exact=True).fill(value)
    return form


def read_code(page, entry, title):
    """The command or the Python code of an entry."""
    if not entry.locator("details[open]").count():
        entry.locator("summary", has_text="Repeat this elsewhere").click()
    return entry.locator(".code", has_text=title).locator("pre").inner_text()


def test_samples_of_a_run_with_vectors_take_numbers(visit, width):
    with visit(width) as page:
        form = make_samples(page, "vectors-1", "0-1", level="130.5", Guidance_scale="2")
        wait_until(lambda: re.search(r"level\s+\d+ to \d+\s", form.inner_text()))
        form.get_by_role("button", name="Make samples").click()
        page.get_by_role("alert").filter(has_text="all numbers of the vector, or none").wait_for()
        form.get_by_label("other", exact=True).fill("-0.25")
        form.get_by_role("button", name="Make samples").click()
        entry = finish_entry(page, 1)
        assert "--vector 130.5,-0.25 --guidance 2" in read_code(page, entry, "Command line")
        names = {}
        exec(read_code(page, entry, "Python"), names)
        for made, file in zip(to_uint8(names["images"]), tile_files(page, entry), strict=True):
            assert np.array_equal(made, pixels(file)[..., :1])


def test_images_of_eight_channels_are_shown_saved_and_edited(visit, width):
    with visit(width) as page:
        form = make_samples(page, "cells-1", "2-3")
        form.get_by_role("button", name="Make samples").click()
        entry = finish_entry(page, 1)
        wait_until(lambda: "the first 3 of 8 channels" in entry.inner_text())
        shown = pixels(tile_files(page, entry)[1])
        entry.locator(".tile").nth(1).click()
        exact = np.load(io.BytesIO(download(page, page.get_by_role("link", name="Save array"))))
        assert (exact.shape, exact.dtype) == ((16, 16, 8), np.uint16)
        assert abs(np.rint(exact[..., :3] / 65535.0 * 255) - shown).max() <= 1
        page.locator(".panel").get_by_label("Steps", exact=True).fill("3")
        page.get_by_role("button", name="Invert").click()
        # The input of the inversion is the exact array.
        assert np.array_equal(pixels(tile_files(page, finish_entry(page, 2))[0]), shown)
        page.go("#/compare?runs=cells-1,vectors-1")
        page.locator("h1", has_text="Compare").wait_for()
        page.get_by_role("textbox", name="Seeds").fill("2,3")
        page.get_by_role("button", name="Sample all runs").click()
        page.get_by_text("All runs are sampled.").wait_for(timeout=90_000)
        cells = page.get_by_role("region", name="Samples of the same seeds").locator("td img")
        wait_until(lambda: cells.count() == 4)
        assert np.array_equal(
            pixels(page.request.get(cells.nth(2).evaluate("image => image.src")).body()), shown
        )
        page.go("#/run/cells-1")
        wait_until(lambda: is_loaded(page.locator(".sheet-frame img")))


def test_samples_and_edits_are_guided_by_a_weaker_model(visit, width):
    with visit(width, refused=True) as page:
        form = make_samples(page, RUN, "3,5", Guidance_scale="2")
        form.get_by_label("Guide with").select_option("@guide")
        form.locator("summary", has_text="More choices").click()
        form.get_by_label("from", exact=True).fill("-3.5")
        form.get_by_role("button", name="Make samples").click()
        options = "--guidance 2 --guide-with @guide --guidance-interval=-3.5,"
        assert options in read_code(page, finish_entry(page, 1), "Command line")

        samples = page.locator(".entry").last
        samples.locator(".tile").nth(0).click()
        panel = page.locator(".panel")
        panel.locator("summary", has_text="Guidance").click()
        panel.get_by_label("Guidance scale").fill("3")
        panel.get_by_label("Guide with").select_option("@guide")
        panel.get_by_label("Steps", exact=True).fill("3")
        panel.get_by_label("Variations").fill("1")
        panel.get_by_role("button", name="Vary").click()
        variation = finish_entry(page, 2)
        assert "--guidance 3 --guide-with @guide" in read_code(page, variation, "Command line")
        panel.get_by_role("button", name="Invert").click()
        page.locator(".entry").get_by_role("alert").filter(has_text="cannot be guided").wait_for()
        samples.locator(".tile").nth(1).click()
        # With another guidance, the seeds lead to other images; their inversions cannot be guided.
        panel.get_by_role("button", name="Interpolate").click()
        refusals = page.locator(".entry").get_by_role("alert").filter(has_text="cannot be guided")
        wait_until(lambda: refusals.count() == 2)
        panel.get_by_label("Guidance scale").fill("2")
        panel.get_by_label("from", exact=True).fill("-3.5")
        panel.get_by_role("button", name="Interpolate").click()
        way = finish_entry(page, 5)
        assert "--seeds 3,5" in read_code(page, way, "Command line")


def test_a_mistake_is_answered_with_a_sentence(visit, width):
    with visit(width, refused=True) as page:
        page.go(f"#/play/{RUN}")
        for text, sentence in [
            ("5-1", "ends before it begins"),
            ("x", "not “x”"),
            ("0-999", "at most 64 images"),
        ]:
            page.get_by_label("Seeds", exact=True).fill(text)
            page.get_by_role("button", name="Make samples").click()
            page.get_by_role("alert").filter(has_text=sentence).wait_for()
        wait_until(lambda: page.locator(".entry").count() == 0)
        page.get_by_label("Seeds", exact=True).fill("0")
        page.locator(".play-form").get_by_label("Guidance scale").fill("3")
        page.get_by_role("button", name="Make samples").click()
        alert = page.locator(".entry").get_by_role("alert")
        alert.wait_for()
        # The server says it: this run was trained without labels.
        wait_until(lambda: re.search(r"\w+ \w+", alert.inner_text()))
        wait_until(lambda: "{" not in alert.inner_text())


def test_inpainting_changes_the_masked_part_only(visit, width):
    with playing(visit, width) as page:
        first = page.locator(".entry").first
        before = pixels(tile_files(page, first)[1])
        first.locator(".tile").nth(1).click()
        page.get_by_label("Steps", exact=True).last.fill("3")
        page.get_by_role("button", name="Draw a mask").click()
        wait_until(lambda: page.get_by_role("button", name="Generate this part").is_disabled())
        area = page.locator(".paint").bounding_box()
        # The left half: a brush of 16 pixels along three lines.
        page.get_by_label("Brush size in pixels").fill("8")
        for share in np.arange(0.02, 0.5, 0.08):
            page.mouse.move(area["x"] + area["width"] * share, area["y"] + 2)
            page.mouse.down()
            page.mouse.move(area["x"] + area["width"] * share, area["y"] + area["height"] - 2, steps=4)
            page.mouse.up()
        mask = painted(page)
        assert 0.3 < mask.mean() < 0.7
        page.get_by_label("Images", exact=True).fill("2")
        page.get_by_label("Rounds a step").fill("1")
        page.get_by_role("button", name="Generate this part").click()
        entry = finish_entry(page, 2)
        after = [pixels(data) for data in tile_files(page, entry)]
        assert len(after) == 2
        for image in after:
            assert np.array_equal(image[~mask], before[~mask])
            assert not np.array_equal(image[mask], before[mask])


def painted(page):
    """Which pixels are painted on the mask, (H, W); the brush itself is white."""
    values = page.locator(".paint").evaluate("""canvas => {
        const { width, height } = canvas;
        return [height, width, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
    }""")
    height, width, data = values
    rgba = np.array(data).reshape(height, width, 4)
    return (rgba[..., 3] > 100) & (rgba[..., 0] > 150)


def test_variations_an_interpolation_and_an_inversion(visit, width):
    with playing(visit, width) as page:
        samples = page.locator(".entry").first
        images = [pixels(data) for data in tile_files(page, samples)]
        samples.locator(".tile").nth(0).click()
        page.get_by_label("Steps", exact=True).last.fill("3")
        page.get_by_label("Variations").fill("2")
        page.get_by_role("button", name="Vary").click()
        assert finish_entry(page, 2).locator(".tile").count() == 2
        page.get_by_role("button", name="Invert").click()
        inversion = finish_entry(page, 3)
        assert np.array_equal(pixels(tile_files(page, inversion)[0]), images[0])
        page.locator(".entry").last.locator(".tile").nth(3).click()
        wait_until(lambda: "seed 0 and seed 3" in page.locator(".panel").inner_text())
        page.get_by_label("Frames").fill("4")
        page.get_by_role("button", name="Interpolate").click()
        assert finish_entry(page, 4).locator(".tile").count() == 4
        page.get_by_role("button", name="Clear the choice").click()
        wait_until(lambda: not page.locator(".panel").is_visible())
        wait_until(lambda: page.locator("[aria-pressed=true].tile").count() == 0)


def test_an_image_of_the_reader_can_be_varied(visit, tmp_path, width):
    picture = tmp_path / "mine <b>.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(picture)
    (tmp_path / "text.png").write_text("no image")
    with visit(width, refused=True) as page:
        page.go(f"#/play/{RUN}")
        page.get_by_label("Your own images").last.set_input_files(tmp_path / "text.png")
        page.locator(".drop .fault").wait_for()
        page.get_by_label("Your own images").last.set_input_files(picture)
        tile = page.get_by_role("button", name="mine <b>.png")
        tile.click()
        wait_until(lambda: is_loaded(tile.locator("img")))
        wait_until(
            lambda: (
                tile.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
            )
        )
        page.get_by_label("Variations").fill("2")
        page.get_by_label("Steps", exact=True).last.fill("2")
        page.get_by_role("button", name="Vary").click()
        entry = finish_entry(page, 1)
        wait_until(lambda: "variations of mine <b>.png" in entry.inner_text())
        wait_until(lambda: entry.locator(".tile").count() == 2)


def test_the_keyboard_alone_samples_and_paints_a_mask(visit, width):
    with visit(width) as page:
        page.go(f"#/play/{RUN}")
        press = page.keyboard.press

        def tab_to(name):
            for _ in range(60):
                focused = page.locator(":focus")
                if focused.count() and name in (focused.get_attribute("aria-label") or focused.inner_text()):
                    return
                press("Tab")
            pytest.fail(f"no Tab leads to {name}")

        page.get_by_label("Seeds", exact=True).focus()
        press("Control+A")
        page.keyboard.type("0-1")
        press("Enter")
        finish_entry(page, 1)
        tab_to("seed 1")
        press("Space")
        wait_until(lambda: page.locator(":focus").get_attribute("aria-pressed") == "true")
        tab_to("Draw a mask")
        press("Enter")
        page.locator("dialog.mask[open]").wait_for()
        wait_until(lambda: page.locator(":focus").get_attribute("aria-label") == "Mask")
        press("Space")
        one = painted(page).sum()
        press("ArrowRight")
        press("ArrowRight")
        press("Space")
        assert painted(page).sum() > one > 0
        press("Escape")
        page.locator("dialog.mask").wait_for(state="detached")
        wait_until(lambda: page.locator(".entry").count() == 1)


# Comparing, data, training


def test_runs_are_compared_side_by_side(visit, served, width):
    for name, kid in ((RUN, 0.02), ("second", 0.05)):
        folder = served.folder / name / "evaluations" / "1"
        if not folder.exists():
            stubs.written(folder, metrics__kid={"value": kid, "low": kid - 0.01, "high": kid + 0.01})
    with visit(width) as page:
        page.go("#/compare")
        page.get_by_role("checkbox", name=RUN, exact=True).check()
        page.get_by_role("checkbox", name="second", exact=True).check()
        page.get_by_role("checkbox", name=HTML, exact=True).check()
        page.get_by_role("button", name="Compare").click()
        ranked = page.get_by_role("region", name="Runs by KID")
        ranked.wait_for()
        wait_until(
            lambda: (
                [row.split("\t")[1] for row in ranked.locator("tbody tr").all_inner_texts()]
                == [RUN, "second"]
            )
        )
        wait_until(lambda: "0.020 (0.010 to 0.030)" in ranked.inner_text())
        wait_until(
            lambda: (
                "no evaluation" in page.get_by_role("region", name="Runs that are not ranked").inner_text()
            )
        )
        page.get_by_role("textbox", name="Seeds").fill("0,1")
        page.get_by_role("button", name="Sample all runs").click()
        page.get_by_text("All runs are sampled.").wait_for(timeout=90_000)
        cells = page.get_by_role("region", name="Samples of the same seeds").locator("td img")
        wait_until(lambda: cells.count() == 6)
        files = [page.request.get(cell.evaluate("image => image.src")).body() for cell in cells.all()]
        # The other runs are copies of the first.
        assert files[0] == files[1] == files[2] != files[3]


def test_the_data_are_described(visit, served, width):
    folder = served.folder.parent / "photos" / "garden"
    for name, gray in (("rose", 90), ("lily", 160)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(3):
            Image.fromarray(np.full((32, 32, 3), gray + 20 * k, np.uint8)).save(folder / name / f"{k}.png")
    shutil.copy(folder / "rose" / "0.png", folder / "rose" / "twin.png")
    (folder / "lily" / "broken.png").write_text("no image")
    with visit(width) as page:
        page.go("#/data")
        page.get_by_role("link", name=re.compile("garden")).click()
        page.get_by_role("heading", name=re.compile("Classes")).wait_for(timeout=60_000)
        text = page.locator("main").inner_text()
        assert "rose" in text
        wait_until(
            lambda: "broken.png" in page.get_by_role("region", name="Images that are left out").inner_text()
        )
        wait_until(
            lambda: "twin.png" in page.get_by_role("region", name="Images that are equal").inner_text()
        )
        wait_until(lambda: is_loaded(page.locator(".data-set img")))
        page.get_by_label("Crop and resize to").select_option("32")
        wait_until(lambda: "32x32" in page.locator(".data-set p").first.inner_text())
        wait_until(lambda: is_loaded(page.locator(".data-set img")))
        wait_until(lambda: page.get_by_label("Crop and resize to").input_value() == "32")


def test_a_run_is_started_stopped_and_resumed(visit, served):
    with visit(1440, refused=True) as page:
        page.go("#/new")
        sets = page.get_by_label("Training images").locator("option", has_text="small")
        wait_until(lambda: sets.count() == 1)
        (small,) = sets.all_inner_texts()
        page.get_by_label("Training images").select_option(label=small)
        page.get_by_label("Recipe", exact=True).select_option("smoke")
        page.get_by_label("Unit").select_option("images")
        page.get_by_label("Train for").fill("10")
        page.get_by_text("Change fields of the recipe").click()
        page.get_by_label("Field", exact=True).fill("optim.lr")
        page.get_by_label("Value", exact=True).fill("never")
        page.get_by_role("button", name="Start training").click()
        wait_until(lambda: "lr" in page.get_by_role("alert").inner_text())
        page.get_by_label("Value", exact=True).fill("0.001")
        page.get_by_label("Train for").fill("20000")
        page.get_by_role("button", name="Start training").click()
        page.locator(".badge", has_text="running").wait_for(timeout=120_000)
        page.get_by_role("button", name="Stop and save").click()
        page.locator(".badge", has_text="stopped").wait_for(timeout=120_000)
        page.get_by_role("button", name="Go on").click()
        page.locator(".badge", has_text="running").wait_for(timeout=120_000)
        page.get_by_role("button", name="Stop and save").click()
        page.locator(".badge", has_text="stopped").wait_for(timeout=120_000)
