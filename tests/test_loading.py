"""A trained network from its file alone: as it was saved, with what one must know to use it."""

import json

import pytest
import torch
import torchreid

import stmn_plugin
from stmn_plugin.cli.export import export_weights
from stmn_plugin.config import flatten, load_config
from stmn_plugin.errors import InputError
from stmn_plugin.models import STMN, FrameByFrame, FramePooling, ModelSpec, build_video_model

WORDS = (
    'data.type video model.pretrained False data.height 64 data.width 32 video.seq_len 2 '
    'video.sample_method rrs video.rrs_chunks ceil data.norm_mean [0.5,0.4,0.3] '
    'stmn.backbone resnet18 stmn.spatial_items 4 '
)
KINDS = {
    'stmn': ('model.name stmn loss.name stmn', STMN),
    'clip': ('model.name resnet18 loss.name stmn', FramePooling),
    'frames': ('model.name osnet_x0_25 video.image_models frames loss.name triplet', FrameByFrame),
}


def saved(kind, tmp_path):
    """A checkpoint of a model with 7 identities, its model and its config."""
    config = flatten(load_config('', [*WORDS.split(), *KINDS[kind][0].split()]))
    torch.manual_seed(0)
    model = build_video_model(ModelSpec.from_config(config), 7, pretrained=False)
    for name, buffer in model.named_buffers():
        if 'running' in name:  # the bias of a BNNeck is a buffer, too, and stays zero
            buffer.add_(torch.rand_like(buffer))
    trained = model.network if kind == 'frames' else model
    path = tmp_path / 'model.pth.tar-3'
    torch.save({'state_dict': trained.state_dict(), 'epoch': 3, 'config': config}, path)
    return path, model.eval(), config


@pytest.mark.slow
@pytest.mark.parametrize('form', ['checkpoint', 'weights'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_loaded_model_gives_the_features_of_the_one_that_was_saved(kind, form, tmp_path):
    path, model, config = saved(kind, tmp_path)
    if form == 'weights':
        path, checkpoint = tmp_path / 'model.safetensors', path
        export_weights(str(path), str(checkpoint))
    loaded = stmn_plugin.load_model(path)
    assert type(loaded) is KINDS[kind][1] and not loaded.training
    clips = torch.randn(3, 2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(loaded(clips), model(clips))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    spec = loaded.spec
    assert (spec.arch, spec.height, spec.width) == (config['model.name'], 64, 32)
    assert (spec.seq_len, spec.sample_method, spec.rrs_chunks) == (2, 'rrs', 'ceil')
    assert spec.norm_mean == (0.5, 0.4, 0.3) and spec.norm_std == (0.229, 0.224, 0.225)
    assert spec.config == config


def test_an_image_model_of_the_first_version_is_one_of_frames(tmp_path):
    path, model, config = saved('frames', tmp_path)
    content = torch.load(path)
    del content['config']['video.image_models']
    torch.save(content, path)
    loaded = stmn_plugin.load_model(path)
    assert type(loaded) is FrameByFrame and loaded.pooling == 'avg'
    clips = torch.randn(3, 2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(loaded(clips), model(clips))


@pytest.mark.slow
def test_what_cannot_be_loaded_is_named_in_one_line(tmp_path):
    path, _, config = saved('stmn', tmp_path)
    content = torch.load(path)

    def refusal(**changes):
        file = tmp_path / 'other.pth.tar'
        torch.save({k: v for k, v in {**content, **changes}.items() if v is not None}, file)
        with pytest.raises(InputError) as caught:
            stmn_plugin.load_model(file)
        assert '\n' not in str(caught.value) and str(file) in str(caught.value)
        return str(caught.value)

    assert 'does not say which architecture' in refusal(config=None)
    assert 'does not say which architecture' in refusal(config=['stmn'])
    unknown = refusal(config={**config, 'model.name': 'psta', 'psta.depth': 3})
    assert "'psta' is no architecture here" in unknown and '--import' in unknown
    assert 'data.height takes' in refusal(config={**config, 'data.height': 5})
    assert 'stmn.temporal_items 5, the config says 9' in refusal(
        config={**config, 'stmn.temporal_items': 9}
    )
    with pytest.raises(InputError, match='no file .*missing'):
        stmn_plugin.load_model(tmp_path / 'missing')


def test_damaged_weight_files_are_named(tmp_path):
    path, _, _ = saved('frames', tmp_path)
    file = tmp_path / 'model.safetensors'
    export_weights(str(file), str(path))
    content = file.read_bytes()
    size = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + size])
    name = next(key for key in header if key != '__metadata__')
    broken = [content[:-1], content[: 8 + size // 2]]
    for field, value in (('dtype', 'F3'), ('shape', [1, 2, 3]), ('data_offsets', [-4, 0])):
        other = json.dumps({**header, name: {**header[name], field: value}}).encode()
        broken.append(len(other).to_bytes(8, 'little') + other + content[8 + size :])
    for data in broken:
        file.write_bytes(data)
        with pytest.raises(InputError, match='model.safetensors is damaged'):
            stmn_plugin.load_model(file)


def test_weights_alone_are_tested_by_name_too(tmp_path):
    """model.load_weights takes what export wrote."""
    from stmn_plugin.training.checkpoint import load_weights

    path, model, _ = saved('frames', tmp_path)
    file = tmp_path / 'model.safetensors'
    export_weights(str(file), str(path))
    network = torchreid.models.build_model('osnet_x0_25', 3, 'triplet', pretrained=False)
    load_weights(network, str(file))
    own = model.network.state_dict()
    for key, value in network.state_dict().items():
        assert key.startswith('classifier') or torch.equal(value, own[key]), key
