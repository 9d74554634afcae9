"""How evaluations of runs were made, and which of them count beside one another.

Of the same features, against the same kind of reference, of as many pictures that were sampled in as many
steps, with the same weights and the same changes of the runs' own ways of sampling. Read without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ddim.experiments.index import Run
from ddim.metrics import catalogue
from ddim.runs import flat

CHOICES = ("sampler", "grid", "sampled_on", "clip")
"""The fields of a recipe that an evaluation may change."""


@dataclass(frozen=True)
class Way:
    """How an evaluation was made; numbers compare where all of it is equal.

    The reference is not told by its hash: each seed draws a validation part of its own from the same images,
    and the spread over repeats holds what that does.
    """

    extractor: str
    weights: str
    resize: str
    dimensions: int
    reference: tuple[str, str, tuple[int, ...], int]
    pictures: int
    sampled: tuple[str, ...]

    def ranks(self, metric: str) -> bool:
        """Whether there are images enough to rank by a metric."""
        least = catalogue.METRICS[metric].needs(self.dimensions) if metric in catalogue.METRICS else 0
        return min(self.pictures, self.reference[-1]) >= least


def way(run: Run, record: Mapping[str, Any]) -> Way:
    """How the evaluation of a run was made.

    Each run is sampled by its own recipe: what is told of that is where it was not.
    """
    features, reference = record["features"], record["reference"]
    against = reference["fingerprint"], reference["part"], tuple(reference["size"]), reference["images"]
    names = features["extractor"], features["weights"], features["resize"], features["dimensions"]
    return Way(*names, against, record["generated"]["images"], tuple(_sampled(run, record)))


def _sampled(run: Run, record: Mapping[str, Any]) -> Iterator[str]:
    sampling = record.get("sampling")
    if not sampling:
        return
    yield f"{len(sampling['times'])} steps"
    yield f"weights {sampling['weights']}"
    if sampling.get("label") is not None:
        yield f"label {sampling['label']}, guidance {sampling.get('guidance', 1.0):g}"
    for part in CHOICES:
        own, made = (flat.fields({part: recipe.get(part)}) for recipe in (run.recipe, sampling["recipe"]))
        if made.get(part) == "listed":
            # Each run's own levels, found by a search, and all found so are alike.
            made = {part: "listed"}
        # Of one kind a newer version may know more fields than the run does.
        same = made.get(part) == own.get(part)
        for name, value in made.items():
            if not same or value != own.get(name, value):
                yield f"{name} {value}"


def counts(run: Run, record: Mapping[str, Any]) -> bool:
    """Whether an evaluation tells of a run what it is: not of a finished one what it was on the way."""
    sampling = record.get("sampling")
    if not sampling or run.state != "finished":
        return True
    return sampling["step"] * run.recipe["optim"]["batch"] >= run.images


def standard(found: Iterable[Run]) -> Way | None:
    """The way in which most runs were judged; of two, that of more pictures, or else the newer one.

    None where none was judged.
    """
    ways: Counter[Way] = Counter()
    newest: dict[Way, tuple[str, int]] = {}
    for run in found:
        mine = {}
        for place, record in enumerate(run.records):
            if counts(run, record):
                mine[way(run, record)] = str(record.get("time")), place
        ways.update(mine.keys())
        newest |= {each: max(when, newest.get(each, when)) for each, when in mine.items()}
    return max(ways, key=lambda each: (ways[each], each.pictures, newest[each]), default=None)


def latest(run: Run, judged: Way | None) -> Mapping[str, Any] | None:
    """The record of the newest evaluation of a run in one way, None where it has none."""
    of = (record for record in reversed(run.records) if counts(run, record) and way(run, record) == judged)
    return next(of, None)


def newest(run: Run) -> Mapping[str, Any] | None:
    """The record of the newest evaluation of a run that tells of it what it is, None where it has none."""
    return next((record for record in reversed(run.records) if counts(run, record)), None)


def alike(found: Sequence[Run]) -> list[Run]:
    """The runs with the evaluation of each that counts beside those of the others; a run without says why."""
    judged = standard(found)

    def kept(run: Run) -> Run:
        record = latest(run, judged)
        if record is not None:
            return replace(run, records=(record,))
        if not run.records:
            return run
        last = newest(run)
        how = unlike(way(run, last), judged) if judged and last else "of an earlier step"
        why = run.why or f"its evaluations do not compare with those of most: {how}"
        return replace(run, records=(), why=why)

    return [kept(run) for run in found]


def unlike(one: Way, other: Way) -> str:
    """In what two ways differ: "other extractor (inception-2015)", of the first."""
    said = []
    if (one.extractor, one.weights, one.resize) != (other.extractor, other.weights, other.resize):
        said.append(f"other extractor ({one.extractor}, weights {one.weights[:8]}, {one.resize})")
    if one.reference != other.reference:
        _, part, size, images = one.reference
        said.append(f"other reference ({images} images of part {part}, {'x'.join(map(str, size))})")
    if one.pictures != other.pictures:
        said.append(f"other count ({one.pictures} pictures)")
    if one.sampled != other.sampled:
        said.append(f"other sampling ({', '.join(one.sampled)})")
    return ", ".join(said)
