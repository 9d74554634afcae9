"""Hostile files: each tries to run code or is damaged on purpose, and meets a command of ddim.

`CASES` maps a name to a function that writes files into an empty folder and returns the words of the command.
The command must refuse them in one sentence; of the cases in `PARTLY` it uses the sound part. Code that runs
writes a file named canary, or is heard by the audit hook of `canary`.
"""

import gzip
import json
import os
import pickle
import struct
import tarfile
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from archives import file_bytes, write_tar, zipped
from bad_images import chunk, encoded, picture
from ddim.exchange.diffusers import export_to_diffusers
from ddim.runs.checkpoint import MANIFEST
from ddim.sampling.pipeline import load
from forging import forge_checkpoint
from untrained import recipe, run_of

CASES = {}
PARTLY = set()
DATA = ["data", "source", "--size", "8"]
GOOD = encoded(picture(8, 8), "PNG")
MODULE = "open('canary', 'w')\nclass Net: pass\n"


def add(kind, cases, write, *, partly=False):
    """Add a case for each entry of a dictionary, which `write` writes into a folder."""
    for name, content in cases.items():
        CASES[f"{kind} {name}"] = partial(write, content)
        if partly:
            PARTLY.add(f"{kind} {name}")


def in_file(name, words, content, folder):
    """Write bytes into a file; return the words."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return words


# Pickles


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(value, **options):
    """The bytes of a file of torch.save."""
    return file_bytes(lambda file: torch.save(value, file, **options))


HARM = Call(os.system, "touch canary")
WEIGHTS = {"a": torch.ones(3), "b": HARM}
PICKLES = {
    "of a program": pickle.dumps(HARM),
    "in letters": b"cposix\nsystem\n(S'touch canary'\ntR.",
    "of eval": pickle.dumps([Call(eval, "__import__('os').mkdir('canary')")]),
    "of torch": saved(WEIGHTS),
    "of old torch": saved(WEIGHTS, _use_new_zipfile_serialization=False),
    "of a module": saved(torch.nn.Identity()),
    "packed": gzip.compress(pickle.dumps(HARM)),
}


# Runs


def read_files(folder):
    """All files of a folder, as {name: bytes}."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@cache
def sound_run():
    """The folder of a small run, and the files of its checkpoint as {name: bytes}."""
    run = run_of(recipe(), Path(mkdtemp(prefix="hostile-")) / "run")
    (place,) = (run / "checkpoints").iterdir()
    files = read_files(place)
    del files[MANIFEST]
    return run, files


def changed_run(change, folder):
    """Write a run whose files are changed under a manifest that fits; return the words that sample it."""
    files = dict(sound_run()[1])
    manifest = change(files)
    place = folder / "run" / "checkpoints" / "step-000000003"
    place.mkdir(parents=True)
    (folder / "evil.py").write_text(MODULE)
    forge_checkpoint(place, files, step=3)
    if manifest is not None:
        (place / MANIFEST).write_bytes(manifest)
    return ["sample", "run", "-n", "1", "--steps", "2", "--out", "out"]


def replaced(name, content):
    return lambda files: files.update({name: content})


def edited(name, place, **values):
    """Return the change of fields of a document, at a place such as "net"."""

    def change(files):
        document = json.loads(files[name])
        (document[place] if place else document).update(values)
        files[name] = json.dumps(document).encode()

    return change


HUGE = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
TENSORS = {
    "of words": b"not safetensors at all",
    "with a header of 2**62 bytes": struct.pack("<Q", 2**62) + b"{}",
    "of 4 TB": struct.pack("<Q", len(HUGE)) + HUGE,
    "of an unknown type": struct.pack("<Q", 48) + b'{"a":{"dtype":"X9","shape":[1],"data_offsets":0}}',
    "that are a pickle": PICKLES["of a program"],
}
OTHER = {"kind": "os.system", "sha256": "0" * 64}
add("run with tensors", {k: replaced("model.safetensors", v) for k, v in TENSORS.items()}, changed_run)
add("run", {
    "with a pickle as average": replaced("ema/default.safetensors", PICKLES["of torch"]),
    "with a pickle as recipe": replaced("recipe.json", PICKLES["of a program"]),
    "with a pickle as manifest": lambda files: PICKLES["in letters"],
    "with a manifest of brackets": lambda files: b"[" * 10**5,
    "with a manifest that leads out": lambda files: b'{"schema": 1, "files": {"../../canary": {}}}',
    "of brackets": replaced("recipe.json", b"[" * 10**5),
    "of a function as sampler": edited("recipe.json", "", sampler=OTHER),
    "of a module beside it": edited("recipe.json", "net", kind="evil:Net", sha256="0" * 64),
    "of a path": edited("recipe.json", "net", kind="../../evil.py:Net"),
    "of a class path": edited("recipe.json", "", net={"_target_": "os.system", "_class_path": "os.system"}),
    "of a wide network": edited("recipe.json", "net", width=2**40),
    "of many channels": edited("state.json", "", channels=10**12),
}, changed_run)  # fmt: skip


# Recipes


_START = ["train", "blossoms:20", "--out", "run", "--recipe"]
add("recipe", {
    "that calls": b"!!python/object/apply:os.system ['touch canary']",
    "with a new object": b"net: !!python/object/new:os.system ['touch canary']",
    "with a module": b"schedule: !!python/module:evil",
    "with eval": b"seed: !!python/object/apply:eval ['open(\"canary\", \"w\")']",
    "of a module": b"net: {kind: 'evil:Net'}",
    "of aliases": b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
    "of brackets": b"[" * 100_000,
    "of a pickle": PICKLES["in letters"],
    "of zeros": bytes(1000),
}, partial(in_file, "a.yaml", [*_START, "a.yaml"]))  # fmt: skip


# Pipelines of diffusers


@cache
def sound_pipeline():
    folder = Path(mkdtemp(prefix="hostile-")) / "pipe"
    export_to_diffusers(load(sound_run()[0]), folder)
    return read_files(folder)


def changed_pipeline(change, folder):
    """Write a pipeline whose files are changed; return the words that import it."""
    files = {**sound_pipeline(), "evil.py": MODULE.encode(), "unet/evil.py": MODULE.encode()}
    change(files)
    for name, content in files.items():
        in_file(f"pipe/{name}", [], content, folder)
    return ["import", "pipe", "--out", "run"]


def with_bin(content):
    """Return the change that replaces the weights by a pickle, as old pipelines have it."""

    def change(files):
        files["unet/diffusion_pytorch_model.bin"] = content
        del files[UNET]

    return change


CONFIG, UNET = "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
add("diffusers", {
    **{f"with a pickle {name}": with_bin(content) for name, content in PICKLES.items()},
    "with a pickle as weights": replaced(UNET, PICKLES["of torch"]),
    "of another class": edited(CONFIG, "", _class_name="os.system"),
    "of code beside it": edited(CONFIG, "", _class_name="Net", auto_map={"AutoModel": "evil.Net"}),
    "of brackets": replaced(CONFIG, b"[" * 10**5),
    "of a million layers": edited(CONFIG, "", layers_per_block=10**6),
}, changed_pipeline)  # fmt: skip
add("diffusers", {
    "of a module beside it": edited("model_index.json", "", unet=["evil", "Net"]),
    "of a function": edited("model_index.json", "", scheduler=["os", "system"]),
}, changed_pipeline, partly=True)  # fmt: skip


# Arrays and tables


def npy(header):
    """The bytes of a .npy file with any header."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def packed(**arrays):
    """The bytes of a .npz file."""
    return file_bytes(lambda file: np.savez(file, **arrays))


OBJECTS = np.array([HARM, HARM], object)
add("npy", {
    "of objects": file_bytes(lambda file: np.save(file, OBJECTS)),
    "that is a pickle": PICKLES["of a program"],
    "of a call": npy(b"__import__('os').system('touch canary')"),
    "of brackets": npy(b"[" * 60_000),
    "of 10**27 values": npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (10**9, 10**9, 10**9)}"),
}, partial(in_file, "source.npy", ["data", "source.npy", "--size", "8"]))  # fmt: skip
add("npz", {
    "of objects": packed(images=OBJECTS),
    "with labels of objects": packed(images=np.zeros((2, 8, 8), np.uint8), labels=OBJECTS),
    "that is a pickle": PICKLES["of a program"],
}, partial(in_file, "source.npz", ["data", "source.npz", "--size", "8"]))  # fmt: skip


def parquet(metadata, images=(GOOD,)):
    """The bytes of a parquet file whose column of images has metadata of Arrow."""
    field = pyarrow.field("image", pyarrow.binary(), metadata=metadata)
    table = pyarrow.table([list(images)], pyarrow.schema([field]))
    return file_bytes(lambda file: pyarrow.parquet.write_table(table, file))


_PARQUET = partial(in_file, "source.parquet", ["data", "source.parquet", "--size", "8"])
# Versions of pyarrow before 14.0.1 unpickled this type (CVE-2023-47248).
_TYPE = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": PICKLES["in letters"]}
add("parquet", {"of a type that is a pickle": parquet(_TYPE)}, _PARQUET, partly=True)
add("parquet", {
    "of pickles": parquet(None, [PICKLES["of a program"], PICKLES["of torch"]]),
    "cut off": parquet(None)[:-100],
    "that is a pickle": PICKLES["of a program"],
}, _PARQUET)  # fmt: skip
add("csv", {
    "of escapes": b"\x1b[2J,1\n2,3\n",
    "of formulas": b"=cmd|'/C touch canary'!A0,1\n" * 20,
    "that is a pickle": PICKLES["of a program"],
}, partial(in_file, "a.csv", [*_START, "smoke", "--data.vectors", "a.csv"]))  # fmt: skip


# Archives and images

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(touch canary) (w) file\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script href="http://127.0.0.1/x"/></svg>'
TEXT = GOOD[:33] + chunk(b"tEXt", b"a\0" + PICKLES["in letters"]) + GOOD[33:]
NAMES = ("a.png", "../canary.png", "/tmp/canary.png", "b/../../canary.png", "c\x1b[2J.png")
LINKS = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE


def hostile_tar(folder):
    """Write an archive with a good image, links, devices, and names that lead out of a folder."""
    write_tar(folder / "source", dict.fromkeys(NAMES, GOOD), "")
    with tarfile.open(folder / "source", "a") as archive:
        for kind in LINKS:
            info = tarfile.TarInfo(f"canary{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return DATA


_SOURCE = partial(in_file, "source", DATA)
add("zip", {"that leads out": zipped(dict.fromkeys(NAMES, GOOD))}, _SOURCE, partly=True)
add("zip", {
    "of pickles": zipped({"a.png": PICKLES["in letters"], "b.pkl": PICKLES["of a program"]}),
    "of another version": zipped({"a.png": GOOD}).replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\xff"),
    "that is encrypted": zipped({"a.png": GOOD}).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
}, _SOURCE)  # fmt: skip
CASES["tar"] = hostile_tar
PARTLY.add("tar")
add("image", {"with a pickle as text": TEXT}, partial(in_file, "source/a.png", DATA), partly=True)
add("image", {
    "that is a program": EPS,
    "that is a page": SVG,
    "that is a pickle": PICKLES["of a program"],
}, partial(in_file, "source/a.png", DATA))  # fmt: skip
