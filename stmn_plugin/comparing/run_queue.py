"""Wanted runs → trained and tested, a process each, one after the other → what came of each.

A run that crashes, is killed or runs out of memory costs its own row. A signal goes on to the
running process, which saves itself; then the queue stops.
"""

import contextlib
import datetime
import os
import shlex
import signal
import subprocess
from typing import NamedTuple

from tqdm import tqdm

from stmn_plugin.config import load_config
from stmn_plugin.console import tell_at_once
from stmn_plugin.device import device_line
from stmn_plugin.errors import InputError, printable
from stmn_plugin.evaluation.doubts import doubt_word
from stmn_plugin.interrupt import Interrupted, signals_to_handle
from stmn_plugin.training.metric_files import METRICS, read_lines

from . import run_results
from .run_folders import RunFolder, name_lost, read_run
from .wanted_runs import TESTING, TRAINING, as_words

CONSOLE = 'console.log'  # of every process that worked on a run folder
STRATEGIES = ('rrs', 'all')
POLL_SECONDS = 0.5


class Outcome(NamedTuple):
    """What came of a wanted run."""

    title: str
    seed: int | None
    folder: str
    run: RunFolder | None = None
    evaluations: tuple = ()  # plain dictionaries; of every strategy and target
    error: str = ''  # what has failed

    @property
    def name(self):
        """Among those of its title; the seed of a damaged folder is not known."""
        return printable(self.folder) if self.seed is None else f'seed {self.seed}'


def complete_runs(wanted, execute, strategies=STRATEGIES):
    """Train what is not trained, test what is not tested.

    Args:
        wanted (list): of Wanted.
        execute (callable): see :func:`run_process`: (words, log path, watch) → exit code.
        strategies (tuple): values of ``test.frames`` to test with; without any, an outcome's
            evaluations are those at the end of training.

    Yields:
        Outcome: in order.

    Raises:
        Interrupted: a signal came; what was running has saved itself.
    """
    wanted = list(wanted)
    print(device_line(any(run.cfg and run.cfg.use_gpu for run in wanted)), flush=True)
    for number, run in enumerate(wanted, 1):
        seed = '' if run.seed is None else f', seed {run.seed}'
        label = f'[{number}/{len(wanted)}] {run.title}{seed}'
        try:
            outcome = _complete(run, execute, strategies, label)
        except InputError as error:
            outcome = Outcome(run.title, run.seed, run.folder, error=str(error))
        print(printable(f'{label}: {_summary(outcome)}'), flush=True)
        yield outcome


def _complete(wanted, execute, strategies, label):
    if wanted.problem:
        raise InputError(wanted.problem)
    run, max_epoch = read_run(wanted.folder), wanted.cfg.train.max_epoch
    if run.epoch_without_weights:  # training again would delete the results
        raise InputError(name_lost(run))
    if not run.final_evaluations(max_epoch):
        if not wanted.may_train:
            raise InputError(f'{wanted.folder} is {wanted.state}; --runs trains nothing')
        _train(wanted, execute, label, run.epochs)
        run = read_run(wanted.folder)
    problem = run_results.name_edited(run)
    if wanted.may_train and not problem:  # trained now, it would see what is there now
        problem = run_results.name_other_data(
            run, wanted.cfg, ('train',) if strategies else run_results.LISTS
        )
    if not strategies:  # the results at its end stand for it
        problem = problem or run_results.name_other_test(run, wanted.cfg)
    if problem:
        raise InputError(problem)
    errors, evaluations = [], [*(() if strategies else run.final_evaluations(max_epoch))]
    for frames in strategies:
        failed, words = '', words_to_test(wanted, run, frames)
        cfg = load_config(wanted.config_file, words)
        if not run_results.standalone_evaluations(run, cfg):
            try:
                _execute(wanted, words, execute, f'{label}: testing {frames}')
            except InputError as failure:  # the other strategy may still be possible
                failed = str(failure)
            run = read_run(wanted.folder)
        found = run_results.standalone_evaluations(run, cfg)
        if failed or not found:
            reason = failed or f'no result of the last weights in {METRICS}'
            errors.append(f'testing {frames}: {reason}')
        evaluations += found
    error = '; '.join(errors)
    return Outcome(wanted.title, wanted.seed, wanted.folder, run, tuple(evaluations), error)


def words_to_train(wanted):
    """KEY VALUE words that train a run, or go on with it."""
    place = {'model.resume': 'auto', 'data.save_dir': wanted.folder}
    return [*wanted.words, *as_words({**TRAINING, **place})]


def words_to_test(wanted, run, frames):
    """KEY VALUE words that test the weights of the last epoch."""
    changes = {
        **TESTING,
        'test.frames': frames,
        'model.load_weights': run.checkpoint(wanted.cfg.train.max_epoch),
        'data.save_dir': wanted.folder,
    }
    if frames == 'all':
        changes['test.clips_per_tracklet'] = 1
    return [*wanted.words, *as_words(changes)]


def _train(wanted, execute, label, done):
    max_epoch = wanted.cfg.train.max_epoch
    from_where = f', from epoch {done} of {max_epoch}' if done else f', {max_epoch} epochs'
    log = os.path.join(wanted.folder, CONSOLE)
    print(printable(f'{label}: training{from_where}; log in {log}'))
    with tqdm(
        total=max_epoch, initial=done, desc=label, unit='epoch', leave=False, disable=None
    ) as bar:

        def watch():
            lines = read_lines(wanted.folder, say=bar.set_postfix_str)
            bar.n = max([done, *(line['epoch'] for line in lines)])
            bar.refresh()

        _execute(wanted, words_to_train(wanted), execute, watch=watch)
    if not read_run(wanted.folder).final_evaluations(max_epoch):
        raise InputError(f'{wanted.folder} holds no evaluation after epoch {max_epoch}')


def _execute(wanted, words, execute, description='', watch=None):
    """Run ``tools/main.py`` to its end; InputError with its last words when it fails."""
    log = os.path.join(wanted.folder, CONSOLE)
    try:
        os.makedirs(wanted.folder, exist_ok=True)
        start = os.path.getsize(log) if os.path.exists(log) else 0
    except OSError as error:
        raise InputError(f'cannot write {wanted.folder}: {error.strerror}') from error
    with contextlib.ExitStack() as stack:
        if watch is None:
            bar_format = '{desc} ({elapsed})'
            bar = tqdm(desc=description, bar_format=bar_format, leave=False, disable=None)
            watch = stack.enter_context(bar).refresh
        code = execute(['--config-file', wanted.config_file, *words], log, watch)
    if code:
        raise InputError(f'{last_error(log, start, code)} (see {log})')


def last_error(log, start, code):
    """One line that says why a process failed.

    Args:
        log (str): its output, after what earlier processes wrote.
        start (int): bytes of those.
        code (int): exit code; negative is the signal that killed it.
    """
    if code < 0:
        return f'killed by {signal.Signals(-code).name}'
    with open(log, 'rb') as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors='replace').splitlines() if line.strip()]
    errors = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
    return (errors or lines or [''])[-1].strip() or f'exit code {code}'


def _summary(outcome):
    if outcome.error:
        return f'FAILED: {outcome.error}'
    trained = datetime.timedelta(seconds=round(outcome.run.training_seconds))
    scores = [_score(e) for e in outcome.evaluations if 'rank-1' in e]
    return '; '.join([f'trained in {trained}', *scores])


def _score(e):
    text = f'{e["frames"]} rank-1 {100 * e["rank-1"]:.1f} mAP {100 * e["mAP"]:.1f}'
    return f'{text} ({word})' if (word := doubt_word(e)) else text


def run_process(command, log, watch):
    """Run a command to its end, its output added to a file.

    It gets a process group of its own, so that Ctrl-C reaches it once, from here, and it can save
    itself; a second one ends it at once.

    Args:
        command (list): words.
        log (str): file.
        watch (callable): called without arguments every half second.

    Returns:
        int: exit code, negative for the signal that killed it.

    Raises:
        InputError: the file cannot be written, or the command cannot be started.
        Interrupted: a signal came; the process has ended.
        Exception: what ``watch`` raises, when the process has saved itself and ended.
    """
    process, received = None, []

    def forward(signum, _):
        received.append(signum)
        if process is not None:
            process.send_signal(signum)
        tell_at_once('\nstopping when the running process has saved itself; again: at once\n')

    previous = {signum: signal.signal(signum, forward) for signum in signals_to_handle()}
    try:
        process = _start(command, log)
        for signum in received:  # before there was a process to have it
            process.send_signal(signum)
        _wait_for(process, watch)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if received:
        raise Interrupted(received[0])
    return process.returncode


def _start(command, log):
    try:
        with open(log, 'ab') as file:
            file.write(f'$ {printable(shlex.join(command))}\n'.encode())
            file.flush()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise InputError(f'cannot run with a log in {log}: {error.strerror}') from error


def _wait_for(process, watch):
    """Until it has ended, whatever ``watch`` raises: no process is left to work beside the next."""
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            watch()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
