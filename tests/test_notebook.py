"""The snippets of docs/notebook.md run as they stand."""

import linecache
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import stubs

PAGE = Path(__file__).parent.parent / "docs" / "notebook.md"


def list_snippets():
    """Each block of Python on the page, with its first line."""
    text = PAGE.read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: found.start(1)].count("\n") + 1, found[1]


@pytest.mark.moves_global_rng
@pytest.mark.parametrize("images", ["images=32", pytest.param("as they stand", marks=pytest.mark.slow)])
def test_the_snippets_of_the_notebook_run(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in ("evaluate", "tabulate"):
        # The features of the network itself are tested elsewhere; here they would take most of the time.
        monkeypatch.setattr(f"ddim.evaluation.{module}.load_extractor", lambda *_: stubs.stub())
    space = {"__name__": "__main__"}
    for line, text in list_snippets():
        if images != "as they stand":
            text = re.sub(r"\bimages=\d+", images, text)  # noqa: PLW2901
        name = f"<{PAGE.name}, line {line}>"
        # As a notebook does, so that the source of classes can be found.
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), space)
    plt.close("all")
    assert len(list((tmp_path / "runs" / "mine" / "checkpoints").iterdir())) > 0
    assert {"photos-smoke-1", "tensor", "short", "mine"} <= {path.name for path in Path("runs").iterdir()}
    assert repr(space["table"]) == "EvaluationTable(kid, 3 x 2, 20 samples each)"
    assert type(space["mine"].recipe.schedule) is space["Sigmoid"]
