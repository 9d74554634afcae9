"""Reconstruct weight averages of any width from the snapshots of a run (Karras et al. 2024, appendix C)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddim.errors import UserError, to_float
from ddim.files import is_locked
from ddim.nn import power_averages
from ddim.nn.power_averages import Combination, Profile, power_of_width, relative_width
from ddim.plots.table import Tabular
from ddim.recipe.codec import load_recipe
from ddim.runs import averages, checkpoint
from ddim.runs.averages import Snapshot, StoredAverage
from ddim.runs.names import resolve

WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
"""The widths that `list_averages` lists and `ddim.pick_average` tries."""

LARGEST_ERROR = 0.1
"""Largest error of a reconstruction that `ddim.pick_average` tries; see `Combination`."""


@dataclass(frozen=True)
class Averages:
    """The averages of a checkpoint and of earlier snapshots.

    Averages of other widths are reconstructed from them.

    Attributes:
        run: the run folder.
        path: the checkpoint.
        step: the step of the checkpoint.
        names: the names of the checkpoint's power-function averages, keyed by power.
        snapshots: the snapshots of earlier steps, the oldest first.
    """

    run: Path
    path: Path
    step: int
    names: dict[float, str]
    snapshots: tuple[Snapshot, ...]

    @property
    def widths(self) -> list[float]:
        """The widths that the run tracks and the other widths in `WIDTHS`, sorted."""
        tracked = [relative_width(gamma) for gamma in self.names]
        others = [w for w in WIDTHS if not any(math.isclose(w, one, rel_tol=0.01) for one in tracked)]
        return sorted([*tracked, *others])

    def combine(self, width: float) -> Combination:
        """Return the combination of these averages that is nearest to an average with this width."""
        profiles = [Profile(one.step, gamma) for one in self.snapshots for gamma in one.gammas]
        profiles += [Profile(self.step, gamma) for gamma in self.names]
        return power_averages.combine_profiles(profiles, Profile(self.step, power_of_width(width)))

    def reconstruct(self, width: float) -> tuple[dict[str, Tensor], StoredAverage]:
        """Return the average of a width, float32 and keyed by tensor name, and the facts stored with it.

        It is summed in float64. Each file is read once and checked by its hash.
        """
        combination = self.combine(width)
        files = [(one.path, f"{gamma}") for one in self.snapshots for gamma in one.gammas]
        files += [(self.path, f"ema/{name}") for name in self.names.values()]
        total: dict[str, Tensor] = {}
        for (path, file), coefficient in zip(files, combination.coefficients, strict=True):
            for name, value in checkpoint.read_tensors(path, file).items():
                part = value.double().mul_(coefficient)
                total[name] = total[name].add_(part) if name in total else part
        gamma, error, weights = power_of_width(width), combination.error, averages.hash_weights(self.path)
        steps = tuple(one.step for one in self.snapshots)
        facts = StoredAverage(width, gamma, error, self.step, weights, steps)
        return {name: value.float() for name, value in total.items()}, facts


def open_averages(run: str | Path) -> Averages:
    """Return the averages of a run from which averages of other widths can be reconstructed.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint in a run folder.

    Raises:
        UserError: if the run has no checkpoint or snapshots.
    """
    folder, path, _ = resolve(run)
    recipe = load_recipe(checkpoint.read_document(path, "recipe"))
    step = checkpoint.read_manifest(path).step
    snapshots = tuple(averages.list_snapshots(folder, step))
    if not snapshots:
        raise UserError(
            f"run {folder} has no snapshots of its averages before step {step}: train with "
            "--report.snapshots 8 to keep them, from step 64 on"
        )
    tracked = power_averages.track_averages(recipe.ema, recipe.report.snapshots)
    return Averages(folder, path, step, power_averages.list_powers(tracked), snapshots)


@dataclass(frozen=True)
class ReconstructedAverage:
    """An average that was reconstructed and stored; `ddim.load(run, weights=name)` loads it.

    Attributes:
        name: its name.
        folder: its folder.
        facts: its width, its error and what it was made from.
    """

    name: str
    folder: Path
    facts: StoredAverage


def reconstruct_average(run: str | Path, width: float, *, name: str | None = None) -> ReconstructedAverage:
    """Reconstruct a weight average of this relative width from a run's snapshots; store it in RUN/averages.

    The width is the standard deviation of the profile of a power-function average, as a fraction of the run.
    The error of the reconstruction is small around the widths of the snapshots, 0.05 and 0.10, and grows for
    small widths; see docs/howto/averages.md. Averages that the run itself tracks are reconstructed exactly.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint in a run folder.
        width: the relative width, above 0 and below 0.289, such as 0.05.
        name: the name under which the average is stored, by default "width-0.05" for the width 0.05.

    Raises:
        UserError: if the run has no snapshots or is still training, or the width or the name cannot be used.

    Example:
        >>> average = ddim.reconstruct_average("runs/photos-fast-1", 0.08)
        >>> ddim.sample(ddim.load("runs/photos-fast-1", weights=average.name))
    """
    width = to_float("width", width)
    name = averages.check_average_name(f"width-{width:g}" if name is None else name)
    opened = open_averages(run)
    check_ended(opened.run)
    tensors, facts = opened.reconstruct(width)
    return ReconstructedAverage(name, averages.store_average(opened.run, name, tensors, facts), facts)


def check_ended(run: Path) -> None:
    """Check that no process trains in a run folder, since a training removes checkpoints and snapshots.

    Raises:
        UserError: if the run is still training.
    """
    if is_locked(run):
        raise UserError(
            f"run {run} is still training, and an average belongs to one of its checkpoints: wait until it "
            "ends, or stop it with Ctrl-C and resume it later"
        )


@dataclass(frozen=True, repr=False)
class AverageList(Tabular):
    """The widths that can be reconstructed for a run, and the averages that are stored with it.

    Attributes:
        run: the run folder.
        rows: one row for each width, with its power and the error of its reconstruction.
        stored: one row for each stored average.
        step: the step of the checkpoint whose averages the rows are. Averages that were stored for another
            step do not belong to this checkpoint.
        snapshots: the steps of the snapshots.
        size: the size of all snapshots in bytes.
    """

    run: Path
    rows: tuple[dict[str, Any], ...]
    stored: tuple[dict[str, Any], ...]
    step: int
    snapshots: tuple[int, ...]
    size: int

    def to_records(self) -> tuple[dict[str, Any], ...]:
        """Return a dictionary for each width, with its power and the error of its reconstruction."""
        return self.rows

    @property
    def title(self) -> str:
        """The run folder, and the steps and the size of its snapshots."""
        steps = ", ".join(map(str, self.snapshots))
        return f"{self.run}: snapshots of steps {steps}, {self.size / 1e6:.1f} MB"

    @property
    def notes(self) -> list[str]:
        names = ", ".join(row["weights"] for row in self.stored if row["step"] == self.step)
        return [f"stored averages: {names}"] if names else []


def list_averages(run: str | Path) -> AverageList:
    """Return the widths of the averages that can be reconstructed for a run, each width with its error.

    Args:
        run: as in `reconstruct_average`.

    Raises:
        UserError: if the run has no snapshots.
    """
    opened = open_averages(run)
    rows = tuple(
        {"width": w, "gamma": power_of_width(w), "reconstruction_error": opened.combine(w).error}
        for w in opened.widths
    )
    stored = tuple(
        {"weights": name, "width": a.width, "gamma": a.gamma, "reconstruction_error": a.error, "step": a.step}
        for name, a in averages.list_stored(opened.run).items()
    )
    steps, sizes = zip(*((one.step, one.size) for one in opened.snapshots), strict=True)
    return AverageList(opened.run, rows, stored, opened.step, steps, sum(sizes))
