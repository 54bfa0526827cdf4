"""Whole runs by torchrun: one set of files, exact resume, and an end when a process ends."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_distributed import free_port
from test_resume import assert_same_end, results

from stmn_plugin.cli import train
from stmn_plugin.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
EPOCHS, BATCHES = 2, 5  # of the miniature: 10 identities in batches of 2 x 2
RUN = (
    'stmn.backbone resnet18 model.pretrained False data.type video data.height 32 data.width 16 '
    'data.workers 0 train.optim sgd sgd.momentum 0.0 train.batch_size 4 sampler.num_instances 2 '
    f'video.seq_len 2 train.print_freq 1 train.max_epoch {EPOCHS}'
).split()
TIME_LIMIT = 100  # seconds on a busy machine; alone it is a tenth


@pytest.fixture
def torchrun(repository, mars_root):
    """Start tools/main.py on two processes → Popen; ``lines`` are what it prints."""
    started = []

    def start(folder, *words, root=mars_root):
        process = subprocess.Popen(
            [
                *(sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2'),
                *('--master-port', str(free_port()), str(repository / 'tools' / 'main.py')),
                *('--config-file', str(repository / 'configs' / 'stmn_mars.yaml')),
                *('--root', root, *RUN, 'data.save_dir', folder, *words),
            ],
            env={
                **os.environ,
                'OMP_NUM_THREADS': '1',
                'PYTHONPATH': str(repository),
                'PYTHONUNBUFFERED': '1',
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def read_until(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    return ''.join(lines)


def test_a_run_on_two_processes_from_start_to_end(torchrun, mars_root, repository, tmp_path):
    straight, cut = tmp_path / 'straight', tmp_path / 'cut'
    process = torchrun(straight)
    out, err = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 0, err
    # one of everything
    assert out.count(f'epoch: [{EPOCHS}/{EPOCHS}][{BATCHES}/{BATCHES}]') == 1
    names = sorted(re.sub(r'[-.][\d.]{4}.*', '', name) for name in os.listdir(straight))
    assert names == ['.lock', 'config.yaml', 'events.out.tfevents', 'metrics.json', 'metrics.jsonl',
                     'model', 'train.log']  # fmt: skip
    assert 'Epoch 2/2: loss' in next(straight.glob('train.log*')).read_text()
    # interrupted, then resumed
    process = torchrun(cut)
    read_until(process, 'epoch: [1/2][2/5]')
    process.terminate()
    out, err = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode != 0 and 'SIGTERM: finishing the step' in err
    assert 'Interrupted in epoch 1 after batch' in out
    process = torchrun(cut, 'model.resume', 'auto')
    out, err = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 0, err
    assert 'Resumed from' in out and 'epoch: [1/2][2/5]' not in out
    assert_same_end(cut, straight, epoch=2)
    # one process gets the same from the weights, and can go on
    alone, path = tmp_path / 'alone', straight / 'model' / 'model.pth.tar-2'
    config = str(repository / 'configs' / 'stmn_mars.yaml')
    start = ['--config-file', config, '--root', mars_root, *RUN, 'data.save_dir', str(alone)]
    train.main([*start, 'test.evaluate', 'True', 'model.load_weights', str(path)])
    assert {**results(alone)[0], 'epoch': 2} == results(straight)[-1]
    more = ['train.max_epoch', '3', 'train.overwrite', 'True']
    train.main([*start, *more, 'model.resume', str(path)])
    assert load_checkpoint(str(alone / 'model' / 'model.pth.tar-3'))['epoch'] == 3


def test_a_killed_process_ends_the_run(torchrun, tmp_path):
    process = torchrun(tmp_path, 'train.max_epoch', '99', 'train.sync_bn', 'True')
    read_until(process, 'epoch: [1/99][2/5]')
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode != 0 and 'SIGKILL' in err
    assert 'error: another process of this run died' in err


def test_an_unreadable_frame_of_one_process_ends_the_run(torchrun, mars_root, tmp_path):
    root = tmp_path / 'root'
    shutil.copytree(mars_root, root)
    bad = root / 'mars' / 'bbox_test' / '1500' / '1500C6T0003F001.jpg'  # of the last tracklet
    bad.write_bytes(b'no image')
    process = torchrun(tmp_path / 'run', 'test.evaluate', 'True', root=str(root))
    _, err = process.communicate(timeout=TIME_LIMIT)
    (line,) = [
        line for line in err.splitlines() if line.startswith('error: ') and 'died' not in line
    ]
    assert process.returncode != 0 and str(bad) in line
    assert not (tmp_path / 'run' / 'metrics.json').exists()
