"""What the authors' released code computes, by config: against loops, and against the paper."""

import numpy as np
import pytest
import references.released as references
import torch
from references.stmn import relative_error

from stmn_plugin.config import kwargs, load_config
from stmn_plugin.data.frame_samplers import ClipPlan, count_clips, sample_rrs
from stmn_plugin.errors import InputError
from stmn_plugin.losses import Recipe
from stmn_plugin.models import STMN, SpatialMemory, TemporalMemory
from stmn_plugin.training.checkpoint import BEST, load_checkpoint
from stmn_plugin.training.resuming import _best_score
from stmn_plugin.training.run_record import Parts, RunRecord
from stmn_plugin.training.run_state import RunFacts

T, M, N = 3, 4, 3
B, L = 2, 3
EXACT = 1e-9
# D, H, W: channels of a group at all positions; a channel over two rows; more positions than D
SHAPES = [(6, 3, 1), (8, 2, 2), (5, 3, 2), (4, 3, 4)]


def spatial(shape, addressing, normalisation, training):
    torch.manual_seed(0)
    memory = SpatialMemory(
        shape[0], M, 1.7, addressing=addressing, key_normalisation=normalisation
    ).double()
    with torch.no_grad():
        memory.bn.weight.uniform_(0.5, 2)
        memory.bn.bias.normal_()
        memory.bn.running_mean.normal_()
        memory.bn.running_var.uniform_(0.5, 2)
    features = torch.rand(T, *shape, dtype=torch.float64).requires_grad_()
    queries = torch.randn(T, *shape, dtype=torch.float64).requires_grad_()
    return memory.train(training), features, queries


def used_keys(keys, normalisation):
    if normalisation == 'channel':
        return references.channel_keys(keys)
    return torch.stack([key / references.length(key) for key in keys])


def expected_of(memory, features, queries, normalisation):
    bn = memory.bn
    start = {'weight': bn.weight, 'bias': bn.bias, 'eps': bn.eps}
    start |= {'mean': bn.running_mean.clone(), 'var': bn.running_var.clone()}
    keys = used_keys(memory.keys, normalisation)
    return references.group_memory(
        features, queries, keys, memory.values, start, memory.scale, memory.training
    )


def gradients(tensors, inputs):
    total = 0
    for seed, tensor in enumerate(tensors):
        generator = torch.Generator().manual_seed(seed)
        total = total + (tensor * torch.randn(tensor.shape, generator=generator)).sum()
    return torch.autograd.grad(total, inputs)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('normalisation', ['item', 'channel'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_groups_equal_rows_written_by_loops_with_gradients(shape, normalisation, training):
    memory, *maps = spatial(shape, 'group', normalisation, training)
    expected = expected_of(memory, *maps, normalisation)
    out = memory(*maps)
    assert relative_error(out.output, expected['pooled']) <= EXACT
    assert relative_error(out.probs, expected['probs']) <= EXACT
    inputs = [*maps, *memory.parameters()]
    ours = gradients(out, inputs)
    theirs = gradients([expected['pooled'], expected['probs']], inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert relative_error(one, other) <= EXACT
    assert relative_error(memory.bn.running_mean, expected['running_mean']) <= EXACT
    assert relative_error(memory.bn.running_var, expected['running_var']) <= EXACT


@torch.no_grad()
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_maps_refined_by_groups_equal_the_loops(shape, training):
    memory, *maps = spatial(shape, 'group', 'channel', training)
    expected = expected_of(memory, *maps, 'channel')
    assert relative_error(memory.refine(*maps), expected['refined']) <= EXACT


@torch.no_grad()
def test_rows_of_256x128_frames_are_16_channels_at_128_positions():
    memory = SpatialMemory(2048, 2, 1.0, addressing='group').double().eval()
    memory.keys.zero_()
    memory.keys[0, 5 * 128 + 77] = 1  # the sixth channel of a group, position 77
    memory.keys[1, 0] = -1
    memory.values.copy_(torch.eye(2, 2048))
    memory.bn.weight.fill_(1)
    queries = torch.full((1, 2048, 16, 8), 1e-9, dtype=torch.float64)
    queries[0, 3 * 16 + 5, 9, 5] = 1  # position 9*8+5 = 77
    probs = memory(torch.zeros_like(queries), queries).probs
    assert probs.shape == (128, 2)
    assert probs[:, 0].argmax() == 3 and probs[3, 0] > 0.7
    assert probs[0].tolist() == pytest.approx(probs[127].tolist())
    taken = -memory.refine(torch.zeros_like(queries), queries)[0]  # value 0 is 1 at number 0
    assert relative_error(taken[::16, 0, 0] * (1 + memory.bn.eps) ** 0.5, probs[:, 0]) <= EXACT
    assert taken[::16, 0, 0].argmax() == 3 and not taken[1:16, 0, 0].any()


@torch.no_grad()
def test_the_layout_in_memory_does_not_change_groups():
    memory, *maps = spatial((8, 2, 2), 'group', 'channel', False)
    turned = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    assert torch.equal(memory(*turned).probs, memory(*maps).probs)


@torch.no_grad()
def test_only_where_k_divides_d_the_read_out_is_pooled_first(monkeypatch):
    largest = {}

    def watched(self, other):
        product = torch.matmul(self, other)
        largest[shape] = max(largest.get(shape, 0), product.shape[-1])
        return product

    for shape in ((8, 2, 2), (5, 3, 2)):
        memory, *maps = spatial(shape, 'group', 'item', False)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, '__matmul__', watched)
            memory(*maps)
    assert largest == {(8, 2, 2): 2, (5, 3, 2): 5}  # D/K numbers a row, and all D


@pytest.mark.parametrize('normalisation', ['item', 'channel'])
def test_the_temporal_memory_equals_the_loops_with_gradients(normalisation):
    torch.manual_seed(1)
    memory = TemporalMemory(5, N, L, 1.3, normalisation).double()
    inputs = [torch.randn(B, L, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    lstm = [memory.get_parameter(f'lstm.{name}_l0') for name in LSTM]
    keys = used_keys(memory.keys, normalisation)
    expected = references.temporal_memory(*inputs, keys, memory.values, lstm, memory.scale)
    out = memory(*inputs)
    inputs += memory.parameters()
    ours = gradients([out.output, out.probs], inputs)
    theirs = gradients([expected['output'], expected['probs']], inputs)
    for one, other in zip([out.output, *ours], [expected['output'], *theirs], strict=True):
        assert relative_error(one, other) <= EXACT


LSTM = ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')


def test_channels_of_keys_act_as_the_scale_that_the_default_takes():
    """Random keys (items, D): a channel has length sqrt(items), a key sqrt(D)."""
    torch.manual_seed(2)
    released = SpatialMemory(2048, 10, 1.0, key_normalisation='channel')
    lengths = torch.nn.functional.normalize(released.keys, dim=0).norm(dim=1)
    assert lengths.mean().item() == pytest.approx(SpatialMemory(2048, 10).scale, rel=0.01)


def test_unknown_words_are_quoted():
    for options in ({'addressing': 'row'}, {'key_normalisation': 'none'}):
        with pytest.raises(ValueError, match=f'{next(iter(options))} must be one of'):
            SpatialMemory(4, 2, **options)
    with pytest.raises(ValueError, match="got 'none'"):
        TemporalMemory(4, 2, 3, key_normalisation='none')


# --- the network ---


def small_model(**changes):
    torch.manual_seed(3)
    config = STMN.Config(backbone='resnet18', spatial_items=M, temporal_items=N, **changes)
    return STMN(5, L, config, pretrained=False).double()


@pytest.mark.slow
def test_choices_of_the_config_reach_the_memories():
    model = small_model(addressing='group', key_normalisation='channel', similarity_scale=1.0)
    assert model.spatial_memory.addressing == 'group'
    memories = model.spatial_memory, model.temporal_memory
    assert {memory.key_normalisation for memory in memories} == {'channel'}
    default = small_model()
    assert default.spatial_memory.addressing == 'position'
    memories = default.spatial_memory, default.temporal_memory
    assert {memory.key_normalisation for memory in memories} == {'item'}
    names = default.state_dict().keys()
    assert names == model.state_dict().keys() == small_model(stem_relu=False).state_dict().keys()


@torch.no_grad()
def test_the_stem_without_relu():
    frames = torch.randn(2, 3, 32, 16, dtype=torch.float64)
    encoder = small_model(stem_relu=False).eval().encoder
    conv, norm = encoder.trunk[0], encoder.trunk[1]
    pooled = torch.nn.functional.max_pool2d(norm(conv(frames)), 3, 2, 1)
    assert torch.equal(encoder.stem(frames), pooled) and (pooled < 0).any()
    assert (small_model().eval().encoder.stem(frames) == pooled.clamp(min=0)).all()


@pytest.mark.slow
@pytest.mark.parametrize('where', ['clip', 'frame'])
def test_where_deep_supervision_is_normalised(where):
    model = small_model(frame_bnneck=where).train()
    with torch.no_grad():
        model.bnneck_frame.weight.uniform_(0.5, 2)
    clips = torch.randn(B, L, 3, 32, 32, dtype=torch.float64)
    frames = model.encoder(clips.flatten(0, 1)).frame_features
    refined = frames.mean(dim=(2, 3)).detach().view(B, L, -1)  # BN scale 0: nothing is taken
    every = references.frame_logits(
        refined, model.bnneck_frame.weight, model.classifier_frame.weight
    )
    logits = model(clips).frame_logits
    assert (relative_error(logits, every) <= EXACT) == (where == 'frame')


@torch.no_grad()
def test_groups_explain_no_positions():
    model = small_model(addressing='group').eval()
    clips = torch.randn(1, L, 3, 32, 32, dtype=torch.float64)
    found = model.explain(clips)
    assert not {'spatial_probs', 'spatial_values'} & found.keys()
    assert {'change_norms', 'refined_feature', 'temporal_probs'} <= found.keys()
    assert relative_error(found['clip_feature'], model(clips)) <= EXACT


# --- the spread loss of parts of a batch ---


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('rows', [1, 4], ids=['temporal', 'spatial'])
@pytest.mark.parametrize('clips', [2, 3, 7, 8])
def test_the_spread_of_parts_equals_the_loops_with_gradients(clips, rows, reduction):
    torch.manual_seed(4)
    logits = 3 * torch.randn(clips * rows, 4, dtype=torch.float64)
    probs = logits.softmax(dim=1).requires_grad_()
    recipe = Recipe(
        spread_weight=0.5, spread_margin=0.9, spread_reduction=reduction, spread_replicas=3
    )
    ours = recipe.spread(probs, clips)
    theirs = 0.5 * references.spread_of_parts(probs, clips, 0.9, reduction, 3)
    assert relative_error(ours, theirs) <= EXACT and ours > 0
    one, other = (torch.autograd.grad(loss, probs)[0] for loss in (ours, theirs))
    assert relative_error(one, other) <= EXACT
    whole = Recipe(spread_weight=0.5, spread_margin=0.9, spread_reduction=reduction)
    assert relative_error(whole.spread(probs, clips), theirs) > 1e-3


def test_one_part_is_the_whole_batch_bit_for_bit():
    probs = torch.randn(24, 4).softmax(dim=1)
    assert torch.equal(Recipe().spread(probs, 4), Recipe().spread(probs))


# --- which frames are tested ---

CEIL = {  # F: frames of the clip, L = 6
    1: [0, 0, 0, 0, 0, 0],
    2: [0, 1, 1, 1, 1, 1],
    3: [0, 1, 2, 2, 2, 2],
    4: [0, 1, 2, 3, 3, 3],
    5: [0, 1, 2, 3, 4, 4],
    6: [0, 1, 2, 3, 4, 5],
    7: [0, 2, 4, 6, 6, 6],
    8: [0, 2, 4, 6, 7, 7],
    9: [0, 2, 4, 6, 8, 8],
    10: [0, 2, 4, 6, 8, 9],
    11: [0, 2, 4, 6, 8, 10],
    12: [0, 2, 4, 6, 8, 10],
    13: [0, 3, 6, 9, 12, 12],
    14: [0, 3, 6, 9, 12, 13],
    15: [0, 3, 6, 9, 12, 14],
    16: [0, 3, 6, 9, 12, 15],
    17: [0, 3, 6, 9, 12, 15],
    18: [0, 3, 6, 9, 12, 15],
    19: [0, 4, 8, 12, 16, 18],
    20: [0, 4, 8, 12, 16, 19],
}
ONE = [[0, 1, 2, 3, 4, 5]]
TWO = [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
THREE = [[0, 3, 6, 9, 12, 15], [1, 4, 7, 10, 13, 16], [2, 5, 8, 11, 14, 17]]
FLOOR = {
    1: [[0, 0, 0, 0, 0, 0]],
    2: [[0, 1, 0, 1, 0, 1]],
    3: [[0, 1, 2, 1, 2, 1]],
    4: [[0, 1, 2, 3, 2, 3]],
    5: [[0, 1, 2, 3, 4, 3]],
    **dict.fromkeys(range(6, 12), ONE),
    **dict.fromkeys(range(12, 18), TWO),
    **dict.fromkeys(range(18, 21), THREE),
}


def clips_of(plan, num_frames):
    return [plan.clip(num_frames, index).tolist() for index in range(plan.count(num_frames))]


@pytest.mark.parametrize('num_frames', range(1, 21))
def test_the_released_config_tests_these_frames(num_frames):
    rrs = ClipPlan(**kwargs.plan_kwargs(load_config('stmn_mars_released')))
    assert clips_of(rrs, num_frames) == [CEIL[num_frames]]
    words = ['test.frames', 'all']
    every = ClipPlan(**kwargs.plan_kwargs(load_config('stmn_mars_released', words)))
    assert clips_of(every, num_frames) == FLOOR[num_frames]
    assert (rrs.title, every.title) == ('rrs', 'all (floor)')
    plain = ClipPlan(**kwargs.plan_kwargs(load_config('stmn_mars', words)))
    assert plain.title == 'all' and plain.count(num_frames) == -(-num_frames // 6)


def test_all_frames_with_other_lengths_equal_the_loops():
    for seq_len in range(1, 9):
        plan = ClipPlan(seq_len, 'all', all_clips='floor')
        for num_frames in range(1, 40):
            expected = references.all_frames_clips(num_frames, seq_len)
            assert clips_of(plan, num_frames) == expected, (num_frames, seq_len)
            assert plan.clip(num_frames, 0).dtype == np.int64
    in_order = ClipPlan(6, 'in_order', all_clips='floor')
    assert in_order.count(7) == 2  # stored vectors are of every frame all the same
    with pytest.raises(ValueError, match="got 'round'"):
        count_clips(5, 2, 'round')


def test_training_draws_from_chunks_padded_with_the_last_frame():
    rng, draws = np.random.default_rng(0), []
    for _ in range(600):
        draws.append(sample_rrs(8, 6, rng, 'ceil'))
    share = np.mean(np.stack(draws) == 7, axis=0)  # chunks 01 23 45 67 77 77
    assert share.tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1], abs=0.07)


@pytest.mark.parametrize(
    ('flip', 'frames', 'flipped'),
    [
        ('all', 'rrs', False),
        ('all', 'all', True),
        ('True', 'rrs', True),
        ('False', 'all', False),
    ],
)
def test_what_is_averaged_with_the_mirrored_clip(flip, frames, flipped):
    cfg = load_config(opts=['test.flip', flip, 'test.frames', frames])
    assert kwargs.testing_kwargs(cfg)['flip'] is flipped


def record_of(best_by, folder='', config=None):
    record = RunRecord(run=RunFacts(config=config or {}), first_target='mars', best_by=best_by)
    record.folder = str(folder)
    return record


def test_what_chooses_the_best_epoch():
    scores = [(0.5, 0.3), (0.6, 0.2), (0.6, 0.4), (0.4, 0.4)]  # rank-1, mAP
    expected = {
        'mAP': [True, False, True, False],
        'rank-1': [True, True, True, False],
        'none': [False] * 4,
    }
    for best_by, wanted in expected.items():
        record, found = record_of(best_by), []
        for rank1, mean_ap in scores:
            other = {'dataset': 'other', 'rank-1': 1.0, 'mAP': 1.0}
            own = {'dataset': 'mars', 'rank-1': rank1, 'mAP': mean_ap}
            record.evaluations += [own, other]
            found.append(record.improved())
        assert found == wanted, best_by


@pytest.mark.parametrize(
    ('held_out', 'words'),
    [(0.0, 'rank-1 on the test data of mars'), (0.1, 'rank-1 on the held-out training identities')],
)
def test_a_best_checkpoint_says_how_it_was_chosen(held_out, words, tmp_path):
    record = record_of('rank-1', tmp_path, {'data.validation_ids': held_out})
    record.parts = {'model': Parts(torch.nn.Linear(2, 2))}
    record.save(1)
    record.save(2, is_best=True)
    best = load_checkpoint(str(tmp_path / 'model' / BEST))
    assert best['epoch'] == 2 and best['chosen_by'].startswith(words)
    assert 'chosen_by' not in load_checkpoint(str(tmp_path / 'model' / 'model.pth.tar-1'))


def test_a_lost_best_checkpoint_is_found_again_by_the_same_score(tmp_path):
    for best_by, epoch in (('mAP', 1), ('rank-1', 3)):
        record = record_of(best_by, tmp_path / best_by)
        record.parts, record.best_map = {'model': Parts(torch.nn.Linear(2, 2))}, 0.9
        for number, rank1, mean_ap in ((1, 0.5, 0.4), (2, 0.6, 0.3), (3, 0.6, 0.2)):
            score = {'dataset': 'mars', 'epoch': number, 'rank-1': rank1, 'mAP': mean_ap}
            record.evaluations.append(score)
            record.keep_last = 3
            record.save(number)
        record._restore_best()
        best = load_checkpoint(str(tmp_path / best_by / 'model' / BEST))
        assert best['epoch'] == epoch, best_by


def test_a_run_resumed_with_another_score_starts_to_choose_anew():
    checkpoint = {'best_map': 0.7, 'config': {'test.best': 'rank-1'}}
    assert _best_score(checkpoint, RunFacts(config={'test.best': 'rank-1'})) == 0.7
    assert _best_score(checkpoint, RunFacts(config={'test.best': 'mAP'})) == -1
    assert _best_score({'best_map': 0.7}, RunFacts(config={'test.best': 'mAP'})) == 0.7
    with pytest.raises(InputError, match=r'test.best rank-1 needs 1 among test.ranks, got \[5\]'):
        load_config(opts=['test.best', 'rank-1', 'test.ranks', '5'])


def test_the_released_config():
    cfg = load_config('stmn_mars_released')
    assert cfg.test.best == 'none'
    assert cfg.test.flip == 'all' and cfg.test.dist_metric == 'cosine'
    assert (cfg.loss.spread.replicas, cfg.loss.spread.reduction) == (3, 'mean')
    assert not cfg.stmn.stem_relu and cfg.stmn.frame_bnneck == 'frame'
    assert cfg.stmn.addressing == 'group' and cfg.stmn.key_normalisation == 'channel'
    assert cfg.stmn.similarity_scale == 1.0 and cfg.stmn.spatial_bn_scale == 0
