"""The commands of the documents as a reader finds them, and a shell that runs them in this process.

A command line runs with the settings of ``SMALL`` behind its own words, and ``/data`` is ``data``.
"""

import contextlib
import glob
import re
import runpy
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from test_compare import in_this_process

from stmn_plugin.cli import commands
from stmn_plugin.config.sections import SECTIONS
from stmn_plugin.host.registration import dataset_registry, model_registry, register
from stmn_plugin.models.base import VIDEO_MODELS

REPOSITORY = Path(__file__).parent.parent
DOCUMENTS = [*sorted(REPOSITORY.glob('*.md')), *sorted(REPOSITORY.glob('[ds]*/**/*.md'))]
OF_TODAY = [
    one for one in DOCUMENTS if one.name != 'CHANGELOG.md'
]  # that tells of former commands and keys, too
COMMANDS = {
    name: import_module(f'stmn_plugin.cli.{name.replace("-", "_")}') for name in commands.commands()
}
NEEDS = re.compile(r'(?:^|; )((?:needs|takes) .*)')
SMALL = shlex.split("""
    model.pretrained False stmn.backbone resnet18 part_aligned.part_width 0.0625
    synthetic.preset tiny data.height 64 data.width 32 data.workers 0 video.seq_len 2
    sampler.num_instances 2 train.batch_size 4 train.max_epoch 1 one_shot.factor 100
""")
MORE = {'compare': ['--seeds', '1'], 'make-synthetic': ['--train-ids', '4', '--test-ids', '5']}
RUN_IN_SUBPROCESSES = 'compare', 'demo'


class Line(NamedTuple):
    """A command line of a block."""

    words: list[str]
    needs: str  # what its comment says that a reader needs for it, or how long it takes


def name_of(document):
    return document.relative_to(REPOSITORY).as_posix()


def fences(text):
    """(language, block) of every block of a document."""
    return re.findall(r'^```(\w*)\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)


def blocks(text, language):
    return [block for one, block in fences(text) if one == language]


def lines_of(block):
    """Lines of a block of bash; a comment above lines, up to an empty one, is of all of them."""
    found, above, is_open = [], '', False  # is_open: the comment may go on
    for line in block.replace('\\\n', ' ').splitlines():
        code, _, comment = re.fullmatch(r'(.*?)(?:(^|\s)#\s*(.*))?', line).group(1, 2, 3)
        words = shlex.split(code)
        if words:
            needs = NEEDS.search(comment or '') or NEEDS.search(above)
            found.append(Line(words, needs[1] if needs else ''))
        else:
            above = f'{above if is_open else ""} {comment or ""}'.strip()
        is_open = not words and comment is not None
    return found


def parts_of(words):
    """The command or script that a line runs and the words behind it; None of other programs."""
    words = [word for word in words if not re.match(r'[A-Z_]+=', word)]  # of the environment
    for number, word in enumerate(words):
        if word.startswith('stmn_plugin.'):
            return f'{word.replace(".", "/")}.py', words[number + 1 :]
        if word.startswith('stmn-'):
            return word.removeprefix('stmn-'), words[number + 1 :]
        if word == 'stmn_plugin':
            return words[number + 1], words[number + 2 :]
        if word.startswith('tools/'):
            name = Path(word).stem.replace('_', '-')
            return 'train' if name == 'main' else name, words[number + 1 :]
        if word.endswith(('.py', '.sh')):
            return word, words[number + 1 :]
    return None, words


@contextlib.contextmanager
def nothing_stays():
    """What a page registers is known to no other test."""
    register()
    tables = (VIDEO_MODELS, SECTIONS, model_registry(), dataset_registry())
    before = [dict(table) for table in tables]
    yield
    for name in [name for name in sys.modules if name.startswith('stmn_plugin_import_')]:
        del sys.modules[name]
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def run_document(document):
    """Run the blocks of a document in the current folder → the names of its Python."""
    text = document.read_text(encoding='utf-8')
    names, files = {}, re.findall(r'This file, `(\w+\.py)`', text)
    for language, block in fences(text):
        if language == 'bash':
            for line in lines_of(block):
                if not line.needs:
                    run(line.words)
        elif language == 'python' and files:
            Path(files.pop()).write_text(block)
        elif language == 'python':
            lines = block.splitlines()
            exec('\n'.join(one for one in lines if not NEEDS.search(one.partition('# ')[2])), names)
    return names


def run(words):
    """Run a command line in this process."""
    program, words = parts_of([re.sub('^/data(?=/|$)', 'data', word) for word in words])
    words = sum((sorted(glob.glob(word)) if '*' in word else [word] for word in words), [])
    if program in COMMANDS:
        run_command(program, words)
    elif program == '--help':
        assert commands.main([program]) == 0
    elif program and program.startswith('stmn_plugin/'):
        import_module(program.removesuffix('.py').replace('/', '.')).main(words)
    elif program and program.endswith('.py'):
        with mock.patch.object(sys, 'argv', [program, *words]):
            runpy.run_path(str(REPOSITORY / program), run_name='__main__')
    elif words[0] == 'make':
        for line in sum(map(recipe_of, words[1:]), []):
            run(line)
    else:
        raise AssertionError(f'{shlex.join(words)}: say in a comment what it needs or takes')


def run_command(name, words):
    command = COMMANDS[name]
    if '--runs' not in words:  # runs that are there have their own seeds
        words = [*words, *MORE.get(name, [])]
    with contextlib.suppress(SystemExit):  # of words that print and stop
        words += SMALL if hasattr(command.parse_args(words), 'opts') else []
    try:
        command.main(words, *[in_this_process] * (name in RUN_IN_SUBPROCESSES))
    except SystemExit as stop:
        assert not stop.code, shlex.join([name, *words])


def recipe_of(target):
    """Words of the lines of a target of the Makefile."""
    makefile = (REPOSITORY / 'Makefile').read_text(encoding='utf-8')
    [recipe] = re.findall(rf'^{target}:.*\n((?:\t.*\n)+)', makefile, re.MULTILINE)
    return [line.words for line in lines_of(recipe)]
