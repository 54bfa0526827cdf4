"""Fields of a checkpoint → each of the kind that resuming takes, or one line names it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stmn_plugin.errors import InputError
from stmn_plugin.plain_values import is_count, is_number, is_positive, is_setting, is_share, named

from .checkpoint import load_checkpoint
from .epoch_log import is_epoch_log

MOST_EPOCHS = 10**6
REQUIRED = ('epoch', 'optimizer', 'scheduler')
SCALER = {'scale', 'growth_factor', 'backoff_factor', 'growth_interval', '_growth_tracker'}


def is_optimizer_state(value: Any) -> bool:
    """What ``Optimizer.state_dict`` gives, as far as that is the same for all optimizers."""
    if not isinstance(value, Mapping):
        return False
    state, groups = value.get('state'), value.get('param_groups')
    return (
        isinstance(state, Mapping)
        and all(is_count(key) and isinstance(entry, Mapping) for key, entry in state.items())
        and isinstance(groups, list)
        and all(isinstance(group, Mapping) for group in groups)
        and all(
            isinstance(group.get('params'), list) and all(map(is_count, group['params']))
            for group in groups
        )
    )


FIELDS: dict[
    str, tuple[Callable[[Any], bool], str]
] = {  # name → (whether a value is one, what it is to be)
    'epoch': (lambda v: is_count(v) and v <= MOST_EPOCHS, 'a number of finished epochs'),
    'unfinished': (lambda v: v is None or is_epoch_log(v), 'how far an epoch is'),
    'optimizer': (is_optimizer_state, 'the state of an optimizer'),
    'scheduler': (
        lambda v: isinstance(v, Mapping) and is_count(v.get('last_epoch')),
        'the state of a learning rate scheduler',
    ),
    'rank1': (is_share, 'a number from 0 to 1'),
    'best_map': (lambda v: is_number(v) and -1 <= v <= 1, 'a number from 0 to 1, or -1'),
    'chosen_by': (lambda v: isinstance(v, str), 'how it was chosen'),
    'facts': (lambda v: isinstance(v, Mapping), 'a dictionary'),
    'config': (lambda v: named(v, is_setting), 'a dictionary of keys and values'),
    'trained_on': (lambda v: isinstance(v, str), 'a digest'),
    'scaler': (
        lambda v: v is None or named(v, is_positive) and SCALER <= v.keys(),
        'the state of a GradScaler',
    ),
}


def check_fields(
    checkpoint: Mapping[str, Any], path: str, names: Sequence[str] = tuple(FIELDS)
) -> None:
    """InputError unless fields are what training can go on with."""
    for name in names:
        if name not in checkpoint:
            if name in REQUIRED:
                raise InputError(f'model.resume: {path} has no {name}, it holds weights only')
            continue
        fits, what = FIELDS[name]
        if not fits(checkpoint[name]):
            raise InputError(
                f'model.resume: {path} is damaged: {name} is not {what}, '
                f'got {str(checkpoint[name])[:60]!r}'
            )
    log = checkpoint.get('unfinished')
    if log is not None and log['epoch'] != checkpoint['epoch'] + (not log['trained']):
        raise InputError(
            f'model.resume: {path} is damaged: {checkpoint["epoch"]} epochs are finished and the '
            f'one in progress is {log["epoch"]}'
        )


def load_resumable(path: str) -> dict[str, Any]:
    """:func:`load_checkpoint` with every field that resuming reads checked.

    Raises:
        InputError: as that, a field is missing or of the wrong kind.
    """
    checkpoint = load_checkpoint(path)
    check_fields(checkpoint, path)
    return checkpoint
