"""The oracle of the spatial memory (studies/distractors): its parts by hand, a run on tiny data."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from stmn_plugin.config.sections import SECTIONS
from stmn_plugin.data.clips import IMAGENET_MEAN, IMAGENET_STD, Normalize
from stmn_plugin.models import VIDEO_MODELS
from stmn_plugin.plugins import import_file

T, D, H, W, M = 3, 4, 2, 5, 3


@pytest.fixture
def file(repository):
    return str(repository / 'studies' / 'distractors' / 'true_address.py')


@pytest.fixture
def oracle(file, monkeypatch):
    module = 'stmn_plugin_import_true_address'
    for table, key in (
        (SECTIONS, 'true_address'),
        (VIDEO_MODELS, 'true_address'),
        (sys.modules, module),
    ):
        monkeypatch.setitem(table, key, None)
        del table[key]
    monkeypatch.setattr('torchreid.data.register_video_dataset', lambda name, dataset: None)
    return import_file(file)


@pytest.fixture
def drawn():
    return torch.randn(T, D, H, W), torch.rand(T, H, W)


def test_the_share_is_that_of_the_white_pixels(oracle):
    masks = torch.from_numpy(np.random.default_rng(0).random((T, 1, 8, 10)) > 0.4)
    pictures = (255 * masks).to(torch.uint8).expand(-1, 3, -1, -1)
    normalised = Normalize(IMAGENET_MEAN, IMAGENET_STD)(pictures) + 0.1 * torch.randn(T, 3, 8, 10)
    share = oracle.share_covered(normalised, (H, W))
    for frame, y, x in np.ndindex(T, H, W):
        part = masks[frame, 0, 4 * y : 4 * y + 4, 2 * x : 2 * x + 2]
        assert share[frame, y, x] == pytest.approx(part.sum().item() / 8)


def test_positions_count_as_what_is_not_covered(oracle, drawn):
    maps, covered = drawn
    found = oracle.Positions(D, M, 0.0)(maps, covered).mean(dim=(2, 3))
    for frame in range(T):
        seen = 1 - covered[frame]
        total = sum(seen[y, x] * maps[frame, :, y, x] for y, x in np.ndindex(H, W))
        torch.testing.assert_close(found[frame], total / seen.sum())


def test_what_is_covered_is_replaced(oracle, drawn):
    maps, covered = drawn
    replaced = oracle.Replaced(D, M, 0.0)
    torch.nn.init.normal_(replaced.vector)
    found, vector = replaced(maps, covered), replaced.vector.flatten()
    for frame, y, x in np.ndindex(T, H, W):
        share = covered[frame, y, x]
        wanted = (1 - share) * maps[frame, :, y, x] + share * vector
        torch.testing.assert_close(found[frame, :, y, x], wanted)


def test_the_first_item_has_what_is_not_covered_and_the_rest_is_eq_1(oracle, drawn):
    maps, covered = drawn
    memory = oracle.TrueMemory(D, M, 0.7).eval()
    memory.bn.running_mean.normal_()
    found = memory(maps, covered)
    scale = (D / M) ** 0.5
    for frame, y, x in np.ndindex(T, H, W):
        position, share = maps[frame, :, y, x], covered[frame, y, x]
        cosines = torch.stack([position @ k / position.norm() / k.norm() for k in memory.keys[1:]])
        kinds = (scale * cosines).exp() / (scale * cosines).exp().sum()
        read = (1 - share) * memory.values[0] + share * (kinds @ memory.values[1:])
        read = 0.7 * (read - memory.bn.running_mean) / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(found[frame, :, y, x], position - read)


def test_a_network_subtracts_from_covered_positions_only(oracle, drawn):
    maps, covered = drawn
    covered[0] = 0
    mlp = oracle.PositionMLP(D, M, 0.0)
    torch.testing.assert_close(mlp(maps, covered), maps)
    torch.nn.init.normal_(mlp.subtracted.weight)
    found = mlp(maps, covered)
    torch.testing.assert_close(found[0], maps[0])
    unit = 2 * maps[1, :, 1, 3] / maps[1, :, 1, 3].norm()
    hidden = (mlp.hidden.weight[..., 0, 0] @ unit + mlp.hidden.bias).clamp(min=0)
    wanted = maps[1, :, 1, 3] - covered[1, 1, 3] * (mlp.subtracted.weight[..., 0, 0] @ hidden)
    torch.testing.assert_close(found[1, :, 1, 3], wanted)


@pytest.mark.parametrize('stage', ['conv2', 'conv4', 'conv5'])
def test_the_output_of_a_stage_is_changed(oracle, stage):
    config = oracle.TrueAddress.Config('resnet18', use='positions', stage=stage)
    model = oracle.TrueAddress(3, 2, config, pretrained=False).eval()
    frames = torch.randn(2, 3, 64, 32)
    pictures = 255 * (torch.rand(2, 1, 64, 32) > 0.7).to(torch.uint8).expand(-1, 3, -1, -1)
    stacked = torch.cat([frames, Normalize(IMAGENET_MEAN, IMAGENET_STD)(pictures)], dim=2)
    encoder, maps = model.encoder.encoder, frames
    with torch.no_grad():
        found = model.encode_frames(stacked)
        for name in ('stem', 'conv2', 'conv3', 'conv4', 'conv5'):
            for block in getattr(encoder, name):
                maps = block(maps) if not block._forward_hooks else block.forward(maps)
            if name == stage:
                step = 64 // maps.shape[2]
                white = (pictures[:, 0] > 0).float()
                seen = 1 - white.unfold(1, step, step).unfold(2, step, step).mean(dim=(3, 4))
                seen = seen.clamp(min=0.01)
                maps = maps * (seen / seen.mean(dim=(1, 2), keepdim=True))[:, None]
    torch.testing.assert_close(found, maps.mean(dim=(2, 3)))
    assert encoder.map_size((64, 32)) == (4, 2)


RUN = """
import sys
from stmn_plugin.plugins import import_file
import_file(sys.argv[1]).PRESET = 'tiny'
from stmn_plugin.cli import train
train.main(['--import', *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize(('use', 'stage'), [('memory', 'conv5'), ('replaced', 'conv2')])
def test_it_trains_and_is_tested_on_frames_with_their_masks(file, tmp_path, use, stage, repository):
    recipe = repository / 'studies' / 'distractors' / 'true_address.yaml'
    keys = f"""
        true_address.use {use} true_address.stage {stage} true_address.backbone_weights
        data.root {tmp_path / 'data'} data.save_dir {tmp_path / 'run'} data.height 64 data.width 16
        data.workers 0 model.pretrained False train.max_epoch 1 train.batch_size 4
        sampler.num_instances 2 train.amp off test.amp off train.stepsize [1]
    """.split()
    keys.insert(keys.index('true_address.backbone_weights') + 1, '')
    words = [sys.executable, '-c', RUN, file, '--config-file', str(recipe), *keys]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (score,) = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['evaluations']
    assert score['dataset'] == 'frames_and_masks' and 0 < score['mAP'] <= 1
