"""``python -m stmn_plugin COMMAND ...``: finds the commands, lists them, calls one.

A command is a module of this room with a function ``main``; its name on the command line has a dash
for every underscore, and the first line of its docstring says what it does.
"""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from stmn_plugin import __version__
from stmn_plugin.errors import EXIT_BAD_INPUT, printable

PROGRAM = 'python -m stmn_plugin'


def commands() -> dict[str, str]:
    """Return the first line of the docstring of each command by its name; import none of them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if 'main' in functions and path != Path(__file__):
            summary = (ast.get_docstring(tree) or '').split('\n', 1)[0]
            found[path.stem.replace('_', '-')] = summary
    return found


def main(argv: list[str] | None = None) -> int | None:
    """Call the command that the first word names with the words after it; return its exit code."""
    name, *words = (sys.argv[1:] if argv is None else argv) or ['']
    listed = commands()
    if name in ('', '-h', '--help'):
        print(f'usage: {PROGRAM} COMMAND ...\n')
        width = max(map(len, listed))
        print(*(f'  {one:{width}}  {summary}' for one, summary in listed.items()), sep='\n')
        print(f'\n{PROGRAM} COMMAND --help lists its flags; stmn-COMMAND is the same.')
        return 0 if name else EXIT_BAD_INPUT
    if name == '--version':
        print(f'stmn_plugin {__version__}')
        return 0
    name = name.replace('_', '-')
    if name not in listed:
        nearest = difflib.get_close_matches(name, listed, n=1, cutoff=0)[0]
        print(
            f'error: no command is called {printable(name)}; the nearest is {nearest}',
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    sys.argv = [f'{PROGRAM} {name}', *words]
    command = importlib.import_module(f'stmn_plugin.cli.{name.replace("-", "_")}')
    code: int | None = command.main()
    return code
