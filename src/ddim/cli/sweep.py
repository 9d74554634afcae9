"""`ddim sweep`: many runs that differ in fields of their recipe, by any number of workers."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError

if TYPE_CHECKING:
    from ddim.experiments.sweep.plan import Asked, Sweep

_EPILOG = """
FIELD is a field of a recipe, spelt as `ddim train` spells it; `ddim train --help-recipe fast` lists them.
  schedule=[cosine,linear]     each of these, with each value of every other field
  net.widths=[[16,32],[32,64]] values that are lists themselves
  optim.lr=[1e-4..1e-2]        any number in this range, for --random and --search: even in its logarithm, or
                               in the number where the range holds 0
  optim.batch=[16..128]        any whole number in this range, since both ends are written as such
  optim.batch=32               this value in every trial
Shells other than bash want the brackets in quotes: 'schedule=[cosine,linear]'.

A sweep is a folder: sweep.json, trials/NAME (each a run, as `ddim train` leaves it), logs/NAME.txt, results/.
Every recipe is checked before anything starts, of a search those at the ends of ranges and one within. A
trial that fails is written down and the others go on; remove its file in results/ to try it again. Ctrl-C
saves, and the same command with --out goes on.

`ddim sweep --out SWEEP` in other terminals, or on other machines that share the folder, works on it too. What
a worker that was killed held is taken up by another after a minute without a sign of life, where it stopped.

--search proposes values by what came out so far: the KID where --evaluate makes pictures, else the error of
validation images, which does not compare where schedules or pixels differ. All trials are judged by the same
images: their source, size, channels and split cannot be searched, and nor can the seed. It needs pip install
'ddim[sweep]'.

examples:
  ddim sweep photos/ objective.error=[l1,mse] schedule=[cosine,linear] --repeats 3 --images 100000
  ddim sweep photos/ optim.lr=[1e-4..1e-2] optim.batch=[16..128] --search 30 --minutes 10 --evaluate 1000
  ddim runs runs/photos-fast-sweep-1             how far the trials are
  ddim report runs/photos-fast-sweep-1           what came of it, on one page
  tensorboard --logdir runs/photos-fast-sweep-1  all the trials side by side
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim sweep`."""
    parser.usage = "ddim sweep [DATA] FIELD=[A,B,...] ... [--repeats N] [--jobs N] [--out SWEEP] [options]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "words", nargs="*", metavar="DATA|FIELD=[A,B]", help="the images, and what to try for fields"
    )
    parser.add_argument("--recipe", metavar="NAME|FILE", help="what all trials share (default fast)")
    parser.add_argument("--repeats", type=int, metavar="N", help="seeds for each combination (default 1)")
    parser.add_argument("--random", type=int, metavar="N", help="draw N combinations instead of all")
    parser.add_argument("--search", type=int, metavar="N", help="let Optuna propose N trials, one by one")
    parser.add_argument("--images", metavar="N", help="how many images each run sees")
    parser.add_argument("--minutes", metavar="M", help="or how long each run trains")
    parser.add_argument(
        "--evaluate",
        type=int,
        metavar="N",
        help="then judge each run by N pictures, as `ddim evaluate`, of all classes where it has labels",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at a time (default 1)")
    parser.add_argument(
        "--out", type=Path, metavar="SWEEP", help="a new folder, or a sweep to work on (default under runs/)"
    )


def run(args: argparse.Namespace) -> int:
    """Plan or join the sweep, do its trials, say how they ended: 0, or 1 where some failed."""
    from ddim.experiments.sweep.plan import begin
    from ddim.experiments.sweep.worker import check_jobs, work

    # Before there is a folder.
    check_jobs(args.jobs)
    sweep = begin(_asked(args), args.out)
    _say(f"{len(sweep.trials)} trials in {sweep.folder}")
    try:
        work(sweep, args.jobs, _say)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; `ddim sweep --out {sweep.folder}` goes on") from None
    return _done(sweep)


def _asked(args: argparse.Namespace) -> Asked | None:
    from ddim.experiments.sweep.plan import Asked

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
    return Asked(**given) if given else None


def _done(sweep: Sweep) -> int:
    from ddim.files import read_json

    ends = {trial.name: read_json(sweep.result(trial)) for trial in sweep.trials}
    failed = [name for name, end in ends.items() if end["exit"] != 0]
    said = f"{len(ends) - len(failed)} of {len(ends)} trials are finished"
    _say(f"{said}, these failed:" if failed else said)
    for name in failed:
        _say(f"  {name}: {ends[name]['last']}")
    _say(f"next: ddim report {sweep.folder}")
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
