"""`ddim train`: train a new run, or continue one."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from ddim.cli.output import say
from ddim.data.arrays import hold_images
from ddim.errors import UserError
from ddim.files import read_sealed
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, ignore_progress
from ddim.machine.startup import count_restarts
from ddim.recipe.codec import load_recipe, override
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Recipe
from ddim.runs.folder import RUN, list_newest_runs, name_newest_runs
from ddim.training import Callback, Machine, run as training
from ddim.training.callbacks import TRACKERS
from ddim.training.lr_finder import CurvePlot, find_learning_rate
from ddim.training.request import change_recipe, choose_recipe, describe_request


def train_or_resume(  # noqa: PLR0913 (the choices of a user)
    data: object = None,
    *,
    recipe: str | None = None,
    minutes: float | None = None,
    images: int | None = None,
    size: str | int | None = None,
    labels: bool | str | None = None,
    seed: int | None = None,
    fields: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    more: float | None = None,
    source: str | Path | None = None,
    find_lr: bool = False,
    track: Sequence[Literal["wandb", "mlflow"]] = (),
    machine: Machine = Machine(),  # noqa: B008 (a frozen value)
    callbacks: Sequence[Callback] = (),
    progress: Progress = ignore_progress,
) -> Path:
    """Train a diffusion model on your images.

    Args:
        data: a folder, .zip or .tar of images, a .npy, .npz or .parquet file, a built-in data set (blossoms,
            flowers, pets, cifar10) or hub:OWNER/NAME (default: those of --from, or of the recipe).
        recipe: a name, such as fast, luz, keras, ddpm or edm, or a YAML file (default: fast); `ddim recipe`
            lists them.
        minutes: training time (default: the recipe's, 40 for fast).
        images: number of training images to see, repetitions counted, in place of minutes.
        size: height x width in pixels, such as 64 or 64x96 (default: the recipe's).
        labels: yes for one class a folder, or clusters:16 for 16 classes of similar images; then sample with
            --label.
        seed: seed of weights, image order, noise and split (default: 0).
        fields: any field of the recipe, such as --optim.lr 3e-4 or --schedule linear; `ddim recipe fast`
            explains them.
        out: the run folder (default: a new runs/DATA-RECIPE-N).
        resume: continue the run in --out, or the newest that this command started; or start one on DATA.
        more: continue like --resume, and train so many minutes longer than planned.

    Other Parameters:
        source: start from the EMA weights of another run.
        find_lr: run a learning-rate range test first and use its result.
        callbacks: FILE.py:NAME of your own callback, may be repeated.
        track: also report to wandb or mlflow.

    Commands:
        ddim train photos/ --minutes 30
        ddim train photos/ --resume    after Ctrl-C: continues where it stopped
    """
    if resume and source:
        raise UserError("--resume continues a run and --from starts a new run: give one of them")
    budget = {"images": images, "minutes": minutes, "seed": seed, "data.size": size, "data.labels": labels}
    fields = {**(fields or {}), **{name: value for name, value in budget.items() if value is not None}}
    data = hold_images(data)
    hooks = [*callbacks, *(TRACKERS[name]() for name in track)]
    options: dict[str, Any] = {"machine": machine, "callbacks": hooks, "progress": progress}
    processes = current_processes()
    # Each machine counts only the restarts that its own processes caused, so take the highest count.
    restarted = processes.highest(count_restarts())[0] > 0
    if resume or more is not None or restarted:
        folder = None if out is None else Path(out)
        if folder is None:
            wanted = choose_recipe(recipe, data, fields, source)
            folder = processes.broadcast(find_run(wanted, find_lr) if processes.leads else None)
        elif (folder / RUN).is_file():
            check_resumed_recipe(folder, recipe, fields)
        else:
            folder = None
        if folder:
            # Minutes that were added before torchrun restarted the command are not added again.
            more = None if restarted else more
            return training.resume(folder, more=more, images=images, data=data, **options)
        # If the command gives images or a recipe, it may start a new run. So a user can repeat one command,
        # from the start of a run until it is finished.
        if more is not None or (data is None and recipe is None and not restarted):
            advice = f"name one with --out ({name_newest_runs()}), or give DATA to start a new one"
            raise UserError(f"no run fits this command: {advice}")
        say("no run fits this command: starting a new one")
    chosen = choose_recipe(recipe, data, fields, source)
    if "steps" in fields:
        say("--steps sets the sampling steps; --minutes or --images set the length of the training")
    if find_lr:
        curve = find_learning_rate(chosen, machine, None if source is None else Path(source), progress)
        say(f"learning rate {curve.suggested:.2g}; lr-finder.png in the run folder shows the range test")
        chosen = override(chosen, {"optim.lr": curve.suggested})
        hooks.append(CurvePlot(curve))
    return training.train(chosen.data.source, chosen, out=out, source=source, **options)


def find_run(recipe: Recipe, any_rate: bool) -> Path | None:
    """Return the newest run in runs/ that was started with this recipe; None if there is none.

    Args:
        recipe: the recipe that a new run would have.
        any_rate: whether runs with another learning rate fit too, because a range test chose it.
    """
    wanted = describe_request(recipe)
    for path in list_newest_runs():
        # A run that cannot be read, or was started elsewhere, does not fit.
        with suppress(UserError, KeyError):
            known = read_sealed(path / RUN)["requested"]
            if any_rate:
                known["optim"]["lr"] = wanted["optim"]["lr"]
            if known == wanted:
                return path
    return None


def check_resumed_recipe(run: Path, recipe: str | None, fields: Mapping[str, Any]) -> None:
    """Check that a request to resume a run asks for no other recipe.

    Args:
        run: the run folder.
        recipe: the name or file of a recipe; None if the user gave none.
        fields: the fields that the user gave. Another path of the images and another budget in images are
            not compared, because the images may have moved, and the budget may grow.

    Raises:
        UserError: if the recipe of the run is another one.
    """
    known = load_recipe(read_sealed(run / RUN)["recipe"])
    given = {name: value for name, value in fields.items() if name not in ("data.source", "images")}
    named = recipe is None or find_recipe(recipe, known.data.size).name == known.name
    if not named or change_recipe(known, given) != known:
        advice = "resume it with --out alone (and --more, --images or options of the machine)"
        raise UserError(f"run {run} has another recipe than this command: {advice}")
