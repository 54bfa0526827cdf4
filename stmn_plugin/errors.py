"""What a wrong input becomes: one clear line, exit code 2, nothing that looks like a result."""

import contextlib
import sys

import torch

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class InputError(ValueError):
    """Something the user gave is wrong; one line that names the file, key or value."""


def one_line(error):
    """The message of an InputError as one line, also after a DataLoader worker re-raised it.

    A worker's exception comes back with its whole traceback as the message; the last line is ours.
    """
    last = str(error).strip().splitlines()[-1]
    return last.removeprefix(f'{__name__}.InputError: ')


@contextlib.contextmanager
def exit_on_input_error(debug=False):
    """Turn an InputError into one line on stderr and exit code 2; with ``debug`` let it through."""
    try:
        yield
    except InputError as error:
        if debug:
            raise
        print(f'error: {one_line(error)}', file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:  # before or after the run, which has its own way to stop
        if debug:
            raise
        print('interrupted', file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


@contextlib.contextmanager
def resource_errors(batch_size_key, note=''):
    """Turn out-of-memory and the death of a loader's worker into an InputError naming the key.

    Args:
        batch_size_key (str): of the config.
        note (str): ends the message.
    """
    try:
        yield
    except (EOFError, ConnectionError) as error:  # the pipe to a worker that is gone
        raise _dead_worker(type(error).__name__, note) from error
    except RuntimeError as error:  # torch's error of a full GPU is one, too
        reason = ' '.join(str(error).split())
        full = isinstance(error, torch.cuda.OutOfMemoryError) or 'DefaultCPUAllocator' in reason
        if full:
            raise InputError(
                f'{batch_size_key} needs more memory than there is: {reason[:300]}{note}'
            ) from error
        if reason.startswith('DataLoader worker'):
            raise _dead_worker(reason[:300], note) from error
        raise


def _dead_worker(reason, note):
    return InputError(
        f'data.workers: a process that reads frames died: {reason} '
        f'(fewer workers need less memory){note}'
    )
