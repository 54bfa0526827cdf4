"""What a model explains: names, their shapes, and what is said of one that is missing."""

import pytest
import torch

from stmn_plugin.models import STMN
from stmn_plugin.models.explanations import EXPLANATIONS, check_explained, missing_part

B, L = 2, 4
FRAMES = {'frame_norms', 'frame_feature', 'clip_feature'}
SPATIAL = {'spatial_probs', 'spatial_values', 'refined_norms', 'change_norms', 'refined_feature'}
TEMPORAL = {'temporal_probs', 'temporal_values', 'attention'}


@pytest.mark.parametrize(
    ('modes', 'names'),
    [
        (('memory', 'memory'), FRAMES | SPATIAL | TEMPORAL),
        (('none', 'memory'), FRAMES | TEMPORAL),
        (('memory', 'mlp'), FRAMES | SPATIAL | {'attention'}),
        (('none', 'average'), FRAMES),
    ],
)
def test_stmn_explains_what_it_has(modes, names):
    torch.manual_seed(0)
    spatial_mode, temporal_mode = modes
    config = STMN.Config(
        backbone='resnet18', spatial_mode=spatial_mode, temporal_mode=temporal_mode
    )
    model = STMN(3, L, config, pretrained=False).eval()
    clips = torch.randn(B, L, 3, 64, 32)
    explained = model.explain(clips)
    assert explained.keys() == names
    check_explained(explained, B, L)
    with torch.no_grad():
        assert explained['clip_feature'] == pytest.approx(model(clips), abs=1e-5)
    for part in {'spatial_values', 'temporal_values'} & names:
        assert explained[part].stride(0) == 0  # a view of the weights, nothing is copied
        memory = getattr(model, part.replace('values', 'memory'))
        assert (explained[part] == memory.values).all()


def test_what_is_missing_is_said_with_its_name():
    assert missing_part(('attention', 'frame_norms'), {'frame_norms', 'attention'}) == ''
    said = missing_part(('attention', 'spatial_probs'), ('attention',))
    assert said == 'the model has no spatial memory (spatial_probs)'
    for name, explanation in EXPLANATIONS.items():
        assert explanation.shape[0] == 'B' and explanation.meaning and explanation.part
        assert missing_part([name], []) == f'the model has no {explanation.part} ({name})'


@pytest.mark.parametrize(
    ('shapes', 'says'),
    [
        ({'attention': (B, L, 1)}, r'attention has shape \(2, 4, 1\), not \(2, 4\)'),
        ({'attention': (1, L)}, r'attention has shape \(1, 4\), not \(2, 4\)'),
        ({'clip_feature': (B, 7), 'frame_feature': (7,)}, r'\(7,\), not \(2, D\)'),
        (
            {'frame_norms': (B, L, 4, 2), 'change_norms': (B, L, 2, 4)},
            r'change_norms has shape \(2, 4, 2, 4\), not \(2, 4, 4, 2\)',
        ),
        ({'temporal_probs': (B, 5), 'temporal_values': (B, 6, L)}, 'temporal_values'),
    ],
)
def test_a_tensor_of_another_shape_is_named(shapes, says):
    with pytest.raises(ValueError, match=says):
        check_explained({name: torch.zeros(shape) for name, shape in shapes.items()}, B, L)


def test_features_may_differ_in_size_and_names_of_ones_own_are_left_alone():
    shapes = {'clip_feature': (B, 7), 'frame_feature': (B, 9), 'gates_of_mine': (B, 3, 3)}
    check_explained({name: torch.zeros(shape) for name, shape in shapes.items()}, B, L)
