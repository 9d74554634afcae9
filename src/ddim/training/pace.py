"""The pace of a training: its speed, the time left, and a line that says both."""

from __future__ import annotations

from collections.abc import Mapping

from ddim.training.budget import WARM_UP
from ddim.training.trainer import Trainer

USED = 0.8
"""A run that used less than this fraction of its time budget says so at its end."""


def format_duration(seconds: float) -> str:
    """Return a number of seconds as text: 90 as "1:30" and 3700 as "1:01:40"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_minutes(minutes: float) -> str:
    """Return a number of minutes as text: 1 as "1 minute" and 2.5 as "2.5 minutes"."""
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"


def find_unused_minutes(training: Trainer, seconds: float) -> float:
    """Return the minutes of the time budget that a finished run did not use.

    The result is 0 if the run used most of its budget (`USED`), is not finished or has a budget in images.

    Args:
        training: the training at its end.
        seconds: how long the whole run took.
    """
    minutes = training.recipe.minutes
    if not training.complete or training.recipe.images is not None or seconds >= USED * minutes * 60:
        return 0.0
    left = minutes - seconds / 60
    return round(left) if left >= 10 else max(0.1, round(left, 1))


class Pace:
    """Estimates the speed of a run and the time left, from the times at which updates and events end."""

    def __init__(self, now: float, batch: int) -> None:
        self.batch, self.last = batch, now
        self.updates, self.seconds = 0, 0.0
        self.events, self.aside = 0, 0.0

    def update(self, now: float) -> None:
        """Record the end of an update; the first `WARM_UP` updates are not timed."""
        self.updates += 1
        self.seconds += now - self.last if self.updates > WARM_UP else 0.0
        self.last = now

    def event(self, now: float) -> None:
        """Record the end of an event, which is a validation with its sample sheet and checkpoint."""
        self.events, self.aside = self.events + 1, self.aside + now - self.last
        self.last = now

    @property
    def speed(self) -> float:
        """Images per second of training, without events; 0 while unknown."""
        return self.batch * (self.updates - WARM_UP) / self.seconds if self.seconds > 0 else 0.0

    def left(self, training: Trainer) -> float | None:
        """Return the seconds until the end, with the remaining events (see `event`); None while unknown."""
        total, report, steps = training.plan.total, training.recipe.report, training.recipe.steps
        if total is None or not self.speed:
            return None
        # `>=` and not `>`: the event of this step comes after its update, so it still remains.
        coming = sum(step >= training.step for step in training.validation_steps())
        # Before the first event, its duration is guessed: a network evaluation costs about a third of a
        # training image.
        guess = (report.validation_images + (report.grid + report.kid) * steps) / 3 / self.speed
        each = self.aside / self.events if self.events else guess
        return max(0, total - training.seen) / self.speed + coming * each


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
