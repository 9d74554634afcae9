"""A run of the recipe ddpm with a small network and random weights, for exports to diffusers and imports."""

from ddim.diffusion.pixels import Pixels
from ddim.machine.runtime import Runtime
from ddim.nn.ema import select_averaged
from ddim.recipe.codec import dump, override
from ddim.recipe.named import ddpm
from ddim.recipe.recipe import build_model
from ddim.runs import checkpoint
from ddim.runs.state import RunState, TrainedOn
from options import options
from oracles import made, shaken

SMALL = options(
    "net.width=16 net.groups=8 net.multipliers=1,2 net.attention=false,true net.blocks=1 data.size=16"
)


def recipe(**changes):
    return override(ddpm(), {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}})


def run_of(chosen, folder, pixels=(0.5, 0.5), channels=3, others=None, classes=(), images=None):  # noqa: PLR0913
    """Write a run folder with random weights, none of them zero, and return it.

    `others` is {file: factor}; each of these tensor files gets the weights times its factor.


    `images` is the number of training images that the run says it had.
    """
    model = shaken(made(lambda: build_model(chosen, channels)))
    trained = images and TrainedOn("f" * 64, images)
    state = RunState(3, Pixels.fixed(*pixels, channels), channels, classes, Runtime(), images=trained)
    tensors = {"model": model.state_dict(), "ema/default": select_averaged(model)}
    for file, factor in (others or {}).items():
        tensors[file] = {name: factor * value for name, value in select_averaged(model).items()}
    checkpoint.save(folder / "checkpoints", 3, tensors, {"state": state.to_json(), "recipe": dump(chosen)})
    return folder
