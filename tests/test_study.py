"""The study of distractors: its configs load, its table says what the arrays say, it runs."""

import json
import os
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stmn_plugin.cli.train import main as train
from stmn_plugin.comparing.run_plan import plan_runs
from stmn_plugin.comparing.variants import named_variants
from stmn_plugin.config import load_config
from stmn_plugin.datasets.synthetic import PRESETS, ensure
from stmn_plugin.host.parts import build_model
from stmn_plugin.training.checkpoint import load_weights

SEEDS, QUERIES = 2, 40


@pytest.fixture(scope='module')
def study(repository):
    return repository / 'studies' / 'distractors'


@pytest.fixture(scope='module')
def ceilings(study):
    return SimpleNamespace(**runpy.run_path(str(study / 'ceilings.py')))


@pytest.fixture(scope='module')
def tiny_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('tiny')
    ensure(root, PRESETS['tiny'], workers=1)
    return root


def test_every_row_is_a_run_of_its_own_from_one_encoder(study, tmp_path):
    rows = named_variants(str(study / 'rows_variants.yaml'))
    planned = plan_runs(rows, 1, str(study / 'rows.yaml'), [], str(tmp_path))
    assert len({run.folder for run in planned}) == len(rows) >= 18
    encoder = load_config(str(study / 'encoder.yaml'), [])
    last = f'{encoder.data.save_dir}/model/model.pth.tar-{encoder.train.max_epoch}'
    for run in planned:
        cfg = run.cfg
        assert (cfg.stmn.backbone_weights, cfg.model.pretrained) == (last, True)
        assert cfg.synthetic.seed != encoder.synthetic.seed  # other persons, other scenes
        for key in ('height', 'width'):
            assert cfg.data[key] == encoder.data[key]
        assert (cfg.stmn.backbone, cfg.video.seq_len) == ('resnet18', 6)


def test_the_table_compares_rows_with_the_first_and_its_oracles(ceilings):
    rng = np.random.default_rng(0)
    baseline = rng.uniform(0.2, 0.3, (SEEDS, QUERIES))
    painted = f'Baseline{ceilings.PAINTED}'
    titles = {'Baseline': 0.0, '+ TM': 0.05, '+ SM': 0.0, painted: 0.4}
    found = {
        title: {'own': baseline + gain + rng.normal(0, 1e-3, baseline.shape)}
        for title, gain in titles.items()
    }
    found['Baseline'] |= {'own': baseline, 'visibility^2': baseline + 0.1}
    measures = ceilings.compare(found, np.arange(QUERIES) // 2, ('masks', 'visibility'))
    assert list(measures) == ['+ TM', '+ SM']
    shares = {key: one['visibility'].values['share'].value for key, one in measures.items()}
    assert shares == {'+ TM': pytest.approx(0.5, abs=0.01), '+ SM': pytest.approx(0, abs=0.01)}
    assert measures['+ TM']['masks'].values['share'].value == pytest.approx(0.125, abs=0.01)
    assert [one['masks'].does_its_job for one in measures.values()] == [True, False]
    found['+ SM']['own'] = found['+ SM']['own'][:1]  # on the seeds that both have
    one = ceilings.compare(found, np.arange(QUERIES) // 2, ('masks',))['+ SM']['masks']
    assert one.counts['seeds'] == 1
    expected = np.mean(found['+ SM']['own'][0] - baseline[0])
    assert one.values['difference'].value == pytest.approx(expected)
    found[painted]['own'] = found[painted]['own'][:1]  # an oracle of one seed of two
    measures = ceilings.compare(found, np.arange(QUERIES) // 2, ('masks', 'visibility'))
    head, _, _, *lines = ceilings.table(found, measures).splitlines()
    line = next(one for one in lines if '+ TM' in one)
    expected = 100 * np.mean(found['+ TM']['own'] - baseline)  # of both seeds
    assert f'| {expected:.1f} [' in line and 'It helps' in line
    shares = [[cell.strip() for cell in one.split('|')[6:8]] for one in (head, *lines[:2])]
    assert shares[0] == ['share of masks', 'share of visibility']  # each of its own memory
    assert shares[1][0] == '' != shares[1][1] and shares[2][1] == '' != shares[2][0]
    alone = ceilings.compare({key: found[key] for key in ('Baseline', '+ TM')}, np.arange(40), ())
    assert alone == {'+ TM': {}}


def test_the_table_of_the_page_is_that_of_the_kept_precisions(ceilings, study, capsys):
    ceilings.main(['--read', str(study / 'precisions.npz')], None)
    printed = capsys.readouterr().out.strip().splitlines()
    page = (study / 'README.md').read_text(encoding='utf-8').splitlines()
    at = page.index(printed[0])
    assert page[at : at + len(printed)] == printed
    # means by hand
    with np.load(study / 'precisions.npz') as kept:
        for line in printed[2:]:
            title, means = (cell.strip() for cell in line.split('|')[1:3])
            queries = [[one for one in seed if one == one] for seed in kept[f'{title}: own']]
            by_hand = [f'{100 * sum(map(float, one)) / len(one):.1f}' for one in queries]
            assert means == ', '.join(by_hand)


def test_the_table_of_known_masks_is_that_of_the_kept_precisions(ceilings, study):
    found, persons = ceilings.read_kept([str(study / 'true_address.npz')], None)
    measures = ceilings.compare(found, persons, ['visibility'])
    page = (study / 'README.md').read_text(encoding='utf-8')
    [rows] = re.findall(r'^\| row \| mAP \| difference \|\n\|[-|]+\n((?:\|.*\n)+)', page, re.M)
    shown = [[cell.strip() for cell in line.strip('|').split('|')] for line in rows.splitlines()]
    assert {row[0] for row in shown} == {*found}
    for title, mean, difference in shown:
        own = found[title]['own']
        assert mean == f'{100 * np.nanmean(own):.1f}'
        if title == 'Baseline':
            assert difference == ''
            continue
        value, low, high = (100 * one for one in measures[title]['visibility'].values['difference'])
        assert difference == f'{value:.1f} [{low:.1f}, {high:.1f}]'
        assert value == pytest.approx(100 * np.nanmean(own - found['Baseline']['own']), abs=1e-9)


@pytest.mark.slow
def test_the_whole_study_on_tiny_data(ceilings, tiny_root, tmp_path, monkeypatch, capsys):

    def execute(words, log, watch):
        train(words)
        return 0

    keys = f"""
        synthetic.preset tiny model.pretrained False data.root {tiny_root} data.height 64
        data.width 32 data.workers 0 train.max_epoch 1 train.batch_size 4 video.seq_len 2
        sampler.num_instances 2 train.amp off test.amp off train.optim sgd stmn.backbone_weights
    """
    words = [*keys.split(), '']
    flags = ['--rows', 'Baseline', '+ TM, rate x 20', '--seeds', '1']
    flags += ['--output', str(tmp_path / 'runs'), '--json', str(tmp_path / 'ceilings.json')]
    kept = str(tmp_path / 'kept.npz')
    monkeypatch.setattr(sys, 'argv', ['ceilings.py'])
    ceilings.main([*flags, *words], execute)
    out = capsys.readouterr().out
    assert 'Baseline, distractors painted out, seed 1: own' in out and 'verdict' in out
    written = json.loads((tmp_path / 'ceilings.json').read_text())
    assert {*written['shares']} == {'+ TM, rate x 20'}
    assert {*written['shares']['+ TM, rate x 20']} == {'masks', 'visibility'}
    painted = written['mAP']['Baseline, distractors painted out']['own']
    assert painted != written['mAP']['Baseline']['own']
    # a second call reads what it has found, unless the weights are others
    with monkeypatch.context() as patched:
        patched.setitem(ceilings.main.__globals__, 'read_clip_frames', None)
        ceilings.main([*flags, '--keep', kept, *words], execute)
    assert json.loads((tmp_path / 'ceilings.json').read_text()) == written
    # and what it has kept says the same without the runs
    ceilings.main(['--read', kept, '--json', str(tmp_path / 'again.json')], None)
    again = json.loads((tmp_path / 'again.json').read_text())
    for title, one in written['mAP'].items():
        for weighting, means in one.items():
            assert again['mAP'][title][weighting] == pytest.approx(means, abs=1e-7)
    assert {*again['shares']['+ TM, rate x 20']} == {'masks', 'visibility'}
    for bad, message in (([kept, 'no.npz'], 'no.npz'), ([kept, '--rows', 'Base'], "--rows 'Base'")):
        with pytest.raises(SystemExit, match='2'):
            ceilings.main(['--read', *bad], None)
        assert message in capsys.readouterr().err
    # what a run's own test says
    (folder,) = (tmp_path / 'runs').glob('baseline-painted-*')
    tested = json.loads((folder / 'metrics.json').read_text())['evaluations'][-1]['mAP']
    assert painted == [pytest.approx(tested, abs=2e-6)]
    (checkpoint,) = (folder / 'model').glob('model.pth.tar-*')
    os.utime(checkpoint, (0, 0))
    with monkeypatch.context() as patched, pytest.raises(TypeError, match='NoneType'):
        patched.setitem(ceilings.main.__globals__, 'read_clip_frames', None)
        ceilings.main([*flags, *words], execute)


@pytest.mark.slow
@pytest.mark.parametrize('spatial', ['memory', 'none'])
def test_where_a_run_loses_its_signal(spatial, study, tiny_root, tmp_path, capsys):
    keys = f"""
        synthetic.preset tiny model.pretrained False data.root {tiny_root} data.height 64
        data.width 32 data.workers 0 train.max_epoch 1 train.batch_size 4 video.seq_len 2
        sampler.num_instances 2 train.amp off test.amp off train.optim sgd
        stmn.spatial_mode {spatial} data.save_dir {tmp_path / 'run'}
    """
    train(['--config-file', str(study / 'config.yaml'), *keys.split()])
    look = SimpleNamespace(**runpy.run_path(str(study / 'lost_signal.py')))
    capsys.readouterr()
    lost = tmp_path / 'lost.json'
    look.main([str(tmp_path / 'run'), '--batches', '2', '--items', '2', '3', '--json', str(lost)])
    out = capsys.readouterr().out
    assert ('read-out:' in out) == (spatial == 'memory') and 'gradient, triplet:' in out
    found = json.loads(lost.read_text())
    kinds, scales = ('2 items', '3 items', 'added'), ('0.25', '0.5', '1')
    assert {*found['mAP']} == {
        'nothing',
        *(f'{kind} x {scale}' for kind in kinds for scale in scales),
    }
    assert all(0 < value <= 1 for value in found['mAP'].values())


def test_the_table_of_what_is_taken_out_is_that_of_its_file(study):
    page = (study / 'README.md').read_text(encoding='utf-8')
    found = json.loads((study / 'lost_signal.json').read_text())['mAP']
    (rows,) = re.findall(r'^\| taken out \|.*\n\|[-|]+\n((?:\|.*\n)+)', page, re.M)
    shown = {}
    for line in rows.splitlines():
        name, *cells = (cell.strip() for cell in line.strip('|').split('|'))
        names = [f'{name} x {scale}' for scale in ('0.25', '0.5', '1')]
        shown |= {name: cells[0]} if name == 'nothing' else dict(zip(names, cells, strict=True))
    assert shown == {name: f'{100 * value:.1f}' for name, value in found.items()}


def test_stored_attentions_are_the_nearest_of_means(study):
    heads = SimpleNamespace(**runpy.run_path(str(study / 'heads.py')))
    early, late = [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]
    weights = np.array([early, late, late, early, early])
    np.testing.assert_allclose(heads.stored_attentions(weights, 2), weights)
    one = heads.stored_attentions(weights, 1)
    np.testing.assert_allclose(one, [[0.46, 0.2, 0.34]] * 5)  # by hand: (3 early + 2 late) / 5
    visibility = np.array([[1, 0.5, 0], [0, 0.5, 1], [1, 1, 1]], np.float32)
    attention = np.array([early, early, early])  # along, against; the third does not vary
    mean = np.mean([np.corrcoef(early, v)[0, 1] for v in ([1, 0.5, 0], [0, 0.5, 1])])
    assert heads.followed(attention, visibility) == pytest.approx(mean, abs=1e-6)


@pytest.mark.slow
def test_heads_learn_on_the_frames_of_an_encoder(study, tiny_root, tmp_path, capsys):
    heads = SimpleNamespace(**runpy.run_path(str(study / 'heads.py')))
    keys = f"""
        synthetic.preset tiny model.pretrained False data.root {tiny_root} data.height 64
        data.width 32 data.workers 0 test.amp off train.batch_size 4 sampler.num_instances 2
        stmn.backbone_weights
    """
    file, starts = tmp_path / 'heads.json', tmp_path / 'starts'
    words = ['--steps', '1', '--seeds', '2', '--json', str(file), '--save', str(starts)]
    heads.main([*words, *keys.split(), ''])
    out = capsys.readouterr().out
    assert '5 stored attentions, true address' in out and '| share, %' in out
    found = json.loads(file.read_text())
    assert len(found['heads']) == len(heads.HEADS)
    oracle = {name: one['mAP'] for name, one in found['oracle'].items()}
    assert oracle['20 stored attentions, true address'] == oracle['true weights'] > 0
    for scores in found['heads'].values():
        for one in scores:
            assert one['equal']['follows'] == 0 and one['true']['follows'] > 0.9
    start = found['heads']['memory, attention scale 20, values from 0, 1 steps']
    assert start[0]['own']['mAP'] == pytest.approx(start[0]['equal']['mAP'], abs=0.02)
    # --save: a row starts from the memory, which one step of Adam has moved by the rate
    memories = [name for name in heads.HEADS if name.startswith('memory')]
    assert len([*starts.iterdir()]) == 2 * len(memories)
    words = ['stmn.spatial_mode', 'none', 'use_gpu', 'False', *keys.split(), '']
    cfg = load_config(str(study / 'rows.yaml'), words)
    model = build_model(cfg, num_classes=3)
    before = model.classifier_clip.weight.clone()
    load_weights(model, str(starts / 'memory-1-seed2.pth'))
    torch.manual_seed(2)
    own = heads.HEADS['memory'].make(model.feature_dim, cfg.video.seq_len)
    moved = (model.temporal_memory.keys - own.keys).abs().max().item()
    assert moved == pytest.approx(cfg.train.lr, rel=0.01)
    torch.testing.assert_close(model.classifier_clip.weight, before, rtol=0, atol=0)


def test_rows_of_a_memory_that_was_trained_first(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = named_variants(str(study / 'fixed_first_variants.yaml'))
    for row in rows[1:]:
        start = Path(row.changes['model.load_weights'])
        start.parent.mkdir(parents=True, exist_ok=True)
        start.touch()
    planned = plan_runs(rows, 1, str(study / 'rows.yaml'), [], str(tmp_path))
    assert len({run.folder for run in planned}) == len(rows) == 4
    usual = named_variants(str(study / 'rows_variants.yaml'))
    baseline, *_ = plan_runs(usual, 1, str(study / 'rows.yaml'), [], str(tmp_path))
    assert planned[0].folder == baseline.folder


@pytest.mark.parametrize(
    'words', ['heads.py --seeds', 'ceilings.py --seeds', 'lost_signal.py x --batches']
)
def test_a_count_of_zero_is_refused(study, words, capsys):
    script, *words = words.split()
    command = runpy.run_path(str(study / script))
    with pytest.raises(SystemExit, match='2'):
        command['parse_args']([*words, '0'])
    assert 'takes a whole number from 1 to 1000000' in capsys.readouterr().err.replace(',', '')


def test_the_tables_of_heads_are_those_of_their_files(study):
    files = [json.loads(path.read_text()) for path in sorted(study.glob('heads*.json'))]
    page = (study / 'README.md').read_text(encoding='utf-8')
    weights, heads = (
        [[cell.strip() for cell in line.strip('|').split('|')] for line in found.splitlines()]
        for found in re.findall(
            r'^\| (?:weights of the frames|head) \|.*\n\|[-|]+\n((?:\|.*\n)+)', page, re.M
        )
    )
    assert dict(weights) == {
        name: f'{100 * one["mAP"]:.1f}' for name, one in files[0]['oracle'].items()
    }
    trained = {name: scores for file in files for name, scores in file['heads'].items()}
    assert len(heads) == len(trained)
    for name, steps, means, share, follows in heads:
        scores = trained[f'{name}, {steps} steps']
        own, equal, true = ([one[w]['mAP'] for one in scores] for w in ('own', 'equal', 'true'))
        assert means == ', '.join(f'{100 * one:.1f}' for one in own)
        assert int(share) == round(
            100 * (np.mean(own) - np.mean(equal)) / np.mean(np.subtract(true, equal))
        )
        assert follows == ', '.join(f'{one["own"]["follows"]:.2f}' for one in scores)
