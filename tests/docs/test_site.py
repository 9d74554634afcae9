"""The pages that are written from the program, and the check of a built site."""

import re

import pytest

import ddim
from ddim.cli.commands import COMMANDS
from ddim.cli.signatures import read_signature
from examples import DOCS, ROOT


@pytest.fixture(scope="module", autouse=True)
def extensions():
    """The modules of docs/extensions can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "extensions"))
        yield


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_a_command_has_each_option_and_example_of_its_help(name):
    import command_pages

    page, signature = command_pages.write_command(name), read_signature(COMMANDS[name])
    assert [option for option in signature.options if option.lstrip("-") not in page] == []
    assert [line for line in signature.doc.commands.splitlines() if line.split("   ")[0] not in page] == []


def test_the_reference_has_every_public_name_once():
    import api_pages

    groups = api_pages.list_groups()
    assert [name for names in groups.values() for name in names] == ddim.__all__
    assert len(groups) > 8
    assert "plot_schedules" in groups["Figures"]


def test_every_test_that_the_theory_names_exists():
    import tested_page

    wanted = set(tested_page.LINK.findall((DOCS / "theory.md").read_text()))
    assert wanted <= tested_page.find_tests().keys()
    assert len(wanted) > 25


GOOD = '<link rel="stylesheet" href="a.css"><p id="here"><a href="#here">x</a></p>{}'
BAD = {
    '<script src="https://cdn.example/x.js"></script>': "loads https://cdn.example/x.js",
    '<script src="//cdn.example/x.js"></script>': "loads //cdn.example/x.js",
    '<img src="http://images.example/x.png">': "loads http://images.example/x.png",
    '<p style="background: url(https://images.example/x.png)">': "loads https://images.example/x.png",
    '<style>@import "https://fonts.example/x.css";</style>': "loads https://fonts.example/x.css",
    '<a href="missing.html">x</a>': "links to missing.html",
    '<a href="#nowhere">x</a>': "links to #nowhere",
    '<a href="index.html#nowhere">x</a>': "links to index.html#nowhere",
    '<img src="missing.png">': "links to missing.png",
}


@pytest.mark.parametrize("text", BAD)
def test_a_page_that_loads_from_another_host_or_links_to_nothing_is_found(text, tmp_path):
    import site_check

    (tmp_path / "a.css").write_text("p { background: url(data:image/png;base64,AA) }")
    (tmp_path / "index.html").write_text(GOOD.format('<a href="https://example.org">elsewhere</a>'))
    assert site_check.list_faults(tmp_path) == []
    (tmp_path / "page.html").write_text(GOOD.format(text))
    (fault,) = site_check.list_faults(tmp_path)
    assert fault.startswith(f"page.html {BAD[text]}")


def test_a_style_sheet_that_loads_from_another_host_is_found(tmp_path):
    import site_check

    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.example/x.woff2') }")
    assert site_check.list_faults(tmp_path) == ["a.css loads https://fonts.example/x.woff2"]


LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
PAGES = [*ROOT.glob("*.md"), *(p for p in DOCS.rglob("*.md") if p.parts[-2] not in ("commands", "api"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = target.partition("#")[0]
        # Pages that are written by a build are checked there.
        written = path.endswith(".rst") or "commands/" in path or path.endswith("tested.md")
        if path and "://" not in path and not written:
            assert (page.parent / path).exists(), target


def test_pages_that_the_source_names_exist():
    paths = [path for folder in ("src", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    names = {
        name for path in paths for name in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8"))
    }
    assert [name for name in names if not (ROOT / name).is_file()] == []
    assert len(names) > 4
