"""The demo: three rows that learn, a table, a page; stopped, resumed, and called again."""

import json
import math

import pytest
from test_compare import in_this_process, never

from stmn_plugin.cli import commands, demo

SMALL = (
    'synthetic.preset tiny data.workers 0 video.seq_len 2 '
    'train.batch_size 4 train.max_epoch 28 train.stepsize [24]'
)
CHANCE = math.log(4)  # the cross-entropy of a guess among the four persons of the preset


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the demo on very few persons in this process → its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words, execute=in_this_process, small=SMALL):
        code = 0
        try:
            demo.main([*small.split(), *words], execute)
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return run


@pytest.mark.slow
def test_every_row_learns_and_a_second_call_says_what_is_there(call, tmp_path):
    code, out, err = call()
    assert (code, err) == (0, '')
    content = json.loads((tmp_path / 'log/demo/demo.json').read_text())
    titles = ['STMN', 'STMN baseline', 'torchreid resnet18']
    assert [(row['method'], row['frames'], row['error']) for row in content['rows']] == [
        (title, 'rrs', '') for title in titles
    ]
    for name in ('stmn', 'baseline', 'resnet18'):
        (folder,) = (tmp_path / 'log/demo').glob(f'{name}-*')
        lines = (folder / 'metrics.jsonl').read_text().splitlines()
        losses = [json.loads(line)['losses'] for line in lines]
        term = next(name for name in losses[0] if name.startswith('cross_entropy'))
        entropy = [one[term] for one in losses]
        assert entropy[0] > 0.9 * CHANCE and sum(entropy[-8:]) / 8 < 0.8 * CHANCE, (name, entropy)
    (page,) = (tmp_path / 'log/demo').glob('stmn-*/report.html')
    first = out[out.index('dataset synthetic, protocol official') :]
    assert all(title in first for title in titles) and max(map(len, first.splitlines()[:6])) <= 100
    assert f'The page of STMN: {page.relative_to(tmp_path)}' in first
    *_, figures, train, mars = first.splitlines()
    assert figures.startswith('  python -m stmn_plugin visualize --run log/demo/stmn-')
    for line in (train, mars):
        assert line.split()[3] in commands.commands()

    written = page.stat().st_mtime_ns
    code, again, err = call(execute=never)
    assert (code, err) == (0, '')
    assert first[: first.index('The table')] in again  # the table
    assert again.splitlines()[-5:] == first.splitlines()[-5:]  # the page and what is next
    assert page.stat().st_mtime_ns == written


def test_it_needs_no_word():
    assert demo.parse_args([]).opts == []


def test_a_misspelled_key_is_one_line(call, tmp_path):
    code, out, err = call('train.max_epochs', '3', execute=never)
    assert (code, out) == (2, '') and err.count('\n') == 1
    assert 'train.max_epochs' in err and 'train.max_epoch' in err
    assert not any(tmp_path.iterdir())


def test_the_next_commands_say_how_to_activate_the_environment(tmp_path, monkeypatch):
    python = tmp_path / '.venv/bin/python'
    monkeypatch.setattr(demo.sys, 'executable', str(python))
    monkeypatch.setattr(demo.sys, 'prefix', str(tmp_path / '.venv'))
    monkeypatch.chdir(tmp_path)
    for path, line in (
        ('/usr/bin/python', 'Next, after source .venv/bin/activate:'),
        (None, 'Next, after source .venv/bin/activate:'),
        (str(python), 'Next:'),
    ):
        monkeypatch.setattr(demo.shutil, 'which', lambda name, path=path: path)
        assert demo.next_line() == line
    monkeypatch.setattr(demo.shutil, 'which', lambda name: None)
    monkeypatch.setattr(demo.sys, 'prefix', demo.sys.base_prefix)  # no environment
    assert demo.next_line() == 'Next:'
