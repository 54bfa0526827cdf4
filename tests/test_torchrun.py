"""Whole runs by torchrun: one set of files, exact resume, and an end when a process ends."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import signalled
from processes import reserved_port
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


@pytest.fixture
def torchrun(repository, mars_root):
    """Run tools/main.py on two processes → CompletedProcess; see ``signalled.environment``."""

    def run(folder, *words, root=mars_root, **signal_sent):
        site = folder.with_name(f'site of {folder.name}')
        environment = signalled.environment(site, repository, **signal_sent)
        with reserved_port() as port:
            return subprocess.run(
                [
                    *(sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2'),
                    *('--master-port', str(port), str(repository / 'tools' / 'main.py')),
                    *('--config-file', str(repository / 'configs' / 'stmn_mars.yaml')),
                    *('--root', root, *RUN, 'data.save_dir', folder, *words),
                ],
                env=environment,
                capture_output=True,
                text=True,
            )

    return run


def test_a_run_on_two_processes_from_start_to_end(torchrun, mars_root, repository, tmp_path):
    straight, cut = tmp_path / 'straight', tmp_path / 'cut'
    done = torchrun(straight)
    assert done.returncode == 0, done.stderr
    # one of everything
    assert done.stdout.count(f'epoch: [{EPOCHS}/{EPOCHS}][{BATCHES}/{BATCHES}]') == 1
    names = sorted(re.sub(r'[-.][\d.]{4}.*', '', name) for name in os.listdir(straight))
    assert names == ['.lock', 'config.yaml', 'events.out.tfevents', 'metrics.json', 'metrics.jsonl',
                     'model', 'train.log']  # fmt: skip
    assert 'Epoch 2/2: loss' in next(straight.glob('train.log*')).read_text()
    # interrupted, then resumed
    done = torchrun(cut, send='os.kill(os.getppid(), signal.SIGTERM)', step=(1, 3))
    assert done.returncode != 0 and 'SIGTERM: finishing the step' in done.stderr
    assert 'Interrupted in epoch 1 after batch 3' in done.stdout
    shutil.rmtree(tmp_path / 'site of cut')
    done = torchrun(cut, 'model.resume', 'auto')
    assert done.returncode == 0, done.stderr
    assert 'Resumed from' in done.stdout and 'epoch: [1/2][3/5]' not in done.stdout
    assert_same_end(cut, straight, epoch=2)
    # one process gets the same from the weights, and can resume
    alone, path = tmp_path / 'alone', straight / 'model' / 'model.pth.tar-2'
    config = str(repository / 'configs' / 'stmn_mars.yaml')
    start = ['--config-file', config, '--root', mars_root, *RUN, 'data.save_dir', str(alone)]
    train.main([*start, 'test.evaluate', 'True', 'model.load_weights', str(path)])
    assert {**results(alone)[0], 'epoch': 2} == results(straight)[-1]
    more = ['train.max_epoch', '3', 'train.overwrite', 'True']
    train.main([*start, *more, 'model.resume', str(path)])
    assert load_checkpoint(str(alone / 'model' / 'model.pth.tar-3'))['epoch'] == 3


BATCHES_OF_SAMPLERS = """
import json, sys
from stmn_plugin import distributed
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.identity_sampler import TRAIN_SAMPLERS
from stmn_plugin.host.registration import register


def batches(loader, requests):
    '''Index and position of every clip, and the sum of its pixels.'''
    read = [batch['img'].double().sum(dim=(1, 2, 3, 4)).tolist() for batch in loader]
    places = [[[r.index, r.position] for r in batch] for batch in requests]
    return [list(zip(*both)) for both in zip(places, read, strict=True)]


found = {}
with distributed.process_group(use_gpu=False):
    register()
    for name in TRAIN_SAMPLERS:
        for workers in (0, 1) if name == 'IdentityPassSampler' else (0,):
            loader = VideoDataManager(
                root=sys.argv[1], sources=['mars', 'dukemtmcvidreid'], targets=['mars'],
                seq_len=2, sample_method='rrs', workers=workers, height=16, width=8,
                batch_size_train=4, num_instances=2, num_cams=4, num_datasets=2,
                train_sampler=name,
            ).train_loader
            sampler, epochs = loader.batch_sampler, []
            for epoch, first in ((0, 0), (1, 0), (2, 0), (1, 2)):
                sampler.set_epoch(epoch, first)
                requests = list(sampler)
                sampler.set_epoch(epoch, first)
                epochs.append(batches(loader, requests))
            found[f'{name} {workers}'] = epochs
    with open(f'{sys.argv[2]}/{distributed.rank()} of {distributed.world_size()}', 'w') as file:
        json.dump(found, file)
"""


def test_batches_of_every_sampler_are_dealt_and_found_again(miniature_roots, repository, tmp_path):
    root, script = tmp_path / 'root', tmp_path / 'batches.py'
    for name in ('mars', 'dukemtmcvidreid'):
        shutil.copytree(miniature_roots[name], root, dirs_exist_ok=True)
    script.write_text(BATCHES_OF_SAMPLERS)
    python = {'PYTHONPATH': str(repository), 'OMP_NUM_THREADS': '1'}
    words = [str(script), str(root), str(tmp_path)]
    with reserved_port() as port:
        many = ['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', str(port)]
        for start in ([], many):
            done = subprocess.run(
                [sys.executable, *start, *words],
                env={**os.environ, **python},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
    alone, one, other = (
        json.loads((tmp_path / name).read_text()) for name in ('0 of 1', '0 of 2', '1 of 2')
    )
    assert len(alone) == 7
    for name, whole in alone.items():
        for epoch, batches in enumerate(whole):
            parts = list(zip(one[name][epoch], other[name][epoch], strict=True))  # of equal length
            assert [a + b for a, b in parts] == batches, (name, epoch)
            assert batches or epoch == 3  # one batch is all that the cameras here can give
            assert all(len(a) == len(b) == 2 for a, b in parts)
            positions = [clip[0][1] for batch in batches for clip in batch]
            assert len(positions) == len(set(positions)) == 4 * len(batches)
        assert whole[3] == whole[1][2:]  # from the middle of an epoch on
    for name in ('SequentialSampler 0', 'RandomSampler 0'):
        indices = [clip[0][0] for batch in alone[name][0] for clip in batch]
        assert len(indices) == len(set(indices))
    assert alone['IdentityPassSampler 0'] == alone['IdentityPassSampler 1']


def test_resumed_between_the_batches_of_a_step_it_takes_the_same_steps(torchrun, tmp_path):
    """Accumulated: an interruption waits for the end of the step."""
    straight, cut = tmp_path / 'straight', tmp_path / 'cut'
    together = ['train.accumulate', '2']
    assert torchrun(straight, *together).returncode == 0
    done = torchrun(
        cut, *together, send='os.kill(os.getppid(), signal.SIGTERM)', step=(1, 3), rank=1
    )
    assert done.returncode != 0 and 'Interrupted in epoch 1 after batch 4' in done.stdout
    shutil.rmtree(tmp_path / 'site of cut')
    done = torchrun(cut, *together, 'model.resume', 'auto')
    assert done.returncode == 0 and 'after epoch 0 and batch 4 of the next' in done.stdout
    assert_same_end(cut, straight, epoch=2)


def test_a_killed_process_ends_the_run(torchrun, tmp_path):
    kill = 'os.kill(os.getpid(), signal.SIGKILL)'
    done = torchrun(tmp_path / 'run', 'train.sync_bn', 'True', send=kill, step=(1, 3), rank=1)
    assert done.returncode != 0 and 'SIGKILL' in done.stderr
    assert 'error: another process of this run died' in done.stderr


def test_an_unreadable_frame_of_one_process_ends_the_run(torchrun, mars_root, tmp_path):
    root = tmp_path / 'root'
    shutil.copytree(mars_root, root)
    bad = root / 'mars' / 'bbox_test' / '1500' / '1500C6T0003F001.jpg'  # of the last tracklet
    bad.write_bytes(b'no image')
    done = torchrun(tmp_path / 'run', 'test.evaluate', 'True', root=str(root))
    lines = done.stderr.splitlines()
    (line,) = [line for line in lines if line.startswith('error: ') and 'died' not in line]
    assert done.returncode != 0 and str(bad) in line
    assert not (tmp_path / 'run' / 'metrics.json').exists()
