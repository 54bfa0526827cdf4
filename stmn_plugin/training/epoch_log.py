"""Steps of an epoch → averages and one line of ``metrics.jsonl``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from stmn_plugin.plain_values import is_count, is_flag, is_number, is_positive


@dataclass
class EpochLog:
    """What an epoch has seen so far; plain values, so that a checkpoint can hold them."""

    epoch: int  # from 1
    batches: int = 0
    images: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0  # of them waiting for data
    learning_rate: float = 0.0
    totals: dict[str, list[float]] = field(default_factory=dict)  # loss → [sum, number of batches]
    steps: int = 0  # of the optimizer
    skipped_steps: int = 0  # left out: the scale of the loss was too high for fp16
    gradient_norm: float = 0.0  # sum over the steps
    largest_norm: float = 0.0
    trained: bool = False  # every batch is done; an evaluation is still to come

    def add(
        self,
        losses: Mapping[str, Any] | None,
        images: int,
        seconds: float,
        data_seconds: float,
    ) -> None:
        """One step. ``losses`` is what the host's ``forward_backward`` returns, a dict or None."""
        self.batches += 1
        self.images += images
        self.seconds += seconds
        self.data_seconds += data_seconds
        for name, value in (losses or {}).items():
            total = self.totals.setdefault(name, [0.0, 0])
            total[0] += float(value)
            total[1] += 1

    def add_step(self, norm: float | None) -> None:
        """A step of the optimizer by the norm of its gradients; None for one that is left out."""
        if norm is None:
            self.skipped_steps += 1
            return
        self.steps += 1
        self.gradient_norm += norm
        self.largest_norm = max(self.largest_norm, norm)

    @property
    def mean_norm(self) -> float:
        return self.gradient_norm / self.steps if self.steps else 0.0

    @property
    def averages(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self.totals.items()}

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data."""
        return self.data_seconds / self.seconds if self.seconds else 0.0

    def as_line(self, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
        """Plain values for ``metrics.jsonl``."""
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
    """Whether ``EpochLog(**value)`` is the log of an epoch."""
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
