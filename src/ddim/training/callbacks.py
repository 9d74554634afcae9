"""Callbacks: what a user's code can do while a training runs, and reports to Weights & Biases or MLflow.

Example:
    >>> ddim.train("photos/", callbacks=[WandB(project="flowers")])
"""

import math
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ddim.errors import explain_errors, warn_user
from ddim.files import read_sealed
from ddim.plots.pictures import enlarge
from ddim.recipe.codec import dump
from ddim.recipe.options import flatten_as_text
from ddim.runs.folder import RUN, record_in_run
from ddim.training.trainer import Trainer


class Callback:
    """Base class of callbacks: each method does nothing unless a subclass overrides it.

    A method may call `training.stop("a reason")`: the run is saved after this step and ends.

    Example:
        >>> class StopEarly(ddim.Callback):
        ...     def on_validation(self, training, values):
        ...         if values["image_mae"] < 0.2:
        ...             training.stop("good enough")
        >>> ddim.train("photos/", callbacks=[StopEarly()])
    """

    def on_start(self, training: Trainer, folder: Path) -> None:
        """Called before the first step of this process, in a new or a resumed run."""

    def on_step(self, training: Trainer, values: Mapping[str, float]) -> None:
        """Called after each step, with its loss, gradient norm and learning rate; see `StepValues`."""

    def on_log(self, training: Trainer, values: Mapping[str, float]) -> None:
        """Called after each line of the log, with its values.

        These are mean losses, results of a validation, or the threads and planned images after a change.
        """

    def on_sheet(self, training: Trainer, sheet: np.ndarray) -> None:
        """Called at each validation, before `on_validation`, with a sheet of samples (H, W, 3) uint8."""

    def on_validation(self, training: Trainer, values: dict[str, float]) -> None:
        """Called after each validation, with its results."""

    def on_checkpoint(self, training: Trainer, path: Path) -> None:
        """Called after each checkpoint, with its folder."""

    def on_change(self, training: Trainer, text: str) -> None:
        """Called with a sentence when the training changes, or when other programs slow it down.

        The training length can change, and so can the numbers of threads and parts of a batch.
        """

    def on_end(self, training: Trainer) -> None:
        """Called after the last step of this process, whether the run is finished or stopped."""


class Tracker(Callback):
    """Base class: reports each line of the log, the fields of the recipe and the sheets of samples.

    The run folder records the id of the run in the tracker, and a resumed run continues under this id.
    If the tracker fails during training, a warning says so once, and the training goes on without it.
    A subclass names its `package` and has the methods `open`, `send`, `show` and `close`.

    Args:
        project: name of the project in the tracker.

    Raises:
        UserError: if the package of the tracker is not installed, or the tracker cannot start; see
            docs/trackers.md.
    """

    package: ClassVar[str]
    open: Callable[..., str]

    def __init__(self, project: str = "ddim") -> None:
        self.project, self.works = project, True
        with explain_errors("reports need another package", f"pip install {self.package}", ImportError):
            self.api: Any = import_module(self.package)

    def on_start(self, training: Trainer, folder: Path) -> None:
        """Begin a run in the tracker, named like the run folder, or continue the one with a known id."""
        known, recipe = read_sealed(folder / RUN).get("trackers", {}), training.recipe
        with explain_errors(f"{self.package} cannot start"):
            fields = {"recipe": recipe.name, **flatten_as_text(dump(recipe))}
            mine = self.open(folder, fields, known.get(self.package))
        record_in_run(folder, trackers={**known, self.package: mine})

    def on_log(self, training: Trainer, values: Mapping[str, float]) -> None:
        """Send the finite values of a line of the log, with the number of images seen."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._try("send", training.step, {"images": training.seen, **finite})

    def on_sheet(self, training: Trainer, sheet: np.ndarray) -> None:
        """Show a sheet of samples (H, W, 3), enlarged."""
        self._try("show", training.step, enlarge(sheet))

    def on_end(self, training: Trainer) -> None:
        """Close the run in the tracker."""
        self._try("close", training.complete)

    def _try(self, method: str, *values: object) -> None:
        """Call a method of the subclass; after its first failure, of any kind, warn once and do no more."""
        try:
            if self.works:
                getattr(self, method)(*values)
        except Exception as error:  # noqa: BLE001  (a tracker must not end a training)
            self.works = False
            warn_user(f"the training goes on without {self.package}, which failed: {error}")


class WandB(Tracker):
    """Reports a training to Weights & Biases; WANDB_MODE=offline keeps everything in the run folder.

    See `Tracker`. The horizontal axis of the charts is the number of training images.
    """

    package = "wandb"

    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        place = {"project": self.project, "name": folder.name, "dir": str(folder)}
        # A run that the caller has open stays as it is, and so does the caller's terminal.
        kept = {"reinit": "create_new", "settings": self.api.Settings(console="off")}
        self.run = self.api.init(**place, id=known, resume="allow", config=dict(fields), **kept)
        self.run.define_metric("*", step_metric="images")
        return self.run.id

    def send(self, step: int, line: Mapping[str, float]) -> None:
        self.run.log({"step": step, **line})

    def show(self, step: int, sheet: np.ndarray) -> None:
        self.run.log({"samples": self.api.Image(sheet), "step": step})

    def close(self, complete: bool) -> None:
        self.run.finish(exit_code=0 if complete else 1)


class MLflow(Tracker):
    """Reports a training to MLflow, to the server or file that MLFLOW_TRACKING_URI names.

    See `Tracker`. MLflow calls a project an experiment.
    """

    package = "mlflow"

    def open(self, folder: Path, fields: Mapping[str, str], known: str | None) -> str:
        # A client changes neither the active run nor the tracking server of the caller.
        self.client = self.api.MlflowClient()
        if known is None:
            experiment = self.client.get_experiment_by_name(self.project)
            place = experiment.experiment_id if experiment else self.client.create_experiment(self.project)
            known = self.client.create_run(place, run_name=folder.name).info.run_id
            for name, value in fields.items():
                self.client.log_param(known, name, value)
        self.client.update_run(known, status="RUNNING")
        self.id = known
        return known

    def send(self, step: int, line: Mapping[str, float]) -> None:
        now, metric = int(time.time() * 1000), self.api.entities.Metric
        entries = [metric(name, value, now, step) for name, value in line.items()]
        self.client.log_batch(self.id, metrics=entries)

    def show(self, step: int, sheet: np.ndarray) -> None:
        self.client.log_image(self.id, sheet, artifact_file=f"samples/step-{step:09d}.png")

    def close(self, complete: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if complete else "KILLED")


TRACKERS: dict[str, type[Tracker]] = {"wandb": WandB, "mlflow": MLflow}
"""The trackers, keyed by their names in a command."""
