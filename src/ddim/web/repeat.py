"""Write the command and the Python code that make the images of a task without the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim.errors import quote
from ddim.sampling.pipeline import LoadedRun
from ddim.web import tasks

SAMPLED = "sampled"
"""The folder of the samples that an edit starts from."""
MASK = "mask"
"""The file of the mask of an edit."""


def guidance_options(task: tasks.SampleTask | tasks.EditTask) -> dict[str, Any]:
    """Return the options of guidance that a task sets."""
    options: dict[str, Any] = {}
    if task.guidance is not None:
        options["guidance"] = task.guidance
    if task.interval is not None:
        options["guidance_interval"] = (task.interval[0], task.interval[1])
    if task.guide_with is not None:
        options["guide_with"] = task.guide_with
    return options


def sample_command(task: tasks.SampleTask, classes: Sequence[str] = ()) -> str:
    """Return the command that writes the same files as a task; `classes` are the class names of the run."""
    words: list[object] = ["ddim", "sample", task.run, "--seeds", _join_seeds(task.seeds)]
    if task.steps is not None:
        words += ["--steps", task.steps]
    words += [f"--{name}={value}" for name, value in task.fields.items()]
    if task.label is not None:
        # Commands take text for a name first, and for an index only if no class has this name.
        label = task.label
        named = classes[label] if isinstance(label, int) and str(label) in classes else label
        words += [f"--label={named}"]
    if task.vector is not None:
        words += [f"--vector={','.join(map(repr, task.vector))}"]
    return quote(*words, *_guidance_words(task), *(["--film"] if task.film else []))


def sample_call(task: tasks.SampleTask, pipeline: LoadedRun) -> str:
    """Return Python code that samples the same images as a task."""
    seeds = list(task.seeds)
    consecutive = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    shown = f"range({seeds[0]}, {seeds[-1] + 1})" if consecutive and len(seeds) > 1 else repr(seeds)
    options: list[str] = [f"seeds={shown}"]
    lines, model = ["import ddim"], repr(task.run)
    if task.steps is not None:
        options.append(f"steps={task.steps}")
    names = {name.split(".")[0] for name in task.fields}
    if names - {"sampler", "grid"}:
        lines += ["from dataclasses import replace", "from ddim.recipe.codec import override"]
        lines += [f"pipeline = ddim.load({model})"]
        lines += [f"recipe = override(pipeline.recipe, {dict(task.fields)!r})"]
        model = "replace(pipeline, recipe=recipe)"
    # On another schedule, the command takes no times that `ddim search` found; `sample` is told by a grid.
    names |= {"grid"} if "sampled_on" in names else set()
    modules = {"sampler": "ddim.samplers", "grid": "ddim.grids"}
    for name in sorted(names & set(modules)):
        options.append(f"{name}={modules[name]}.{getattr(pipeline.recipe, name)!r}")
    given = {"label": task.label, "vector": task.vector, **guidance_options(task)}
    options += [f"{name}={value!r}" for name, value in given.items() if value is not None]
    return "\n".join([*lines, f"images = ddim.sample({model}, {', '.join(options)})"])


def sampling_of(task: tasks.EditTask, folder: Path) -> tasks.SampleTask:
    """Return the task that samples the seeds which an edit starts from."""
    return tasks.SampleTask(task.run, str(folder), task.seeds)


def edit_command(task: tasks.EditTask, names: Sequence[str]) -> str:
    """Return the command that writes the same images as a task.

    If the edit starts from samples, the command that samples them comes first.
    """
    words: list[object] = ["ddim", task.kind, task.run, *names]
    if task.kind == "interpolate" and task.seeds:
        words += ["--seeds", ",".join(map(str, task.seeds))]
    if task.kind == "interpolate":
        words += ["--frames", task.n]
    if task.mask is not None:
        words += ["--mask", MASK, "--resample", task.resample]
    if task.kind == "vary":
        words += ["--strength", task.strength]
    if task.kind in ("vary", "inpaint"):
        words += ["-n", task.n, "--seed", task.seed]
    words += ["--steps", task.steps, *(["--exact"] if task.exact else [])]
    words += [f"--{name}={value}" for name, value in task.fields.items()]
    return _first_line(task, names) + quote(*words, *_guidance_words(task))


def edit_call(task: tasks.EditTask, names: Sequence[str]) -> str:
    """Return Python code that makes the same images as a task from the same files."""
    parts: list[str] = [repr(task.run)]
    if task.kind == "interpolate":
        parts += [f"seeds={list(task.seeds)!r}"] if task.seeds else map(repr, names)
        parts += [f"frames={task.n}"]
    elif task.kind == "invert":
        parts += [*map(repr, names), *(["exact=True"] if task.exact else [])]
    else:
        parts += [repr(names[0]), f"mask={MASK!r}" if task.mask else f"strength={task.strength!r}"]
        parts += [f"seeds=range({task.seed}, {task.seed + task.n})"]
        parts += [f"resample={task.resample}"] if task.mask else []
    parts += [f"steps={task.steps}", *([f"fields={dict(task.fields)!r}"] if task.fields else [])]
    parts += [f"{name}={value!r}" for name, value in guidance_options(task).items()]
    first = f"# after: {line}" if (line := _first_line(task, names)) else ""
    return f"{first}import ddim\nedit = ddim.{task.kind}({', '.join(parts)})"


def _first_line(task: tasks.EditTask, names: Sequence[str]) -> str:
    """Return the command that samples the images which an edit starts from; "" if there are none."""
    return f"{sample_command(sampling_of(task, Path()))} --out {SAMPLED}\n" if names and task.seeds else ""


def _guidance_words(task: tasks.SampleTask | tasks.EditTask) -> list[str]:
    """Return the options of guidance of a command, as words.

    A value such as -2,5 looks like an option, so "=" joins it to its option.
    """
    words = []
    if task.guidance is not None:
        words += ["--guidance", repr(task.guidance)]
    if task.interval is not None:
        words += [
            f"--guidance-interval={','.join('' if end is None else repr(end) for end in task.interval)}"
        ]
    if task.guide_with is not None:
        words += [f"--guide-with={task.guide_with}"]
    return words


def _join_seeds(seeds: Sequence[int]) -> str:
    """Return seeds as the text for --seeds; consecutive seeds are written as a range, such as 0-15."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
