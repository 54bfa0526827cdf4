"""The command line: every architecture on every dataset, the run folder, what bad input gets."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch

from stmn_plugin.cli import train
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.host import runner
from stmn_plugin.host.engine import VideoEngine
from stmn_plugin.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def run(repository, small_run, mars_root, capsys):
    """Run tools/main.py in this process on the miniature MARS → exit code, stdout, stderr."""

    def call(*words, config='stmn_mars.yaml', root=mars_root, keys=()):
        flags = ['--config-file', str(repository / 'configs' / config), '--root', root]
        code = 0
        try:
            train.main([*flags, *words, *small_run, *map(str, keys)])
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'run'


@pytest.mark.parametrize('arch', ['stmn', 'resnet18', 'osnet_x0_25'])
@pytest.mark.parametrize('name', ['mars', 'dukemtmcvidreid', 'lsvid', 'tracklets'])
def test_every_architecture_trains_on_every_dataset(arch, name, run, miniature_roots, folder):
    code, out, _ = run('-a', arch, '-s', name, '-t', name, root=miniature_roots[name])
    assert code == 0
    (log,) = folder.glob('train.log-*')
    assert 'Rank-1  : ' in log.read_text() and 'Rank-1' not in out  # the host's lines
    assert 'protocol official' in out
    metrics = json.loads((folder / 'metrics.json').read_text())
    (evaluation,) = metrics['evaluations']
    assert metrics['arch'] == arch and evaluation['dataset'] == name
    assert evaluation['protocol'] == 'official' and evaluation['frames'] == 'rrs'
    assert 0 < evaluation['mAP'] <= 1 and 0 <= evaluation['rank-1'] <= 1
    assert f'mAP: {evaluation["mAP"]:.1%}' in log.read_text()
    assert f'{evaluation["mAP"]:.1%}'.rstrip('%') in out.split()


def test_baselines_get_the_same_identification_loss_on_frames(run, monkeypatch):
    seen = []
    original = VideoEngine.run

    def spy(self, **options):
        seen.append(self)
        return original(self, **options)

    monkeypatch.setattr(VideoEngine, 'run', spy)
    assert run('-a', 'osnet_x0_25', keys=['video.image_models', 'frames'])[0] == 0
    (engine,) = seen
    objective = engine.trainer.objective
    assert (objective.weight_t, objective.weight_x, objective.cross_entropy.eps) == (1.0, 1.0, 0)
    features, pids = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    from stmn_plugin.losses import batch_hard_triplet_loss

    assert objective.triplet(features, pids) == batch_hard_triplet_loss(features, pids)


@pytest.mark.parametrize('config', sorted(p.name for p in Path('configs/ablation').glob('*.yaml')))
def test_every_ablation_trains(config, run):
    code, out, _ = run(config=f'ablation/{config}')
    assert code == 0 and ' mAP ' in out


def test_the_run_folder(run, folder):
    code, out, err = run(keys=['train.max_epoch', 3, 'train.save_freq', 1, 'test.eval_freq', 2])
    assert code == 0 and 'it/s' not in err  # no progress bars without a terminal
    names = sorted(os.listdir(folder))
    assert [n.split('-')[0].split('.out')[0] for n in names] == [
        '.lock',
        'config.yaml',
        'events',
        'metrics.json',
        'metrics.jsonl',
        'model',
        'train.log',
    ]
    assert sorted(os.listdir(folder / 'model')) == [
        'model-best.pth.tar',
        'model.pth.tar-2',
        'model.pth.tar-3',
    ]
    (log,) = folder.glob('train.log-*')
    lines = [line.split(' ', 3) for line in log.read_text().splitlines()]  # day, time, level, text
    said = [' '.join(text).strip() for _, _, level, *text in lines if level == 'INFO']
    assert said == [line.strip() for line in out.splitlines()]
    cfg = flatten(load_config(str(folder / 'config.yaml')))
    assert (cfg['train.max_epoch'], cfg['model.name']) == (3, 'stmn')
    epochs = [e['epoch'] for e in json.loads((folder / 'metrics.json').read_text())['evaluations']]
    assert epochs == [2, 3]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = EventAccumulator(str(folder)).Reload().Tags()['scalars']
    assert {f'Train/{term}' for term in ('loss', 'cross_entropy_clip', 'triplet_frame')} <= {
        *scalars
    }
    assert {'Train/spread_spatial', 'Train/spread_temporal', 'Test/mars/mAP'} <= {*scalars}


def test_testing_gives_the_numbers_of_training_and_changes_nothing(
    run, folder, tmp_path, monkeypatch
):
    _, out, _ = run(keys=['train.max_epoch', 2])
    monkeypatch.setattr(runner, 'build_optimizer', None)  # none is made
    best = folder / 'model' / 'model-best.pth.tar'
    trained = json.loads((folder / 'metrics.json').read_text())['evaluations'][-1]
    code, tested_out, _ = run(
        keys=['test.evaluate', True, 'model.load_weights', best, 'data.save_dir', tmp_path / 'test']
    )
    assert code == 0
    tested = json.loads((tmp_path / 'test' / 'metrics.json').read_text())['evaluations'][-1]
    for key in ('mAP', 'mINP', 'rank-1', 'rank-5'):
        assert tested[key] == trained[key]
    assert tested['epoch'] is None and tested['weights'] == trained['weights']
    assert tested['made_from']['train'] == trained['made_from']['train']
    names = os.listdir(tmp_path / 'test')
    assert sorted(n.split('-')[0] for n in names) == ['.lock', 'metrics.json', 'test.log']


def test_protocols_differ_in_the_gallery_and_flip_in_the_features(run, folder):
    results = {}
    for title, keys in {
        'official': [],
        'torchreid': ['test.protocol', 'torchreid'],
        'flip': ['test.flip', True],
    }.items():
        assert run(keys=['test.evaluate', True, *keys])[0] == 0
        results[title] = json.loads((folder / 'metrics.json').read_text())['evaluations'][-1]
    queries, gallery = len(miniatures.MARS_QUERY_ROWS), results['torchreid']['num_gallery']
    assert results['official']['num_gallery'] == gallery + queries
    assert results['official']['queries_searched'] and not results['torchreid']['queries_searched']
    # one person's other tracklets are all queries: no truth unless the queries are searched
    assert results['torchreid']['num_query_with_match'] < queries
    assert results['official']['num_query_with_match'] == queries
    assert results['flip']['flip'] and results['flip']['mAP'] != results['official']['mAP']


ALL_FRAMES = ['test.evaluate', True, 'test.frames', 'all', 'test.flip', True]


@pytest.mark.parametrize(
    'words',
    [
        ['-a', 'stmn'],
        ['-a', 'stmn', 'stmn.spatial_mode', 'none'],
        ['-a', 'stmn', 'stmn.temporal_mode', 'mlp'],
        ['-a', 'stmn', 'stmn.spatial_mode', 'none', 'stmn.temporal_mode', 'average'],
        ['-a', 'resnet18'],
        ['-a', 'osnet_x0_25', 'video.image_models', 'frames'],
    ],
    ids=' '.join,
)
def test_all_frames_with_flip(words, run, folder, tmp_path):
    keys = [*words[2:], *ALL_FRAMES]
    code, out, _ = run(*words[:2], keys=keys)
    assert code == 0 and 'all + flip' in out
    direct = json.loads((folder / 'metrics.json').read_text())['evaluations'][-1]
    assert (direct['frames'], direct['flip']) == ('all', True)
    keys += ['test.features_dir', tmp_path / 'vectors']
    for _ in range(2):  # made, then read back
        assert run(*words[:2], keys=keys)[0] == 0
        stored = json.loads((folder / 'metrics.json').read_text())['evaluations'][-1]
        assert stored['mAP'] == pytest.approx(direct['mAP'], abs=1e-6)


def test_stored_vectors_of_other_weights_are_refused(run, tmp_path):
    keys = ['test.evaluate', True, 'test.features_dir', tmp_path / 'vectors']
    assert run(keys=keys)[0] == 0
    code, _, err = run(keys=[*keys, 'train.seed', 2])
    assert code == 2 and 'other weights' in err and str(tmp_path) in err


def test_bad_frames_are_skipped_on_demand_and_listed(run, tmp_path, folder):
    root = miniatures.make_tracklets(tmp_path / 'data')
    for split in ('train', 'gallery'):
        frame = sorted((tmp_path / 'data' / 'tracklets' / split).rglob('*.jpg'))[0]
        frame.write_bytes(b'')
    words = ['-s', 'tracklets', '-t', 'tracklets']
    keys = ['data.bad_frames', 'skip', 'test.frames', 'all']
    code, out, _ = run(*words, root=str(root), keys=keys)
    assert code == 0 and str(frame) in out
    listed = json.loads((folder / 'metrics.json').read_text())['bad_frames']
    assert str(frame) in listed
    stored = ['test.evaluate', True, 'test.features_dir', tmp_path / 'v', 'test.frames', 'all']
    assert run(*words, root=str(root), keys=[*stored, 'data.bad_frames', 'skip'])[0] == 0
    code, _, err = run(*words, root=str(root), keys=stored)
    assert code == 2 and str(frame) in err


def test_a_test_is_added_to_the_results_of_training_and_a_refused_run_changes_nothing(run, folder):
    run()
    config = (folder / 'config.yaml').read_text()
    weights = folder / 'model' / 'model-best.pth.tar'
    assert run(keys=['test.evaluate', True, 'model.load_weights', weights])[0] == 0
    epochs = [e['epoch'] for e in json.loads((folder / 'metrics.json').read_text())['evaluations']]
    assert epochs == [1, None]
    assert run(keys=['data.root', '/nope'])[0] == 2
    assert (folder / 'config.yaml').read_text() == config


def test_the_released_config_says_how_the_best_epoch_was_chosen(run, folder):
    config, words = 'stmn_mars_released.yaml', ['train.max_epoch', 2, 'test.eval_freq', 1]
    code, _, err = run(config=config, keys=words)
    weights = folder / 'model' / 'model-best.pth.tar'
    assert code == 0 and not weights.exists()
    again = ['train.overwrite', True, 'test.best', 'rank-1']
    assert run(config=config, keys=[*words, *again])[0] == 0 and weights.exists()
    tested = ['test.evaluate', True, 'model.load_weights', weights, 'test.frames', 'all']
    code, out, err = run(config=config, keys=tested)
    assert code == 0 and 'the epoch with the best rank-1 on the test data of mars' in out + err
    last = json.loads((folder / 'metrics.json').read_text())['evaluations'][-1]
    assert (last['frames'], last['flip']) == ('all (floor)', True)


def test_resuming_continues_from_the_checkpoint(run, folder):
    run(keys=['train.max_epoch', 2])
    path = folder / 'model' / 'model.pth.tar-2'
    code, out, _ = run(keys=['train.max_epoch', 3, 'model.resume', path])
    assert code == 0
    assert 'after epoch 2' in out and 'epoch: [3/3]' in out and 'epoch: [2/3]' not in out
    epochs = [e['epoch'] for e in json.loads((folder / 'metrics.json').read_text())['evaluations']]
    assert epochs == [2, 3]


def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(run, folder, monkeypatch):
    original = Trainer.train_batch

    def poisoned(self, data):
        if self.epoch == 2:
            data['img'] = torch.full(data['img'].shape, math.nan)
        return original(self, data)

    monkeypatch.setattr(Trainer, 'train_batch', poisoned)
    code, _, err = run(keys=['train.max_epoch', 4, 'test.eval_freq', 1])
    good = folder / 'model' / 'model.pth.tar-2'
    assert code == 2
    (line,) = err.strip().splitlines()
    assert 'nan' in line and 'epoch 3, batch 1' in line and str(good) in line
    state = torch.load(good, weights_only=True)['state_dict']
    assert all(torch.isfinite(value).all() for value in state.values())
    assert not (folder / 'model' / 'model.pth.tar-3').exists()


def test_a_nan_gradient_under_a_finite_loss_stops_the_run_before_the_weights_are_lost(
    run, folder, monkeypatch
):
    original = Trainer.loss_of

    def poisoned(self, data):
        loss = original(self, data)
        if self.epoch == 2:
            weight = self.model.encoder.trunk[0].weight
            more = 0 * torch.sqrt(weight - weight).sum()  # 0, and NaN when derived
            loss = loss._replace(total=loss.total + more)
        return loss

    monkeypatch.setattr(Trainer, 'loss_of', poisoned)
    code, _, err = run(keys=['train.max_epoch', 3, 'train.save_freq', 1])
    good = folder / 'model' / 'model.pth.tar-2'
    (line,) = err.strip().splitlines()
    assert code == 2 and 'encoder.trunk.0.weight: nan' in line and '1 of ' in line
    assert 'epoch 3, batch 1' in line and str(good) in line
    assert sorted(path.name[-2:] for path in (folder / 'model').iterdir()) == ['-1', '-2']
    for path in (folder / 'model').iterdir():
        state = torch.load(path, weights_only=True)['state_dict']
        assert all(torch.isfinite(value).all() for value in state.values())
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert (
        len(lines) == 2 and 0 < lines[0]['gradient_norm']['mean'] < lines[0]['gradient_norm']['max']
    )
    monkeypatch.undo()
    code, out, _ = run(keys=['train.max_epoch', 3, 'model.resume', 'auto'])
    assert code == 0 and 'after epoch 2' in out


@pytest.mark.parametrize('arch', ['resnet18', 'osnet_x0_25'])
def test_image_data_runs_as_the_host_runs_it(arch, run, tmp_path):
    miniatures.make_market(tmp_path)
    words = ['-a', arch, '-s', 'market1501', '-t', 'market1501', 'loss.name', 'softmax']
    code, out, _ = run(
        *words,
        root=str(tmp_path),
        keys=['data.type', 'image', 'sampler.train_sampler']
        + ['RandomSampler', 'data.transforms', "['random_flip']"],
    )
    assert code == 0 and 'market1501' in out and ' mAP ' in out


@pytest.mark.parametrize('way', ['clip', 'frames'])
def test_a_host_yaml_with_another_loss_trains_an_image_model(way, run):
    for loss in ('softmax', 'triplet'):
        keys = ['loss.name', loss, 'video.sample_method', 'evenly', 'video.image_models', way]
        code, out, _ = run('-a', 'resnet18', keys=[*keys, 'train.overwrite', True])
        assert code == 0 and ' mAP ' in out


@pytest.mark.parametrize('arch', ['stmn', 'resnet18'])
def test_a_batch_of_one_identity_under_a_triplet_loss_is_named_when_it_comes(arch, run):
    words = ['sampler.train_sampler', 'SequentialSampler', 'train.batch_size', '2']
    code, _, err = run('-a', arch, keys=words)
    assert code == 2 and len(err.strip().splitlines()) == 1
    for part in ('sampler.train_sampler', 'loss.triplet.weight_t 1.0', 'epoch 1, batch 1'):
        assert part in err


def test_checkpoints_that_cannot_be_written_are_found_before_an_epoch_is_trained(run, folder):
    folder.mkdir()
    (folder / 'model').write_text('mine')
    code, out, err = run()
    assert code == 2 and f'cannot write {folder}/model: ' in err and 'epoch: [1/' not in out
    assert (folder / 'model').read_text() == 'mine'


BAD = {
    'unknown key': (['data.typ', 'video'], ["'data.typ'", "'data.type'"]),
    'wrong type': (['train.lr', 'fast'], ['train.lr', "'fast'"]),
    'unknown architecture': (['model.name', 'stmnn'], ["'stmnn'", "'stmn'"]),
    'unknown dataset': (['data.sources', 'marz'], ['marz']),
    'missing root': (['data.root', '/no/such'], ['/no/such/mars']),
    'fewer identities than P': (['train.batch_size', '64'], ['32 identities', '10']),
    'K below 2': (['sampler.num_instances', '1'], ['sampler.num_instances', '1']),
    'missing checkpoint': (['model.load_weights', '/no/file'], ['model.load_weights', '/no/file']),
    'frames too small': (['model.name', 'inceptionv4'], ['data.height', 'inceptionv4', '64x32']),
    'impossible optimizer': (['sgd.nesterov', 'True'], ['train.optim sgd', 'Nesterov']),
    'impossible sampler': (
        ['sampler.train_sampler', 'RandomDomainSampler'],
        ['RandomDomainSampler'],
    ),
    'copies of images': (['data.k_tfm', '2'], ['data.k_tfm']),
    'no network': (['model.pretrained', 'True'], ['model.pretrained False', 'backbone_weights']),
}


@pytest.mark.parametrize('title', BAD)
def test_bad_input_is_one_line_and_exit_code_2(title, run, folder, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError('Name or service not known')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', no_network)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', no_network)
    words, parts = BAD[title]
    code, _, err = run(keys=words)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert line.startswith('error: ')
    for part in parts:
        assert part in line
    left = {path.name.split('-')[0] for path in folder.glob('*')} if folder.exists() else set()
    assert left <= {'train.log', '.lock'}


def test_a_layer_that_does_not_exist_is_named_before_training(run, folder):
    # the typo is that of the host's own im_r50 YAML
    frozen = ['train.fixbase_epoch', 1, 'train.open_layers', "['classsifier']"]
    staged = ['train.staged_lr', True, 'train.new_layers', "['clasifier']"]
    for keys, part in ((frozen, "train.open_layers: 'classsifier'"), (staged, "'clasifier'")):
        code, _, err = run('-a', 'resnet18', keys=keys)
        assert code == 2 and part in err and 'classifier' in err.split('it has')[1]
    layers = "['classifier_clip', 'classifier_frame']"
    assert run(keys=['train.fixbase_epoch', 1, 'train.open_layers', layers])[0] == 0


def test_checkpoints_that_do_not_fit_are_named(run, folder):
    run(keys=['train.max_epoch', 1])
    path = str(folder / 'model' / 'model.pth.tar-1')
    tests = ['test.evaluate', True, 'model.load_weights', path]
    for keys, part in (
        (['video.seq_len', 6], 'video.seq_len 4, the config says 6'),
        (['model.name', 'resnet18'], 'another architecture'),
    ):
        code, _, err = run(keys=[*tests, *keys])
        assert code == 2 and path in err and part in err and len(err.strip().splitlines()) == 1


def test_a_broken_frame_is_named_and_nothing_looks_like_a_result(run, tmp_path, folder):
    root = miniatures.make_tracklets(tmp_path / 'data')
    frame = sorted((tmp_path / 'data' / 'tracklets' / 'gallery').rglob('*.jpg'))[0]
    frame.write_bytes(frame.read_bytes()[:-40])
    words = ['-s', 'tracklets', '-t', 'tracklets']
    code, _, err = run(*words, root=str(root), keys=['data.workers', 2])
    assert code == 2
    (line,) = err.strip().splitlines()
    assert str(frame) in line and 'truncated' in line
    assert not (folder / 'metrics.json').exists()
    assert (folder / 'model' / 'model.pth.tar-1').exists()  # the epoch is not lost


@pytest.mark.slow
def test_from_a_shell(repository, mars_root, tmp_path):
    command = [sys.executable, str(repository / 'tools' / 'main.py')]
    helped = subprocess.run([*command, '--help'], capture_output=True, text=True, check=True)
    assert '--config-file' in helped.stdout and '--list-archs' in helped.stdout
    listed = subprocess.run([*command, '--list-archs'], capture_output=True, text=True, check=True)
    assert {'stmn', 'resnet50', 'osnet_x1_0'} <= set(listed.stdout.split())
    wrong = [
        *command,
        '--config-file',
        str(repository / 'configs' / 'stmn_mars.yaml'),
        'train.l',
        '1',
    ]
    failed = subprocess.run(wrong, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert failed.returncode == 2 and 'Traceback' not in failed.stderr
    assert failed.stderr.startswith("error: unknown config key 'train.l'")
    assert os.listdir(tmp_path) == []
    shown = [*command, '--debug', *wrong[2:]]
    debugged = subprocess.run(shown, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert debugged.returncode != 0 and 'Traceback' in debugged.stderr


@pytest.mark.slow
def test_in_the_canonical_layout(repository, canonical_host, mars_root, small_run, folder):
    words = ['-a', 'stmn', '--root', mars_root]
    config = str(repository / 'configs' / 'stmn_mars.yaml')
    done = subprocess.run(
        [sys.executable, str(repository / 'tools' / 'main.py'), '--config-file', config]
        + [*words, *small_run],
        env={**os.environ, 'PYTHONPATH': str(canonical_host)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / 'metrics.json').read_text())['arch'] == 'stmn'


def test_the_cost_curve(repository, mars_root, small_run, folder, capsys, monkeypatch):
    from stmn_plugin.cli import cost_curve
    from stmn_plugin.host import runner

    # it says itself which frames are tested, whatever the config does
    config = folder.with_suffix('.yaml')
    config.write_text(f'_BASE_: {repository}/configs/stmn_mars.yaml\ntest: {{frames: all}}\n')
    words = ['--config-file', str(config), '--root', mars_root, '--clips', '1', '2', 'all']
    words += ['--debug', 'test.rerank', 'True']
    own = ['test.features_dir', str(folder / 'vectors')]
    cost_curve.main([*words, *small_run, *own])
    rows = json.loads((folder / 'cost_curve.json').read_text())
    assert [row['clips'] for row in rows] == [1, 2, 'all']
    assert {row['protocol'] for row in rows} == {'official + re-ranking'}
    costs = [row['frames per tracklet'] for row in rows]
    lengths = [len(paths) for paths, _, _, _ in tracklets_of(mars_root)]
    assert costs == sorted(costs) and costs[-1] == pytest.approx(sum(lengths) / len(lengths))
    assert costs[0] == pytest.approx(sum(min(n, 4) for n in lengths) / len(lengths))  # L = 4
    assert (folder / 'cost_curve.png').stat().st_size > 1000
    shown = capsys.readouterr().out
    assert 'frames per tracklet' in shown
    for once in ('Device: ', 'Model: ', 'tracklets  cameras', 'initial weights'):
        assert shown.count(once) == 1, once
    stored = json.loads((folder / 'metrics.json').read_text())['evaluations']
    assert [one['mAP'] for one in stored] == [row['mAP'] for row in rows]
    assert [one['frames'] for one in stored] == ['rrs', 'rrs x 2', 'all']
    assert len({one['made_from']['test'] for one in stored}) == 3
    with pytest.raises(InputError, match='shows rank-1, add 1'):
        cost_curve.main([*words, *small_run, 'test.ranks', '5'])
    assert (folder / 'cost_curve.png').exists()

    def stop(number, engine):
        add_rows(number, engine)
        raise InputError('the disk is full')

    def run_one(cfgs, use):
        nonlocal add_rows
        add_rows = use
        run_tests(cfgs, stop)

    add_rows, run_tests = None, runner.run_tests
    monkeypatch.setattr(runner, 'run_tests', run_one)
    with pytest.raises(InputError, match='full'):
        cost_curve.main([*words, *small_run, *own])
    assert json.loads((folder / 'cost_curve.json').read_text()) == rows[:1]
    assert not (folder / 'cost_curve.png').exists()  # it showed all of them


def tracklets_of(mars_root):
    from stmn_plugin.datasets.host_datasets import Mars

    dataset = Mars(root=mars_root, transform=lambda image: image, mode='query', verbose=False)
    return dataset.query + dataset.gallery


# a value of each key that is free in vectors and can be changed on a test, other than that of `run`
FREE_WORDS = """
    data.workers 1 data.transforms ['random_flip'] data.combineall True data.bad_frames skip
    train.optim adam train.lr 0.5 train.weight_decay 0.1 train.max_epoch 3
    train.batch_size 6 train.print_freq 7 train.seed 3 train.save_freq 2 train.keep_last 3
    train.accumulate 2 train.clip_grad_norm 1.0 train.stepsize [1] train.gamma 0.5
    train.channels_last False train.fused False train.checkpoint_activations True
    train.deterministic True train.allow_changed True sampler.num_instances 3
    loss.softmax.label_smooth False loss.triplet.margin 0.7 loss.triplet.weight_t 0.5
    loss.spread.weight 0.5 loss.spread.margin 0.1 loss.spread.reduction sum
    stmn.spatial_bn_scale 1.0 stmn.frame_bnneck frame mgh.graphs 2
    video.pooling_method max video.rrs_chunks ceil
    test.batch_size 3 test.dist_metric euclidean test.normalize_feature True test.ranks [1,2]
    test.rerank True test.frames all test.flip False test.protocol torchreid
"""
FREE_VALUES = FREE_WORDS.split()


def test_stored_vectors_know_what_they_depend_on(run, folder, tmp_path):
    """All free keys change nothing; each of the others is refused by name."""
    assert run()[0] == 0
    weights = folder / 'model' / 'model.pth.tar-1'
    keys = ['test.evaluate', True, 'model.load_weights', weights, 'test.features_dir']

    def vectors(name):
        return [np.load(tmp_path / name / f'mars-{mode}.npy') for mode in ('query', 'gallery')]

    assert run(keys=[*keys, tmp_path / 'one', 'test.flip', True])[0] == 0
    assert run(keys=[*keys, tmp_path / 'other', *FREE_VALUES])[0] == 0
    for one, other in zip(vectors('one'), vectors('other'), strict=True):
        np.testing.assert_allclose(one[:, :1], other, rtol=1e-4, atol=1e-5)
    assert run(keys=[*keys, tmp_path / 'one', *FREE_VALUES])[0] == 0  # read back
    for key, value in (('stmn.similarity_scale', 1.0), ('test.fold_bn', False)):
        code, _, err = run(keys=[*keys, tmp_path / 'one', key, value])
        assert code == 2 and key in err and err.count('\n') == 1
    code, _, err = run(keys=[*keys, tmp_path / 'other', 'test.flip', True])
    assert code == 2 and 'test.flip' in err
