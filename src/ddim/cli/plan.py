"""`ddim plan`: measure how fast this machine trains, and print what to expect from some minutes
of training.
"""

from __future__ import annotations

import argparse

from ddim.cli.choices import list_kinds
from ddim.cli.machine import add_training_machine_options, choose_machine
from ddim.cli.output import print_result
from ddim.cli.own import load_own, names_own
from ddim.cli.request import add_request_options, read_fields

TAKES_FIELDS = True

_EPILOG = """
Trains for a few seconds, exactly as `ddim train` with the same options would, and prints for each budget
  images   training images that the run will see; each repetition counts. The minutes include the validations.
  passes   epochs: how often the run sees each training image
  error    validation error that runs of this recipe had after this number of images
  KID      KID of runs of this recipe that ended after this number of images
Your runs are the finished runs in --runs with the same images, recipe and size. Recorded runs come with the
package, and were trained on other images. If no run saw this many images, no error is shown.

No run folder is written. The decoded images and the compiled network stay in the cache for `ddim train`. So
the minutes include loading them, but not decoding or compiling.

recipes:
{recipes}

Every field of a recipe is an option, as in `ddim train`.

examples:
  ddim plan photos/
  ddim plan photos/ --size 128 --minutes 40,480
  ddim plan photos/ --net.widths 16,32,64,128 --threads 2
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim plan`."""
    parser.usage = "ddim plan [DATA] [--recipe NAME|FILE] [--minutes 10,40,240 | --images N] [options]"
    parser.epilog = _EPILOG.format(recipes=list_kinds("recipe.named", "RECIPES"))
    add_request_options(parser, "those of the recipe")
    parser.add_argument(
        "--minutes", metavar="M,M,...", help="one or more training times (default: 10,40,240)"
    )
    add_training_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the speed, and print the plan."""
    from ddim.cli.console import ProgressDisplay
    from ddim.data.arrays import give_images
    from ddim.experiments.plan import plan
    from ddim.training.request import choose_recipe

    machine = choose_machine(args)
    fields = read_fields(args)
    minutes, images = (fields.pop(name, None) for name in ("minutes", "images"))
    times = None if minutes is None else [float(text) for text in minutes.split(",")]
    own = give_images(load_own(args.data)) if names_own(args.data) else None
    recipe = choose_recipe(args.recipe, fields.get("data.source") if own is None else own, fields)
    with ProgressDisplay() as progress:
        planned = plan(
            recipe.data.source,
            recipe,
            minutes=times,
            images=None if images is None else int(images),
            machine=machine,
            progress=progress,
        )
    print_result(args, planned.to_json(), planned.details)
    return 0
