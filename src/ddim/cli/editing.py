"""What the commands that edit real images share: their options, their inputs, what they write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli import WEIGHTS, check_fields
from ddim.errors import UserError, check_count

if TYPE_CHECKING:
    from torch import Tensor

    from ddim.diffusion.denoiser import Counted, Denoiser
    from ddim.runs.pipeline import LoadedRun


def options(parser: argparse.ArgumentParser, steps: int) -> None:
    """Add the options that all of them have."""
    parser.add_argument(
        "--steps", type=int, default=steps, metavar="N", help=f"levels of the grid (default {steps})"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default edits/COMMAND-N, a new folder")
    parser.add_argument("--device", help="default: the one that the run was trained on")


@dataclass(frozen=True)
class Work:
    """A run, open for editing: its model as it is sampled, what counts it, the levels (N,) of the edit."""

    command: str
    trained: LoadedRun
    model: Denoiser
    counted: Counted
    times: Tensor

    def enter(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> model units."""
        return self.trained.pixels.enter(images)

    def leave(self, x0: Tensor) -> Tensor:
        """(B, C, H, W) in model units -> [0, 1] on the CPU."""
        return self.trained.pixels.leave(x0.float()).cpu()

    def in_batches(self, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """act(x) for x (B, C, H, W), so many at a time as the run samples, always that many."""
        import torch

        size, made = self.trained.runtime.micro_batch, []
        for part in x.split(size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), -1, -1, -1)])
            made.append(act(self.trained.runtime.images(filled))[: len(part)].cpu())
        return torch.cat(made)

    def precise(self, exact: bool = False) -> AbstractContextManager[Any]:
        """The precision of the run; float32 where an edit must be exact."""
        runtime = self.trained.runtime
        return runtime if exact else runtime.precise()

    def save(self, out: Path, rows: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Write each row's images (B, C, H, W) in [0, 1], strip.png with a row each, and record.json."""
        from ddim.files import write_json
        from ddim.plots.pictures import save_figure, save_png, strip, to_uint8
        from ddim.runs.provenance import sampling_record

        pictures = {name: list(to_uint8(images)) for name, images in rows.items()}
        for name, row in pictures.items():
            for k, pixels in enumerate(row):
                save_png(out / f"{name.replace(' ', '-')}-{k:02d}.png", pixels)
        heads = [str(k) for k in range(max(map(len, pictures.values())))]
        save_figure(out / "strip.png", strip(pictures, heads))
        record = sampling_record(self.trained, [], len(self.times), 0, None)
        # What an edit does is said by its command and notes, not by the recipe's sampler.
        for name in ("nfe", "seeds", "label", "class", "guidance", "sampler"):
            del record[name]
        # Each of runtime.micro_batch images.
        calls = {"network_calls": self.counted.evaluations}
        write_json(out / "record.json", {"command": self.command, **record, **calls, **notes})


def opened(args: argparse.Namespace, command: str, *, real: bool = True) -> Work:
    """The run of the arguments; of a recipe, the grid and its fields apply.

    Unless given, the grid is the recipe's own, or for an edit of `real` images, which it may end far from,
    equal steps of log-SNR to 6 (sigma 0.05): on them the slopes of an inversion lie nearest to a line. A
    schedule that ends before takes uniform times.
    """
    from dataclasses import replace

    import torch

    from ddim.diffusion.denoiser import Counted
    from ddim.diffusion.grids import Uniform, UniformLogSNR
    from ddim.runs.checks import check_steps, check_unconditional
    from ddim.runs.codec import override
    from ddim.runs.pipeline import load

    check_count("--steps", args.steps)
    check_fields(args, command, "grid")
    trained = load(args.run, args.weights, device=args.device)
    check_unconditional(trained.recipe, f"ddim {command}")
    cleanest = trained.recipe.walked(torch.zeros((), dtype=torch.float64)).log_snr
    grid = UniformLogSNR() if cleanest > UniformLogSNR().end else Uniform()
    own = trained.recipe
    recipe = override(replace(own, grid=grid) if real and "grid" not in args.fields else own, args.fields)
    check_steps(recipe, args.steps)
    trained = replace(trained, recipe=recipe)
    times = recipe.grid(args.steps, recipe.walked)
    counted = Counted(trained.model)
    return Work(command, trained, trained.denoiser(counted, consistent=real), counted, times)


def folder(out: Path | None, command: str) -> Path:
    """Make the folder to write to, a new or an empty one: when nothing that was given can be refused."""
    from ddim.runs.folder import writable

    if out and out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} holds files already; name a new folder")
    return writable(out, "edits", command)


def read(work: Work, paths: Sequence[Path], channels: int | None = None) -> Tensor:
    """(B, C, H, W) in [0, 1], of the model's size; what was cropped and resized is said, never silent."""
    import torch

    from ddim.data.decode import UnusableError, decode

    shape = work.trained.model.shape
    size = (shape.height, shape.width)
    images = []
    for path in paths:
        try:
            found, pixels = decode(path.read_bytes(), size, channels or shape.channels)
        except OSError as error:
            raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from None
        except UnusableError as error:
            raise UserError(f"{str(path)!r} cannot be used: {error}") from None
        if (found.height, found.width) != size:
            # The crop has the aspect of the model's images.
            scale = min(found.height / size[0], found.width / size[1])
            cropped = (round(scale * size[0]), round(scale * size[1]))
            crop = "" if cropped == (found.height, found.width) else f"cropped to {cropped[0]}x{cropped[1]}, "
            sys.stdout.write(
                f"{path}: {found.height}x{found.width}, {crop}resized to {size[0]}x{size[1]}, "
                "the size of the run (height x width)\n"
            )
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255)
    return torch.stack(images)


def size_of(path: Path) -> tuple[int, int]:
    """Height and width, upright, of an image file that `read` could read."""
    from ddim.data.decode import header

    found = header(path.read_bytes())
    return found.height, found.width


def said(out: Path, text: str) -> int:
    """The last line of a command, and exit code 0."""
    sys.stdout.write(f"{text}: {out}/strip.png\n")
    return 0
