"""A whole comparison: trained once, stopped and resumed; a run that fails is a row."""

import contextlib
import csv
import json
import mmap
import os
import re
import shutil
import subprocess
import sys

import miniatures
import numpy as np
import pytest
import signalled
from PIL import Image
from written_runs import alone, evaluation, write_run

from stmn_plugin.cli import compare, train
from stmn_plugin.comparing import grid
from stmn_plugin.comparing.existing_runs import existing_runs
from stmn_plugin.comparing.result_tables import rows_of
from stmn_plugin.comparing.run_queue import complete_runs
from stmn_plugin.device import peak_memory


def test_a_test_that_leaves_no_result_is_a_failure(tmp_path):
    write_run(tmp_path / 'run', evaluations=[evaluation(epoch=3), alone(frames='all')])
    (outcome,) = complete_runs(existing_runs([str(tmp_path / 'run')], []), lambda *_: 0)
    assert outcome.error == 'testing rrs: no result of the last weights in metrics.json'
    assert [e['frames'] for e in outcome.evaluations] == ['all']


def test_a_run_that_fails_costs_its_own_row(tmp_path):
    for name in ('first', 'second'):
        write_run(tmp_path / name)
    runs = existing_runs([str(tmp_path / 'first'), str(tmp_path / 'second')], [])
    broken, sound = (run._replace(title=os.path.basename(run.folder), problem='') for run in runs)
    done = [alone(frames=frames) for frames in ('rrs', 'all')]

    def execute(words, log, watch):
        if words[words.index('data.save_dir') + 1] == broken.folder:
            with open(log, 'a') as file:
                file.write('RuntimeError: singular\n')
            return 1
        file = os.path.join(sound.folder, 'metrics.json')
        with open(file) as content:
            metrics = json.load(content)
        metrics['evaluations'].append(done.pop(0))
        with open(file, 'w') as content:
            json.dump(metrics, content)
        return 0

    rows = rows_of(list(complete_runs([broken, sound], execute)))
    assert [(row.method, row.frames) for row in rows] == [
        ('second', 'rrs'),
        ('second', 'all'),
        ('first', ''),
    ]
    assert rows[2].error.count('RuntimeError: singular') == 2


def test_peak_memory_stays_when_memory_is_given_back():
    def resident_now():
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

    size = 1 << 28
    block = mmap.mmap(-1, size)
    block.write(b'1' * size)
    held, peak = resident_now(), peak_memory()['resident']
    # the kernel counts in batches: some pages are seen later
    assert peak > held - size // 8 > size // 2
    block.close()
    assert resident_now() < held - size // 2
    assert peak_memory()['resident'] >= peak
    assert peak < os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def in_this_process(words, log, watch):
    """As ``compare.child``, without a start of Python."""
    with (
        open(log, 'a') as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            train.main(words)
        except SystemExit as stop:
            return stop.code
    watch()
    return 0


@pytest.fixture
def run(repository, small_run, mars_root, tmp_path, capsys):
    """Run tools/compare.py in this process on the miniature MARS → exit code, stdout, stderr."""

    def call(*flags, keys=(), execute=in_this_process):
        words = ['--root', mars_root, '--output', str(tmp_path / 'out'), *flags]
        if '--runs' not in flags:  # they have their own
            words += ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml')]
        code = 0
        try:
            compare.main([*words, *small_run[:-2], *keys], execute)
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return call


def never(words, log, watch):
    raise AssertionError(f'nothing was left to do, but {words} was to run')


@pytest.mark.slow
def test_a_comparison_is_trained_once_and_a_failing_run_is_a_row(run, mars_root, tmp_path):
    flags = ['--archs', 'osnet_x0_25', 'inceptionv4', 'osnet_x0_5', '--seeds', '2']
    code, out, err = run(*flags)
    assert code == 1 and err == '2 runs have failed\n'
    content = json.loads((tmp_path / 'out' / 'compare.json').read_text())
    methods = [(row['method'], row['frames'], row['seeds']) for row in content['rows']]
    assert methods == [
        ('osnet_x0_25', 'rrs', [1, 2]),
        ('osnet_x0_25', 'all', [1, 2]),
        ('osnet_x0_5', 'rrs', [1, 2]),
        ('osnet_x0_5', 'all', [1, 2]),
        ('inceptionv4', '', [1]),
        ('inceptionv4', '', [2]),
    ]
    assert 'inceptionv4 cannot take frames of 64x32' in content['rows'][-1]['error']
    assert 'inceptionv4 cannot take frames of 64x32' in out
    # the numbers again, from the files of the runs
    folders = sorted(path for path in (tmp_path / 'out').glob('osnet_x0_25-*'))
    assert len(folders) == 2 and all((folder / 'console.log').is_file() for folder in folders)
    metrics = [json.loads((folder / 'metrics.json').read_text()) for folder in folders]
    alone = [m['evaluations'][2] for m in metrics]
    assert [(e['frames'], e['epoch']) for e in alone] == [('all', None)] * 2
    row = content['rows'][1]
    for name in ('rank-1', 'mAP', 'mINP'):
        values = np.array([e[name] for e in alone]) * 100
        assert row['scores'][name]['mean'] == pytest.approx(values.mean())
        assert row['scores'][name]['std'] == pytest.approx(values.std(ddof=1))
    assert row['parameters'] == metrics[0]['parameters'] and row['feature_dim'] == 512
    tracklets = sum(pid != -1 for pid, *_ in miniatures.MARS_TEST)  # the queries are among them
    seconds = [e['seconds']['extraction'] / tracklets for e in alone]
    assert row['seconds_per_tracklet'] == pytest.approx(np.mean(seconds), rel=0.01)
    assert row['peak_memory'] == max(e['peak_memory']['resident'] for e in alone)
    steps = [json.loads((folder / 'metrics.jsonl').read_text())['seconds'] for folder in folders]
    assert row['training_seconds'] == pytest.approx(np.mean(steps))

    # the second call: nothing is left to do but what failed
    checkpoints = sorted((tmp_path / 'out').glob('osnet*/model/*'))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    table = (tmp_path / 'out' / 'compare.csv').read_text().splitlines()
    flags.remove('inceptionv4')
    code, out, _ = run(*flags, execute=never)
    assert code == 0 and 'training, ' not in out
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    again = json.loads((tmp_path / 'out' / 'compare.json').read_text())
    assert again['rows'] == content['rows'][:4]
    assert (tmp_path / 'out' / 'compare.csv').read_text().splitlines() == table[:5]
    assert run(*flags, '--dry-run', execute=never)[1].count('finished') == 4
    # the same folders, given as runs
    flags = ['--runs', *map(str, folders), '--output', str(tmp_path / 'out')]
    compare.main(flags, never)  # their configs are in them
    rows = json.loads((tmp_path / 'out' / 'compare.json').read_text())['rows']
    assert [row['scores'] for row in rows] == [row['scores'] for row in content['rows'][:2]]
    # another protocol: nothing is trained, all is tested
    words = []

    def spy(given, log, watch):
        words.append(given)
        return in_this_process(given, log, watch)

    code, out, _ = run('--runs', str(folders[0]), keys=['test.protocol', 'torchreid'], execute=spy)
    assert code == 0 and len(words) == 2 and all('test.evaluate' in given for given in words)
    assert 'torchreid' in out
    # other data: tested on it, and the next time shown
    other = shutil.copytree(mars_root, tmp_path / 'other')
    frame = sorted((other / 'mars' / 'bbox_test').glob('000[1-9]/*.jpg'))[0]
    Image.new('RGB', (32, 64), 'red').save(frame)
    words.clear()
    flags = ['--runs', str(folders[0]), '--root', str(other)]
    assert run(*flags, execute=spy)[0] == 0 and len(words) == 2
    before = json.loads((tmp_path / 'out' / 'compare.json').read_text())
    assert run(*flags, execute=never)[0] == 0
    assert json.loads((tmp_path / 'out' / 'compare.json').read_text()) == before
    assert run('--runs', str(folders[0]), execute=never)[0] == 0  # both are known


@pytest.mark.slow
def test_ctrl_c_stops_the_comparison_and_a_second_call_resumes(
    repository, run, small_run, mars_root, tmp_path
):
    tool, config = repository / 'tools' / 'compare.py', repository / 'configs' / 'stmn_mars.yaml'
    flags = ['--archs', 'osnet_x0_25', '--seeds', '1']
    keys = ['train.max_epoch', '6', 'train.save_freq', '6']
    command = [sys.executable, str(tool), '--config-file', str(config), '--root', mars_root]
    command += ['--output', str(tmp_path / 'out'), *flags, *small_run[:-2], *keys]
    send = 'os.kill(os.getppid(), signal.SIGINT)'  # the run that is compared does so
    environment = signalled.environment(tmp_path / 'site', repository, send, step=(3, 1))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 130
    assert 'the same command continues from there' in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'out' / 'compare.md').exists()
    (folder,) = (tmp_path / 'out').glob('osnet*')
    assert 'interrupted after epoch 2 of 6' in run(*flags, '--dry-run', keys=keys)[1]
    code, out, _ = run(*flags, keys=keys)
    assert code == 0 and 'training, from epoch 2 of 6' in out
    epochs = [json.loads(line)['epoch'] for line in (folder / 'metrics.jsonl').open()]
    assert epochs == list(range(1, 7))  # none was trained again


@pytest.mark.slow
def test_the_grid_never_looks_at_the_test_set(run, tmp_path, monkeypatch):
    opened, original = [], Image.open

    def spy(file, *args, **options):
        opened.append(str(file))
        return original(file, *args, **options)

    monkeypatch.setattr(Image, 'open', spy)
    factors = (
        [{'stmn.spatial_items': 2, 'stmn.temporal_items': 3}],
        [{'video.seq_len': 2}, {'video.seq_len': 3}],
    )
    monkeypatch.setattr(grid, 'FACTORS', factors)
    flags = ['--grid', '--seeds', '1']
    keys = ['data.validation_ids', '0.3', 'train.batch_size', '4', 'model.name', 'stmn']
    plan = run(*flags, '--dry-run', keys=keys, execute=never)[1]
    assert 'M=2, N=3' in plan and 'then, with the best of these: L=2, L=3' in plan
    code, out, _ = run(*flags, keys=keys)
    assert code == 0
    assert any('bbox_train' in path for path in opened)
    assert not any('bbox_test' in path for path in opened)
    content = json.loads((tmp_path / 'out' / 'grid.json').read_text())
    found = {s['setting']: s for s in content['settings']}
    assert list(found) == ['M=2, N=3', 'L=2', 'L=3'] and found['M=2, N=3']['chosen']
    assert found['L=2']['chosen'] != found['L=3']['chosen']
    (folder,) = (tmp_path / 'out').glob('grid-M=2-N=3-L=3*')
    (last,) = json.loads((folder / 'metrics.json').read_text())['evaluations']
    assert last['dataset'] == 'mars-validation'
    assert found['L=3']['mAP mean'] == pytest.approx(100 * last['mAP'])
    with open(tmp_path / 'out' / 'grid.csv', newline='') as file:
        assert [line['factor'] for line in csv.DictReader(file)] == ['M, N', 'L', 'L']
    assert '| chosen' in (tmp_path / 'out' / 'grid.md').read_text()
    assert run(*flags, keys=keys, execute=never)[0] == 0


def test_rows_of_ones_own_and_how_their_tables_are_called(run, tmp_path):
    rows = tmp_path / 'rows.yaml'
    rows.write_text('Host: {model.name: resnet18, loss.name: softmax}')
    code, out, _ = run('--variants', str(rows), '--dry-run', '--seeds', '1', execute=never)
    assert code == 0 and re.search(r'^Host +1 +host-[0-9a-f]{8}-seed1 +new', out, re.MULTILINE)
    for flags, name in (
        (['--dry-run'], 'compare'),
        (['--ablation'], 'ablation'),
        (['--ablation', '--variants', str(rows)], 'rows'),
    ):
        assert compare.table_name(compare.parse_args(flags)) == name
    rows.write_text('Host: {model.nam: resnet18}')
    code, _, err = run('--variants', str(rows), execute=never)
    assert code == 2 and 'model.nam' in err and 'model.name' in err


def test_flags_that_cannot_go_together_and_mistyped_ones(run):
    code, _, err = run('--grid', '--ablation', execute=never)
    assert code == 2 and '--grid cannot be combined with' in err
    code, _, err = run('--archs', 'osnet_x0_26', execute=never)
    assert code == 2 and "the nearest is 'osnet_x0_25'" in err
    code, _, err = run('--published', 'mras', execute=never)
    assert code == 2 and '--published takes one of mars, ' in err and "got 'mras'" in err
    code, _, err = run('--seeds', '0', execute=never)
    assert code == 2 and '--seeds: takes a whole number from 1' in err
    code, _, err = run('--grid', keys=['model.name', 'resnet18'], execute=never)
    assert code == 2 and 'model.name is resnet18' in err
