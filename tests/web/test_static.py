"""What holds for the files of the page as a whole."""

import re

import pytest

from browsing import CHROMIUM, open_page
from ddim.web.application import STATIC

FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short_and_load_nothing_from_another_host(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert re.findall(r"https?://[^\s\"'`]+", text.replace(NAMESPACE, "")) == []
    assert not re.search(r"@import|url\(['\"]?//", text)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".js"], ids=lambda path: path.name)
def test_no_text_becomes_html_or_code(path):
    ways = r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval|setHTMLUnsafe|srcdoc)\b"
    assert re.findall(ways, path.read_text()) == []
    for name in re.findall(r'from "\./([^"]+)"|import\("\./([^"]+)"\)', path.read_text()):
        assert (STATIC / "".join(name)).is_file()


def test_the_first_file_has_no_script_or_style_inside():
    text = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    for name in re.findall(r'(?:src|href)="/static/([^"]+)"', text):
        assert (STATIC / name).is_file()


def test_the_interface_describes_the_objects_that_are_sent(client):
    schemas = client.get("/api/openapi.json").json()["components"]["schemas"]
    answers = {"About": "about", "Runs": "runs", "Details": "runs/photos-tiny-1", "Choices": "choices"}
    for name, path in {**answers, "Results": "results"}.items():
        assert schemas[name]["properties"].keys() == client.get(f"/api/{path}").json().keys()
    assert {"Row", "Changes", "Step", "Result", "Upload", "Problem"} <= schemas.keys()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_field_that_the_server_does_not_send_is_an_error_of_the_page(server, browser):
    def ask():
        with open_page(browser, server.address) as page:
            page.go()
            page.evaluate(
                "fetch('/api/about').then((answer) => answer.json()).then((about) => about.nothing)"
            )

    with pytest.raises(AssertionError, match=r"About\.nothing"):
        ask()
