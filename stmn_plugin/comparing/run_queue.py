"""Train and test planned runs one after the other, each in a process, and report the outcomes.

A run that crashes, is killed or runs out of memory costs its own row. A signal is passed on to the
running process, which saves itself; then the queue stops.
"""

import contextlib
import datetime
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from tqdm import tqdm

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError, printable
from stmn_plugin.evaluation.doubts import doubt_label
from stmn_plugin.numerals import counted
from stmn_plugin.training.metric_files import METRICS, read_epoch_lines

from . import stored_results
from .child_process import last_error
from .run_plan import TESTING, TRAINING, PlannedRun, as_words
from .stored_run import StoredRun, read_run

logger = logging.getLogger(__name__)

CONSOLE = 'console.log'  # of every process that worked on a run folder
STRATEGIES = ('rrs', 'all')

Execute: TypeAlias = Callable[[list[str], str, Callable[[], object]], int]
"""(words of ``tools/main.py``, log file, watch) → exit code; see ``child_process.run_process``."""


class Outcome(NamedTuple):
    """The outcome of a planned run."""

    title: str
    seed: int | None
    folder: str
    record: StoredRun | None = None
    evaluations: tuple[dict[str, Any], ...] = ()  # of every strategy and target
    error: str = ''  # what has failed

    @property
    def name(self) -> str:
        """Among those of its title; the seed of a damaged folder is not known."""
        return printable(self.folder) if self.seed is None else f'seed {self.seed}'


def complete_runs(
    runs: Iterable[PlannedRun], execute: Execute, strategies: Sequence[str] = STRATEGIES
) -> Iterator[Outcome]:
    """Train what is not trained, test what is not tested.

    Args:
        runs: of a plan.
        execute: runs a training or a test to its end.
        strategies: values of ``test.frames`` to test with; without any, an outcome's evaluations
            are those at the end of training.

    Yields:
        Outcomes in order.

    Raises:
        Interrupted: a signal came; what was running has saved itself.
    """
    runs = list(runs)
    for number, run in enumerate(runs, 1):
        seed = '' if run.seed is None else f', seed {run.seed}'
        label = f'[{number}/{len(runs)}] {run.title}{seed}'
        try:
            outcome = _complete(run, execute, strategies, label)
        except InputError as error:
            outcome = Outcome(run.title, run.seed, run.folder, error=str(error))
        logger.info(printable(f'{label}: {_summary(outcome)}'))
        yield outcome


def _complete(run: PlannedRun, execute: Execute, strategies: Sequence[str], label: str) -> Outcome:
    if run.problem:
        raise InputError(run.problem)
    record, max_epoch = read_run(run.folder), run.cfg.train.max_epoch
    if record.missing_weights:  # training again would delete the results
        raise InputError(record.missing_weights)
    if not record.final_evaluations(max_epoch):
        if not run.may_train:
            raise InputError(f'{run.folder} is {run.state}; --runs trains nothing')
        _train(run, execute, label, record.epochs)
        record = read_run(run.folder)
    _check_finished(record, run, strategies)
    if not strategies:
        final = record.final_evaluations(max_epoch)
        return Outcome(run.title, run.seed, run.folder, record, tuple(final))
    errors, evaluations = [], []
    for frames in strategies:
        failed, words = '', words_to_test(run, record, frames)
        cfg = load_config(run.config_file, words)
        if not stored_results.stored_evaluations(record, cfg):
            try:
                _execute(run, words, execute, f'{label}: testing {frames}')
            except InputError as failure:  # the other strategy may still be possible
                failed = str(failure)
            record = read_run(run.folder)
        found = stored_results.stored_evaluations(record, cfg)
        if failed or not found:
            reason = failed or f'no result of the last weights in {METRICS}'
            errors.append(f'testing {frames}: {reason}')
        evaluations += found
    error = '; '.join(errors)
    return Outcome(run.title, run.seed, run.folder, record, tuple(evaluations), error)


def _check_finished(record: StoredRun, run: PlannedRun, strategies: Sequence[str]) -> None:
    """Raise InputError when the weights, or without strategies the results, are other ones."""
    problem = stored_results.config_difference(record)
    if run.may_train and not problem:  # trained now, it would see what is there now
        lists = ('train',) if strategies else stored_results.LISTS
        problem = stored_results.data_difference(record, run.cfg, lists)
    if not strategies and not problem:
        problem = stored_results.testing_difference(record, run.cfg)
    if problem:
        raise InputError(problem)


def words_to_train(run: PlannedRun) -> list[str]:
    """Return KEY VALUE words that train a run, or resume it."""
    place = {'model.resume': 'auto', 'data.save_dir': run.folder}
    return [*run.words, *as_words({**TRAINING, **place})]


def words_to_test(run: PlannedRun, record: StoredRun, frames: str) -> list[str]:
    """Return KEY VALUE words that test the weights of the last epoch."""
    changes = {
        **TESTING,
        'test.frames': frames,
        'model.load_weights': record.checkpoint(run.cfg.train.max_epoch),
        'data.save_dir': run.folder,
    }
    if frames == 'all':
        changes['test.clips_per_tracklet'] = 1
    return [*run.words, *as_words(changes)]


def _train(run: PlannedRun, execute: Execute, label: str, done: int) -> None:
    max_epoch = run.cfg.train.max_epoch
    from_where = (
        f', from epoch {done} of {max_epoch}' if done else f', {counted(max_epoch, "epoch")}'
    )
    log = os.path.join(run.folder, CONSOLE)
    logger.info(printable(f'{label}: training{from_where}; log in {log}'))
    with tqdm(
        total=max_epoch, initial=done, desc=label, unit='epoch', leave=False, disable=None
    ) as bar:

        def watch() -> None:
            lines = read_epoch_lines(run.folder, report=bar.set_postfix_str)
            bar.n = max([done, *(line['epoch'] for line in lines)])
            bar.refresh()

        _execute(run, words_to_train(run), execute, watch=watch)
    if not read_run(run.folder).final_evaluations(max_epoch):
        raise InputError(f'{run.folder} holds no evaluation after epoch {max_epoch}')


def _execute(
    run: PlannedRun,
    words: Sequence[str],
    execute: Execute,
    description: str = '',
    watch: Callable[[], object] | None = None,
) -> None:
    """Run ``tools/main.py`` to its end; InputError with its last words when it fails."""
    log = os.path.join(run.folder, CONSOLE)
    try:
        os.makedirs(run.folder, exist_ok=True)
        start = os.path.getsize(log) if os.path.exists(log) else 0
    except OSError as error:
        raise InputError(f'cannot write {run.folder}: {error.strerror}') from error
    with contextlib.ExitStack() as stack:
        if watch is None:
            bar_format = '{desc} ({elapsed})'
            bar = tqdm(desc=description, bar_format=bar_format, leave=False, disable=None)
            watch = stack.enter_context(bar).refresh
        code = execute(['--config-file', run.config_file, *words], log, watch)
    if code:
        raise InputError(f'{last_error(log, start, code)} (see {log})')


def _summary(outcome: Outcome) -> str:
    if outcome.error or outcome.record is None:
        return f'FAILED: {outcome.error}'
    trained = datetime.timedelta(seconds=round(outcome.record.training_seconds))
    scores = [_score(e) for e in outcome.evaluations if 'rank-1' in e]
    return '; '.join([f'trained in {trained}', *scores])


def _score(e: dict[str, Any]) -> str:
    text = f'{e["frames"]} rank-1 {100 * e["rank-1"]:.1f} mAP {100 * e["mAP"]:.1f}'
    return f'{text} ({word})' if (word := doubt_label(e)) else text
