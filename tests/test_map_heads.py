"""Heads on fixed maps (studies/distractors): oracles by hand, a run on tiny data, its table."""

import json
import re
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stmn_plugin.datasets.synthetic import PRESETS, ensure

T, D, H, W = 3, 4, 2, 5


@pytest.fixture(scope='module')
def study(repository):
    return repository / 'studies' / 'distractors'


@pytest.fixture
def map_heads(study, monkeypatch):
    monkeypatch.syspath_prepend(str(study))
    return SimpleNamespace(**runpy.run_path(str(study / 'map_heads.py')))


@pytest.fixture
def drawn():
    maps, covered = torch.randn(T, D, H, W), torch.rand(T, H, W)
    return maps, covered, torch.randn(9, D)


def test_positions_are_weighted_one_by_one(map_heads, drawn):
    maps, covered, _ = drawn
    found = map_heads.weighted_mean(maps, covered)
    for frame in range(T):
        total = sum(covered[frame, y, x] * maps[frame, :, y, x] for y in range(H) for x in range(W))
        torch.testing.assert_close(found[frame], total / covered[frame].sum())
    nothing = torch.zeros_like(covered)
    assert map_heads.weighted_mean(maps, nothing).eq(0).all()


def test_a_covered_position_addresses_the_nearest_mean_and_no_other_reads(map_heads, drawn):
    maps, covered, centres = drawn
    items = map_heads.true_items(maps, covered, centres)
    left = torch.zeros(T, D)
    for frame, y, x in np.ndindex(T, H, W):
        position = maps[frame, :, y, x]
        nearest = min(range(9), key=lambda item: (position - centres[item]).norm().item())
        inside = covered[frame, y, x] >= 0.5
        assert items[frame, y, x] == (nearest + 1 if inside else 0)
        left[frame] += (position - 0.25 * inside * centres[nearest]) / (H * W)
    torch.testing.assert_close(map_heads.minus_items(maps, covered, centres, 0.25), left)


def test_the_memory_of_the_true_address_is_eq_3_with_it(map_heads, drawn):
    maps, covered, centres = drawn
    head = map_heads.TrueAddress(D, centres, bn_scale=0.7).train()
    output, probs = head(maps, covered)
    items = map_heads.true_items(maps, covered, centres).flatten()
    read = head.memory.values[items]  # (T*K, D)
    read = (read - read.mean(dim=0)) / (read.var(dim=0, unbiased=False) + 1e-5).sqrt() * 0.7
    wanted = maps.mean(dim=(2, 3)) - read.view(T, H * W, D).mean(dim=1)
    torch.testing.assert_close(output, wanted)
    assert probs is None
    output.sum().backward()
    assert head.memory.values.grad is not None and head.memory.keys.grad is None


@pytest.mark.parametrize('name', ['linear weight of each position', 'MLP of each position'])
def test_these_start_from_the_mean_of_the_positions(map_heads, drawn, name):
    maps, covered, centres = drawn
    output, _ = map_heads.HEADS[name](D, centres)(maps, covered)
    torch.testing.assert_close(output, maps.mean(dim=(2, 3)))


@pytest.mark.slow
def test_heads_learn_on_the_maps_of_an_encoder(map_heads, tmp_path, capsys):
    root, file = tmp_path / 'data', tmp_path / 'found.json'
    ensure(root, PRESETS['tiny'], workers=1)
    keys = f"""
        synthetic.preset tiny model.pretrained False data.root {root} data.height 64
        data.width 32 data.workers 0 test.amp off train.batch_size 4 sampler.num_instances 2
        stmn.backbone_weights
    """
    words = ['--steps', '1', '--seeds', '2']
    map_heads.main([*words, '--json', str(file), *keys.split(), ''])
    assert 'true address, 9 items x 0.25' in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert len(found['heads']) == len(map_heads.HEADS)
    for scores in found['heads'].values():
        assert len(scores) == 2 and all(0 < one <= 1 for one in scores)
    # after a step at most the rate has been moved: the baseline, to all that ranking tells
    one, start = found['heads']['none, 1 steps'], found['heads']['memory, 1 steps']
    assert start == pytest.approx(one, abs=0.05)


def test_the_tables_are_those_of_the_files(study):
    files = [json.loads(path.read_text()) for path in sorted(study.glob('map_heads*.json'))]
    page = (study / 'README.md').read_text(encoding='utf-8')
    oracles, heads = (
        [[cell.strip() for cell in line.strip('|').split('|')] for line in found.splitlines()]
        for found in re.findall(
            r'^\| (?:maps|head on maps) \|.*\n\|[-|]+\n((?:\|.*\n)+)', page, re.M
        )
    )
    assert dict(oracles) == {name: f'{100 * one:.1f}' for name, one in files[0]['oracle'].items()}
    trained = {name: scores for file in files for name, scores in file['heads'].items()}
    assert len(heads) == len(trained)
    for name, steps, means, difference in heads:
        scores, without = trained[f'{name}, {steps} steps'], trained[f'none, {steps} steps']
        assert means == ', '.join(f'{100 * one:.1f}' for one in scores)
        gain = 100 * (np.mean(scores) - np.mean(without))
        assert difference == ('' if name == 'none' else f'{gain:+.1f}')
