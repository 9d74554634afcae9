"""Pages: no text becomes markup, and the HTML file needs no other address."""

import base64
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ddim.errors import UserError
from ddim.plots.page import (
    Cell,
    Code,
    Folded,
    Heading,
    Picture,
    Strips,
    Table,
    Text,
    check_page_path,
    save_page,
    to_html,
    to_markdown,
)
from html_reader import Reader

NASTY = "<script src='http://evil.example'>alert(\"1\")</script> & | `x` [a](b) *b* _c_ $d$"
PNG = b"\x89PNG not really"


def blocks(text):
    """Return every kind of block, with a text in every place."""
    return [
        Heading(text),
        Text(text),
        Table((text, "n"), [(Cell(text), Cell(text, best=True))], 1, (text,)),
        Picture("a.png", text),
        Strips([(text, "a.png")]),
        Folded(text, [Text(text), Picture("a.png", text)]),
        Code(text),
    ]


@pytest.mark.parametrize("place", range(7))
def test_no_text_becomes_markup(place):
    plain = Reader(to_html("t", [blocks("x")[place]], {"a.png": PNG}))
    nasty = Reader(to_html(NASTY, [blocks(NASTY)[place]], {"a.png": PNG}))
    assert [tag for tag, _ in nasty.elements] == [tag for tag, _ in plain.elements]
    assert NASTY in nasty.texts
    alike = [{k: v for k, v in attrs.items() if k != "alt"} for _, attrs in nasty.elements]
    assert alike == [{k: v for k, v in attrs.items() if k != "alt"} for _, attrs in plain.elements]
    assert all(attrs["alt"] == NASTY for tag, attrs in nasty.elements if tag == "img")


def test_a_program_cannot_leave_its_fence():
    text = "a\n```\n# not a title\n````"
    lines = to_markdown("t", [Code(text)], "x").splitlines()
    first = lines.index("`````python")
    assert "\n".join(lines[first + 1 : first + 5]) == text
    assert lines[first + 5] == "`````"


@given(st.text(max_size=40))
@example("0\r\n0")
def test_any_text_reads_back_unchanged(text):
    page = Reader(to_html("t", [Text(text)], {}))
    # An HTML parser may turn every line end into one kind.
    assert one_line_end(text) in one_line_end("".join(page.texts))
    assert page.open == []


def one_line_end(text):
    """Return a text whose lines all end with a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


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


def test_a_markdown_table_keeps_its_shape_for_any_text():
    text = to_markdown("t", [Table(("a", "n"), [(Cell("x | y\nz"), Cell("1", best=True))], 1)], "files")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[1] == "| --- | ---: |"
    assert rows[2] == r"| x \| y z | **1** |"
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


@given(st.text(st.sampled_from("<>[]()*_`|\\#!&$~ab\n "), max_size=30))
def test_every_special_sign_of_markdown_is_escaped(text):
    said = to_markdown("t", [Text(text)], "files").split("\n\n", 2)[2]
    bare = re.sub(r"\\[\\`*_{}\[\]()#+!|<>~&$]", "", said)
    assert not set(bare) & set("<>[]()*_`|\\#!&$~")


def test_markdown_links_to_the_images_beside_it():
    text = to_markdown("t", [Picture("a.png", "losses"), Strips([("one", "b.png")])], "report-files")
    assert "![losses](report-files/a.png)" in text
    assert "![one](report-files/b.png)" in text


def test_only_the_images_of_a_page_of_ours_are_replaced(tmp_path):
    out, picture = tmp_path / "page.html", tmp_path / "page-files" / "001.png"
    picture.parent.mkdir()
    picture.write_text("precious")
    for look in (check_page_path, lambda out: save_page(out, "t", [], {"001.png": PNG})):
        with pytest.raises(UserError, match="page-files exists and was not made by ddim"):
            look(out)
    assert picture.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [picture.parent]
    picture.unlink()
    picture.parent.rmdir()
    for png in (b"old", PNG):
        save_page(out, "t", [Picture("001.png", "one")], {"001.png": png})
        assert picture.read_bytes() == png


def test_a_page_whose_writing_failed_can_be_written_again(tmp_path):
    with pytest.raises(TypeError):
        save_page(tmp_path / "page.html", "t", [], {"001.png": PNG, "002.png": None})
    save_page(tmp_path / "page.html", "t", [], {"001.png": PNG, "002.png": PNG})
    assert (tmp_path / "page-files" / "002.png").read_bytes() == PNG


def test_a_folder_in_place_of_a_page_and_a_file_in_place_of_its_images_are_refused(tmp_path):
    for name in ("a.html", "b.md"):
        (tmp_path / name).mkdir()
    (tmp_path / "c-files").touch()
    save_page(tmp_path / "d.html", "t", [], {})
    (tmp_path / "d-files").rmdir()
    (tmp_path / "d-files").touch()
    for name, what in (("a", "a.html"), ("b", "b.md"), ("c", "c-files"), ("d", "d-files")):
        with pytest.raises(UserError, match=f"{what} exists and was not made by ddim"):
            check_page_path(tmp_path / f"{name}.html")
