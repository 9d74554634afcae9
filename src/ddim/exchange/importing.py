"""Import models of other libraries as runs: pipelines of diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddim.errors import UserError, describe_given
from ddim.exchange.diffusers import import_from_diffusers


@dataclass(frozen=True)
class Imported:
    """The result of `import_model`: the run folder."""

    run: Path

    def __str__(self) -> str:
        return f"run: {self.run}"


def import_model(source: str | Path, out: str | Path | None = None) -> Imported:
    """Convert a model of diffusers to a run, which can be sampled, evaluated and trained further.

    Args:
        source: the folder of a diffusers pipeline with the U-Net of DDPM.
        out: the run folder, by default a new one under runs/.

    Raises:
        UserError: if the model is not such a pipeline, or its weights are damaged or unsafe.

    Example:
        >>> ddim.import_model("ddpm-cifar10-32").run
    """
    if not isinstance(source, str | Path):
        raise UserError(f"source must be the path of a folder, got {describe_given(source)}")
    return Imported(import_from_diffusers(source, out))
