"""The fingerprint of stored vectors: which weights and settings of a model change it."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_features import LENGTH, TinyImageModel, stmn

from stmn_plugin.config.defaults import flatten, get_default_config
from stmn_plugin.evaluation.fingerprint import (
    FREE_IN_VECTORS,
    fingerprint,
    is_free,
    structure_digest,
    weights_digest,
)
from stmn_plugin.models import STMN, FrameByFrame


def test_every_key_counts_for_vectors_that_is_not_listed_as_free():
    """A new key, too, until it is listed."""
    model, defaults = TinyImageModel(), flatten(get_default_config())
    assert set(defaults) > FREE_IN_VECTORS
    base = fingerprint(model, [], defaults)
    for key in [*defaults, 'test.some_new_key']:
        changed = fingerprint(model, [], {**defaults, key: 'another'})
        assert (changed != base) == (not is_free(key, defaults['model.name'])), key
        assert {k for k in changed if changed[k] != base.get(k)} <= {key}
    assert {'stmn.similarity_scale', 'data.height', 'test.amp', 'model.name'}.isdisjoint(
        FREE_IN_VECTORS
    )


def test_keys_of_losses_and_of_other_architectures_leave_vectors_valid():
    config = {**flatten(get_default_config()), 'model.name': 'qan'}

    def stays_valid(key, value=0.5):
        model = TinyImageModel()
        return fingerprint(model, [], config) == fingerprint(model, [], {**config, key: value})

    for key in ('qan.frame_weight', 'qan.clip_weight', 'mgh.graphs', 'stmn.similarity_scale'):
        assert stays_valid(key), key
    for key in ('qan.quality_map', 'qan.quality_weights', 'qan.backbone', 'video.seq_len'):
        assert not stays_valid(key), key
    for key in ('data.train_list', 'one_shot.factor', 'loss.spread.weight'):
        assert stays_valid(key), key


class FrozenOptions:
    __slots__ = 'scale'  # a lone name is no list of letters

    def __init__(self, scale):
        self.scale = scale


def test_what_a_model_is_besides_its_weights_counts():
    """Without a config, too: from Python."""
    model = stmn()
    base = structure_digest(model)
    assert structure_digest(torch.nn.DataParallel(model.train())) == base
    changes = [
        (model.spatial_memory, 'scale', 3.0),
        (model.spatial_memory.bn, 'eps', 1e-3),
        (model.encoder.trunk[0], 'stride', (1, 1)),
        (model.encoder, 'some_new_attribute', 'x'),
    ]
    encoder = model.encoder
    for kind in (
        lambda x: SimpleNamespace(x=x, back=encoder),
        lambda x: FrozenOptions(x),
        lambda x: functools.partial(torch.clamp, min=x),
        lambda x: {'a': {x}},
        np.float32,
        lambda x: np.full(3, x),
        lambda x: [torch.float16, torch.bfloat16][x],
        lambda x: str(x).encode(),
    ):
        changes += [(encoder, 'some_new_attribute', kind(x)) for x in (0, 1)]
    itself = SimpleNamespace()
    itself.itself = itself
    changes.append((encoder, 'some_new_attribute', itself))
    known = {base}
    for part, name, value in changes:
        setattr(part, name, value)
        known.add(structure_digest(model))
    assert len(known) == 1 + len(changes)
    assert fingerprint(TinyImageModel(), [])['model'] == structure_digest(TinyImageModel())


@pytest.mark.slow
def test_settings_of_a_model_count_unless_their_keys_are_free():
    def digest(**settings):
        torch.manual_seed(0)
        config = STMN.Config(backbone='resnet18', **settings)
        return structure_digest(STMN(2, LENGTH, config, pretrained=False))

    assert digest() == digest(spatial_bn_scale=1.0) == digest(backbone_weights='elsewhere')
    assert digest() == digest(frame_bnneck='frame')
    assert digest() != digest(similarity_scale=1.0)
    network = TinyImageModel()
    kinds = [FrameByFrame(network, LENGTH, pooling) for pooling in ('avg', 'max')]
    assert structure_digest(kinds[0]) == structure_digest(kinds[1])


def test_weights_are_told_apart_and_known_again():
    torch.manual_seed(0)
    model, other = (torch.nn.BatchNorm1d(3) for _ in range(2))
    assert weights_digest(model) == weights_digest(other)
    assert weights_digest(torch.nn.DataParallel(model)) == weights_digest(model)
    model.running_mean[1] += 1e-6
    assert weights_digest(model) != weights_digest(other)
