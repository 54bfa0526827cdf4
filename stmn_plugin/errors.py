"""What a wrong input becomes: one clear line, exit code 2, nothing that looks like a result."""

import contextlib
import sys

EXIT_BAD_INPUT = 2


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
