"""The plugin in torchreid's registries, in both layouts of the host."""

import functools
import os
import subprocess
import sys

import pytest
import torch
import torchreid

import stmn_plugin
from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.host.registration import dataset_registry, model_registry

# run in a fresh interpreter with either layout: argv is the folder of the miniature
SCRIPT = """
import sys, torch, torchreid, stmn_plugin
print('canonical' if not hasattr(torchreid, 'reid') else 'pypi')
stmn_plugin.register()
model = torchreid.models.build_model('stmn', 5, pretrained=False)
manager = torchreid.data.VideoDataManager(
    root=sys.argv[1], sources=['mars'], sample_method='rrs', seq_len=4, height=32, width=16,
    batch_size_train=4, workers=0, use_gpu=False)
batch = next(iter(manager.train_loader))
print(tuple(batch['img'].shape), batch['img'].dtype)
loss = torchreid.losses.MemorySpreadLoss()
print(float(loss(torch.full((4, 10), 0.1))))
print(issubclass(torchreid.engine.VideoSTMNEngine, torchreid.engine.Engine))
"""


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['pypi', 'canonical'])
def test_both_layouts_offer_everything(layout, canonical_host, mars_root):
    environment = dict(os.environ)
    if layout == 'canonical':
        environment['PYTHONPATH'] = str(canonical_host)
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, mars_root],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == layout
    assert '(4, 4, 3, 32, 16) torch.float32' in lines
    assert float(lines[-2]) == pytest.approx(3.0)  # ten items, each 0.3 short of the margin
    assert lines[-1] == 'True'


def test_registering_again_rebinds_with_the_new_config():
    stmn_plugin.register(load_config(opts=['stmn.backbone', 'resnet18', 'stmn.spatial_items', '3']))
    build = functools.partial(torchreid.models.build_model, 'stmn', 5, pretrained=False)
    assert build().spatial_memory.keys.shape == (3, 512)
    stmn_plugin.register(load_config(opts=['stmn.backbone', 'resnet18', 'video.seq_len', '4']))
    model = build(loss='softmax', use_gpu=False)
    assert model.spatial_memory.keys.shape == (10, 512)
    assert model.temporal_memory.values.shape == (5, 4)


def test_a_name_that_somebody_else_took_raises(monkeypatch):
    monkeypatch.setitem(model_registry(), 'stmn', torch.nn.Linear)
    with pytest.raises(ValueError, match="'stmn'.*torch"):
        stmn_plugin.register()
    monkeypatch.undo()
    monkeypatch.setitem(dataset_registry(), 'lsvid', torchreid.data.VideoDataset)
    with pytest.raises(ValueError, match="'lsvid'.*torchreid"):
        stmn_plugin.register()


def test_every_dataset_is_there_and_the_repaired_ones_are_the_hosts_kind():
    stmn_plugin.register()
    names = {'mars', 'dukemtmcvidreid', 'ilidsvid', 'prid2011', 'lsvid', 'tracklets', 'synthetic'}
    assert names <= set(dataset_registry())
    host = torchreid.data.datasets.video
    assert issubclass(dataset_registry()['mars'], host.Mars)
    assert issubclass(dataset_registry()['dukemtmcvidreid'], host.DukeMTMCVidReID)


def test_only_registration_knows_private_or_inner_names_of_the_host(repository):
    for file in (repository / 'stmn_plugin').rglob('*.py'):
        text = file.read_text(encoding='utf-8')
        assert 'from torchreid' not in text and 'import torchreid.' not in text, file
        if file.name != 'registration.py':
            assert '__model_factory' not in text and '__video_datasets' not in text, file


def test_arguments_of_the_model_count_more_than_the_config():
    stmn_plugin.register(seq_len=3, backbone='resnet18', temporal_items=2)
    model = torchreid.models.build_model('stmn', 5, pretrained=False)
    assert model.temporal_memory.values.shape == (2, 3)
    with pytest.raises(TypeError, match=r'no model has seq_length; there are seq_len, height, '):
        stmn_plugin.register(seq_length=3)


def test_an_engine_refuses_clips_of_another_length_before_it_starts(mars_root):
    stmn_plugin.register(seq_len=3, backbone='resnet18')
    model = torchreid.models.build_model('stmn', 5, pretrained=False)
    stmn_plugin.register(seq_len=3, backbone='resnet18', temporal_mode='average')
    average = torchreid.models.build_model('stmn', 5, pretrained=False)
    data = torchreid.data.VideoDataManager(
        root=mars_root, sources='mars', seq_len=4, workers=0, use_gpu=False
    )
    with pytest.raises(InputError, match=r'clips of 3 frames .* serves 4; register\(seq_len=4\)'):
        torchreid.engine.VideoSTMNEngine(data, model, None, use_gpu=False)
    torchreid.engine.VideoSTMNEngine(data, average, None, use_gpu=False)  # takes any
