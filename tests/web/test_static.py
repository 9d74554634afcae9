"""What holds for the files of the page as a whole."""

import re

import pytest

from browsing import CHROMIUM, open_page
from ddim.web.application import STATIC

FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
HTML = r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval|setHTMLUnsafe|srcdoc)\b"
"""The ways in which text becomes HTML or code."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_load_only_each_other_and_no_text_becomes_html_or_code(path):
    text = path.read_text()
    assert re.findall(r"https?://[^\s\"'`]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    assert not re.search(r"@import|url\(['\"]?//", text)
    assert re.findall(HTML, text) == []
    for name in re.findall(r'(?:from "\.|import\("\.|(?:src|href)="/static)/([^"]+)"', text):
        assert (STATIC / name).is_file()
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text)


def test_the_interface_describes_the_objects_that_are_sent(client):
    schemas = client.get("/api/openapi.json").json()["components"]["schemas"]
    answers = {"About": "about", "Runs": "runs", "Details": "runs/photos-tiny-1", "Choices": "choices"}
    for name, path in {**answers, "Results": "results"}.items():
        assert schemas[name]["properties"].keys() == client.get(f"/api/{path}").json().keys()
    assert {"Row", "Step", "Result", "Upload", "Problem"} <= schemas.keys()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_field_that_the_server_does_not_send_is_an_error_of_the_page(server, browser):
    def ask():
        with open_page(browser, server.address) as page:
            page.go()
            page.evaluate("fetch('/api/about').then((answer) => answer.json()).then((one) => one.nothing)")

    with pytest.raises(AssertionError, match=r"About\.nothing"):
        ask()
