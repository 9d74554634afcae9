"""Damage checkpoints, sealed documents and caches at random, and see whether the damage is named.

`python tests/support/damages.py FOLDER [--checkpoints 750] [--documents 500]` prints how often a damage was
named, and how often it changed nothing. A fault is a damaged content that was believed, or an unnamed file.
"""

import random
import shutil
import time
import warnings
from collections import Counter

import torch
from PIL import Image

import crash
import tiny
from damage import blank, cut, flip, truncate
from ddim.data import open_images
from ddim.data.sources import _CLOCK_TICK
from ddim.diffusion.samplers import DDIM
from ddim.errors import UserError
from ddim.evaluation.record import read_evaluation
from ddim.experiments.index import OUTCOME, beside, read_run
from ddim.files import read_sealed, write_sealed
from ddim.runs import checkpoint
from ddim.runs.averages import StoredAverage, read_stored, store_average
from ddim.runs.folder import record_in_run
from ddim.sampling.image_features import keep_part, read_part
from ddim.sampling.sampling_setup import Guidance, save_guidance
from ddim.sampling.searched import find_saved_grid, save_grid
from programmes import run_as_command
from run_folders import make, write_evaluation
from sweeping import plan_sweep


def digit(data, draw):
    """Change one digit, as a careless edit does."""
    places = [k for k, byte in enumerate(data) if chr(byte).isdigit()]
    if not places:
        return flip(data, draw)
    place = draw.choice(places)
    other = draw.choice([d for d in b"0123456789" if d != data[place]])
    return data[:place] + bytes([other]) + data[place + 1 :]


BYTES = (flip, truncate, blank, cut, digit)


def damage_checkpoint(path, k, draw):
    """Damage a file of a checkpoint; return the name that a message must contain.

    Of 15 files 10 have a flipped bit, 4 are cut off, and 1 is missing, new or of another checkpoint.
    """
    file = draw.choice(sorted(file for file in path.rglob("*") if file.is_file()))
    other = path.with_name("step-000000001") / file.relative_to(path)
    if k % 15 < 14:
        file.write_bytes((flip if k % 15 < 10 else truncate)(file.read_bytes(), draw))
    elif k % 45 == 14:
        file.unlink()
    elif k % 45 == 29:
        file = file.with_name(f"{file.name}.1")
        file.write_bytes(b"{}")
    else:
        file.write_bytes(other.read_bytes())
        return path.name  # another manifest does not fit the files, so the message names one of these
    return file.name


def damage_checkpoints(folder, count, seed=0):
    """Damage `count` checkpoints; return how often that was named, and the one before it was used."""
    draw, outcomes = random.Random(seed), Counter()
    crash.put(folder / "whole", 1)
    crash.put(folder / "whole", 2)
    for k in range(count):
        run = shutil.copytree(folder / "whole", folder / "run")
        newest = run / "step-000000002"
        name = damage_checkpoint(newest, k, draw)
        with warnings.catch_warnings(record=True, action="always") as warned:
            found = crash.label(checkpoint.read_newest(run, checkpoint.verify))
        said = [str(warning.message) for warning in warned]
        named = len(said) == 1 and newest.name in said[0] and name in said[0]
        outcomes["believed" if found != (1, 0) else "named" if named else "unnamed"] += 1
        shutil.rmtree(run)
    return outcomes


def write_files(folder):
    """Write files of each kind; return {name: (folder, pattern of its files, function that reads them)}."""
    run = make(folder / "run", step=60)
    record_in_run(run, checkpointed=True)
    save_grid(run, DDIM(), 3, "ema", (1.0, 0.5, 0.25), 0.1)
    save_guidance(run, DDIM(), 3, "ema", Guidance(2.0, (None, 1.5), "@guide"), labelled=False)
    write_evaluation(run, 1, kid=0.1)
    store_average(run, "mine", {"weight": torch.ones(4)}, StoredAverage(1.0, 1.0, 0.0, 1, "sha"))
    record, average = "evaluations/1/record.json", "averages/mine"
    write_sealed(run / record, read_sealed(run / record))
    trial, _ = plan_sweep(folder / "sweep", ["1", "2"])
    sweep, outcome = folder / "sweep", beside(trial, OUTCOME)
    write_sealed(outcome, {"exit_code": 0, "message": "finished"})
    outcome, photos, features = outcome.relative_to(sweep), folder / "photos", folder / "features"
    keep_part(features / "part", {"features": torch.eye(3), "nfe": torch.tensor(5)})
    photos.mkdir()
    for k, image in enumerate(tiny.images(4).pixels):
        Image.fromarray(image).save(photos / f"{k}.png")
    time.sleep(_CLOCK_TICK + 0.1)  # There is no note about younger files.

    def facts(run):
        found = read_run(run)
        if found.state == "damaged":
            raise UserError(found.why)
        return found.facts

    def read_average(run):
        weight = checkpoint.read_tensors(run / average, "average")["weight"]
        return read_stored(run / average), weight.tolist()

    def read_features(folder):
        found = read_part(folder / "part", "features", "nfe")
        return found and {name: value.tolist() for name, value in found.items()}

    def decode(cache):
        images = open_images("blossoms:12", size=(32, 32), cache=cache)
        return images.names, images.pixels[:].tolist()

    def read_photos(cache):
        return open_images(photos, (8, 8), cache=cache).fingerprint

    return {
        "run.json": (run, "run.json", facts),
        "searched.json": (run, "searched.json", lambda run: find_saved_grid(run, DDIM(), 3, "ema")),
        "record.json": (run, record, lambda run: read_evaluation(run / record).record),
        "sweep.json": (sweep, "sweep.json", lambda sweep: read_sealed(sweep / "sweep.json")),
        "outcome": (sweep, str(outcome), lambda sweep: read_sealed(sweep / outcome)),
        "average": (run, f"{average}/*", read_average),
        "features": (features, "part", read_features),
        "images": (folder / "cache", "images/*/*", decode),
        "note": (folder / "cache", "stamps/*/note.json", read_photos),
    }


def damage_files(folder, count, seed=0):
    """Damage files of each kind `count` times; return {name: how often it was named, harmless or believed}.

    It is harmless if the content is read as it was written, such as from images that are decoded again.
    """
    draw, report = random.Random(seed), {}
    for name, (whole, pattern, read) in write_files(folder).items():
        wanted, outcomes, copy = read(whole), Counter(), folder / "copy"
        files = sorted(file for file in whole.glob(pattern) if file.is_file())
        for k in range(count):
            shutil.copytree(whole, copy)
            file, damage = (
                copy / files[k % len(files)].relative_to(whole),
                BYTES[k // len(files) % len(BYTES)],
            )
            file.write_bytes(damage(file.read_bytes() or b"x", draw))
            with warnings.catch_warnings(action="ignore"):
                try:
                    found = read(copy)
                    outcomes["harmless" if contents_equal(found, wanted) else "believed"] += 1
                except UserError as error:
                    named = any(part in str(error) for part in file.parts[-3:])
                    outcomes["named" if named else "unnamed"] += 1
            shutil.rmtree(copy)
        report[name] = outcomes
    return report


def contents_equal(found, wanted):
    """Whether nothing was read, or what was written; a damaged key of the seal may be one more entry."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return {key: found.get(key) for key in wanted} == wanted and len(found) <= len(wanted) + 1
    return found is None or found == wanted


def damage_all(folder, checkpoints=750, documents=500):
    """Return how often each kind of file was named, harmless, and believed; the last are the faults."""
    report = {"checkpoints": damage_checkpoints(folder / "checkpoints", checkpoints)}
    report |= damage_files(folder / "files", documents)
    return report | {
        "faults": [name for name, found in report.items() if found["believed"] + found["unnamed"]]
    }


if __name__ == "__main__":
    run_as_command(damage_all)
