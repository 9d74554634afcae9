"""Pages: no text becomes markup, and the HTML file needs no other address."""

import base64

import pytest

from ddim.errors import UserError
from ddim.plots.page import (
    Folded,
    Heading,
    Picture,
    Strips,
    Text,
    save_page,
    to_html,
)
from ddim.plots.table import Table
from html_reader import Reader

NASTY = "<script src='http://evil.example'>alert(\"1\")</script> & | `x` [a](b) *b* _c_ $d$"
PNG = b"\x89PNG not really"


def blocks(text):
    """Return every kind of block, with a text in every place."""
    return [
        Heading(text),
        Text(text),
        Table((text, "n"), [(text, text)], (text,), words=1, best={(0, 1)}),
        Picture("a.png", text),
        Strips([(text, "a.png")]),
        Folded(text, [Text(text), Picture("a.png", text)]),
    ]


@pytest.mark.parametrize("place", range(6))
def test_no_text_becomes_markup(place):
    plain = Reader(to_html("t", [blocks("x")[place]], {"a.png": PNG}))
    nasty = Reader(to_html(NASTY, [blocks(NASTY)[place]], {"a.png": PNG}))
    assert [tag for tag, _ in nasty.elements] == [tag for tag, _ in plain.elements]
    assert NASTY in nasty.texts
    alike = [{k: v for k, v in attrs.items() if k != "alt"} for _, attrs in nasty.elements]
    assert alike == [{k: v for k, v in attrs.items() if k != "alt"} for _, attrs in plain.elements]
    assert all(attrs["alt"] == NASTY for tag, attrs in nasty.elements if tag == "img")


def test_a_page_holds_its_images_and_loads_nothing():
    page = Reader(to_html("t", blocks("x"), {"a.png": PNG}))
    sources = [attrs["src"] for tag, attrs in page.elements if tag == "img"]
    assert len(sources) == 3
    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == PNG
    assert not any({"href", "srcset", "action"} & set(attrs) for _, attrs in page.elements)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form", "a"}
    assert "url(" not in to_html("t", blocks("x"), {"a.png": PNG})
    assert "@import" not in to_html("t", [], {})


def test_only_an_earlier_page_is_replaced(tmp_path):
    out = tmp_path / "page.html"
    for title in ("first", "second"):
        save_page(out, title, [Picture("a.png", "one")], {"a.png": PNG})
        assert title in out.read_text()
    out.write_text("precious")
    with pytest.raises(UserError, match="not made by ddim"):
        save_page(out, "t", [], {})
    with pytest.raises(UserError, match="folder that exists"):
        save_page(tmp_path / "nowhere" / "page.html", "t", [], {})
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert out.read_text() == "precious"
