"""What users see and can do on the page in Chromium: the runs, a new run, data, and what all views share."""

import json
import shutil
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import sweeping
from browsing import CHROMIUM, is_loaded, open_page, wait_until
from ddim.files import lock_folder
from serving import TOKEN, running_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

RUN = "photos-tiny-1"
HTML = "<img src=x onerror=alert(1)>"
"""A name that would run code if a page took it for HTML."""
VIEWS = {
    "": ".card",
    f"#/run/{RUN}": ".sheet-frame img",
    f"#/play/{RUN}": ".play form",
    f"#/compare?runs={RUN},second": "section",
    "#/data": ".sets a",
    "#/new": ".sheet-form",
}
"""The views, with what is there once the server has answered."""


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """A server of three runs, a sweep and two folders of images, of which one has classes and a twin."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    for name in (RUN, "second", HTML):
        shutil.copytree(trained / RUN, folder / name)
    sweeping.plan_sweep(folder / "rates", ["0.001", "0.002"])
    photos = folder.parent / "photos"
    random = np.random.default_rng(0).integers(0, 256, (46, 32, 32, 3), dtype=np.uint8)
    places = [f"small/{k}.png" for k in range(40)]
    places += [f"garden/{flower}/{k}.png" for flower in ("rose", "lily") for k in range(3)]
    for place, image in zip(places, random, strict=True):
        (photos / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / place)
    shutil.copy(photos / "garden/rose/0.png", photos / "garden/rose/twin.png")
    (photos / "garden/lily/broken.png").write_text("no image")
    with running_server(folder, "--data", photos) as server:
        yield SimpleNamespace(address=server.address, folder=folder)


def names(page):
    """The names of the runs, in their order."""
    return page.locator(".card h3, .runs tbody th").all_inner_texts()


def test_runs_are_cards_or_a_table_and_choices_are_kept(visit, width):
    with visit(width, color_scheme="dark") as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.go()
        card = page.locator(".card", has_text=RUN)
        card.scroll_into_view_if_needed()
        for text in ("80 of 80 images", "finished", "32 × 32 px"):
            card.get_by_text(text).wait_for()
        image = card.locator("img")
        wait_until(lambda: is_loaded(image))
        # The whole sheet is shown, with its own pixels, and its white gaps are transparent.
        style, sides, mask = image.evaluate("""one => [getComputedStyle(one).imageRendering,
            one.clientWidth * one.naturalHeight / one.clientHeight / one.naturalWidth, one.style.mask]""")
        assert style == "pixelated"
        assert sides == pytest.approx(1, abs=0.02)
        assert "repeating-linear-gradient" in mask
        assert page.locator("section", has_text="Sweep rates").locator(".card").count() == 2
        page.locator(".card", has_text=HTML).wait_for()

        page.get_by_label("Show as").select_option("table")
        name = page.get_by_role("group", name="Single runs").get_by_role("columnheader", name="Name")
        name.get_by_role("button").click()
        known = sorted([HTML, RUN, "second"])
        assert [each for each in names(page) if each in known] == known
        name.get_by_role("button").click()
        assert [each for each in names(page) if each in known] == known[::-1]
        assert name.get_attribute("aria-sort") == "descending"
        page.get_by_label("Compare second").check()
        page.get_by_label("Filter").fill("tiny-1")
        wait_until(lambda: names(page) == [RUN])
        page.get_by_text("1 run of").wait_for()
        page.get_by_role("button", name="Choose all 1 shown").click()

        # Another view and a reload keep the filter, the order and the choice.
        page.get_by_role("link", name="Compare 2 runs").click()
        page.locator("h1", has_text="Compare").wait_for()
        assert set(page.url.partition("runs=")[2].split(",")) == {"second", RUN}
        page.go_back()
        page.locator(".runs").wait_for()
        page.reload()
        page.get_by_role("link", name="Compare 2 runs").wait_for()
        assert names(page) == [RUN]
        page.get_by_role("button", name="Clear").click()
        assert not page.get_by_role("region", name="Chosen runs").is_visible()
        page.get_by_label("Filter").fill("no such run")
        page.get_by_text("No run matches the filter").wait_for()
        page.get_by_label("Filter").fill("")
        page.get_by_role("link", name=HTML).click()
        page.locator("h1", has_text=HTML).wait_for()
        wait_until(lambda: page.title() == f"{HTML} · ddim")
        assert page.locator("[onerror], img[src=x]").count() == 0


def test_a_list_of_many_runs_fits_into_a_few_screens(browser, trained, tmp_path):
    for k in range(126):
        folder = tmp_path / "runs" / f"run-{k}"
        folder.mkdir(parents=True)
        for name in ("run.json", "metrics.jsonl"):
            shutil.copy(trained / RUN / name, folder)
    with running_server(tmp_path / "runs") as server, open_page(browser, server.address) as page:
        page.go()
        page.locator(".runs").wait_for()
        assert len(names(page)) == 126
        assert page.evaluate("document.documentElement.scrollHeight / innerHeight") < 7
        assert page.get_by_role("link", name="New run").count() == 0
        page.get_by_label("Compare run-77").check()
        # The bar stays in sight, and Back leads to the place that was left.
        assert page.evaluate("document.querySelector('.bar').getBoundingClientRect().bottom <= innerHeight")
        place = page.evaluate("scrollY")
        page.get_by_role("link", name="run-77", exact=True).click()
        page.locator("h1", has_text="run-77").wait_for()
        page.go_back()
        page.locator(".runs").wait_for()
        wait_until(lambda: abs(page.evaluate("scrollY") - place) < 60)
        for folder in (tmp_path / "runs").iterdir():
            shutil.rmtree(folder)
        page.get_by_role("heading", name="No runs yet").wait_for()
        page.get_by_text("ddim train photos/").wait_for()


def test_a_run_that_trains_changes_in_all_tabs(visit, served, width):
    log = served.folder / "second" / "metrics.jsonl"
    before = log.read_text()
    line = json.loads(before.splitlines()[-1])
    with visit(width) as page:
        page.go()
        hidden = page.context.new_page()
        hidden.goto(served.address)
        card = page.locator(".card", has_text="second")
        card.get_by_text("finished").wait_for()
        hidden.locator(".card", has_text="second").get_by_text("finished").wait_for()
        set_hidden = """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        hidden.evaluate(set_hidden, True)
        page.evaluate("window.same = true")
        card.get_by_role("checkbox").focus()
        try:
            with lock_folder(served.folder / "second"):
                log.write_text(before + json.dumps({**line, "images": 96, "image_mae": 0.123}) + "\n")
                for text in ("running", "96 of 80 images", "0.123", "just now"):
                    card.get_by_text(text).wait_for()
                assert card.locator("progress").is_visible()
                assert names(page)[0] == "second"  # runs that train come first
                assert hidden.locator(".badge.running").count() == 0
                hidden.evaluate(set_hidden, False)
                hidden.locator(".card", has_text="second").get_by_text("96 of 80 images").wait_for()
        finally:
            log.write_text(before)
        card.get_by_text("finished").wait_for()
        assert page.evaluate("window.same")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Compare second"
        # "just now" does not stay for ever.
        page.evaluate("document.querySelectorAll('[data-since]').forEach(one => (one.dataset.since -= 7200))")
        card.get_by_text("2 h 0 min ago").wait_for()


def test_a_stopped_server_is_told_and_nothing_is_lost(browser, trained, tmp_path):
    shutil.copytree(trained / RUN, tmp_path / "runs" / "kept")
    shutil.copytree(trained / RUN, tmp_path / "runs" / "deleted")
    (tmp_path / "photos").mkdir()
    absent = "The server does not answer"
    with ExitStack() as first:
        server = first.enter_context(running_server(tmp_path / "runs", "--data", tmp_path / "photos"))
        with open_page(browser, server.address, 390, refused=True) as page:
            page.go("#/new")
            page.get_by_label("Name").fill("my flowers")
            first.close()
            page.get_by_text("The connection to the server is lost").wait_for()
            page.get_by_role("button", name="Start training").click()
            page.get_by_role("alert").filter(has_text=absent).wait_for()
            for view in ("Playground", "Compare", "Data"):
                page.get_by_role("link", name=view, exact=True).click()
                page.locator("h1", has_text=view).wait_for()
            page.get_by_role("alert").filter(has_text=absent).wait_for()
            shutil.rmtree(tmp_path / "runs" / "deleted")
            with running_server(tmp_path / "runs", "--port", server.port, "--token", TOKEN[::-1]):
                page.locator("#connection", has_text="the address that `ddim serve` printed").wait_for()
            with running_server(tmp_path / "runs", "--data", tmp_path / "photos", "--port", server.port):
                page.locator(".sets a").first.wait_for(timeout=60_000)  # without a reload
                wait_until(lambda: not page.locator("#connection").is_visible())
                page.get_by_role("link", name="Runs", exact=True).click()
                wait_until(lambda: names(page) == ["kept"])
                page.get_by_role("link", name="New run").click()
                wait_until(lambda: page.get_by_label("Name").input_value() == "my flowers")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(visit, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with visit(width, color_scheme=scheme) as page:
        told = {}
        for view, part in VIEWS.items():
            page.go(view)
            page.locator(f"main {part}").first.wait_for()
            for fault in axe.run(page).response["violations"]:
                told[view, fault["id"]] = fault["nodes"][0]["failureSummary"], fault["nodes"][0]["target"]
        assert told == {}
        paper = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(paper)
        page.get_by_role("button", name="Switch between light and dark").click()
        after = page.evaluate(paper)
        page.reload()
        assert page.evaluate(paper) == after != before


def test_the_keyboard_alone_chooses_and_compares_runs(visit, width):
    with visit(width) as page:
        page.go()
        page.get_by_label("Show as").select_option("table")
        page.reload()
        page.locator(".runs").first.wait_for()

        def tab_to(name):
            for _ in range(60):
                page.keyboard.press("Tab")
                focused = page.locator(":focus")
                assert focused.evaluate("one => getComputedStyle(one).outlineStyle") != "none"
                text = focused.evaluate(
                    "one => one.ariaLabel ?? (one.matches('select') ? '' : one.innerText)"
                )
                if text.startswith(name):
                    return
            pytest.fail(f"no Tab leads to {name}")

        tab_to("Skip to the content")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        tab_to("Name")
        page.keyboard.press("Enter")
        wait_until(lambda: page.locator(":focus").inner_text().startswith("Name ↑"))
        tab_to(f"Compare {RUN}")
        page.keyboard.press("Space")
        tab_to("Compare second")
        page.keyboard.press("Space")
        tab_to("Compare 2 runs")
        page.keyboard.press("Enter")
        page.locator("h1", has_text="Compare").wait_for()
        wait_until(lambda: page.evaluate("document.activeElement.id") == "main")


def test_the_data_are_described(visit, width):
    with visit(width) as page:
        page.go("#/data")
        page.get_by_role("link", name="garden").click()
        page.get_by_role("heading", name="Classes (2)").wait_for(timeout=60_000)
        for title, text in {"Classes": "rose", "Left out": "broken.png", "Duplicates": "twin.png"}.items():
            assert text in page.locator("section", has_text=title).last.inner_text()
        page.get_by_label("Crop and resize to").select_option("32")
        page.locator("main p", has_text="32x32").wait_for()
        wait_until(lambda: is_loaded(page.locator(".data-set img")))
        page.get_by_role("link", name="Train on these images").click()
        wait_until(lambda: "garden" in page.get_by_label("Training images").locator(":checked").inner_text())


def test_a_run_is_planned_and_started_and_another_one_like_it(visit, width):
    with visit(width, refused=True) as page:
        page.go("#/new")
        small = page.get_by_label("Training images").locator("option", has_text="small").inner_text()
        page.get_by_label("Training images").select_option(label=small)
        page.get_by_label("Name").fill(f"flowers {width}")
        page.get_by_label("Recipe", exact=True).select_option("smoke")
        page.get_by_label("Height").fill("16")
        page.get_by_label("Width").fill("24")
        page.get_by_label("Classes").select_option(label="clusters of similar images")
        page.get_by_label("Number of clusters").fill("2")
        page.get_by_label("Unit").select_option("images")
        page.get_by_label("Train for").fill("64")
        page.get_by_text("Change fields of the recipe").click()
        page.get_by_label("Add a field").select_option("optim.lr")
        page.get_by_text("the highest learning rate").wait_for()
        page.keyboard.type("never")
        page.locator(".plan .why", has_text="lr").wait_for(timeout=90_000)
        page.get_by_label("Changed fields").fill("optim.lr=0.001")
        page.get_by_text("Plan: 64 images in").wait_for(timeout=90_000)
        page.get_by_role("button", name="Start training").click()
        page.locator(".badge", has_text="finished").wait_for(timeout=120_000)
        page.get_by_text("16 px", exact=False).first.wait_for()
        page.go(f"#/new?like=flowers%20{width}")
        page.get_by_text(f"The run will be named flowers {width}-1").wait_for()
        changed = {"Height": "16", "Width": "24", "Train for": "64", "Number of clusters": "2"}
        changed["Changed fields"] = "optim.lr=0.001"
        assert {label: page.get_by_label(label).input_value() for label in changed} == changed
