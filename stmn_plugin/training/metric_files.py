"""Write and read a run's ``metrics.json`` (evaluations) and ``metrics.jsonl`` (a line per epoch).

Files may have been edited or truncated, so values are checked on reading and a bad one is named.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stmn_plugin.errors import InputError, printable
from stmn_plugin.input_files import open_regular
from stmn_plugin.plain_values import (
    is_count,
    is_flag,
    is_number,
    is_positive,
    is_share,
    is_text,
    named,
)
from stmn_plugin.whole_files import remove_file, write_json, write_text

logger = logging.getLogger(__name__)

METRICS, EPOCHS = 'metrics.json', 'metrics.jsonl'


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _is_positive_or_none(value: Any) -> bool:
    return value is None or is_positive(value)


def _is_verification(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get('rates'), list)


EVALUATION = {  # key → check of its value
    'epoch': lambda value: value is None or (is_count(value) and value > 0),
    'dataset': is_text,
    'protocol': is_text,
    'frames': is_text,
    'flip': is_flag,
    'reranked': is_flag,
    'dist_metric': is_text,
    'normalize_feature': is_flag,
    'seconds': lambda value: named(value, is_positive) and 'per_tracklet' in value,
    'mAP': is_share,
    'mINP': is_share,
    'num_query': is_count,
    'num_gallery': is_count,
    'num_query_with_match': is_count,
    # optional keys
    'peak_memory': lambda value: value is None or named(value, _is_positive_or_none),
    'made_from': lambda value: value is None or named(value, is_text),
    'queries_searched': is_flag,
    'average_precision': is_text,
    'unmatched': is_text,
    'amp': is_text,
    'weights': is_text,
    'num_query_searched': is_count,
    'num_query_tied': is_count,
    'collapsed': is_flag,
    'doubt': is_text,
    'feature_dim': is_count,
    'verification': _is_verification,
}
FACTS = {
    'arch': is_text,
    'parameters': is_count,
    'gflops_per_frame': is_positive,
    'feature_dim': is_count,
    'seq_len': is_count,
    'bad_frames': _is_list_of_text,
}
LINE = {
    'epoch': lambda value: is_count(value) and value > 0,
    'losses': lambda value: named(value, is_number),
    'seconds': is_positive,
    # optional keys
    'lr': is_positive,
    'gradient_norm': lambda value: named(value, is_positive),
    'skipped_steps': is_count,
    'images_per_second': is_positive,
    'data_wait': is_positive,
    'evaluations': lambda value: isinstance(value, list),
}
NEEDED_OF_EVALUATION, NEEDED_OF_LINE = list(EVALUATION)[:14], list(LINE)[:3]


def _check(
    values: Any, kinds: Mapping[str, Callable[[Any], bool]], needed: Sequence[str] = ()
) -> None:
    """Raise ValueError unless values are a dictionary with valid values for all known keys."""
    if not isinstance(values, dict):
        raise ValueError(f'{_short(values)} is no dictionary')
    for key in needed:
        if key not in values:
            raise ValueError(f'{key} is missing')
    for key, value in values.items():
        kind = is_share if key.startswith('rank-') else kinds.get(key)
        if kind is not None and not kind(value):
            raise ValueError(f'{key} is {_short(value)}')


def _short(value: Any) -> str:
    large = isinstance(value, int) and not is_number(value)  # repr() may refuse it
    return 'a huge number' if large else repr(value)[:60]


def check_evaluations(evaluations: Any) -> None:
    """Raise ValueError unless this is a list of evaluations."""
    if not isinstance(evaluations, list):
        raise ValueError(f'evaluations is {_short(evaluations)}')
    for number, evaluation in enumerate(evaluations, 1):
        try:
            _check(evaluation, EVALUATION, NEEDED_OF_EVALUATION)
        except ValueError as error:
            raise ValueError(f'{error} in number {number} of evaluations') from error


def write_metrics(folder: str, evaluations: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Write ``metrics.json``: the facts of the run and every evaluation as plain values."""
    write_json(os.path.join(folder, METRICS), {**facts, 'evaluations': evaluations})


def read_metrics(folder: str) -> dict[str, Any]:
    """Read ``metrics.json``; without the file there are no evaluations and no facts.

    Raises:
        InputError: the file is damaged.
    """
    path = os.path.join(folder, METRICS)
    try:
        with open_regular(path, encoding='utf-8') as file:
            content: dict[str, Any] = json.load(file)
        _check(content, FACTS, ['evaluations'])
        check_evaluations(content['evaluations'])
    except FileNotFoundError:
        return {'evaluations': []}
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} is damaged: {error}') from error
    return content


def read_evaluations(folder: str) -> list[dict[str, Any]]:
    """Read the evaluations that a run has written so far; [] if there are none."""
    evaluations: list[dict[str, Any]] = read_metrics(folder)['evaluations']
    return evaluations


def remove_metrics(folder: str) -> None:
    """Remove ``metrics.json`` if there is one."""
    remove_file(os.path.join(folder, METRICS))


def append_line(folder: str, values: dict[str, Any]) -> None:
    """Add a line to ``metrics.jsonl`` in one write, so that readers see all of it or nothing.

    Raises:
        InputError: the line could not be written.
    """
    path = os.path.join(folder, EPOCHS)
    line = json.dumps(values).encode() + b'\n'
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, 'ab', buffering=0) as file:
            if file.write(line) < len(line):  # only a part was written
                raise OSError(28, 'No space left on device')
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from error


def read_epoch_lines(
    folder: str, report: Callable[[str], object] = logger.warning
) -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl``; [] without the file.

    Args:
        folder: folder of the run.
        report: called with a message if the last line is incomplete and ignored, as after a kill.

    Raises:
        InputError: another line is damaged.
    """
    path, values = os.path.join(folder, EPOCHS), []
    try:
        with open_regular(path) as file:
            lines = file.read().split(b'\n')
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line.decode('utf-8')))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                report(f'{printable(path)}: ignored the last line, which is incomplete')
                break
            raise InputError(f'{path}, line {number} is damaged: {error}') from error
        try:
            _check(values[-1], LINE, NEEDED_OF_LINE)
            check_evaluations(values[-1].get('evaluations', []))
            if len(values) > 1 and values[-1]['epoch'] <= values[-2]['epoch']:
                raise ValueError(f'epoch {values[-1]["epoch"]} follows {values[-2]["epoch"]}')
        except ValueError as error:
            raise InputError(f'{path}, line {number} is damaged: {error}') from error
    return values


def keep_lines(folder: str, last_epoch: int) -> None:
    """Remove the lines of later epochs, which will be trained again."""
    path = os.path.join(folder, EPOCHS)
    kept = [values for values in read_epoch_lines(folder) if values['epoch'] <= last_epoch]
    if kept:
        write_text(path, ''.join(json.dumps(values) + '\n' for values in kept))
    else:
        remove_file(path)
