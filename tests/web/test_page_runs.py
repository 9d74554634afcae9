"""The view of one run and the comparison of runs, in Chromium, on a telephone and on a desk."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

import stubs
from browsing import CHROMIUM
from ddim.files import lock_folder
from serving import running_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

RUN, OTHER, COMMA = "photos-tiny-1", "second", "a,b"


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """A server of three runs with equal logs, two of them evaluated."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    for name in (RUN, OTHER, COMMA):
        shutil.copytree(trained / RUN, folder / name)
    for name, kid in ((RUN, 0.02), (OTHER, 0.05)):
        interval = {"value": kid, "low": kid - 0.01, "high": kid + 0.01}
        recall = {"value": 10 * kid, "low": kid, "high": 20 * kid}
        stubs.written(folder / name / "evaluations" / "1", metrics__kid=interval, metrics__recall=recall)
    photos = folder.parent / "photos"
    photos.mkdir()
    with running_server(folder, "--data", photos) as server:
        yield SimpleNamespace(address=server.address, folder=folder)


def find_chart(page, title):
    """The chart with a title."""
    return page.locator("figure.chart", has=page.get_by_role("heading", name=title, exact=True))


def read_table(chart):
    """The heads and the rows of the table behind a chart, as text."""
    if chart.locator("details[open]").count() == 0:
        chart.locator("summary").click()
    chart.locator("tbody tr").first.wait_for()
    lines = chart.locator("table").inner_text().splitlines()[-100:]
    heads, *rows = [line.split("\t") for line in lines if "\t" in line]
    return heads, rows


def test_charts_share_their_axis_and_show_the_values_of_the_log(visit, served, width):
    lines = [json.loads(line) for line in (served.folder / RUN / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "image_mae" in line]
    with visit(width) as page:
        page.go(f"#/run/{RUN}")
        heads, rows = read_table(find_chart(page, "Error by noise level"))
        levels = [name for name in judged[0] if name.startswith("noise_mae/log_snr_")]
        names = [f"log-SNR {name.rpartition('_')[2].replace('-', '−')}" for name in levels]
        assert heads == ["training images", *names]
        assert [int(row[0]) for row in rows] == [line["images"] for line in judged] == [40, 80]
        assert [float(x) for x in rows[-1][1:]] == pytest.approx(
            [judged[-1][name] for name in levels], rel=5e-3
        )
        _, rows = read_table(loss := find_chart(page, "Loss"))
        steps = [line for line in lines if "loss" in line]
        assert [int(row[0]) for row in rows] == [line["images"] for line in steps]
        assert [float(row[1]) for row in rows] == pytest.approx([line["loss"] for line in steps], rel=5e-3)

        page.get_by_label("Smoothing").fill("0.5")
        sums = [0.0, 0.0]
        for line in steps:
            sums = [0.5 * sums[0] + line["loss"], 0.5 * sums[1] + 1]
        expect(loss.locator("tbody tr").last.locator("td").last).not_to_have_text(rows[-1][1])
        assert float(read_table(loss)[1][-1][1]) == pytest.approx(sums[0] / sums[1], rel=5e-3)
        page.get_by_label("By time").check()
        expect(loss.locator("th").first).to_have_text("minutes of training")


def test_a_chart_zooms_and_shows_values_without_moving_the_page(visit, width):
    with visit(width) as page:
        page.go(f"#/run/{RUN}")
        chart, other = find_chart(page, "Held-out image error"), find_chart(page, "Held-out noise error")
        plot = chart.locator(".plot")
        plot.scroll_into_view_if_needed()
        area = plot.locator(".u-over").bounding_box()
        height = page.evaluate("document.documentElement.scrollHeight")

        def move_to(share, **options):
            page.mouse.move(area["x"] + area["width"] * share, area["y"] + area["height"] / 2, **options)

        for share, images in ((0.45, 40), (0.99, 80)):
            move_to(share)
            for each in (chart, other):
                expect(each.locator(".position")).to_have_text(re.compile(rf"^{images} images: 0\.\d+$"))
            assert page.evaluate("document.documentElement.scrollHeight") == height
        move_to(0.3)
        page.mouse.down()
        move_to(0.6, steps=3)
        page.mouse.up()
        page.mouse.move(0, 0)
        expect(chart.locator(".u-select")).to_have_css("width", "0px")
        expect(chart.locator(".position")).to_have_text(re.compile("newest: "))
        # All charts show only the part with the first of two values.
        other.locator(".plot").focus()
        for images, whole in ((40, False), (40, False), (80, True)):
            if whole:
                page.get_by_role("button", name="Show all").click()
            other.locator(".plot").focus()
            page.keyboard.press("ArrowRight")
            expect(chart.locator(".position")).to_have_text(re.compile(rf"^{images} images: "))
        expect(page.locator("#announcer")).to_have_text(re.compile("^80 images: Held-out noise error 0"))


def test_the_view_of_a_run_follows_its_training(visit, served, width):
    run = served.folder / COMMA
    log, sheet = run / "metrics.jsonl", run / "samples" / "step-000000012.png"
    before = log.read_text()
    line = json.loads(before.splitlines()[-1])
    with visit(width) as page:
        page.go()
        page.get_by_role("link", name=COMMA, exact=True).first.click()
        expect(page.locator("h1")).to_have_text(COMMA)
        expect(page).to_have_title(f"{COMMA} · ddim")
        expect(page.get_by_text("after 80 images")).to_be_visible()
        page.evaluate("window.same = true")
        page.locator("summary", has_text="The other").click()
        try:
            with lock_folder(run):
                shutil.copy(run / "samples" / "real.png", sheet)
                log.write_text(
                    before + json.dumps({**line, "step": 12, "images": 96, "image_mae": 0.5}) + "\n"
                )
                expect(page.get_by_text("after 96 images")).to_be_visible()
                expect(page.locator(".log")).to_have_text(re.compile("step 12 "))
                expect(page.locator(".badge")).to_have_text(re.compile("running"))
                expect(find_chart(page, "Held-out image error").locator(".position")).to_have_text(
                    "newest: 0.500"
                )
                expect(page.get_by_text("Delete", exact=True)).to_be_hidden()
        finally:
            log.write_text(before)
            sheet.unlink()
        expect(page.locator(".badge")).to_have_text(re.compile("finished"))
        assert page.evaluate("window.same")
        assert page.locator("details[open]", has_text="The other").count() == 1


def test_a_run_is_noted_renamed_and_deleted(visit, served, width):
    first, name, other = f"draft {width}", f"best {width}", f"gone {width}"
    for copy in (first, other):
        shutil.copytree(served.folder / OTHER, served.folder / copy)
    shutil.rmtree(served.folder / first / "samples")
    with visit(width) as page:
        page.go(f"#/run/{first.replace(' ', '%20')}")
        # A run that has ended draws no first samples any more.
        expect(page.locator(".sheets figcaption")).to_have_text("No samples.")
        page.get_by_text("Rename or note").click()
        page.get_by_label("Name").fill(name)
        page.get_by_label("Note", exact=True).fill("wide net\n<b>keep</b>")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("h1")).to_have_text(name)
        expect(page.locator(".run-note")).to_have_text("wide net <b>keep</b>")
        assert not (served.folder / first).exists()
        again = page.get_by_role("link", name="Train again like this")
        expect(again).to_have_attribute("href", f"#/new?like=best%20{width}")
        page.locator(".actions summary", has_text="Delete").click()
        assert (served.folder / name).exists()  # the page asks twice
        page.get_by_role("button", name="Delete for ever").click()
        expect(page.locator("h1")).to_have_text("Runs")
        assert not (served.folder / name).exists()

        page.go(f"#/run/{other.replace(' ', '%20')}")
        expect(page.locator(".plot canvas")).not_to_have_count(0)
        shutil.rmtree(served.folder / other)
        expect(page.get_by_role("alert")).to_contain_text("deleted, renamed or moved", timeout=30_000)
        expect(page.locator(".actions, .badge")).to_have_count(0)


def test_runs_are_compared_in_the_same_charts(visit, served, width):
    with visit(width) as page:
        page.go()
        for name in (RUN, OTHER, COMMA):
            page.get_by_role("checkbox", name=f"Compare {name}", exact=True).check()
        page.get_by_role("navigation").get_by_role("link", name="Compare").click()
        ranked = page.get_by_role("group", name="Runs by KID")
        cells = ranked.locator("tbody tr td:nth-child(2)")
        expect(cells).to_have_text([RUN, OTHER])
        expect(ranked).to_contain_text("0.020 (0.010 to 0.030)")
        expect(page.get_by_role("group", name="Runs that are not ranked")).to_contain_text("no evaluation")

        chart = find_chart(page, "Held-out image error")
        heads, rows = read_table(chart)
        assert heads[0] == "training images"
        assert {*heads[1:]} == {RUN, OTHER, COMMA}
        assert [len(set(row[1:])) for row in rows] == [1, 1]  # the runs are copies
        chart.get_by_role("button", name=OTHER).click()
        pressed = find_chart(page, "Loss").locator(".legend [aria-pressed=false]")
        expect(pressed).to_have_text(re.compile(OTHER))

        page.get_by_role("textbox", name="Seeds").fill("0,1")
        page.get_by_role("button", name="Sample all runs").click()
        expect(page.get_by_text("All runs are sampled.")).to_be_visible(timeout=90_000)
        page.get_by_label("Metric", exact=True).select_option("recall")
        expect(
            page.get_by_role("group", name="Runs by Recall").locator("tbody tr td:nth-child(2)")
        ).to_have_text([OTHER, RUN])
        images = page.get_by_role("group", name="Samples of the same seeds").locator("td img")
        expect(images).to_have_count(6)
        files = [page.request.get(image.evaluate("image => image.src")).body() for image in images.all()]
        assert files[0] == files[1] == files[2] != files[3]
        page.reload()
        expect(page.get_by_role("group", name="Runs by Recall")).to_be_visible()


def test_an_evaluation_is_begun_and_stopped(visit):
    with visit(1440) as page:
        page.go(f"#/run/{RUN}")
        page.locator("summary", has_text="Evaluate").click()
        page.get_by_label("Number of samples").fill("5000")
        page.get_by_role("button", name="Evaluate").click()
        expect(page.get_by_text("It is being evaluated now.")).to_be_visible(timeout=30_000)
        expect(page.get_by_text(re.compile(r"evaluated now\. samples"))).to_be_visible(timeout=60_000)
        page.reload()
        page.get_by_role("button", name="Stop the evaluation").click()
        expect(page.locator("summary", has_text="Evaluate")).to_be_visible(timeout=60_000)
        expect(page.get_by_role("button", name="Stop the evaluation")).to_be_hidden()
