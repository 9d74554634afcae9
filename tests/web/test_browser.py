"""What a reader of the page sees and can do, in Chromium, on a telephone and on a desk."""

import json
import re
import shutil
import time
from types import SimpleNamespace

import pytest

import sweeping
from browsing import CHROMIUM, WIDTHS, contrasts, open_browser, open_page, serve
from cases import SLOW, mark_slow
from ddim.runs.lock import lock_folder

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

RUN = "photos-tiny-1"
HTML = "<img src=x onerror=alert(1)>"
"""A name that would run code if a page took it for HTML."""
VIEWS = ["", f"#/run/{RUN}", f"#/play/{RUN}", f"#/compare?runs={RUN},second", "#/data/blossoms", "#/new"]


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """A server of three runs and a sweep."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("served") / "runs")
    for name in ("second", HTML):
        shutil.copytree(folder / RUN, folder / name)
    sweeping.plan_sweep(folder / "rates", ["0.001", "0.002"])
    (folder.parent / "photos").mkdir()
    with serve(folder, "--data", folder.parent / "photos") as address:
        yield SimpleNamespace(address=address, folder=folder)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture(params=mark_slow(WIDTHS, lambda width: width == 1440))
def width(request):
    return request.param


@pytest.fixture
def visit(browser, served):
    """Open the page of the served runs; see `open_page`."""
    return lambda width, **options: open_page(browser, served.address, width, **options)


def wait_until(check, seconds=30):
    """Wait until something is true that no locator can wait for."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
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
        assert "80 of 80 images" in card.inner_text()
        assert "finished" in card.inner_text()
        assert "32 × 32 px" in card.inner_text()
        wait_until(lambda: is_loaded(card.locator("img")))
        assert card.locator("img").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        assert page.locator("section", has_text="Sweep rates").locator(".card").count() == 2

        page.get_by_label("Filter").fill("tiny-1")
        assert names(page) == [RUN]
        assert "1 run of 5" in page.locator("[role=status]:visible").all_inner_texts()
        page.get_by_label("Filter").fill("")
        page.get_by_label("State").select_option("waiting")
        assert all("waiting" in text for text in page.locator(".card").all_inner_texts())
        page.get_by_label("State").select_option("")
        page.get_by_label("Sort by").select_option(label="Name")
        alone = page.locator(".groups > .deck .card h3").all_inner_texts()
        assert alone == sorted(alone, key=lambda name: re.sub(r"\W", "", name).lower())
        page.get_by_label("Filter").fill("no such run")
        assert page.get_by_text("No run matches the filter").is_visible()


def test_html_in_the_name_of_a_run_is_text(visit, width):
    with visit(width) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.go()
        page.locator(".card h3", has_text=HTML).get_by_role("link").click()
        page.locator("h1", has_text=HTML).wait_for()
        assert page.title().startswith(HTML) or page.title().startswith("run-")
        page.get_by_role("link", name="Open in the playground").click()
        page.locator("h1", has_text="Playground").wait_for()
        assert HTML in page.get_by_label("Run", exact=True).inner_text()
        assert page.locator("[onerror], img[src=x]").count() == 0


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
                log.write_text(before + json.dumps({**line, "step": 99, "images": 96, "image_mae": 0.123}) + "\n")
                card.get_by_text("running").wait_for()
                card.get_by_text("96 of 80 images").wait_for()
                assert card.locator("progress").is_visible()
                assert "0.123" in card.inner_text()
        finally:
            log.write_text(before)
        card.get_by_text("finished").wait_for()
        assert page.evaluate("window.same")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Compare second"


def test_an_empty_folder_says_what_to_do(browser, tmp_path, width):
    (tmp_path / "runs").mkdir()
    with serve(tmp_path / "runs") as address, open_page(browser, address, width) as page:
        page.go()
        assert page.get_by_role("heading", name="No runs yet").is_visible()
        assert "ddim train photos/" in page.locator("pre").inner_text()
        assert not page.get_by_role("link", name="New run").is_visible()


# One run


def test_a_chart_zooms_by_drag_wheel_and_keys(visit, width):
    with visit(width) as page:
        page.go(f"#/run/{RUN}")
        box = page.locator(".chart-box", has=page.get_by_role("heading", name="Held-out error"))
        chart = box.locator("svg.chart")
        chart.scroll_into_view_if_needed()
        whole = chart.locator(".axis").all_text_contents()
        area = chart.bounding_box()
        middle = area["y"] + area["height"] / 2

        page.mouse.move(area["x"] + area["width"] * 0.3, middle)
        assert re.search(r"\d+ images: .*\d\.\d+", box.locator("output").inner_text())
        page.mouse.down()
        page.mouse.move(area["x"] + area["width"] * 0.6, middle, steps=3)
        page.mouse.up()
        assert chart.locator(".axis").all_text_contents() != whole
        box.get_by_role("button", name="Reset zoom").click()
        assert chart.locator(".axis").all_text_contents() == whole

        chart.focus()
        page.mouse.move(area["x"] + area["width"] * 0.5, middle)
        page.mouse.wheel(0, -300)
        wait_until(lambda: chart.locator(".axis").all_text_contents() != whole)
        page.keyboard.press("0")
        assert chart.locator(".axis").all_text_contents() == whole
        page.mouse.move(0, 0)
        page.keyboard.press("ArrowRight")
        assert box.locator("output").inner_text().startswith("40 images")
        page.keyboard.press("ArrowRight")
        assert box.locator("output").inner_text().startswith("80 images")
        page.keyboard.press("+")
        assert chart.locator(".axis").all_text_contents() != whole

        lines = chart.locator("path.line").count()
        toggle = box.locator(".legend button").first
        toggle.click()
        assert chart.locator("path.line").count() == lines - 1
        assert toggle.get_attribute("aria-pressed") == "false"


def test_the_slider_shows_the_sheets_over_the_training(visit, served, width):
    with visit(width) as page:
        page.go(f"#/run/{RUN}")
        image, slider = page.locator(".sheet-frame img"), page.get_by_label("Position in the training")
        newest = image.get_attribute("src")
        assert page.get_by_text("after 80 images").is_visible()
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert image.get_attribute("src") != newest
        assert slider.get_attribute("aria-valuetext") == "after 40 images"
        sheet = page.request.get(served.address + image.get_attribute("src")).body()
        assert sheet == min((served.folder / RUN / "samples").glob("step-*.png")).read_bytes()
        page.get_by_role("button", name="Play").click()
        page.get_by_text("after 80 images").wait_for()
        page.get_by_role("button", name="Show real images").click()
        assert page.locator(".sheet-frame img").get_attribute("alt") == "Real images"
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
        assert page.evaluate("window.same")
        assert page.locator("details[open]").count() == 1


# Looks and keys


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", mark_slow(VIEWS, lambda view: view == VIEWS[0]))
def test_text_can_be_read_on_its_background(visit, view, scheme, width):
    with visit(width, color_scheme=scheme, refused=True) as page:
        page.go(view)
        page.wait_for_load_state("networkidle") if view == "never" else page.wait_for_timeout(300)
        found = contrasts(page)
        assert len(found) > 10
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
        assert page.evaluate(paper) == dark
        assert min(contrasts(page).values()) >= 4.5
        page.get_by_role("button", name="Switch between light and dark").click()
        assert page.evaluate(paper) == light


@pytest.mark.parametrize("view", mark_slow(VIEWS, lambda view: view == VIEWS[1]))
def test_each_control_has_a_name_and_each_view_its_landmarks(visit, view, width):
    with visit(width, refused=True) as page:
        page.go(view)
        page.wait_for_timeout(300)
        for role in ("button", "link", "textbox", "combobox", "spinbutton", "slider", "checkbox", "searchbox"):
            for control in page.get_by_role(role).all():
                snapshot = control.aria_snapshot().splitlines()[0]
                assert re.search(rf'{role} "[^"]+"', snapshot), snapshot
        for landmark in ("banner", "main"):
            assert page.get_by_role(landmark).count() == 1
        assert page.get_by_role("navigation", name="Views").count() == 1
        assert page.locator("h1").count() == 1
        assert page.locator("html").get_attribute("lang") == "en"


def test_the_keyboard_reaches_a_run_and_shows_where_it_is(visit, width):
    with visit(width) as page:
        page.go()
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        for _ in range(40):
            page.keyboard.press("Tab")
            outline = page.locator(":focus").evaluate("one => getComputedStyle(one).outlineStyle")
            assert outline != "none"
            if page.locator(":focus").inner_text() == RUN:
                break
        page.keyboard.press("Enter")
        page.locator("h1", has_text=RUN).wait_for()
        wait_until(lambda: page.evaluate("document.activeElement.id") == "main")
