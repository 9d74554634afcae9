"""Callbacks that report a training to an experiment tracker: Weights & Biases, MLflow or Trackio.

Example:
    >>> ddim.train("photos/", callbacks=[WandB(project="flowers")])
"""

from __future__ import annotations

import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from ddim.errors import UserError, suggest, warn_user
from ddim.files import read_sealed
from ddim.plots.pictures import enlarge
from ddim.runs.folder import RUN, record_in_run
from ddim.training.callbacks import Callback, describe_choices
from ddim.training.trainer import Trainer

if TYPE_CHECKING:
    import numpy as np


class Tracker(Callback, ABC):
    """Base class: reports each line of the log, the fields of the recipe and the sheets of samples.

    The run folder records the id of the run in the tracker, and a resumed run continues under this id.
    If the tracker fails during training, a warning says so once, and the training goes on without it.

    Args:
        project: name of the project in the tracker.

    Raises:
        UserError: if the package of the tracker is not installed.
    """

    title: ClassVar[str]
    package: ClassVar[str]
    install: ClassVar[str]

    def __init__(self, project: str = "ddim") -> None:
        self.project, self._failed = project, False
        try:
            self.api: ModuleType = import_module(self.package)
        except ImportError as error:
            why = f"needs the package {self.package}, which cannot be imported ({error})"
            raise UserError(f"{self.title} {why}: {self.install}") from error

    @abstractmethod
    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        """Begin or continue the run in the tracker, and return its id there.

        Args:
            folder: the run folder; its name is the name of the run.
            fields: the recipe as text, keyed by field path.
            known: the id of the run that is continued; None for a new one.
        """

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Report values of a step, keyed by name."""

    @abstractmethod
    def show(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Report an image, (H, W, C) uint8, under a name."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """End the run in the tracker; `finished` is False if it was stopped and can be resumed."""

    def on_start(self, training: Trainer, folder: Path) -> None:
        """See `Callback`.

        Raises:
            UserError: if the tracker cannot start, for example without a network or without a login.
        """
        known = read_sealed(folder / RUN).get("trackers", {})
        try:
            mine = self.open(folder, describe_choices(training), known.get(self.package))
        except Exception as error:
            raise UserError(f"{self.title} cannot start: {' '.join(str(error).split())}") from error
        record_in_run(folder, trackers={**known, self.package: mine})

    def on_log(self, training: Trainer, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._try(lambda: self.log(training.step, {"images": training.seen, **finite}))

    def on_sheet(self, training: Trainer, sheet: np.ndarray) -> None:
        """See `Callback`."""
        self._try(lambda: self.show(training.step, "samples", enlarge(sheet)))

    def on_end(self, training: Trainer) -> None:
        """See `Callback`."""
        self._try(lambda: self.close(training.complete))

    def _try(self, work: Callable[[], None]) -> None:
        """Call `work`; after its first failure, of any kind, warn once and do nothing more."""
        if self._failed:
            return
        try:
            work()
        except Exception as error:
            self._failed = True
            text = " ".join(str(error).split())
            warn_user(f"the training goes on without {self.title}, which failed: {text}")


class WandB(Tracker):
    """Reports a training to Weights & Biases; WANDB_MODE=offline keeps everything in the run folder.

    See `Tracker`. The horizontal axis of the charts is the number of training images.
    """

    title, package, install = "Weights & Biases", "wandb", 'pip install "ddim[wandb]"'

    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        """See `Tracker`."""
        self.run = self.api.init(
            project=self.project,
            name=folder.name,
            dir=str(folder),
            id=known or uuid.uuid4().hex[:12],
            resume="allow",
            config=dict(fields),
            # A run that the caller has open stays as it is, and so does the caller's terminal.
            reinit="create_new",
            settings=self.api.Settings(console="off"),
        )
        self.run.define_metric("*", step_metric="images")
        return self.run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.run.log({"step": step, **values})

    def show(self, step: int, name: str, pixels: np.ndarray) -> None:
        """See `Tracker`."""
        self.run.log({name: self.api.Image(pixels), "step": step})

    def close(self, finished: bool) -> None:
        """See `Tracker`."""
        self.run.finish(exit_code=0 if finished else 1)


class MLflow(Tracker):
    """Reports a training to MLflow, to the server or file that MLFLOW_TRACKING_URI names.

    See `Tracker`. MLflow calls a project an experiment.
    """

    title, package, install = "MLflow", "mlflow", 'pip install "ddim[mlflow]"'

    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        """See `Tracker`."""
        # A client changes neither the active run nor the tracking server of the caller.
        self.client = self.api.MlflowClient()
        if known is not None:
            self.client.update_run(known, status="RUNNING")
            self.id = known
            return known
        found = self.client.get_experiment_by_name(self.project)
        place = found.experiment_id if found else self.client.create_experiment(self.project)
        self.id = self.client.create_run(place, run_name=folder.name).info.run_id
        for name, value in fields.items():
            self.client.log_param(self.id, name, value)
        return self.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        entries = [self.api.entities.Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=entries)

    def show(self, step: int, name: str, pixels: np.ndarray) -> None:
        """See `Tracker`."""
        self.client.log_image(self.id, pixels, artifact_file=f"{name}/step-{step:09d}.png")

    def close(self, finished: bool) -> None:
        """See `Tracker`."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class Trackio(Tracker):
    """Reports a training to Trackio, which keeps it on this machine; `trackio show` displays it.

    See `Tracker`.
    """

    title, package, install = "Trackio", "trackio", "see docs/trackers.md, because it needs an older Pillow"

    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        """See `Tracker`."""
        name = known or f"{folder.name}-{uuid.uuid4().hex[:6]}"
        self.run = self.api.init(
            self.project, name, config=dict(fields), resume="allow", embed=False, auto_log_gpu=False
        )
        return name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.run.log(dict(values), step=step)

    def show(self, step: int, name: str, pixels: np.ndarray) -> None:
        """See `Tracker`."""
        self.run.log({name: self.api.Image(pixels)}, step=step)

    def close(self, finished: bool) -> None:
        """See `Tracker`."""
        self.run.finish()


TRACKERS: dict[str, type[Tracker]] = {kind.package: kind for kind in (WandB, MLflow, Trackio)}
"""The trackers, keyed by the name that `ddim train --track` takes."""


def make_tracker(name: str) -> Tracker:
    """Return a new tracker of the kind `name`, such as "wandb".

    Raises:
        UserError: if there is no such tracker, or its package is not installed.
    """
    if name not in TRACKERS:
        raise UserError(f"--track must be {', '.join(TRACKERS)}, got {name!r}{suggest(name, list(TRACKERS))}")
    return TRACKERS[name]()
