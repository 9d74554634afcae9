"""`ddim sweep`: train many runs that differ in fields of their recipe, with any number of workers."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli.machine import add_threads_option
from ddim.cli.output import print_result, say
from ddim.errors import UserError, quote

if TYPE_CHECKING:
    from ddim.experiments.sweep.folder import Sweep
    from ddim.experiments.sweep.plan import SweepRequest

_EPILOG = """
FIELD is a field of a recipe, spelt as `ddim train` spells it; `ddim recipe fast` lists them.
  schedule=[cosine,linear]     each of these values, combined with each value of every other field
  net.widths=[[16,32],[32,64]] two values, which are lists
  optim.lr=[1e-4..1e-2]        any number in this range, for --random and --search: uniform in its logarithm,
                               or in the number itself if the range contains 0 or negative numbers
  optim.batch=[16..128]        any whole number in this range, because both ends are whole numbers
  optim.batch=32               this value in every trial
Shells other than bash need quotes around the brackets: 'schedule=[cosine,linear]'.

A sweep is a folder: sweep.json (the plan), trials/NAME (run folders, as `ddim train` writes them),
logs/NAME.txt, results/NAME.json (outcomes). All recipes are checked before anything starts; a search checks
the ends of its ranges and one point inside. If a trial fails, the other trials continue; remove its file in
results/ to run it again. Ctrl-C saves; run the same command with --out to resume.

Start `ddim sweep --out SWEEP` in other terminals to work on the same sweep. If a worker dies, another worker
resumes its trial after a minute. The queue of trials is a SQLite file in the folder. Workers on several
machines share the folder and need a database server for the queue:
  --storage postgresql+psycopg://user@host/database     PostgreSQL; pip install "ddim[postgres]"
  --storage mysql+pymysql://user@host/database          MySQL; pip install pymysql
sweep.json keeps this address without its password. Workers that join need --storage only for a password or a
SQLite file outside of the folder.

--search lets Optuna propose values from the outcomes so far. It minimises the KID with --evaluate, else the
image_mae of validation images, which is not comparable between schedules or pixel scalings. All trials are
compared on the same images: their source, size, channels and split cannot be searched, nor can the seed.

examples:
  ddim sweep photos/ objective.error=[l1,mse] objective.finish=0 --repeats 3 --images 100000
  ddim sweep photos/ optim.lr=[1e-4..1e-2] optim.batch=[16..128] --search 30 --minutes 10 --evaluate 1000
  ddim runs runs/photos-fast-sweep-1             the state of the trials
  ddim report runs/photos-fast-sweep-1           the results, on one page
  tensorboard --logdir runs/photos-fast-sweep-1  all trials side by side
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim sweep`."""
    parser.usage = "ddim sweep [DATA] FIELD=[A,B,...] ... [--repeats N] [--jobs N] [--out SWEEP] [options]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "words",
        nargs="*",
        metavar="DATA|FIELD=[A,B]",
        help="the images, and fields of the recipe, each with the values to try",
    )
    parser.add_argument(
        "--recipe", metavar="NAME|FILE", help="the recipe that all trials share (default: fast)"
    )
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="number of seeds for each combination (default: 1)"
    )
    parser.add_argument("--random", type=int, metavar="N", help="draw N random combinations instead of all")
    parser.add_argument("--search", type=int, metavar="N", help="let Optuna propose N trials, one by one")
    parser.add_argument("--images", metavar="N", help="train each run for N images")
    parser.add_argument("--minutes", metavar="M", help="train each run for M minutes")
    parser.add_argument(
        "--evaluate",
        type=int,
        metavar="N",
        help=(
            "evaluate each run with N samples, in the sampling steps of its recipe; if the images are in "
            "class folders, the samples cycle through all classes"
        ),
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="number of trials that run at once (default: 1)"
    )
    add_threads_option(parser, "processor threads of each trial (default: the cores divided by --jobs)")
    parser.add_argument(
        "--out", type=Path, metavar="SWEEP", help="a new folder, or a sweep to work on (default: under runs/)"
    )
    parser.add_argument(
        "--storage", metavar="ADDRESS", help="database for the queue (default: a SQLite file in the folder)"
    )


def run(args: argparse.Namespace) -> int:
    """Create or join the sweep, run its trials and print their outcomes; return 0, or 1 if some failed."""
    from ddim.experiments.sweep.folder import begin_sweep
    from ddim.experiments.sweep.trial_queue import TrialQueue
    from ddim.experiments.sweep.worker import check_jobs, run_trials
    from ddim.machine.signals import Stopped

    # The number of jobs is checked first, so that a wrong number leaves no new folder.
    check_jobs(args.jobs)
    sweep = begin_sweep(_request(args), args.out, args.storage)
    _quieten_optuna()
    say(f"{len(sweep.trials)} trials in {sweep.folder}")
    try:
        run_trials(sweep, args.jobs, say, queue=TrialQueue(sweep, args.storage), threads=args.threads)
    except Stopped as stopped:
        command = f"ddim sweep --out {quote(sweep.folder)}"
        raise Stopped(stopped.number, f"stopped; `{command}` resumes it") from None
    return _print_outcomes(args, sweep)


def _quieten_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _request(args: argparse.Namespace) -> SweepRequest | None:
    from ddim.experiments.sweep.plan import SweepRequest

    fields: dict[str, str] = {}
    sources = []
    for word in args.words:
        found = re.fullmatch(r"([a-z_][\w.]*)=(.+)", word, re.DOTALL)
        if not found:
            sources.append(word)
        elif found[1] in fields:
            raise UserError(f"{found[1]} is given twice: name its values in one list")
        else:
            fields[found[1]] = found[2]
    if len(sources) > 1:
        raise UserError(f"a sweep has one DATA, got {' and '.join(sources)}; fields are spelt FIELD=[A,B]")
    given: dict[str, Any] = {"data": sources[0] if sources else None, "fields": fields or None}
    names = ("recipe", "repeats", "random", "search", "images", "minutes", "evaluate")
    given |= {name: getattr(args, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    return SweepRequest(**given) if given else None


def _print_outcomes(args: argparse.Namespace, sweep: Sweep) -> int:
    from ddim.experiments.sweep.outcome import read_outcome

    outcomes = {trial.name: read_outcome(sweep.outcome_file(trial)) for trial in sweep.trials}
    failed = {name: outcome for name, outcome in outcomes.items() if outcome and outcome.failed}
    summary = f"{len(outcomes) - len(failed)} of {len(outcomes)} trials are finished"
    lines = [f"{summary}, these failed:" if failed else summary]
    lines += [f"  {name}: {outcome.message}" for name, outcome in failed.items()]
    trials = {name: outcome and asdict(outcome) for name, outcome in outcomes.items()}
    print_result(args, {"folder": sweep.folder, "trials": trials}, "\n".join(lines))
    say(f"next: ddim report {quote(sweep.folder)}")
    return 1 if failed else 0
