"""Let Optuna propose the values of a trial from the outcomes of earlier trials (Akiba et al. 2019).

The algorithm is the tree-structured Parzen estimator (Bergstra et al. 2011), after ten random trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim.experiments.sweep.search_space import Choice, Space, Values

if TYPE_CHECKING:
    from optuna import Study


def propose(study: Study, trial_id: int, space: Space, seed: int) -> Choice:
    """Return the values that Optuna proposes for a trial.

    A second call for the same trial returns the same values.

    Args:
        study: the study of the sweep, which minimises its objective.
        trial_id: the id of a running trial in the study's storage.
        space: the values that each field can take.
        seed: the seed of Optuna's sampler; trials that are proposed at the same moment need different seeds.
    """
    from optuna import Trial
    from optuna.samplers import TPESampler

    study.sampler = TPESampler(seed=seed)
    trial, choice = Trial(study, trial_id), {}
    for name, values in space.items():
        if isinstance(values, Values):
            choice[name] = trial.suggest_categorical(name, list(values.values))
        elif values.whole:
            low, high = round(values.low), round(values.high)
            choice[name] = values.text(trial.suggest_int(name, low, high, log=values.log))
        else:
            choice[name] = values.text(trial.suggest_float(name, values.low, values.high, log=values.log))
    return choice
