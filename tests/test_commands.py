"""The commands: found, listed and started alike by scripts, ``python -m`` and installed names."""

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from stmn_plugin import __version__
from stmn_plugin.cameras.index import IndexedTracklet, ModelKey, TrackletIndex
from stmn_plugin.cli import commands, cost_curve, make_synthetic, report, visualize
from stmn_plugin.datasets.hdf5 import SIGNATURE
from stmn_plugin.datasets.tables import read_table
from stmn_plugin.errors import InputError
from stmn_plugin.extras import EXTRA_OF, require

REPOSITORY = Path(__file__).parents[1]
PYPROJECT = (REPOSITORY / 'pyproject.toml').read_text(encoding='utf-8')
NAMES = list(commands.commands())
HELP_MODULES = 600  # with numpy and h5py; torch alone has 1,500


def run_python(*words, **options):
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY), 'OMP_NUM_THREADS': '1'}
    environment |= options.pop('env', {})
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        **options,
    )


def script_of(name):
    return REPOSITORY / 'tools' / f'{"main" if name == "train" else name.replace("-", "_")}.py'


def test_every_command_is_installed_and_has_a_script():
    known = 'train compare report visualize check-data make-synthetic cost-curve'
    assert set(known.split()) <= set(NAMES)
    installed = re.findall(r'^stmn-([\w-]+) = "stmn_plugin\.cli\.(\w+):run"$', PYPROJECT, re.M)
    assert sorted(installed) == [(name, name.replace('-', '_')) for name in NAMES]
    assert {path.name for path in (REPOSITORY / 'tools').iterdir() if path.is_file()} == {
        script_of(name).name for name in NAMES
    }
    for name in NAMES:
        assert callable(import_module(f'stmn_plugin.cli.{name.replace("-", "_")}').run)


def test_the_list_of_commands_has_one_line_each(capsys):
    assert commands.main(['--help']) == 0
    listed = capsys.readouterr().out
    rows = re.findall(r'^  ([\w-]+)  +(\S.{20,61}\.)$', listed, re.MULTILINE)
    assert [name for name, _ in rows] == NAMES
    assert commands.main([]) == 2 and capsys.readouterr().out == listed


def test_an_unknown_command_is_one_line_with_the_nearest(capsys):
    assert commands.main(['chek_data\n']) == 2
    said = r'error: no command is called chek-data\n; the nearest is check-data'
    assert capsys.readouterr() == ('', f'{said}\n')
    assert commands.main(['--version']) == 0
    assert capsys.readouterr().out == f'stmn_plugin {__version__}\n'


# what --help imports: with little of it, it answers in a quarter of a second
HELP = """
import atexit, runpy, sys

@atexit.register
def tell():
    slow = {'torch', 'torchreid', 'matplotlib', 'jinja2', 'h5py', 'scipy'} & set(sys.modules)
    print(len(sys.modules), *slow, file=sys.stderr)

command, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = command
if command == 'stmn_plugin':
    runpy.run_module(command, run_name='__main__', alter_sys=True)
else:
    runpy.run_path(command, run_name='__main__')
"""


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('started', ['as a script', 'by its name'])
def test_help_costs_little_and_tells_how_the_command_was_started(started, name):
    words = [script_of(name)] if started == 'as a script' else ['stmn_plugin', name]
    done = run_python('-c', HELP, *words, '--help')
    assert done.returncode == 0
    program = f'python {words[0]}' if len(words) == 1 else f'python -m stmn_plugin {name}'
    assert ' '.join(done.stdout.split()).startswith(f'usage: {program} [-h]')
    modules, *slow = done.stderr.split()
    assert int(modules) < HELP_MODULES and not slow


def test_started_by_its_path_it_is_the_package_at_that_path(tmp_path):
    """And not another one in the working folder; modules of the package hide no others."""
    other = tmp_path / 'stmn_plugin'
    other.mkdir()
    (other / '__init__.py').write_text('raise SystemExit("another package")')
    main = REPOSITORY / 'stmn_plugin' / '__main__.py'
    done = run_python(main, '--version', cwd=tmp_path, env={'PYTHONPATH': ''})
    assert (done.stdout, done.stderr) == (f'stmn_plugin {__version__}\n', '')


SPAWNS = """
import atexit, multiprocessing, os, probe

def spawn():
    os.environ['SPAWNED'] = 'once'
    process = multiprocessing.get_context('spawn').Process(target=probe.tell)
    process.start()
    process.join()

if 'SPAWNED' not in os.environ:
    atexit.register(spawn)
"""


def test_spawned_processes_leave_ctrl_c_to_their_parent(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(SPAWNS)
    (tmp_path / 'probe.py').write_text(
        'import signal\ndef tell(): print("spawned", signal.getsignal(signal.SIGINT))\n'
    )
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = run_python('-m', 'stmn_plugin', '--version', cwd=tmp_path, env={'PYTHONPATH': path})
    assert done.stdout.splitlines()[1:] == [f'spawned {signal.SIG_IGN}'], done.stderr


@pytest.mark.parametrize(
    'command, missing, words',
    [
        (report, 'jinja2', ['--run', 'log']),
        (report, 'matplotlib', ['--run', 'log']),
        (visualize, 'matplotlib', ['--run', 'log']),
        (cost_curve, 'matplotlib', ['data.type', 'video']),
        (make_synthetic, 'h5py', ['--preset', 'tiny', '--root', '.']),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_a_missing_package_is_one_line_before_any_work(
    command, missing, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    extra = '"stmn_plugin[report]"' if missing in EXTRA_OF else missing
    assert ended.value.code == 2 and not any(tmp_path.iterdir())
    said = f'error: {missing} is not installed: pip install {extra}\n'
    assert capsys.readouterr() == ('', said)


def test_a_table_that_needs_h5py_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    path = tmp_path / 'track.mat'
    path.write_bytes(SIGNATURE)
    with pytest.raises(InputError, match='h5py is not installed: pip install h5py'):
        read_table(str(path), 'track')


def test_extras_are_those_of_the_metadata():
    table = PYPROJECT[PYPROJECT.index('[project.optional-dependencies]') :]
    for module, extra in EXTRA_OF.items():
        [packages] = re.findall(rf'^{extra} = \[(.*)\]$', table, re.MULTILINE)
        names = re.findall(r'"([\w-]+)(?:[<>=~!].*?)?"', packages.lower())  # bounds do not count
        assert module in names
        require(module)


@pytest.mark.slow
def test_a_run_imports_nothing_that_only_other_commands_need():
    code = 'import sys, stmn_plugin.host.runner; print({*sys.argv[1:]} & set(sys.modules))'
    done = run_python('-c', code, 'matplotlib', 'jinja2', 'h5py')
    assert (done.stdout, done.stderr) == ('set()\n', '')


# of an index of stored features: a list of it, a search in it; then what embedding and exporting
# import
OF_AN_INDEX = """
import sys
import stmn_plugin.cameras.making
from stmn_plugin.cli import index, search

def tell():
    slow = {'torch', 'torchvision', 'torchreid', 'scipy', 'jinja2', 'matplotlib', 'onnx'}
    print('imported:', *sorted(slow & set(sys.modules)))

index.main([sys.argv[1]])
tell()
search.main(['--index', sys.argv[1], '--tracklet', '1'])
tell()
import stmn_plugin.cameras.exporting, stmn_plugin.models.loading
tell()
"""


@pytest.mark.slow
def test_commands_of_an_index_import_no_network_that_they_do_not_need(tmp_path):
    """Listing takes no torch, a search for an indexed tracklet no network, exporting no host."""
    path = tmp_path / 'people.db'
    rows = [
        IndexedTracklet(0, '/people', name, 'gate', 'x.mp4', name, 'unknown', None, None, 3)
        for name in ('1', '2', '3')
    ]
    with TrackletIndex.open(path, ModelKey('w', 'toy', 16, 8, 4, 3)) as index:
        index.add(rows, torch.eye(3))
    done = run_python('-c', OF_AN_INDEX, path)
    assert done.stderr == ''
    told = [line for line in done.stdout.splitlines() if line.startswith('imported:')]
    assert told == ['imported:', 'imported: torch', 'imported: torch torchvision']
