"""Evaluate every target, write and print the results, and draw ranked lists."""

import logging
import os
from pathlib import Path

from stmn_plugin.errors import InputError, printable, resource_errors
from stmn_plugin.numerals import counted
from stmn_plugin.training.metric_files import METRICS
from stmn_plugin.training.run_record import RunRecord

from .evaluator import Evaluator, Searched
from .protocols import Evaluation, Stopwatch, host_lines
from .ranked_lists import write_ranked_list
from .ranked_pictures import draw_ranked_lists
from .thresholds import Thresholds, store_thresholds
from .verification import verification_lines

logger = logging.getLogger(__name__)


def evaluate_targets(
    evaluator: Evaluator,
    record: RunRecord,
    folder: str = '',
    epoch: int | None = None,
    size: tuple[int, int] = (128, 256),
    table_follows: bool = False,
) -> list[Evaluation]:
    """Evaluate every target; for one without labels, write a ranked list instead.

    Every process encodes its part of the tracklets; the main one does the rest. The results of
    a target are written to ``metrics.json`` before they are printed and before the next target.

    Args:
        evaluator: evaluator of the targets.
        record: files of the run, to which evaluations are added.
        folder: run folder; '' writes nothing.
        epoch: finished epochs, None for a test only.
        size: width and height of an image in pictures of ranked lists.
        table_follows: the caller shows a table of the results; their lines go to the log only.

    Raises:
        InputError: features are not finite, or a file cannot be read or written.
    """
    results, ranks = [], evaluator.options.ranks
    with resource_errors('test.batch_size'):
        for name in evaluator.targets:
            watch = Stopwatch()
            searched = evaluator.features(name)
            if not evaluator.can_score(name):
                if searched is not None:
                    _list(evaluator, name, searched, folder)
                continue
            result = evaluator.rank(name, searched, watch(), epoch)
            record.add_evaluation(result.as_dict(ranks), folder)
            results.append(result)
            if searched is not None:
                _show(evaluator, result, record, logging.DEBUG if table_follows else logging.INFO)
                if evaluator.options.visrank:
                    _draw(evaluator, name, searched, folder, size)
    bad_frames = record.all_bad_frames()
    if bad_frames:
        shown = '\n  '.join(map(printable, bad_frames[:10]))
        skipped = counted(len(bad_frames), 'unreadable frame')
        logger.warning(f'{skipped} skipped, see {METRICS}:\n  {shown}')
    return results


def _show(evaluator: Evaluator, result: Evaluation, record: RunRecord, level: int) -> None:
    name, ranking = result.dataset, result.ranking
    logger.log(level, f'##### {name}: protocol {result.protocol} #####')
    logger.log(level, host_lines(ranking, evaluator.options.ranks))
    if result.verification:
        logger.info(verification_lines(result.verification))
        _store(result, record.run.tested)
    if result.doubt:
        logger.warning(result.doubt)
    if record.curves is not None:
        step = None if result.epoch is None else result.epoch - 1
        record.curves.add_scalar(f'Test/{name}/rank1', ranking.rank(1), step)
        record.curves.add_scalar(f'Test/{name}/mAP', ranking.mean_ap, step)


def _store(result: Evaluation, weights: str) -> None:
    """Write the measured threshold into the folder of the weights."""
    measured = Thresholds.of_evaluation(result.as_dict(()))
    if measured is None or not weights:
        return
    try:
        path = store_thresholds(Path(weights).expanduser().parent, measured)
    except InputError as error:  # the folder of the weights is not writable
        logger.warning(f'{error}; the threshold is only in {METRICS}')
        return
    logger.info(f'{measured.meaning}\nStored in {printable(str(path))}')


def _list(evaluator: Evaluator, name: str, searched: Searched, folder: str) -> None:
    """Write the nearest tracklets of every query to two files."""
    target, where = evaluator.targets[name], ''
    if folder:
        paths = write_ranked_list(
            os.path.join(folder, f'ranked-{name}'),
            evaluator.distances(searched),
            *evaluator.tracklets(name),
            max(evaluator.options.ranks),
        )
        where = f'; the nearest tracklets of each are in {printable(" and ".join(paths))}'
    logger.warning(
        f'{name}: no match of the {len(target.query)} queries is labelled, no score{where}'
    )


def _draw(
    evaluator: Evaluator, name: str, searched: Searched, folder: str, size: tuple[int, int]
) -> None:
    """Draw ranked lists, a folder or a sheet for every query."""
    draw_ranked_lists(
        evaluator.distances(searched),
        searched.query,
        searched.gallery,
        evaluator.tracklets(name),
        os.path.join(folder, f'visrank_{name}'),
        evaluator.options.visrank_topk,
        size,
    )
