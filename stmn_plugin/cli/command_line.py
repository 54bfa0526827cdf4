"""The words of a command → flags and KEY VALUE words, in any order; an error is one line.

A word is a KEY if it is a key of the config or looks like one, ``section.name`` with a section that
exists or nearly does: a misspelled key is named as such, and ``log/v1.0`` or ``v1.0`` is a folder.
The word after a KEY is its VALUE whatever it looks like, except a flag; KEY=VALUE works, too.
"""

import argparse
import difflib
import itertools
import json
import os
import re
import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from stmn_plugin.config import RANGES, SECTIONS
from stmn_plugin.config.rules import Rule, Whole, shown
from stmn_plugin.config.sections import known_settings
from stmn_plugin.errors import EXIT_BAD_INPUT, InputError, printable
from stmn_plugin.plugins import import_file

IMPORT = '--import'
LONGEST_MESSAGE = 500
CONFIG = 'YAML config, or the name of one that the package brings, such as stmn_mars'
_DOTTED = re.compile(r'([A-Za-z_]\w*)(\.[A-Za-z_]\w*)+')
_NUMBER = re.compile(r'-\.?\d')
_MANY = 2  # words that a flag takes, or more
_NAMES = {'nargs': '+', 'metavar': 'NAME'}
# flags that several commands have: key → names and options of its flag
KEY_FLAGS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    'data.root': (('--root',), {'metavar': 'FOLDER', 'help': 'data.root: where the datasets are'}),
    'data.sources': (('-s', '--sources'), {'help': 'train on these', **_NAMES}),
    'data.targets': (('-t', '--targets'), {'help': 'test on these', **_NAMES}),
    'data.transforms': (('--transforms',), {'help': 'augmentation', **_NAMES}),
}


class CommandLine(argparse.ArgumentParser):
    """A parser that finds the KEY VALUE words wherever they stand and gives them as ``opts``.

    A command that takes keys also takes ``--import FILE.py``, code that adds an architecture (its
    keys are known at once), and ``--help-config [WORD]``, which lists the keys.

    ``--`` ends the words of a flag that takes many. In a command that takes words without a flag,
    such as files, all words after it are these.

    Flags are added as to any parser, and by :meth:`add_key_flag` those that set a key; their words
    come first in ``opts``, so that a KEY VALUE word counts more. Of a flag or key that comes twice
    the later counts; lists and config files are refused, as they might be meant to add up. Without
    any word most commands print the help, and the exit code is that of bad input.

    Args:
        takes_keys: whether KEY VALUE words have a meaning.
        needs_words: whether a call without any word shows the help.
        options: of ``argparse.ArgumentParser``.
    """

    def __init__(self, *, takes_keys: bool = True, needs_words: bool = True, **options: Any):
        options.setdefault('prog', _as_typed(sys.argv[0]))
        super().__init__(allow_abbrev=False, **options)
        self.takes_keys = takes_keys
        self.needs_words = needs_words
        self.key_of_flag: dict[str, str] = {}  # name in the namespace → key
        self.given: set[str] = set()  # flags of the call, by their name in the namespace
        self._partners: list[tuple[str, tuple[str, ...]]] = []
        self._excluded: list[tuple[str, str]] = []
        if takes_keys:
            self.add_argument(
                'opts', nargs='*', metavar='KEY VALUE', help='keys of the config and their values'
            )
            self.add_argument(
                IMPORT,
                action='append',
                dest='imports',
                metavar='FILE.py',
                help='code that adds an architecture; may be given several times',
            )
            self.add_argument(
                '--help-config',
                action=_HelpConfig,
                nargs='?',
                metavar='WORD',
                help='list the keys (those with a word in their name or help) and stop',
            )
        self.add_argument('--debug', action='store_true', help='show the traceback of an error')

    def add_config_flag(self, help: str, group: Any = None, **options: Any) -> None:
        """Add the flag of a YAML file or a shipped config; ``config_file`` is '' without it.

        Args:
            help: what the config is of.
            group: of the parser, to add it to.
            options: of ``add_argument``.
        """
        options = {'default': '', 'metavar': 'FILE', 'dest': 'config_file', **options}
        (group or self).add_argument('--config', '--config-file', help=help, **options)

    def add_key_flag(self, key: str, *names: str, **options: Any) -> None:
        """``add_argument`` for a flag that sets a key of the config."""
        self.key_of_flag[self.add_argument(*names, **options).dest] = key

    def add_key_flags(self, *keys: str) -> None:
        """Add the flags of some keys of KEY_FLAGS."""
        for key in keys:
            names, options = KEY_FLAGS[key]
            self.add_key_flag(key, *names, **options)

    def goes_with(self, flags: Iterable[str], *partners: str) -> None:
        """Refuse a call that gives one of some flags, but none of their partners.

        Args:
            flags: such as ``--public``.
            *partners: ``--flag``, or ``--flag VALUE``.
        """
        self._partners += [(flag, partners) for flag in flags]

    def goes_without(self, flag: str, others: Iterable[str]) -> None:
        """Refuse a call that gives a flag and one of some others."""
        self._excluded += [(flag, other) for other in others]

    def parse_args(  # type: ignore[override]  # no namespace of other classes
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        words = sys.argv[1:] if args is None else args
        if not words and self.needs_words:
            self.print_help()
            self.exit(EXIT_BAD_INPUT)
        try:
            if self.takes_keys:
                _import_files(words)
            flags, pairs = self._split(words)
        except InputError as error:  # of an imported file, or of an installed package
            self.error(str(error))
        parsed = super().parse_args(flags, namespace)
        for flag, partners in self._partners:
            if self._is_given(flag) and not any(self._is_given(one, parsed) for one in partners):
                self.error(f'{flag} goes with {" or ".join(partners)}')
        for flag, other in self._excluded:
            if self._is_given(flag) and self._is_given(other):
                self.error(f'{flag} cannot be combined with {other}')
        for name, key in reversed(self.key_of_flag.items()):
            if getattr(parsed, name) is not None:
                pairs = [key, _as_word(getattr(parsed, name)), *pairs]
        if self.takes_keys:
            parsed.opts = pairs
        return parsed

    def error(self, message: str) -> NoReturn:
        """End with one line and the exit code of bad input."""
        message = printable(message)
        cut = '...' * (len(message) > LONGEST_MESSAGE)
        self.exit(EXIT_BAD_INPUT, f'error: {message[:LONGEST_MESSAGE]}{cut}\n')

    def _split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Separate the words of flags, for argparse, from the KEY VALUE words."""
        flags: list[str] = []
        pairs: list[str] = []
        self.given = set()
        room = 0  # words that the last flag still takes
        flag, left = '', deque(words)
        while left:
            word = left.popleft()
            if word == '--' and self._takes_words():  # no flags, whatever the names begin with
                flags += [word, *left]
                break
            if word == '--':  # nothing more for a flag that takes many
                room = 0
            elif _is_flag(word):
                flag, room = self._read_flag(word)
                flags.append(word)
            elif room == 1 or (room and not self._is_key(word)):
                if not word:
                    self.error(f'{flag} needs a value')
                flags.append(word)
                room = _MANY if room == _MANY else 0
            elif self._is_key(word):
                room = 0
                key, equals, value = word.partition('=')
                if not equals:
                    if not left or left[0] in self._option_string_actions:
                        self.error(f'{key} has no value: keys and values come in pairs, KEY VALUE')
                    value = left.popleft()
                pairs += [key, value]
            elif word and self._takes_words():
                flags.append(word)
            else:
                self.error(f'{shown(word)} is neither a flag nor a key{self._nearest(word)}')
        return flags, pairs

    def _read_flag(self, word: str) -> tuple[str, int]:
        """Return the name of a flag, and the number of words that follow."""
        name, equals, value = word.partition('=')
        if name not in self._option_string_actions and word[:2] in self._option_string_actions:
            name, value = word[:2], word[2:]  # -aresnet18
        if name not in self._option_string_actions:
            self.error(f'no flag is called {shown(name)}{self._nearest(name)}')
        action = self._option_string_actions[name]
        adds_up = action.nargs == '+' or action.dest == 'config_file'
        if adds_up and action.dest in self.given:
            self.error(f'{name} is given twice, and they do not add up')
        self.given.add(action.dest)
        if action.nargs == 0:
            return name, 0
        if equals and not value:
            self.error(f'{name} needs a value')
        return name, 0 if value else 1 if action.nargs in (None, '?') else _MANY

    def _is_given(self, flag: str, parsed: argparse.Namespace | None = None) -> bool:
        """Return whether the call gives ``--flag``, or the VALUE of ``--flag VALUE``."""
        name, _, value = flag.partition(' ')
        dest = self._option_string_actions[name].dest
        return dest in self.given and (not value or getattr(parsed, dest) == value)

    def _is_key(self, word: str) -> bool:
        key = word.partition('=')[0]
        if not self.takes_keys or key in RANGES:
            return self.takes_keys
        match = _DOTTED.fullmatch(key)
        sections = {name.partition('.')[0] for name in SECTIONS}
        return bool(match and difflib.get_close_matches(match[1], sections, n=1, cutoff=0.7))

    def _takes_words(self) -> bool:
        """Return whether a command that takes no keys takes words without a flag, such as files."""
        return not self.takes_keys and bool(self._get_positional_actions())

    def _nearest(self, word: str) -> str:
        known = list(self._option_string_actions)
        if self.takes_keys:
            known += [key for key, _ in known_settings()]
        nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
        if nearest:
            return f'; the nearest is {nearest[0]}'
        if self.takes_keys and _DOTTED.fullmatch(word):
            return f' ({IMPORT} FILE.py adds keys of an architecture; --help-config shows all)'
        return ' (--help shows all)'


class _HelpConfig(argparse.Action):
    """Print the keys, as --help prints the flags."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from stmn_plugin.config.table import as_text, rows

        try:
            found = rows(values or '')
        except InputError as error:
            parser.error(str(error))
        if not found:
            parser.error(f'no key and no help of one contains {shown(values)}')
        print(as_text(found))
        parser.exit()


def _import_files(words: Sequence[str]) -> None:
    """Import the files of --import before any key is read, wherever the flag is."""
    for word, following in itertools.pairwise([*words, '']):
        name, equals, file = word.partition('=')
        file = file if equals else following
        if name == IMPORT and file:  # an empty name is refused as that of any flag is
            import_file(file)


def refuse_words(words: Sequence[str], set_by: Mapping[str, str]) -> None:
    """Raise InputError for a KEY VALUE word whose key the command itself sets.

    Args:
        words: KEY VALUE words.
        set_by: key → what sets it.
    """
    for key in words[::2]:
        if key in set_by:
            raise InputError(f'{key} is set by {set_by[key]}, so it cannot be given')


def flags_of(group: 'argparse._ArgumentGroup') -> list[str]:
    """Return the first name of every flag of a group."""
    return [action.option_strings[0] for action in group._group_actions]


def value_of(rule: Rule) -> Callable[[str], Any]:
    """Convert a rule to the ``type`` of a flag."""

    def read(text: str) -> Any:
        value = rule.read(text)
        if value is None:
            raise argparse.ArgumentTypeError(f'takes {rule}, got {shown(text)}')
        return value

    return read


FROM_ONE = value_of(Whole(1, 1_000_000))  # the ``type`` of a count


def _as_typed(script: str) -> str:
    """Return how the command was started, for its help."""
    return f'python {script}' if script.endswith('.py') else os.path.basename(script)


def invocation_of(name: str) -> str:
    """Return how to call another command in the way of this one: script, installed, or package.

    Args:
        name: of the command, such as ``check-data``.
    """
    folder, script = os.path.split(sys.argv[0])
    file = os.path.join(folder, f'{name.replace("-", "_")}.py')
    if script.endswith('.py') and os.path.exists(file):
        return f'python {shlex.quote(printable(file))}'
    return f'stmn-{name}' if script.startswith('stmn-') else f'python -m stmn_plugin {name}'


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word[0] == '-' and not _NUMBER.match(word)


def _as_word(value: Any) -> str:
    """Format a value as a KEY VALUE word; JSON is also YAML."""
    return json.dumps(value) if isinstance(value, list) else value
