"""The playground: samples, edits, and the gallery that keeps them, on a telephone and on a desk."""

import io
import json
import re
import shutil
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tiny
from browsing import CHROMIUM, is_loaded, open_page, wait_until
from ddim import distill
from serving import running_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

RUN, CLASSES, STUDENT = "photos-tiny-1", "classes-1", "student-1"
IN_SIGHT = "one => one.getBoundingClientRect().top >= 0 && one.getBoundingClientRect().bottom <= innerHeight"


@pytest.fixture(scope="module")
def served(trained, vector_run, deep_run, tmp_path_factory):
    """A server of tiny runs: plain, with classes, with vectors, with 8 channels, and a student."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("played") / "runs")
    tiny.train(tiny.recipe(data__labels="true"), folder / CLASSES, progress=False)
    distill(folder / RUN, images=8, out=folder / STUDENT, machine=tiny.MACHINE, progress=False)
    with running_server(folder) as server:
        yield SimpleNamespace(address=server.address, folder=folder)


@pytest.fixture
def visit(browser, served, width):
    """Open the playground of a run; its gallery is empty."""

    @contextmanager
    def open_run(run=RUN, **options):
        with open_page(browser, served.address, width, **options) as page:
            for result in page.request.get(f"{served.address}/api/results").json()["results"]:
                page.request.delete(f"{served.address}/api/results/{result['id']}")
            page.go(f"#/play/{run}")
            page.locator(".play-form").wait_for()
            yield page

    return open_run


def make_samples(page, seeds, **fields):
    """Fill in fields of the form by their labels, make samples, and return their entry."""
    form = page.locator(".play-form")
    form.get_by_label(re.compile("^Seeds")).fill(seeds)
    for label, value in fields.items():
        form.get_by_label(label.replace("_", " "), exact=True).fill(value)
    before = page.locator(".entry").count()
    page.get_by_role("button", name="Make samples").click()
    return finish_entry(page, before + 1)


def finish_entry(page, number):
    """Wait until so many entries are there and the newest is finished; returns it."""
    entry = page.locator(".entry").first
    wait_until(lambda: page.locator(".entry").count() == number, 60)
    entry.locator(".links, .fault").first.wait_for(timeout=90_000)
    assert entry.locator(".fault").all_inner_texts() == []
    return entry


def tile_files(page, entry):
    """The files that the tiles of an entry show, after each has got its file."""
    tiles, images = entry.locator(".tile"), entry.locator(".tile img")
    wait_until(lambda: images.count() == tiles.count() and all(map(is_loaded, images.all())))
    return [page.request.get(image.evaluate("one => one.src")).body() for image in images.all()]


def pixels(data):
    """The pixels of an image file, (H, W, 3) uint8."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def read_code(entry, title):
    """A box of code below an entry."""
    if not entry.locator("details[open]").count():
        entry.locator("summary").click()
    return entry.locator(".code", has_text=title).locator("pre").inner_text()


def download(page, link):
    """The bytes of a link, after a click on it."""
    with page.expect_download() as found:
        link.click()
    return Path(found.value.path()).read_bytes()


def painted(page):
    """Which pixels of the mask are painted, (H, W); the outline of the brush is white."""
    height, width, data = page.locator(".paint").evaluate("""canvas => {
        const { width, height } = canvas;
        return [height, width, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
    }""")
    rgba = np.array(data).reshape(height, width, 4)
    return (rgba[..., 3] > 100) & (rgba[..., 1] < 200)


def test_samples_are_shown_step_by_step_and_kept_through_views_and_reloads(visit, browser, served):
    with visit(CLASSES, color_scheme="dark") as page:
        entry = make_samples(page, "0-3", Steps="40")
        kinds = json.loads((served.folder / CLASSES / "run.json").read_text())["data"]["classes"]
        assert entry.locator(".tile").all_inner_texts() == [f"seed {k} · {kinds[k]}" for k in range(4)]
        files = tile_files(page, entry)
        body = {"seeds": [0, 1, 2, 3], "steps": 40, "label": "all"}
        made = page.request.post(f"{served.address}/api/runs/{CLASSES}/samples", data=body).json()
        assert files == [page.request.get(served.address + image["url"]).body() for image in made["images"]]
        archive = download(page, entry.get_by_role("link", name="all (zip)"))
        assert zipfile.ZipFile(io.BytesIO(archive)).read("00003.png") == files[3]
        assert page.locator("#announcer").inner_text().startswith("4 samples: ready")

        # Each step is drawn. Work goes on in another view, and is not lost without a question.
        page.get_by_label(re.compile("^Seeds")).first.fill("0-63")
        page.locator(".play-form").get_by_label("Steps", exact=True).fill("1000")
        page.get_by_role("button", name="Make samples").click()
        canvas = page.locator(".tile canvas").first
        wait_until(lambda: canvas.evaluate("one => one.width") == 32)
        page.get_by_role("link", name="Runs", exact=True).click()
        page.locator("h1", has_text="Runs").wait_for()
        page.go_back()
        page.get_by_text(re.compile("% of the network evaluations")).wait_for()
        with page.expect_event("dialog") as asked:
            page.evaluate("setTimeout(() => location.reload())")
        asked.value.dismiss()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.").wait_for()

        # A reload keeps the results and the form; the result that the test has asked for is there too.
        page.reload()
        assert tile_files(page, finish_entry(page, 2)) == files
        assert page.locator(".play-form").get_by_label("Steps", exact=True).input_value() == "1000"
        entry = page.locator(".entry").first
        entry.get_by_role("link", name="Use these settings").click()
        wait_until(lambda: page.get_by_label(re.compile("^Seeds")).first.input_value() == "0-3")
        address = read_code(entry, "Address")
        for _ in range(2):
            page.locator(".entry").first.get_by_role("button", name="Remove").click()
        wait_until(lambda: page.locator(".entry").count() == 0)
        page.goto(address)
        page.get_by_role("button", name="Make samples").click()
        assert tile_files(page, finish_entry(page, 1)) == files


def test_images_are_enlarged_and_edited(visit):
    with visit() as page:
        samples = make_samples(page, "0-3", Steps="3")
        files = tile_files(page, samples)
        samples.locator(".tile").nth(0).click()
        panel = page.locator(".panel")
        assert panel.bounding_box()["height"] <= page.viewport_size["height"] / 3
        panel.get_by_label("Images", exact=True).fill("0")
        panel.get_by_role("button", name="Vary").click()  # the browser says what is wrong
        panel.get_by_label("Images", exact=True).fill("2")
        panel.get_by_label("Steps", exact=True).fill("3")
        panel.get_by_role("button", name="Vary").click()
        variations = finish_entry(page, 2)
        assert variations.get_by_role("heading").inner_text() == "2 variations of seed 0"
        panel.get_by_role("button", name="Invert").click()
        inversion = finish_entry(page, 3)
        assert np.array_equal(pixels(tile_files(page, inversion)[0]), pixels(files[0]))

        # Two samples of the same settings are ends of an interpolation between their seeds.
        page.locator(".entry").last.locator(".tile").nth(3).click()
        panel.get_by_label("Frames", exact=True).fill("4")
        panel.get_by_role("button", name="Interpolate").click()
        blend = finish_entry(page, 4)
        frames = tile_files(page, blend)
        assert (len(frames), frames[0], frames[-1]) == (4, files[0], files[3])
        blend.get_by_text("Watch the film").click(timeout=5000)
        wait_until(lambda: is_loaded(blend.get_by_role("img", name=re.compile("^Film"))))
        page.keyboard.press("Escape")
        wait_until(lambda: not panel.is_visible())

        page.locator(".entry").nth(2).get_by_role("button", name="Enlarge").click()
        viewer, image = page.locator("dialog.viewer"), page.locator(".viewer img")
        first = image.get_attribute("src")
        page.keyboard.press("ArrowRight")
        wait_until(lambda: image.get_attribute("src") != first)
        viewer.get_by_role("button", name="Show before").click()
        wait_until(lambda: is_loaded(image))
        assert page.request.get(image.evaluate("one => one.src")).body() == files[0]
        page.keyboard.press("Escape")
        # The address of an edit chooses its images and repeats it, also with other seeds.
        variations = page.locator(".entry").nth(2)
        page.goto(read_code(variations, "Address"))
        panel.get_by_label(re.compile("^Seeds")).fill("1,7")
        page.get_by_role("button", name="Repeat: 2 variations of seed 0").click()
        files = tile_files(page, finish_entry(page, 5))
        assert files[0] == tile_files(page, page.locator(".entry").nth(3))[1] != files[1]
        page.keyboard.press("Escape")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        assert page.locator(".play-form .main").evaluate(IN_SIGHT)


def test_a_photo_of_any_size_is_inpainted(visit, tmp_path):
    photo = tmp_path / "my <b>.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (47, 83, 3), dtype=np.uint8)).save(photo)
    (tmp_path / "text.png").write_text("no image")
    with visit(refused=True) as page:
        page.get_by_label("Your own images").last.set_input_files(tmp_path / "text.png")
        page.locator(".drop .fault").wait_for()
        page.get_by_label("Your own images").last.set_input_files(photo)  # which chooses it
        page.locator(".panel").get_by_label("Steps", exact=True).fill("3")
        page.get_by_role("button", name="Inpaint").click()
        generate = page.get_by_role("button", name="Generate this part")
        assert generate.is_disabled()
        assert generate.evaluate(IN_SIGHT)
        area = page.locator(".paint").bounding_box()

        def draw_line(share):
            page.mouse.move(area["x"] + area["width"] * share, area["y"] + 2)
            page.mouse.down()
            page.mouse.move(area["x"] + area["width"] * share, area["y"] + area["height"] - 2, steps=4)
            page.mouse.up()

        draw_line(0.2)
        one = painted(page)
        draw_line(0.7)
        page.get_by_role("button", name="Undo").click()
        assert np.array_equal(painted(page), one)
        # A failure does not lose the mask.
        page.route("**/edits/inpaint", lambda route: route.fulfill(status=422, json={"error": "no luck"}))
        generate.click()
        page.get_by_role("alert").filter(has_text="no luck").wait_for()
        page.unroute("**/edits/inpaint")
        page.get_by_role("button", name="Inpaint").click()
        mask = painted(page)
        assert np.array_equal(mask, one)
        page.get_by_label(re.compile("^Rounds")).first.fill("1")
        generate.click()
        entry = finish_entry(page, 2)
        assert entry.get_by_role("heading").inner_text() == "Inpainting of my-b-.png"
        entry.get_by_role("button", name="Enlarge").click()
        page.get_by_role("button", name="Show before").click()
        before = pixels(page.request.get(page.locator(".viewer img").evaluate("one => one.src")).body())
        after = [pixels(data) for data in tile_files(page, entry)]
        assert len(after) == 4
        for image in after:
            assert np.array_equal(image[~mask], before[~mask])
            assert not np.array_equal(image[mask], before[mask])
        page.keyboard.press("Escape")
        page.reload()  # the photo is kept too
        page.get_by_role("button", name="my-b-.png").click()
        page.locator(".panel").get_by_role("button", name="Remove").click()
        page.get_by_role("button", name="my-b-.png").wait_for(state="detached")


def test_only_controls_that_can_succeed_are_offered(visit):
    with visit(CLASSES) as page:
        form = page.locator(".play-form")
        form.locator("summary").click()
        grids = form.get_by_label("Sampling times").inner_text().split()
        assert not {"listed", "spaced", "sections"} & {*grids}
        assert form.get_by_label("Guidance scale", exact=True).is_visible()
        assert form.get_by_label("Guide with").input_value() == ""
        form.get_by_label("Class").select_option("no class")
        assert form.get_by_label("Guide with").input_value() == "@guide"
        assert form.get_by_label("Eta").is_visible()
        form.get_by_label("Sampler").select_option("unipc")
        assert form.get_by_label("Eta").is_hidden()
        page.get_by_role("button", name="Other seeds").click()
        seeds = form.get_by_label(re.compile("^Seeds")).input_value()
        assert int(seeds.split("-")[1]) - int(seeds.split("-")[0]) == 15
    with visit(STUDENT) as page:
        make_samples(page, "3,5").locator(".tile").first.click()
        panel = page.locator(".panel")
        assert panel.get_by_role("button").all_inner_texts() == ["Enlarge", "▾", "✕"]
        page.locator(".tile").nth(1).click()
        assert panel.get_by_role("button").all_inner_texts() == ["▾", "✕"]
        assert page.get_by_label("Your own images").count() == 0


def test_a_weaker_model_guides_samples_and_edits(visit):
    with visit() as page:
        page.locator(".play-form summary").click()
        page.locator(".play-form").get_by_label("from", exact=True).fill("-3.5")
        samples = make_samples(page, "3,5", Guidance_scale="2", Steps="3")
        options = r"--guidance 2(\.0)? --guidance-interval=-3.5, --guide-with @guide"
        assert re.search(options, read_code(samples, "Command line"))
        samples.locator(".tile").nth(0).click()
        panel = page.locator(".panel")
        panel.locator("summary").click()
        panel.get_by_label("Guidance scale", exact=True).fill("3")
        panel.get_by_label("Steps", exact=True).fill("3")
        panel.get_by_role("button", name="Vary").click()
        assert "--guide-with @guide" in read_code(finish_entry(page, 2), "Command line")
        panel.get_by_role("button", name="Invert").click()  # it cannot be guided, so it is not
        finish_entry(page, 3)


def test_vectors_and_images_of_eight_channels_are_sampled_and_mistakes_explained(visit, vector_run, deep_run):
    with visit(vector_run) as page:
        page.get_by_label("level", exact=True).fill("200")
        wrong = {"5-1": "ends before", "x": "not “x”", "0-999": "at most 64", "1": "all numbers"}
        for seeds, sentence in wrong.items():
            page.get_by_label(re.compile("^Seeds")).first.fill(seeds)
            page.get_by_role("button", name="Make samples").click()
            page.get_by_role("alert").filter(has_text=sentence).wait_for()
        page.get_by_label("other", exact=True).fill("0.5")
        entry = make_samples(page, "1")
        assert "vector 200 to 0.5" in entry.inner_text()
    with visit(deep_run) as page:
        entry = make_samples(page, "2", Steps="3")
        assert "the first 3 of 8 channels" in entry.inner_text()
        entry.locator(".tile").click()
        exact = np.load(io.BytesIO(download(page, page.get_by_role("link", name="Save array"))))
        assert (exact.shape, exact.dtype) == ((16, 16, 8), np.uint16)


def test_the_keyboard_alone_samples_and_paints_a_mask(visit):
    with visit() as page:
        press, focused = page.keyboard.press, page.locator(":focus")

        def tab_to(name):
            for _ in range(80):
                if focused.count() and name in (focused.get_attribute("aria-label") or focused.inner_text()):
                    return
                press("Tab")
            pytest.fail(f"no Tab leads to {name}")

        page.get_by_label(re.compile("^Seeds")).first.focus()
        press("Control+A")
        page.keyboard.type("0-1")
        press("Enter")
        finish_entry(page, 1)
        tab_to("seed 1")
        press("Space")
        tab_to("Inpaint")
        press("Enter")
        wait_until(lambda: focused.get_attribute("aria-label") == "Mask")
        press("Space")
        one = painted(page).sum()
        page.keyboard.down("Space")
        press("ArrowRight")
        page.keyboard.up("Space")
        assert painted(page).sum() > one > 0
        press("Control+Z")
        assert painted(page).sum() == one
        press("Escape")
        page.locator("dialog.mask").wait_for(state="detached")


def test_a_slider_shows_the_sheets_of_a_training(browser, served):
    with open_page(browser, served.address) as page:
        page.go(f"#/run/{RUN}")
        image, slider = page.locator(".sheet-frame img"), page.get_by_label("Position in the training")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        wait_until(lambda: slider.get_attribute("aria-valuetext").endswith("after 40 images"))
        sheet = page.request.get(image.evaluate("one => one.src")).body()
        assert sheet == min((served.folder / RUN / "samples").glob("step-*.png")).read_bytes()
        page.get_by_role("button", name="Play").click()
        page.get_by_text("after 80 images").wait_for()
        page.get_by_role("button", name="Show real images").click()
        wait_until(lambda: image.get_attribute("alt").startswith("Real images") and is_loaded(image))
