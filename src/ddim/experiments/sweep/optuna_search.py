"""A search: Optuna proposes the values of trials from how earlier ones ended (Akiba et al. 2019).

What it knows lies in ``optuna.journal``, a file that every worker appends to: there is no server. It proposes
by the tree-structured Parzen estimator (Bergstra et al. 2011), after ten trials at random.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddim.errors import UserError
from ddim.experiments.sweep.search_space import Choice, Space, Values

if TYPE_CHECKING:
    from optuna import Study

JOURNAL = "optuna.journal"
AGAIN = "again"
"""The attribute of a trial that says which one, that had failed, it is."""


def check() -> None:
    """UserError where Optuna is not installed."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise UserError("--search needs Optuna, which is not installed: pip install 'ddim[sweep]'")


def ask(folder: Path, space: Space, seed: int) -> tuple[int, Choice]:
    """The number of a new trial in the journal of a sweep's folder, and values to try, least is best."""
    trial = _study(folder, seed).ask()
    choice = {}
    for name, values in space.items():
        if isinstance(values, Values):
            choice[name] = trial.suggest_categorical(name, list(values.values))
        elif values.whole:
            low, high = round(values.low), round(values.high)
            choice[name] = values.text(trial.suggest_int(name, low, high, log=values.log))
        else:
            choice[name] = values.text(trial.suggest_float(name, values.low, values.high, log=values.log))
    return trial.number, choice


def tell(folder: Path, number: int, value: float | None) -> None:
    """How trial `number` ended: what is to be least, or None where it failed. Said twice, it counts once.

    One that failed may have a value when it is tried again.
    """
    from optuna.trial import TrialState, create_trial

    study = _study(folder, 0)
    trials = study.get_trials(deepcopy=False)
    before = trials[number]
    if before.state != TrialState.FAIL or value is None:
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        study.tell(number, value, state=state, skip_if_finished=True)
    elif not any(trial.user_attrs.get(AGAIN) == number for trial in trials):
        # How a trial ended is never changed: what came of it when it was tried again is one more.
        made = {"params": before.params, "distributions": before.distributions}
        study.add_trial(create_trial(value=value, **made, user_attrs={AGAIN: number}))


def _study(folder: Path, seed: int) -> Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=True,
    )
