"""Damage checkpoints and documents at random, and see whether the damage is named.

`python tests/support/damages.py FOLDER --checkpoints 750 --documents 500` prints a report as JSON, and fails
if a damaged checkpoint was loaded or a changed content was believed.
"""

import argparse
import json
import random
import shutil
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from PIL import Image

import crash
import tiny
from ddim.data import open_images
from ddim.data.sources import _CLOCK_TICK
from ddim.diffusion.samplers import DDIM
from ddim.errors import UserError
from ddim.evaluation.record import read_evaluation
from ddim.experiments.index import OUTCOME, beside, read_run
from ddim.files import read_sealed, write_sealed
from ddim.runs import checkpoint
from ddim.runs.averages import read_stored
from ddim.runs.folder import record_in_run
from ddim.sampling.image_features import keep_part, read_part
from ddim.sampling.sampling_setup import Guidance, save_guidance
from ddim.sampling.searched import find_saved_grid, save_grid
from run_folders import make, write_evaluation
from sweeping import plan_sweep


def flip(data, draw):
    """Flip one bit."""
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def truncate(data, draw):
    """Keep a beginning, never all of it."""
    return data[: draw.randrange(len(data))]


def blank(data, draw):
    """Set up to 512 bytes to zero, as a lost sector does."""
    place = draw.randrange(len(data))
    length = len(data[place : place + 512])
    return data[:place] + bytes(length) + data[place + length :]


def cut(data, draw):
    """Leave out 1 to 16 bytes."""
    place = draw.randrange(len(data))
    return data[:place] + data[place + draw.randint(1, 16) :]


def digit(data, draw):
    """Change one digit, as a careless edit does."""
    places = [k for k, byte in enumerate(data) if chr(byte).isdigit()]
    place = draw.choice(places)
    other = draw.choice([d for d in b"0123456789" if d != data[place]])
    return data[:place] + bytes([other]) + data[place + 1 :]


BYTES = (flip, truncate, blank, cut, digit)


def damage_checkpoint(path, kind, draw):
    """Damage one file of a checkpoint; return its name."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = draw.choice(files)
    if kind == "missing":
        file.unlink()
    elif kind == "extra":
        file = file.with_name(f"{file.name}.{draw.randrange(100)}")
        file.write_bytes(b"{}")
    elif kind == "swapped":
        other = path.with_name("step-000000001") / file.relative_to(path)
        file.write_bytes(other.read_bytes())
    else:
        file.write_bytes({"flip": flip, "truncate": truncate}[kind](file.read_bytes(), draw))
    return file.name


def damage_checkpoints(folder, count, seed=0):
    """Damage `count` checkpoints: 2 of 3 by a flipped bit, 4 of 15 by truncation, 1 of 15 by other files."""
    draw, outcomes = random.Random(seed), Counter()
    crash.put(folder / "whole", 1)
    crash.put(folder / "whole", 2)
    kinds = ["flip"] * 10 + ["truncate"] * 4
    for k in range(count):
        kind = draw.choice(("missing", "extra", "swapped")) if k % 15 == 14 else kinds[k % 15]
        run = folder / "run"
        shutil.copytree(folder / "whole", run)
        newest = run / "step-000000002"
        name = damage_checkpoint(newest, kind, draw)
        with warnings.catch_warnings(record=True, action="always") as warned:
            found = crash.label(checkpoint.find_newest(run))
        said = [str(warning.message) for warning in warned]
        if found != (1, 0):
            outcomes["loaded"] += 1
        # Another manifest does not fit the files, so the message names one of these.
        elif len(said) == 1 and newest.name in said[0] and (name in said[0] or kind == "swapped"):
            outcomes[kind] += 1
        else:
            outcomes["unnamed"] += 1
        shutil.rmtree(run)
    return outcomes


def write_documents(folder):
    """Write one document of each kind; return {name: (file, function that reads it)}."""
    run = make(folder / "run", step=60)
    record_in_run(run, checkpointed=True)
    save_grid(run, DDIM(), 3, "ema", (1.0, 0.5, 0.25), 0.1)
    save_guidance(run, DDIM(), 3, "ema", Guidance(2.0, (None, 1.5), "@guide"), labelled=False)
    write_evaluation(run, 1, kid=0.1)
    record = run / "evaluations" / "1" / "record.json"
    write_sealed(record, read_sealed(record))
    trial, _ = plan_sweep(folder / "sweep", ["1", "2"])
    plan, outcome = folder / "sweep" / "sweep.json", beside(trial, OUTCOME)
    write_sealed(outcome, {"exit_code": 0, "message": "finished"})

    def facts():
        found = read_run(run)
        if found.state == "damaged":
            raise UserError(found.why)
        return found.facts

    return {
        "run.json": (run / "run.json", facts),
        "searched.json": (run / "searched.json", lambda: find_saved_grid(run, DDIM(), 3, "ema")),
        "record.json": (record, lambda: read_evaluation(record).record),
        "sweep.json": (plan, lambda: read_sealed(plan)),
        "1.outcome.json": (outcome, lambda: read_sealed(outcome)),
    }


def damage_documents(folder, count, seed=0):
    """Damage each document `count` times; return {name: how often it was named or believed}."""
    draw, report = random.Random(seed), {}
    for name, (file, read) in write_documents(folder).items():
        whole, wanted, outcomes = file.read_bytes(), read(), Counter()
        for k in range(count):
            damage = BYTES[k % len(BYTES)]
            data = damage(whole, draw)
            file.write_bytes(data)
            try:
                found = read()
            except UserError as error:
                outcomes["named" if name in str(error) else "unnamed"] += 1
                continue
            if contents_equal(found, wanted):
                outcomes["read as written"] += 1
            else:
                outcomes["believed"] += 1
                print(name, damage.__name__, repr(found)[:200], file=sys.stderr)
        file.write_bytes(whole)
        report[name] = outcomes
    return report


def contents_equal(found, wanted):
    """Whether content is as written; a damaged key of the seal may be left as one more entry."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return {key: found.get(key) for key in wanted} == wanted and len(found) <= len(wanted) + 1
    return found == wanted


def damage_cache(folder, count, seed=0):
    """Damage decoded images and their pages; return how often they were named, decoded again or believed."""
    draw, outcomes = random.Random(seed), Counter()

    def read():
        return open_images("blossoms:12", size=(32, 32), cache=folder / "cache")

    wanted = read()
    pixels, home = wanted.pixels[:].copy(), wanted.folder
    if home is None:
        return outcomes
    files = sorted(file for file in home.iterdir() if file.is_file() and file.name[0] != ".")
    whole = {file: file.read_bytes() for file in files}
    for k in range(count):
        file = files[k % len(files)]
        file.write_bytes(BYTES[k // len(files) % 4](whole[file], draw) if whole[file] else b"x")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = read()
                same = (found.pixels[:] == pixels).all() and found.names == wanted.names
                outcomes[
                    "believed" if not same else "decoded again, said" if said else "read as written"
                ] += 1
            except UserError as error:
                outcomes["named" if str(home) in str(error) else "unnamed"] += 1
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for each, data in whole.items():
            each.write_bytes(data)
    return outcomes


def damage_files(files, read, count, draw):
    """Damage some files `count` times; return how often they were named, not used or believed."""
    wanted, outcomes = read(), Counter()
    whole = {file: file.read_bytes() for file in files}
    for k in range(count):
        file = files[k % len(files)]
        file.write_bytes(BYTES[k // len(files) % 4](whole[file], draw))
        try:
            found = read()
            outcomes["not used" if found is None else "as before" if found == wanted else "believed"] += 1
        except UserError as error:
            outcomes["named" if any(part in str(error) for part in file.parts[-3:]) else "unnamed"] += 1
        for each, data in whole.items():
            each.write_bytes(data)
    return outcomes


def damage_caches(folder, count, seed=0):
    """Damage a note of the cache, an average and kept features; return {name: outcomes}."""
    draw = random.Random(seed)
    photos, cache = folder / "photos", folder / "cache"
    photos.mkdir(parents=True)
    for k, image in enumerate(tiny.images(4).pixels):
        Image.fromarray(image).save(photos / f"{k}.png")
    time.sleep(_CLOCK_TICK + 0.1)  # There is no note about younger files.

    def read_images():
        return open_images(photos, (8, 8), cache=cache).fingerprint

    read_images()
    part = folder / "part"
    keep_part(part, {"features": torch.eye(3), "nfe": torch.tensor(5)})
    crash.keep(folder / "run", 1)
    average = folder / "run" / "averages" / "mine"

    def read_kept():
        found = read_part(part, "features", "nfe")
        return None if found is None else (found["features"].tolist(), found["nfe"].item())

    def read_average():
        return read_stored(average), checkpoint.read_tensors(average, "average")["weight"].tolist()

    return {
        "note": damage_files([*(cache / "stamps").glob("*/note.json")], read_images, count, draw),
        "features": damage_files([part], read_kept, count, draw),
        "average": damage_files(sorted(average.iterdir()), read_average, count, draw),
    }


def failures(report):
    """The number of damages that were loaded or believed, or whose file was not named."""
    return sum(outcomes[word] for outcomes in report.values() for word in ("loaded", "believed", "unnamed"))


def main():
    """Print the report; exit with 1 if a damage was believed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=int, default=750)
    parser.add_argument("--documents", type=int, default=500)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    report = {"checkpoints": damage_checkpoints(args.folder / "checkpoints", args.checkpoints)}
    report |= damage_documents(args.folder / "documents", args.documents)
    report["cache"] = damage_cache(args.folder, args.documents)
    report |= damage_caches(args.folder / "caches", args.documents)
    print(json.dumps(report, indent=1))
    return failures(report) > 0


if __name__ == "__main__":
    sys.exit(main())
