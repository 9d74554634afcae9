"""How values show themselves in a notebook: sheets, figures and tables."""

import io
import subprocess
import sys
import types

import numpy as np
from PIL import Image

from ddim.plots.charts import new_figure, rasterise
from ddim.plots.table import Table, Tabular


def test_a_figure_shows_itself_as_a_picture_and_leaves_pyplot_alone():
    one, other = (new_figure(2, 1) for _ in range(2))
    for figure in (one, other):
        figure.add_subplot().plot([0, 1], [1, 2])
    with Image.open(io.BytesIO(one._repr_png_())) as picture:
        assert np.array_equal(np.asarray(picture), rasterise(other))
    # Another test may have imported pyplot: a fresh process has not.
    program = "import sys; from ddim.plots.charts import new_figure; "
    program += "new_figure(2, 1)._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


class Some(Tabular):
    def __init__(self, count):
        self.count = count

    def to_records(self):
        return [{"name": f"<{k}>", "value": k / 3 if k else None, "n": 1000 * k} for k in range(self.count)]


def test_a_result_is_text_html_and_a_data_frame(monkeypatch):
    assert repr(Some(2)) == "Some\nname  value   n\n<0>           0\n<1>   0.3333  1,000"
    assert "<td>&lt;1&gt;</td><td>0.3333</td>" in Some(2)._repr_html_()
    assert len(repr(Some(1000)).splitlines()) == 27
    for text in (repr(Some(1000)), Some(1000)._repr_html_()):
        assert "24 of 1,000 rows are shown" in text
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=list))
    assert Some(2).to_frame()[0] == {"name": "<0>", "value": None, "n": 0}


def test_a_table_is_text_and_csv():
    table = Table(["name", "KID"], [["a", 0.5], ["b, c", None], ["\x1b[1m", 1234]], ["a note"], words=1)
    lines = str(table).splitlines()
    assert lines[0].split() == ["name", "KID"]
    assert {len(line) for line in (lines[0], lines[1], lines[3])} == {len(lines[0])}
    assert lines[4] == "a note"
    assert "\x1b" not in str(table)
    assert table.to_csv().splitlines()[:3] == ["name,KID", "a,0.5", '"b, c",']
    records = [{"a": 1}, {"b": 2, "a": 3}]
    assert Table.from_records(records).rows == [[1, None], [3, 2]]
