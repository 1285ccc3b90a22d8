"""What a training command says before the minute in which its processes start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.display import say
from realm_core.training.schedule import ScheduleConfig, learning_rate_at

if TYPE_CHECKING:
    from realm_core.training.run_folder import RunFolder


def say_start(run: RunFolder, schedule: ScheduleConfig, what: str) -> None:
    """The run's name, its length and rate, and where it goes on."""
    say(f"{run.name}: {schedule_text(schedule)}, {what}")
    if steps := run.checkpoint_steps():
        say(f"goes on from the checkpoint of step {steps[-1]:,}; steps that were logged after it are taken again")
    say("starting processes")


def schedule_text(schedule: ScheduleConfig) -> str:
    """Steps and learning rate; says where the run ends before the rate is reached."""
    text = f"{schedule.num_steps:,} steps, rate {schedule.learning_rate:g} after {schedule.warmup_steps:,}"
    if schedule.num_steps > schedule.warmup_steps:
        return text
    reached = learning_rate_at(schedule.num_steps - 1, schedule) / schedule.learning_rate
    return f"{text} (the run ends at {reached:.0%} of it: see --num-warmup-steps)"
