"""The pace of a training: its speed, the time left, and lines of text about them."""

from __future__ import annotations

from collections.abc import Mapping

from ddim.training.budget import WARM_UP
from ddim.training.trainer import Trainer


def format_duration(seconds: float) -> str:
    """Return a number of seconds as text: 90 as "1:30" and 3700 as "1:01:40"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_minutes(minutes: float) -> str:
    """Return a number of minutes as text: 1 as "1 minute" and 2.5 as "2.5 minutes"."""
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"


class Pace:
    """The speed of a run, validations included, from the times at which its updates end.

    Args:
        now: the time at the start, in seconds.
        batch: images per update.
    """

    def __init__(self, now: float, batch: int) -> None:
        self.batch, self.updates, self.began, self.last = batch, 0, now, now

    def update(self, now: float) -> None:
        """Record the end of an update; the first `WARM_UP` updates are not timed."""
        self.updates, self.last = self.updates + 1, now
        if self.updates <= WARM_UP:
            self.began = now

    @property
    def speed(self) -> float:
        """Images per second; 0 while unknown."""
        seconds = self.last - self.began
        return self.batch * (self.updates - WARM_UP) / seconds if seconds > 0 else 0.0

    def left(self, training: Trainer) -> float | None:
        """Return the seconds until the end; None while unknown."""
        total = training.plan.total
        return max(0, total - training.seen) / self.speed if total and self.speed else None


def describe_pace(pace: Pace, training: Trainer, values: Mapping[str, float]) -> str:
    """Return a line with the images seen, the speed, the loss of this step and the time left."""
    total, left = training.plan.total, pace.left(training)
    # The last batch may go beyond the budget.
    seen = f"{min(training.seen, total):,} of {total:,}" if total else f"{training.seen:,}"
    parts = [f"{seen} images", f"{pace.speed:.1f} images/s" if pace.speed else "warming up"]
    parts += [f"loss {values['loss']:.4f}"]
    parts += ["measuring the speed" if left is None else f"{format_duration(left)} left"]
    # A short run can end before its speed is known. Its last line has no speed and no time left.
    shown = parts[::2] if training.finished and left is None else parts
    return ", ".join(shown)


def describe_errors(training: Trainer, values: Mapping[str, float]) -> str:
    """Return the validation error, and KID if known, as text: "validation error 0.484, lower is better".

    The validation error of a student rises while it learns to give sharp images, so it comes last.
    """
    student, error, kid = training.recipe.is_student, values.get("image_mae"), values.get("kid")
    errors = {"validation error": None if student else error, "KID": kid}
    shown = [f"{name} {value:.3f}" for name, value in errors.items() if value is not None]
    shown += ["lower is better"] if shown else []
    if student and error is not None:
        shown.append(f"validation error {error:.3f}, which rises while a student learns")
    return ", ".join(shown)
