"""What checkpoints say of the run that made them, and what a resumed run has reached."""

from dataclasses import dataclass, field
from typing import Any

from .epoch_log import EpochLog


@dataclass
class RunFacts:
    """A run in plain values, for its checkpoints and ``metrics.json``."""

    facts: dict[str, Any] = field(default_factory=dict)  # size and cost of the model, device
    config: dict[str, Any] = field(default_factory=dict)  # key → value
    trained_on: str = ''  # digest of the training data
    tested: str = ''  # file of the weights, where only a test is made


@dataclass
class Reached:
    """Where a run starts: at its beginning, or where a checkpoint left it."""

    epochs: int = 0  # finished ones
    path: str = ''  # checkpoint that it resumes from
    auto: bool = False  # the furthest checkpoint was asked for, whichever that is
    best_map: float = -1.0  # of the evaluations so far
    rank1: float = 0.0  # of the last evaluation
    unfinished: EpochLog | None = None  # the epoch that was interrupted
    scaler: dict[str, Any] | None = None  # state of the GradScaler
