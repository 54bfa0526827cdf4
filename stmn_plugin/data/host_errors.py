"""The host's complaints about data → one line each; what our own code raises stays a traceback."""

import contextlib
import traceback
from collections.abc import Iterator

from stmn_plugin.errors import InputError

COMPLAINTS = (RuntimeError, AssertionError, OSError, ValueError, LookupError, ImportError)


@contextlib.contextmanager
def host_errors_named(what: str = 'dataset cannot be loaded', unsaid: str = '') -> Iterator[None]:
    """The host's own complaints, of many types, as one InputError each.

    The host calls readers and samplers of ours in between; what those raise is a bug.

    Args:
        what: begins the line.
        unsaid: the reason, where the host gives none.
    """
    try:
        yield
    except InputError:
        raise
    except COMPLAINTS as error:
        if not _raised_by_host(error):
            raise
        reason = ' '.join(str(error).split()) or unsaid or type(error).__name__
        raise InputError(f'{what}: {reason}') from error


def _raised_by_host(error: Exception) -> bool:
    """Whether the innermost frame of the two packages is the host's."""
    modules = [
        frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    packages = [module.partition('.')[0] for module in modules]
    known = [package for package in packages if package in ('stmn_plugin', 'torchreid')]
    return known[-1:] == ['torchreid']
