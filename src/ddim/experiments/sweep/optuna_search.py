"""A search: Optuna proposes the values of a trial from the outcomes of earlier ones (Akiba et al. 2019).

The sampler is the tree-structured Parzen estimator (Bergstra et al. 2011), after ten random trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim.experiments.sweep.search_space import Choice, Space, Values

if TYPE_CHECKING:
    from optuna import Study


def propose(study: Study, trial_id: int, space: Space, seed: int) -> Choice:
    """Return the values that a trial of a study should try; calling it again returns the same values.

    Args:
        study: the study of the sweep, which minimises.
        trial_id: a running trial of the study's storage.
        space: the possible values of each field.
        seed: the sampler's seed; trials proposed at the same moment need different ones.
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
