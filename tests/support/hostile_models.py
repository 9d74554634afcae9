"""Hostile run folders, recipes and pipelines of diffusers."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hostile_cases import GIB, add, lengthened
from hostile_pickles import PICKLES
from untrained import recipe, run_of

Change = Callable[[dict[str, Any]], object]


# Run folders


@cache
def _run() -> Path:
    """A run with a small network, which is copied."""
    return run_of(recipe(), Path(mkdtemp(prefix="hostile-")) / "run")


def run_with(change: Change, **words: str) -> Callable[[Path], list[str]]:
    """Return the case of a run whose documents are changed, under a manifest that fits."""

    def make(folder: Path) -> list[str]:
        from ddim.runs import checkpoint

        path = _run() / "checkpoints" / "step-000000003"
        documents = {name: json.loads((path / f"{name}.json").read_text()) for name in ("recipe", "state")}
        tensors = {name: checkpoint.read_tensors(path, name) for name in ("model", "ema/default")}
        change(documents)
        checkpoint.save(folder / "run" / "checkpoints", 3, tensors, documents)
        return ["sample", "run", "-n", "1", "--steps", "2", "--out", "out"]

    return make


def _set(place: str, **values: object) -> Change:
    """Return the change of some fields at a place, such as "recipe.net"."""

    def change(documents: dict[str, Any]) -> None:
        inner = documents
        for name in place.split("."):
            inner = inner[name]
        inner.update(values)

    return change


RUNS = {
    "wide": _set("recipe.net", width=100_000),
    "wider": _set("recipe.net", width=2**40),
    "of_many_blocks": _set("recipe.net", blocks=10**6),
    "of_many_stages": _set("recipe.net", multipliers=[1] * 10**5, attention=[False] * 10**5),
    "of_many_classes": _set("recipe.net", classes=10**12),
    "of_many_heads": _set("recipe.net", heads=10**12),
    "of_many_outputs": _set("recipe.net", outputs=10**12),
    "of_many_channels": _set("state", channels=10**12),
    "of_channels_in_words": _set("state", channels="x"),
    "of_a_deep_transformer": lambda d: d["recipe"].update(
        net={"kind": "dit", "depth": 10**9, "width": 64, "heads": 1}
    ),
    "of_huge_images": _set("recipe.data", size=[10**9, 10**9]),
    "of_a_long_table": _set("recipe.schedule", entries=10**12),
    "of_a_table_of_10_to_30": _set("recipe.schedule", entries=10**30),
    "of_many_steps": _set("recipe", steps=10**30),
    "of_a_kind_with_a_path": _set("recipe.net", kind="../../canary.py:Net"),
    "of_a_module": lambda d: d["recipe"].update(sampler={"kind": "os.system", "sha256": "0" * 64}),
    "of_a_list": lambda d: d.update(recipe=[1]),
    "of_many_threads": _set("state.runtime", threads=10**9),
    "of_a_state_of_nothing": lambda d: d.update(state={}),
    "of_long_words": _set("recipe.net", kind="x" * 10**6),
}
for _name, _change in RUNS.items():
    add(f"run_{_name}", run_with(_change))


def _deep(documents: dict[str, Any]) -> None:
    tree: dict[str, Any] = {}
    documents["recipe"]["net"] = tree
    for _ in range(400):
        tree["kind"] = tree = {}


add("run_of_deep_nesting", run_with(_deep))


def damaged_run(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Return the case of a run folder with a file of another kind."""

    def make(folder: Path) -> list[str]:
        shutil.copytree(_run(), folder / "run")
        change(folder / "run" / "checkpoints" / "step-000000003")
        return ["sample", "run", "-n", "1", "--steps", "2", "--out", "out"]

    return make


def content(part: str, write: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return the change of a file."""

    def change(folder: Path) -> None:
        (folder / part).unlink()
        write(folder / part)

    return change


for _file in ("MANIFEST.json", "recipe.json", "model.safetensors"):
    _word = _file.partition(".")[0].lower()
    add(f"run_with_a_pipe_as_{_word}", damaged_run(content(_file, os.mkfifo)))
    add(f"run_with_a_link_as_{_word}", damaged_run(content(_file, lambda path: path.symlink_to("/dev/zero"))))
add("run_with_a_manifest_of_a_gibibyte", damaged_run(content("MANIFEST.json", lengthened(GIB))))
add(
    "run_with_a_nested_manifest",
    damaged_run(content("MANIFEST.json", lambda p: p.write_bytes(b"[" * 10**6))),
)
add(
    "run_with_a_pickle_as_model",
    damaged_run(content("model.safetensors", lambda p: p.write_bytes(b"\x80\4cos\nsystem\n."))),
)


# Recipes


def text_recipe(text: bytes) -> Callable[[Path], list[str]]:
    """Return the case of a recipe file."""

    def make(folder: Path) -> list[str]:
        (folder / "a.yaml").write_bytes(text)
        return ["train", "blossoms:20", "--recipe", "a.yaml", "--out", "run"]

    return make


RECIPES = {
    "that_calls": b"!!python/object/apply:os.system ['touch canary']",
    "with_a_module": b"name: !!python/module:os",
    "with_an_object": b"net: !!python/object/new:os.system ['touch canary']",
    "of_aliases": b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
    "of_an_empty_number": b"seed: !!int ''",
    "of_5000_hex_digits": b"seed: 0x" + b"f" * 5000,
    "of_sixties": b"seed: 1" + b":59" * 80_000,
    "of_depth_100_000": b"[" * 100_000,
    "of_nested_tables": b"{a: " * 60_000,
    "of_keys": b"? " * 120_000,
    "of_a_long_key": b"x" * 200_000 + b": 1",
    "of_a_long_kind": b"net: " + b"x" * 200_000,
    "of_a_mebibyte": b"a" * 2**20,
    "of_zeros": bytes(1000),
}
for _name, _text in RECIPES.items():
    add(f"recipe_{_name}", text_recipe(_text))


# Pipelines of diffusers


@cache
def _pipeline() -> Path:
    from ddim.runs.diffusers_format import export_to_diffusers
    from ddim.runs.pipeline import load

    folder = Path(mkdtemp(prefix="hostile-")) / "pipe"
    export_to_diffusers(load(_run()), folder)
    return folder


def pipeline(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Return the case of a pipeline of diffusers."""

    def make(folder: Path) -> list[str]:
        shutil.copytree(_pipeline(), folder / "pipe")
        change(folder / "pipe")
        return ["import", "pipe", "--out", "run"]

    return make


def config(part: str = "unet/config.json", **values: object) -> Callable[[Path], object]:
    """Return the change of a configuration."""

    def change(folder: Path) -> None:
        path = folder / part
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


NOISE, WEIGHTS = "scheduler/scheduler_config.json", "unet/diffusion_pytorch_model.safetensors"
ODD = b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}'
HEADER = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
PIPELINES = {
    "of_20_000_layers": config(layers_per_block=20_000),
    "of_a_million_layers": config(layers_per_block=10**6),
    "of_wide_blocks": config(block_out_channels=[10**5, 2 * 10**5]),
    "of_many_blocks": config(
        block_out_channels=[16] * 10**4,
        down_block_types=["DownBlock2D"] * 10**4,
        up_block_types=["UpBlock2D"] * 10**4,
    ),
    "of_many_classes": config(num_class_embeds=10**6),
    "of_no_groups": config(norm_num_groups=0),
    "of_huge_heads": config(attention_head_dim=10**6),
    "of_huge_images": config(sample_size=[10**9, 10**9]),
    "of_long_numbers": config(layers_per_block=10**4000),
    "of_words": config(block_out_channels=["x" * 10**5]),
    "of_many_betas": config(NOISE, trained_betas=[0.1] * 10**5, num_train_timesteps=10**5),
    "of_huge_betas": config(NOISE, trained_betas=[10**400] * 1000),
    "of_many_timesteps": config(NOISE, num_train_timesteps=10**30),
    "of_beta_1e308": config(NOISE, beta_end=1e308),
    "of_nested_json": content("unet/config.json", lambda path: path.write_bytes(b"[" * 10**6)),
    "of_a_gibibyte": content("unet/config.json", lengthened(GIB)),
    "with_a_pipe": content("unet/config.json", os.mkfifo),
    "with_a_device": content(NOISE, lambda path: path.symlink_to("/dev/zero")),
    "with_a_huge_header": content(WEIGHTS, lambda p: p.write_bytes(struct.pack("<Q", 2**62) + b"{}")),
    "with_huge_weights": content(WEIGHTS, lambda p: p.write_bytes(struct.pack("<Q", len(HEADER)) + HEADER)),
    "with_a_nested_header": content(
        WEIGHTS, lambda p: p.write_bytes(struct.pack("<Q", 10**5) + b"{" * 10**5)
    ),
    "without_weights": content(WEIGHTS, lambda path: None),
    "of_words_as_weights": content(WEIGHTS, lambda path: path.write_bytes(b"not safetensors at all")),
    "of_an_unknown_type": content(WEIGHTS, lambda p: p.write_bytes(struct.pack("<Q", len(ODD)) + ODD)),
}


def _pickled(write: Callable[[Path, Path], object]) -> Callable[[Path], object]:
    """Return the change of the weights into a pickle."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        write(folder / "unet" / "diffusion_pytorch_model.bin", folder.parent / "canary")

    return change


PIPELINES |= {f"with_a_pickle_{name}": _pickled(write) for name, write in PICKLES.items()}
for _name, _pipe in PIPELINES.items():
    add(f"diffusers_{_name}", pipeline(_pipe))
