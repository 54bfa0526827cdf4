"""The log of an epoch, and the facts and starting point of a run, as checkpoints hold them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from stmn_plugin.plain_values import is_count, is_flag, is_number, is_positive


@dataclass
class EpochLog:
    """Sums over the steps of an epoch so far; plain values, so that checkpoints can hold them."""

    epoch: int  # from 1
    batches: int = 0
    images: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0  # part of these spent waiting for data
    learning_rate: float = 0.0
    totals: dict[str, list[float]] = field(default_factory=dict)  # loss → [sum, number of batches]
    steps: int = 0  # of the optimizer
    skipped_steps: int = 0  # because the scale of the loss was too high for fp16
    gradient_norm: float = 0.0  # sum over the steps
    largest_norm: float = 0.0
    trained: bool = False  # all batches are finished; an evaluation follows

    def add(
        self,
        losses: Mapping[str, Any] | None,
        images: int,
        seconds: float,
        data_seconds: float,
    ) -> None:
        """Add a batch.

        Args:
            losses: terms by name, or None, as the host's ``forward_backward`` returns them.
            images: number of images in the batch.
            seconds: duration of the batch.
            data_seconds: part of it spent waiting for data.
        """
        self.batches += 1
        self.images += images
        self.seconds += seconds
        self.data_seconds += data_seconds
        for name, value in (losses or {}).items():
            total = self.totals.setdefault(name, [0.0, 0])
            total[0] += float(value)
            total[1] += 1

    def add_step(self, norm: float | None) -> None:
        """Add a step of the optimizer by the norm of its gradients; None if it was skipped."""
        if norm is None:
            self.skipped_steps += 1
            return
        self.steps += 1
        self.gradient_norm += norm
        self.largest_norm = max(self.largest_norm, norm)

    @property
    def mean_norm(self) -> float:
        """Mean norm of the gradients."""
        return self.gradient_norm / self.steps if self.steps else 0.0

    @property
    def averages(self) -> dict[str, float]:
        """Mean of each loss term over the batches."""
        return {name: total / count for name, (total, count) in self.totals.items()}

    @property
    def images_per_second(self) -> float:
        """Images per second, 0 before the first batch."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data."""
        return self.data_seconds / self.seconds if self.seconds else 0.0

    def as_line(self, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the epoch as plain values for a line of ``metrics.jsonl``."""
        return {
            'epoch': self.epoch,
            'losses': self.averages,
            'lr': self.learning_rate,
            'gradient_norm': {'mean': self.mean_norm, 'max': self.largest_norm},
            'skipped_steps': self.skipped_steps,
            'seconds': round(self.seconds, 3),
            'images_per_second': round(self.images_per_second, 2),
            'data_wait': round(self.data_wait, 4),
            'evaluations': evaluations,
        }


def is_epoch_log(value: Any) -> bool:
    """Return whether ``EpochLog(**value)`` is the log of an epoch."""
    kinds: dict[Any, Callable[[Any], bool]] = {
        int: is_count,
        float: is_positive,
        bool: is_flag,
        dict[str, list[float]]: _are_totals,
    }
    types = {entry.name: entry.type for entry in fields(EpochLog)}
    return (
        isinstance(value, Mapping)
        and {'epoch', 'batches', 'trained'} <= value.keys() <= types.keys()
        and value['epoch'] != 0
        and all(kinds[types[name]](item) for name, item in value.items())
    )


def _are_totals(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(total, (list, tuple))
        and len(total) == 2
        and is_number(total[0])
        and is_count(total[1])
        and total[1] > 0  # it is divided by
        for name, total in value.items()
    )


@dataclass
class RunFacts:
    """Facts of a run in plain values, for its checkpoints and ``metrics.json``."""

    facts: dict[str, Any] = field(default_factory=dict)  # size and cost of the model, device
    config: dict[str, Any] = field(default_factory=dict)  # key → value
    trained_on: str = ''  # digest of the training data
    tested: str = ''  # file of the weights, if the run is only a test


@dataclass
class Reached:
    """The point at which a run starts: its beginning, or that of a checkpoint."""

    epochs: int = 0  # finished epochs
    path: str = ''  # checkpoint from which it resumes
    auto: bool = False  # whether that is the newest one (model.resume auto)
    best_map: float = -1.0  # of the evaluations so far
    rank1: float = 0.0  # of the last evaluation
    unfinished: EpochLog | None = None  # the epoch that was interrupted
    scaler: dict[str, Any] | None = None  # state of the GradScaler
