"""Records: JSON documents with everything on which the images and numbers of a result depend."""

import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from ddim.machine.runtime import read_system_file
from ddim.recipe.codec import describe_kind, dump
from ddim.sampling.labels import VectorLabel
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup

SCHEMA = 1
"""The version of the layout of records."""

_CONDITIONS = (
    *("checkpoint", "weights", "average", "sampler", "schedule", "clip", "times"),
    *("label", "guidance", "guidance_interval", "guide", "runtime", "versions"),
)
"""Entries of a record on which samples depend, in addition to their seeds."""


def make_record(kind: str, content: Mapping[str, Any], run: Pipeline | None = None) -> dict[str, Any]:
    """Return the record of a result: its kind and content, the run, the time and the versions.

    Args:
        kind: the type of the result, such as "evaluation", "samples" or "edit".
        content: the result, as JSON; its entries replace those of the run, and the versions.
        run: the run from which the result comes, if there is one.
    """
    return {
        "schema": SCHEMA,
        "kind": kind,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": list_versions(None if run is None else run.runtime.threads),
        **({} if run is None else run.describe()),
        **content,
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


def sample_conditions(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a record on which samples depend, other than their seeds and the run's path."""
    conditions = {name: record.get(name) for name in _CONDITIONS}
    if checkpoint := conditions["checkpoint"]:
        conditions["checkpoint"] = checkpoint["sha256"]
    if guide := conditions["guide"]:
        # The name, the path and the step say where the guide is, and its SHA-256 what it is.
        conditions["guide"] = {name: guide.get(name) for name in ("sha256", "weights", "average")}
    return conditions


def describe_times(pipeline: Pipeline, steps: int) -> dict[str, Any]:
    """Return grid, schedule, clipping and the `steps` times of a pipeline's recipe, as JSON."""
    recipe = pipeline.recipe
    return {
        "grid": dump(recipe.grid, named=True),
        "schedule": dump(recipe.sampling_schedule, named=True),
        "clip": recipe.clip,
        "times": recipe.times(steps).tolist(),
    }


def list_versions(threads: int | None = None) -> dict[str, Any]:
    """Return versions of Python and packages, the platform, the processor and the number of threads.

    `threads` is the number of threads with which a result was computed, by default torch's current number.
    """
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
    named = re.search(r"^model name\s*:\s*(.+)$", read_system_file("/proc/cpuinfo"), re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
