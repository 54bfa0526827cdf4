"""How a model is trained, beyond model, losses, optimizer and data."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSettings:
    """What a :class:`.trainer.Trainer` may be told; the defaults are those of torchreid."""

    amp: str = 'off'  # precision of the model: off | bf16 | fp16
    accumulate: int = 1  # batches whose gradients make a step
    clip_grad_norm: float = 0.0  # limit of the norm of a step's gradients; 0 is none
    seed: int | None = None  # of all that is random in a step; None leaves the generators alone
    fixbase_epoch: int = 0  # first epochs in which only open_layers train
    open_layers: Sequence[str] | str | None = None
    start_eval: int = 0  # first epoch to evaluate after
    eval_freq: int = -1  # epochs between evaluations; -1 is only at the end
    save_freq: int = 1  # epochs between checkpoints
    print_freq: int = 10  # batches between two printed lines
