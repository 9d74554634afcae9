"""Callbacks that report a training to an experiment tracker: Weights & Biases or MLflow.

Example:
    >>> ddim.train("photos/", callbacks=[WandB(project="flowers")])
"""

import math
import time
import uuid
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ddim.errors import UserError, suggest, warn_user
from ddim.files import read_sealed
from ddim.plots.pictures import enlarge
from ddim.runs.folder import RUN, record_in_run
from ddim.training.callbacks import Callback, describe_choices
from ddim.training.trainer import Trainer


class Tracker(Callback):
    """Base class: reports each line of the log, the fields of the recipe and the sheets of samples.

    The run folder records the id of the run in the tracker, and a resumed run continues under this id.
    If the tracker fails during training, a warning says so once, and the training goes on without it.

    Args:
        project: name of the project in the tracker.

    Raises:
        UserError: if the package of the tracker is not installed, or the tracker cannot start.
    """

    package: ClassVar[str]

    def __init__(self, project: str = "ddim") -> None:
        self.project, self.works = project, True
        try:
            self.api: Any = import_module(self.package)
        except ImportError as error:
            advice = f'pip install "ddim[{self.package}]"'
            raise UserError(f"{self.package} cannot be imported ({error}): {advice}") from error

    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        """Begin a run in the tracker, or continue the run with the id `known`; return its id there.

        Args:
            folder: the run folder; its name is the name of the run.
            fields: the recipe as text, keyed by field path.
            known: the id of the run that is continued; None for a new one.
        """
        raise NotImplementedError

    def on_start(self, training: Trainer, folder: Path) -> None:
        """See `Callback`."""
        known = read_sealed(folder / RUN).get("trackers", {})
        try:
            mine = self.open(folder, describe_choices(training), known.get(self.package))
        except Exception as error:
            raise UserError(f"{self.package} cannot start: {error}") from error
        record_in_run(folder, trackers={**known, self.package: mine})

    def report(self, send: Callable[[], object]) -> None:
        """Call `send`; after its first failure, of any kind, warn once and do nothing more."""
        try:
            if self.works:
                send()
        except Exception as error:  # noqa: BLE001  (a tracker must not end a training)
            self.works = False
            warn_user(f"the training goes on without {self.package}, which failed: {error}")


def select_finite(training: Trainer, values: Mapping[str, float]) -> dict[str, float]:
    """Return the finite values of a line of the log, with the number of images seen."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    return {"images": training.seen, **finite}


class WandB(Tracker):
    """Reports a training to Weights & Biases; WANDB_MODE=offline keeps everything in the run folder.

    See `Tracker`. The horizontal axis of the charts is the number of training images.
    """

    package = "wandb"

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

    def on_log(self, training: Trainer, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        line = {"step": training.step, **select_finite(training, values)}
        self.report(lambda: self.run.log(line))

    def on_sheet(self, training: Trainer, sheet: np.ndarray) -> None:
        """See `Callback`."""
        self.report(lambda: self.run.log({"samples": self.api.Image(enlarge(sheet)), "step": training.step}))

    def on_end(self, training: Trainer) -> None:
        """See `Callback`."""
        self.report(lambda: self.run.finish(exit_code=0 if training.complete else 1))


class MLflow(Tracker):
    """Reports a training to MLflow, to the server or file that MLFLOW_TRACKING_URI names.

    See `Tracker`. MLflow calls a project an experiment.
    """

    package = "mlflow"

    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        """See `Tracker`."""
        # A client changes neither the active run nor the tracking server of the caller.
        self.client = self.api.MlflowClient()
        if known is None:
            experiment = self.client.get_experiment_by_name(self.project)
            place = experiment.experiment_id if experiment else self.client.create_experiment(self.project)
            known = self.client.create_run(place, run_name=folder.name).info.run_id
            for name, value in fields.items():
                self.client.log_param(known, name, value)
        else:
            self.client.update_run(known, status="RUNNING")
        self.id = known
        return known

    def on_log(self, training: Trainer, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        now, metric = int(time.time() * 1000), self.api.entities.Metric
        line = select_finite(training, values).items()
        entries = [metric(name, value, now, training.step) for name, value in line]
        self.report(lambda: self.client.log_batch(self.id, metrics=entries))

    def on_sheet(self, training: Trainer, sheet: np.ndarray) -> None:
        """See `Callback`."""
        file = f"samples/step-{training.step:09d}.png"
        self.report(lambda: self.client.log_image(self.id, enlarge(sheet), artifact_file=file))

    def on_end(self, training: Trainer) -> None:
        """See `Callback`."""
        status = "FINISHED" if training.complete else "KILLED"
        self.report(lambda: self.client.set_terminated(self.id, status))


def make_tracker(name: str) -> Tracker:
    """Return a new tracker of the kind `name`, such as "wandb".

    Raises:
        UserError: if there is no such tracker, or its package is not installed.
    """
    kinds = {kind.package: kind for kind in (WandB, MLflow)}
    if name not in kinds:
        raise UserError(f"--track must be {', '.join(kinds)}, got {name!r}{suggest(name, kinds)}")
    return kinds[name]()
