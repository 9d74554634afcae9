"""A matplotlib figure that shows itself in a notebook."""

from __future__ import annotations

from matplotlib.figure import Figure

from ddim.plots.charts import rasterise
from ddim.plots.pictures import render_png


class Chart(Figure):
    """A figure that shows itself in a notebook, without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        return render_png(rasterise(self))
