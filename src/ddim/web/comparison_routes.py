"""The addresses that compare runs: the ranking by a metric, and the report on a sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ddim.evaluation.record import FOLDER, list_evaluations
from ddim.metrics.catalogue import METRICS
from ddim.web.answers import Refused, reply
from ddim.web.rows import show_text
from ddim.web.run_list import ListedRun
from ddim.web.sample_routes import Services, do_task
from ddim.web.tasks import CompareTask, ReportTask

MOST = 64
"""The largest number of runs in a comparison."""
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
)
"""The content security policy of a report. A report is one file that contains its style and its pictures, and
no scripts.
"""


@dataclass(frozen=True)
class RankedRun:
    """A run in a ranking.

    `distinguishable` says in words whether the value of this run differs from that of the first run that was
    asked for.
    """

    id: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    distinguishable: str | None


@dataclass(frozen=True)
class ExcludedRun:
    """A run that cannot be ranked, and why."""

    id: str
    name: str
    why: str


@dataclass(frozen=True)
class Ranking:
    """Runs ranked by a metric, best first."""

    metric: str
    lower_is_better: bool
    rows: list[RankedRun]
    differs: dict[str, list[Any]]
    excluded: list[ExcludedRun]


def add_comparison_routes(router: APIRouter, services: Services) -> None:
    """Add the addresses that compare runs to a router."""

    @router.get("/compare", response_model=Ranking)
    async def compare(
        request: Request, runs: Annotated[str, Query(max_length=20_000)], metric: str = "kid"
    ) -> Response:
        if metric not in METRICS:
            raise Refused(422, f"metric must be one of {', '.join(METRICS)}")
        names = list(dict.fromkeys(filter(None, runs.split(","))))
        if not 2 <= len(names) <= MOST:
            raise Refused(422, f"a comparison needs 2 to {MOST} runs, got {len(names)}")
        chosen = [(own, await services.feed.find_run(own)) for own in names]
        missing = []
        places: dict[str, tuple[str, ListedRun]] = {}
        for own, known in chosen:
            record = _newest_record(known)
            if record is None:
                why = "it has no evaluation: make one with `ddim evaluate`"
                missing.append(ExcludedRun(own, known.row.name, why))
            else:
                places[str(record)] = own, known
        if len(places) < 2:
            return reply(Ranking(metric, METRICS[metric].lower_is_better, [], {}, missing))
        found = await do_task(services, request, CompareTask(list(places), metric))
        return reply(_rank(metric, found, places, missing))

    @router.get("/sweeps/{sweep}/report", response_class=Response)
    async def show_report(sweep: str, request: Request) -> Response:
        await services.feed.refresh()
        path = services.feed.find_sweep(sweep)
        if path is None:
            raise Refused(404, "there is no sweep of this name")
        own, folder = services.stores.results.make()
        try:
            out = folder / "report.html"
            await do_task(services, request, ReportTask(str(path), str(out), show_text(path.name)))
            content = await asyncio.to_thread(out.read_bytes)
        finally:
            services.stores.results.discard(own)
        return Response(content, headers={"Content-Security-Policy": REPORT_POLICY}, media_type="text/html")


def _newest_record(known: ListedRun) -> Path | None:
    """Return the folder of the newest evaluation of a run, or None if it has no evaluation."""
    if known.row.state == "damaged" or not (known.run.path / FOLDER).is_dir():
        return None
    folders = list_evaluations(known.run.path)
    return folders[-1] if folders else None


def _rank(
    metric: str,
    found: Mapping[str, Any],
    places: Mapping[str, tuple[str, ListedRun]],
    missing: Sequence[ExcludedRun],
) -> Ranking:
    rows, excluded, kept = [], list(missing), []
    for number, each in enumerate(found["rows"]):
        own, known = places[each["folder"]]
        name = known.row.name
        if each["unranked"] is not None:
            excluded.append(ExcludedRun(own, name, each["unranked"]))
            continue
        kept.append(number)
        interval = (each["value"], each["low"], each["high"])
        rows.append(RankedRun(own, name, *interval, each["distinguishable"]))
    differs = {name: [values[k] for k in kept] for name, values in found["differs"].items()}
    return Ranking(metric, METRICS[metric].lower_is_better, rows, differs, excluded)
