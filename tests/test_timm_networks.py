"""Encoders of timm: equal to torchvision's where both have a network, others refused by name."""

import importlib.util

import pytest
import references.stmn as references
import torch
import torchvision
from test_backbones import frames_of, scatter
from torch import nn

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.models import STMN, Encoder
from stmn_plugin.models.folding import FoldedEncoder
from stmn_plugin.models.sync_batch_norm import synchronize_batch_norm

timm = pytest.importorskip('timm')

# name → what f^o ends in
TAKEN = {
    'resnet18': 'ReLU',
    'regnety_002': 'ReLU',
    'mobilenetv3_small_050': 'Hardswish',
    'repvgg_a0': 'ReLU',
    'convnext_atto': '',
}


def scattered_encoder(name, **heads):
    torch.manual_seed(0)
    encoder = scatter(Encoder(f'timm:{name}', pretrained=False, **heads)).double().eval()
    for head in (encoder.spatial_head, encoder.temporal_head):
        if head is not None:
            head.load_state_dict(encoder.frame_head.state_dict())
    return encoder


@pytest.mark.slow
@torch.no_grad()
def test_a_resnet_of_timm_is_torchvisions(tmp_path):
    """One file of weights, which both take under the same names."""
    torch.manual_seed(0)
    torch.save(scatter(torchvision.models.resnet18()).state_dict(), tmp_path / 'resnet18.pth')
    one, other = (
        Encoder(name, weights=str(tmp_path / 'resnet18.pth')).double().eval()
        for name in ('timm:resnet18', 'resnet18')
    )
    assert one.dim == other.dim and one.channels == other.channels
    for ours, theirs in zip(one(frames_of())[:3], other(frames_of())[:3], strict=True):
        assert references.relative_error(ours, theirs) <= 1e-12
    assert one(frames_of()).spatial_queries.min() < 0


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('name', TAKEN)
def test_maps_and_queries(name):
    encoder = scattered_encoder(name)
    maps = encoder(frames_of())
    activation = getattr(nn, TAKEN[name] or 'Identity')()
    assert references.relative_error(activation(maps.spatial_queries), maps.frame_features) == 0
    assert (maps.spatial_queries < 0).any()
    pooled = maps.spatial_queries.mean(dim=(2, 3))
    assert references.relative_error(maps.temporal_queries, pooled) <= 1e-12
    assert encoder.map_size((256, 128)) == (16, 8)
    one = FoldedEncoder(encoder)
    for ours, theirs in zip(one.folded(frames_of())[:3], maps[:3], strict=True):
        assert references.relative_error(ours, theirs) <= 1e-9
    assert bool(one.pairs) == (name != 'convnext_atto')


@torch.no_grad()
def test_the_trunk_and_last_stage_are_timms_own_network():
    """Up to the strides: features of timm at a sixteenth, before the last stage."""
    encoder = scattered_encoder('mobilenetv3_small_050', spatial=False, temporal=False)
    theirs = timm.create_model('mobilenetv3_small_050', features_only=True).double().eval()
    tensors = [*encoder.trunk.state_dict().values(), *encoder.frame_head.state_dict().values()]
    state = dict(zip(theirs.state_dict(), tensors, strict=True))
    theirs.load_state_dict(state)
    expected = theirs(frames_of())[-2]
    assert references.relative_error(encoder.trunk(frames_of()), expected) <= 1e-12


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('resnet500', "timm has no network 'resnet500'; the nearest is timm:resnet50"),
        ('vit_tiny_patch16_224', 'it has not the four stages of a convolutional network'),
        ('hrnet_w18_small', 'it has not the four stages of a convolutional network'),
    ],
)
def test_a_network_that_cannot_be_an_encoder_is_refused(name, message):
    with pytest.raises(InputError) as caught:
        Encoder(f'timm:{name}', pretrained=False, section='qan')
    assert str(caught.value).startswith('qan.backbone') and message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_without_timm_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(
        InputError, match=r'timm is not installed: pip install "stmn_plugin\[timm\]"'
    ):
        Encoder('timm:resnet18', pretrained=False)


def test_weights_that_cannot_be_downloaded_are_an_input_error(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError('Network is unreachable')
        return create(name, **options)

    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(InputError, match='timm:resnet18.*unreachable.*stmn.backbone_weights PATH'):
        Encoder('timm:resnet18')


def test_batch_norms_with_an_activation_inside_are_not_synchronised():
    encoder = Encoder('timm:regnety_002', False, False, pretrained=False)
    with pytest.raises(InputError, match='train.sync_bn True: .*BatchNormAct2d'):
        synchronize_batch_norm(encoder, use_gpu=False)


@torch.no_grad()
def test_a_config_takes_the_name():
    assert load_config('', ['stmn.backbone', 'timm:resnet18']).stmn.backbone == 'timm:resnet18'
    for wrong in ('timm:', 'timm:a b', 'tim:resnet18'):
        with pytest.raises(InputError, match='stmn.backbone takes a network of docs/encoders.md'):
            load_config('', ['stmn.backbone', wrong])
    model = STMN(4, 2, STMN.Config(backbone='timm:convnext_atto'), pretrained=False).eval()
    assert model(torch.zeros(1, 2, 3, 64, 32)).shape == (1, 320)
