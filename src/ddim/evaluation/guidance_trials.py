"""The result of a search for guidance: the settings that were tried, and the comparison on fresh samples."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ddim.evaluation.compare import Difference
from ddim.evaluation.guidance_name import name_guidance
from ddim.plots.table import Tabular
from ddim.sampling.sampling_setup import Guidance


@dataclass(frozen=True)
class GuidanceTrial:
    """A setting of guidance and the KID of its samples, with its 95 % confidence interval."""

    guidance: Guidance
    steps: int
    nfe: int
    kid: float
    low: float
    high: float

    @property
    def measured(self) -> dict[str, float]:
        """The KID and its 95 % confidence interval, keyed by name."""
        return {"kid": self.kid, "low": self.low, "high": self.high}

    @property
    def name(self) -> str:
        """The setting in words, such as "guidance 2, guide @guide"."""
        chosen = self.guidance
        return name_guidance(chosen.scale, chosen.interval, chosen.guide) or "no guidance"

    def __str__(self) -> str:
        return f"KID {self.kid:.5f} ({self.low:.5f} ... {self.high:.5f}) at {self.nfe} NFE"


@dataclass(frozen=True, repr=False)
class SearchedGuidance(Tabular):
    """The result of a search for guidance.

    Attributes:
        trials: every setting that was tried, in order; the first two are without guidance.
        best: the setting with the lowest KID among those with guidance, measured again on fresh samples.
        without: no guidance, on samples of the same fresh seeds, with the steps or about the NFE of `best`.
        difference: KID of `best` minus KID of `without`.
        saved: whether guidance was saved with the run, or was removed if no gain is distinguishable.
    """

    trials: tuple[GuidanceTrial, ...]
    best: GuidanceTrial
    without: GuidanceTrial
    difference: Difference
    saved: bool = True

    @property
    def chosen(self) -> Guidance | None:
        """The guidance to use; None (no guidance) if no gain is distinguishable at 95 %."""
        return self.best.guidance if self.difference.high < 0 else None

    @property
    def verdict(self) -> str:
        """One sentence with the result on fresh samples."""
        ends = f"{self.difference.low:+.5f} ... {self.difference.high:+.5f}"
        result = f"{self.best.name}: {self.best}, without guidance {self.without}; difference "
        result += f"{self.difference.value:+.5f} ({ends})"
        return result + (
            "" if self.chosen else ": no gain is distinguishable at 95 %, so no guidance is used"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings, the result on fresh samples and the guidance to use, as JSON."""
        chosen = self.chosen and self.chosen.to_json()
        return {"settings": self.to_records(), "difference": asdict(self.difference), "chosen": chosen}

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each trial, and two for the fresh samples; KID is None if one was NaN."""
        parts = [("search", trial) for trial in self.trials]
        parts += [("fresh", self.best), ("fresh", self.without)]
        return [
            {
                "guidance": trial.name,
                "samples": part,
                "steps": trial.steps,
                "nfe": trial.nfe,
                **(trial.measured if math.isfinite(trial.kid) else dict.fromkeys(trial.measured)),
            }
            for part, trial in parts
        ]

    @property
    def title(self) -> str:
        return "KID, lower is better, with its 95 % confidence interval"

    @property
    def notes(self) -> list[str]:
        unsaved = "saved guidance holds for all labels, so that of a chosen label is not saved"
        return [f"on fresh samples, {self.verdict}", *([] if self.saved else [unsaved])]
