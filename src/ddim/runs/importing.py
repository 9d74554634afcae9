"""Import models of other libraries as runs: pipelines of diffusers, and checkpoints of known networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError, describe_given
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.runs import lucidrains_checkpoint, openai_checkpoint
from ddim.runs.codec import override
from ddim.runs.diffusers_format import import_from_diffusers
from ddim.runs.fitting import build_on_meta
from ddim.runs.flat import option_text
from ddim.runs.folder import check_unused
from ddim.runs.imported_run import save_imported
from ddim.runs.recipe import Recipe
from ddim.runs.recipe_checks import check_recipe
from ddim.runs.tensor_file import TensorFile, check_weight_count, fill_weights, open_tensors

if TYPE_CHECKING:
    from torch import Tensor

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Imported:
    """The result of `import_model`: the run folder, and sentences about what was assumed or left out."""

    run: Path
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"run: {self.run}", *self.notes])


def import_model(
    source: str | Path,
    out: str | Path | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Imported:
    """Convert a model of another library to a run, which can be sampled, evaluated and trained further.

    The model is one of these:

    - The folder of a diffusers pipeline with the U-Net of DDPM.
    - A checkpoint of denoising-diffusion-pytorch, with its EMA weights if it has them.
    - A state dict of improved-diffusion or guided-diffusion.

    A checkpoint is a file written by torch.save, or a safetensors file. A separate process with limited
    memory reads it, and unpickles only tensors and plain values.

    Args:
        source: the folder or the file.
        out: the run folder, by default a new one under runs/.
        size: image size, a side or (height, width); required for a checkpoint, which does not contain it.
        fields: recipe fields that a checkpoint does not contain, keyed by path, such as {"net.heads": 1}.

    Raises:
        UserError: if the model is not one of these, the file is damaged or unsafe, the size is missing, or
            `size` or `fields` is given for a pipeline.

    Example:
        >>> ddim.import_model("results/model-100.pt", size=64).run
    """
    source, given = _check_path(source), {name: option_text(value) for name, value in (fields or {}).items()}
    if source.is_dir():
        if given or size is not None:
            raise UserError(
                "a diffusers pipeline contains its image size and options: leave out --size and all fields"
            )
        return Imported(import_from_diffusers(source, out))
    if size is not None:
        if "data.size" in given:
            raise UserError("the size is given twice, with --size and with data.size: leave one of them out")
        given["data.size"] = option_text(size)
    if out is not None:
        check_unused(Path(out))
    with open_tensors(source) as file:
        for mark, read in (
            (lucidrains_checkpoint.MARK, _import_lucidrains),
            (openai_checkpoint.MARK, _import_openai),
        ):
            if (prefix := _find_prefix(file.shapes, mark)) is not None:
                if "data.size" not in given:
                    raise UserError(
                        f"{source} does not contain the size of its images: give --size, such as --size 64"
                    )
                return read(file, prefix, given, out)
    raise UserError(
        f"{source} holds no network that can be imported: the Unet of denoising-diffusion-pytorch, or the "
        "UNetModel of improved-diffusion or guided-diffusion"
    )


def _check_path(source: object) -> Path:
    """Return the path of a folder or a file; raise UserError if it is another value."""
    if not isinstance(source, str | Path):
        raise UserError(f"source must be the path of a folder or a file, got {describe_given(source)}")
    return Path(source)


def _import_lucidrains(
    file: TensorFile, prefix: str, fields: dict[str, str], out: str | Path | None
) -> Imported:
    net, notes = file.within(prefix), []
    spec, channels = lucidrains_checkpoint.find_network(net.shapes)
    around = file.within(prefix.removesuffix("model."))
    tables = {name: around.read(name) for name in ("betas", "loss_weight") if name in around.shapes}
    if "schedule" in fields or "schedule.entries" in fields:
        linear = fields.get("schedule") == "linear"
        fields = openai_checkpoint.complete_table_fields(fields, linear=linear)
    recipe = override(lucidrains_checkpoint.make_recipe(spec, tables), fields)
    # A schedule that is no table has no number of entries.
    entries = {} if recipe.schedule.entries is None else {"schedule.entries": "1000 entries"}
    assumed = {"schedule": "the sigmoid schedule", **entries, "predicts": "the velocity"}
    missing = {name: words for name, words in assumed.items() if name not in fields}
    if "betas" not in tables and missing:
        notes.append(
            "the file holds no schedule: defaults of denoising-diffusion-pytorch were assumed, "
            f"{', '.join(missing.values())}; {', '.join(f'--{name}' for name in missing)} changes this"
        )
    weights = _convert(net, recipe, channels, lucidrains_checkpoint.translate_name)
    averaged = "ema_model" in prefix
    notes.append(f"the weights are {'the averaged ones (EMA)' if averaged else 'not averaged'}")
    return Imported(save_imported(recipe, channels, weights, file.path, out), tuple(notes))


def _import_openai(file: TensorFile, prefix: str, fields: dict[str, str], out: str | Path | None) -> Imported:
    net, notes = file.within(prefix), []
    spec, channels, variance = openai_checkpoint.find_openai_network(net.shapes)
    recipe, known = openai_checkpoint.make_openai_recipe(spec, fields)
    recipe = override(recipe, known)
    if not {"net.heads", "net.head"} & fields.keys():
        notes.append(
            "the file does not hold the number of attention heads: 4 were assumed, as in improved-diffusion; "
            "--net.heads N, or --net.head C for heads of C channels, changes this"
        )
    if "schedule" not in fields and "schedule.entries" not in fields:
        notes.append("the file holds no schedule: DDPM's linear table of 1000 entries was assumed")
    if variance:
        notes.append("the predicted variance was left out, because this library maps it in another way")
        net = _without_variance(net, channels)
    chosen = recipe.net
    if not isinstance(chosen, DDPMUNetSpec):
        raise UserError("net must be ddpm_unet, the network of the file, or left out")
    weights = _convert(net, recipe, channels, openai_checkpoint.make_translator(chosen))
    weights = {name: openai_checkpoint.order_heads(name, value, chosen) for name, value in weights.items()}
    names = [str(k) for k in range(chosen.classes)]
    return Imported(save_imported(recipe, channels, weights, file.path, out, names), tuple(notes))


def _convert(
    net: TensorFile, recipe: Recipe, channels: int, translate: Callable[[str], Sequence[str]]
) -> dict[str, Tensor]:
    """Check a recipe and the weights of its network, and return the weights under this library's names."""
    if channels not in _CHANNELS:
        raise UserError(f"{net.path} has a network for {channels} channels, but images have 1, 3 or 4")
    check_recipe(recipe)
    state = build_on_meta(recipe, channels, len(net.shapes), net.path).net.state_dict()
    check_weight_count(net.shapes, state, net.path)
    return fill_weights(net, state, translate)


def _find_prefix(names: Iterable[str], mark: str) -> str | None:
    """Return the common prefix of the names of a network's weights; None if no network has the weight `mark`.

    If there are several networks, the averaged one is preferred, then the one with the shortest prefix.
    """
    found = [name[: -len(mark)] for name in names if name.endswith(mark)]
    found = [prefix for prefix in found if not prefix or prefix[-1] in "./"]
    return min(found, key=lambda prefix: ("ema_model" not in prefix, len(prefix), prefix), default=None)


def _without_variance(net: TensorFile, channels: int) -> TensorFile:
    """Return the file without the channels of the last convolution that predict a variance."""
    cut = openai_checkpoint.VARIANCE
    shapes = {name: (channels, *shape[1:]) if name in cut else shape for name, shape in net.shapes.items()}
    read = net.content
    return replace(
        net, shapes=shapes, content=lambda name: read(name)[:channels] if name in cut else read(name)
    )
