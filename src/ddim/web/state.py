"""What the addresses of a server share."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from ddim.files import is_locked
from ddim.web.answers import Refused
from ddim.web.jobs import Job, WorkThread
from ddim.web.processes import Processes
from ddim.web.results import ResultStore
from ddim.web.runs import ListedRun, RunList
from ddim.web.settings import Settings


@dataclass(frozen=True)
class Server:
    """The settings of a server, its runs, its threads, its commands, its results and its jobs.

    `models` samples, `images` reads sets of images, and `records` compares runs: none waits for another.

    `jobs` has the jobs that make images and have not ended, keyed by the id of their result.
    """

    settings: Settings
    runs: RunList
    models: WorkThread
    images: WorkThread
    records: WorkThread
    processes: Processes
    store: ResultStore
    jobs: dict[str, Job]

    def may_change(self, known: ListedRun) -> bool:
        """Return whether the page may change a run: no trial of a sweep, and not the folder of the page."""
        own = known.run.sweep is None and known.run.path != self.settings.folder
        return self.settings.may_train and own

    def find_changeable(self, run: str) -> ListedRun:
        """Return a run that the page may change.

        Raises:
            Refused: if the run is in use, or is part of a sweep or the folder of the page.
        """
        known = self.runs.find(run)
        path = known.run.path
        if not self.may_change(known):
            raise Refused(409, "this run belongs to a sweep, or is the folder of the page")
        if is_locked(path) or self.processes.list_names(path):
            raise Refused(409, "this run is in use: stop it first")
        return known


def _find_server(request: Request) -> Server:
    return request.app.state.server


Here = Annotated[Server, Depends(_find_server)]
"""The argument of an address that gets its server."""


def _check_allowed(here: Here) -> Server:
    if not here.settings.may_train:
        raise Refused(403, "this server may not train or change runs: start it with --data FOLDER")
    return here


Allowed = Annotated[Server, Depends(_check_allowed)]
"""As `Here`, for an address that needs --data, such as one that changes a run; without, it answers 403."""
