"""Records: JSON files with everything on which the images and numbers of a result depend."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.machine.distributed import current_processes
from ddim.recipe.codec import dump, kind_name
from ddim.recipe.options import option_text
from ddim.sampling.labels import VectorLabel
from ddim.sampling.pipeline import LoadedRun, Pipeline
from ddim.sampling.sampling_setup import SamplingSetup

SCHEMA = 1
"""The version of the layout of records."""

_CONDITIONS = (
    "checkpoint",
    "weights",
    "average",
    "sampler",
    "schedule",
    "clip",
    "times",
    "label",
    "guidance",
    "runtime",
    "versions",
)
"""Entries of a record on which samples depend, in addition to their seeds."""


def make_record(
    kind: str, content: Mapping[str, Any], run: Pipeline | None = None, schema: int = SCHEMA
) -> dict[str, Any]:
    """Return the record of a result: its kind and content, the run, the time and the versions.

    Args:
        kind: the type of the result, such as "evaluation", "samples" or "edit".
        content: the result, as JSON.
        run: the run from which the result comes, if there is one.
        schema: the version of the layout of such records.
    """
    return {
        "schema": schema,
        "kind": kind,
        **content,
        **({} if run is None else run.describe()),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": list_versions(None if run is None else run.runtime.threads),
    }


def sampling_record(setup: SamplingSetup, seeds: Sequence[int]) -> dict[str, Any]:
    """Return a record of the run, sampler, times, NFE, seeds, label, guidance and versions of samples."""
    pipeline, label = setup.pipeline, setup.label
    return {
        **pipeline.describe(),
        "sampler": dump(pipeline.recipe.sampler, named=True),
        "sampler_name": describe_kind(pipeline.recipe.sampler),
        **describe_times(pipeline, setup.steps),
        "nfe": setup.count_evaluations(),
        "seeds": list(seeds),
        "label": label.to_json() if isinstance(label, VectorLabel) else label,
        "class": pipeline.classes[label] if isinstance(label, int) and pipeline.classes else None,
        **setup.guidance.describe(),
        "versions": list_versions(pipeline.runtime.threads),
    }


def describe_kind(value: object) -> str:
    """Return the name of a part of a recipe and its fields that are not defaults, such as "ddim eta 0.5"."""
    own = fields(value) if is_dataclass(value) else ()
    changed = [(f.name, found) for f in own if (found := getattr(value, f.name)) != f.default]
    return " ".join([kind_name(value), *(f"{name} {option_text(found)}" for name, found in changed)])


def sample_conditions(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a record on which samples depend, other than their seeds and the run's path."""
    found = {name: record.get(name) for name in _CONDITIONS}
    checkpoint, guide = found["checkpoint"], record.get("guide")
    found |= {"checkpoint": checkpoint["sha256"] if isinstance(checkpoint, Mapping) else None}
    # Most records of samples do not have these entries.
    if changed := record.get("sha256"):
        found["sha256"] = changed
    if interval := record.get("guidance_interval"):
        found["guidance_interval"] = interval
    own = ("sha256", "weights", "average")
    return found | ({"guide": {k: guide[k] for k in own if k in guide}} if guide else {})


def check_same_weights(pipeline: Pipeline) -> None:
    """Check that all processes of the command have loaded the same checkpoint.

    Raises:
        UserError: if another machine has another checkpoint of the run.
    """
    processes = current_processes()
    found = pipeline.checkpoint if isinstance(pipeline, LoadedRun) else None
    hashes = processes.gather(found and (found.sha256, found.average))
    if found and len({*hashes}) > 1:
        rank = next(rank for rank, other in enumerate(hashes) if other != hashes[0])
        raise UserError(
            f"process {rank} has another checkpoint of {found.run} than process 0: copy the run to every "
            "machine, or keep it on a shared drive"
        )


def check_same_sampling(record: Mapping[str, Any]) -> None:
    """Check that all processes of the command sample in the same way; call it in all of them.

    Each machine reads its own copy of a run, and of what `ddim search` saved with it.

    Args:
        record: the record of the samples, see `sampling_record`.

    Raises:
        UserError: if another machine has another checkpoint, other times or other guidance.
    """
    # Machines may have other versions of packages and other numbers of threads.
    own = {k: v for k, v in sample_conditions(record).items() if k not in ("runtime", "versions")}
    for rank, other in enumerate(current_processes().gather(own)):
        differing = [name for name in {**own, **other} if own.get(name) != other.get(name)]
        if differing:
            raise UserError(
                f"process {rank} samples with another {' and another '.join(differing)} than this one: copy "
                "the run and its guide to every machine, or keep them on a shared drive"
            )


def describe_times(pipeline: Pipeline, steps: int) -> dict[str, Any]:
    """Return grid, schedule, clipping and the `steps` times of a pipeline's recipe, as JSON."""
    recipe = pipeline.recipe
    return {
        "grid": dump(recipe.grid, named=True),
        "schedule": dump(recipe.sampling_schedule, named=True),
        "clip": recipe.clip,
        "times": recipe.grid(steps, recipe.sampling_schedule).tolist(),
    }


def list_versions(threads: int | None = None) -> dict[str, Any]:
    """Return versions of Python and packages, the platform, the processor and the number of threads.

    `threads` is the number of threads with which a result was computed, by default torch's current number.
    """
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Importing torchvision would take two seconds.
        "torchvision": version("torchvision"),
        "ddim": version("ddim"),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads() if threads is None else threads,
    }


def _processor() -> str:
    """Return the model of the processor on Linux, and its architecture on other systems."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
