"""CSA: attention, pairs, losses and aggregation against loops; sizes; what a score depends on."""

import math

import numpy as np
import pytest
import references.csa as references
import torch
import torchvision
from test_distributed_training import narrow_resnet
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletClips
from stmn_plugin.evaluation.pair_scores import joined_rows
from stmn_plugin.losses.oim import OIMTable, nth_of_identity, oim_loss, updated_table
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.sync_batch_norm import SyncBatchNorm, synchronize_outside_backbone
from stmn_plugin.models.systems.csa import (
    CSA,
    DIM,
    CSAConfig,
    FrameHead,
    LSTMQuery,
    attention_weights,
    attentive_pooling,
)
from stmn_plugin.models.systems.csa_matching import (
    Matcher,
    aggregate,
    aggregate_logits,
    verification_loss,
    weighted_squares,
)

LN3 = math.log(3)
CLASSES, L, D, d = 5, 3, 8, 4
PIDS = torch.tensor([0, 0, 3, 3, 4, 4, 0, 0])
VARIANTS = [
    {},
    {'attention': 'frame', 'lstm_state': 'mean'},
    {'query': 'mean'},
    {'query': 'mean', 'co_attention': False},
]
variants = pytest.mark.parametrize('variant', VARIANTS, ids=str)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(actual, expected, tolerance=1e-9):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def same_with_gradients(actual, expected, inputs):
    """Values, and gradients with respect to all inputs of a random sum of them."""
    near(actual, expected)
    weights = drawn(*actual.shape, seed=9)
    near_all(
        torch.autograd.grad((actual * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
    )


def near_all(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        near(one, other)


def scattered(module):
    """Statistics and scales of batch norms, and weights of the matcher, away from the start."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            for tensor in (part.weight.data, part.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            part.running_mean.uniform_(-0.1, 0.1, generator=generator)
        if isinstance(part, Matcher):
            part.linear.weight.data.normal_(generator=generator)
            part.linear.bias.data.normal_(generator=generator)
    return module


def network(**config):
    """On an encoder of D channels, in float64."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, 'get_model', narrow_resnet)
        return CSA(CLASSES, L, CSAConfig(**config), pretrained=False).double()


@pytest.fixture(scope='module')
def models():
    """A network of every variant, in float64 and eval mode."""
    return {str(variant): scattered(network(**variant)).eval() for variant in VARIANTS}


# --- attention over the frames of a snippet ---


@pytest.mark.parametrize('by', ['channel', 'frame'])
def test_attention_is_that_of_the_loops(by):
    v, k, q = (drawn(*shape, seed=i) for i, shape in enumerate([(3, L, d), (3, L, d), (2, d)]))
    inputs = [x.requires_grad_() for x in (v, k, q)]
    pooled = attentive_pooling(v, k, q[:, None], by)
    assert pooled.shape == (2, 3, d)
    same_with_gradients(pooled, references.co_attend(v, k, q, by), inputs)
    # with the gallery's own query it is the pooling of a snippet by itself
    near(attentive_pooling(v, k, q[:1], by), references.co_attend(v, k, q[:1], by)[0])


@pytest.mark.parametrize('by', ['channel', 'frame'])
def test_what_attention_is_in_simple_cases(by):
    v, k, q = drawn(2, L, d), drawn(2, L, d, seed=1), drawn(2, d, seed=2)
    weights = attention_weights(k, q, by)
    assert weights.shape == (2, L, d if by == 'channel' else 1)
    near(weights.sum(dim=1), torch.ones_like(weights[:, 0]))
    near(attentive_pooling(v, k, 0 * q, by), v.mean(dim=1))
    still = v[:, :1].expand(-1, L, -1)
    near(attentive_pooling(still, k, q, by), v[:, 0])
    near(attentive_pooling(v[:, :1], k[:, :1], q, by), v[:, 0])
    # a constant more in all frames' keys changes nothing
    near(attentive_pooling(v, k + drawn(2, 1, d, seed=3), q, by), attentive_pooling(v, k, q, by))


def test_attention_by_hand():
    v, k = torch.tensor([[[1.0], [3.0]], [[0.0], [LN3]]], dtype=torch.float64)
    one = torch.ones(1).double()
    near(attention_weights(k, one).flatten(), [1 / 4, 3 / 4])
    near(attentive_pooling(v, k, one), [2.5])
    near(attentive_pooling(v, k, 0 * one), [2.0])


@pytest.mark.parametrize('state', ['last', 'mean'])
def test_the_lstm_is_that_of_the_loops(state, monkeypatch):
    monkeypatch.setattr('stmn_plugin.models.systems.csa.DIM', d)
    torch.manual_seed(0)
    query, raw = LSTMQuery(5, state).double(), drawn(2, L, 5).requires_grad_()
    expected = torch.stack([references.lstm(frames, query.lstm, state) for frames in raw])
    same_with_gradients(query(raw), expected, [raw, *query.parameters()])


def test_a_head_of_frames_is_that_of_the_loops(monkeypatch):
    monkeypatch.setattr('stmn_plugin.models.systems.csa.DIM', d)
    torch.manual_seed(0)
    head, raw = scattered(FrameHead(5).double()), drawn(2, L, 5).requires_grad_()
    inputs = [raw, head.linear.weight, head.norm.weight, head.norm.bias]
    same_with_gradients(head(raw), references.frame_head(raw, head), inputs)
    unit = torch.nn.functional.normalize(head(raw), dim=-1)
    same_with_gradients(unit, references.frame_head(raw, head, normalized=True), inputs)


def test_what_the_order_of_frames_changes(models):
    raw = drawn(2, L, D)
    turned = raw[:, [2, 0, 1]]
    mean, lstm = (models[str(variant)].snippets for variant in (VARIANTS[2], VARIANTS[0]))
    near(mean(turned).feature, mean(raw).feature)
    assert (lstm(turned).query - lstm(raw).query).abs().max() > 1e-3
    fixed, other = lstm(raw), lstm(turned)
    near(attentive_pooling(other.values, other.keys, fixed.query), fixed.feature)


# --- pairs ---


@pytest.mark.parametrize('by', ['channel', 'frame'])
def test_pairs_are_matched_as_in_the_loops(by):
    torch.manual_seed(0)
    matcher = scattered(Matcher(d).double())
    e, v, k, q = (
        drawn(*shape, seed=i).requires_grad_()
        for i, shape in enumerate([(2, d), (3, L, d), (3, L, d), (2, d)])
    )
    delta = (e[:, None] - attentive_pooling(v, k, q[:, None], by)).square()
    logits = matcher(delta)
    expected = references.pair_logits(e, references.co_attend(v, k, q, by), matcher)
    inputs = [e, v, k, q, matcher.norm.weight, matcher.linear.weight, matcher.linear.bias]
    same_with_gradients(logits, expected, inputs)


def test_a_matcher_starts_undecided_and_takes_equals_alike():
    torch.manual_seed(0)
    matcher = Matcher(DIM).double()
    same = matcher(drawn(4, 5, DIM).square() / DIM).softmax(dim=2)[..., 1]
    assert (same - 0.5).abs().max() < 1e-2
    equal = matcher.eval()(torch.zeros(3, 2, DIM).double())
    near(equal, equal[:1, :1].expand(3, 2, -1))


def test_a_matcher_is_a_weighted_sum_of_squares():
    matcher = scattered(Matcher(DIM).double()).eval().requires_grad_(False)
    p, g = 0.2 * drawn(6, DIM), 0.2 * drawn(7, DIM, seed=1)  # more, and P rounds to 1
    logits = matcher((p[:, None] - g).square())  # (P, G, 2)
    difference = logits[..., 0] - logits[..., 1]
    alpha, constant = matcher.as_weights()
    assert (alpha < 0).any()
    squares = weighted_squares(p, g, alpha)
    near(squares, ((p[:, None] - g).square() * alpha).sum(dim=2))
    rest = difference - squares
    assert rest.max() - rest.min() < 1e-12
    near(rest, constant.expand_as(rest))
    assert torch.equal(squares.argsort(dim=1), difference.argsort(dim=1))
    assert torch.equal(squares.argsort(dim=1), logits.softmax(dim=2)[..., 0].argsort(dim=1))


@variants
def test_scores_of_clips_are_those_of_the_matcher(variant, models):
    model = models[str(variant)]
    probe, gallery = drawn(3, L, D), drawn(4, L, D, seed=1)
    with torch.no_grad():
        scores = model.score_pairs(model.pair_features(probe), model.pair_features(gallery))
        p, g = model.snippets(probe), model.snippets(gallery)
        theirs = g.feature.expand(3, -1, -1)
        if g.other_keys is not None:
            theirs = references.co_attend(g.values, g.other_keys, p.query, model.config.attention)
        different, same = model.matcher((p.feature[:, None] - theirs).square()).unbind(dim=2)
        near(scores, same - different)
        both = model.pair_features(gallery)
        backwards = model.score_pairs(both, both).T
        # who asks matters with co-attention
        symmetric = torch.allclose(backwards, model.score_pairs(both, both))
    assert symmetric == (g.other_keys is None)
    numbers = 2 * DIM + 2 * L * DIM if g.other_keys is not None else DIM
    assert both.shape == (4, numbers)


def test_co_attention_by_ones_own_query_and_keys_is_self_pooling():
    model = scattered(network())
    model.other_key.load_state_dict(model.key.state_dict())
    model.eval()
    snippets = model.snippets(drawn(2, L, D))
    near(attentive_pooling(snippets.values, snippets.other_keys, snippets.query), snippets.feature)


# --- aggregation ---


@pytest.mark.parametrize(
    ('matrix', 'expected'),
    [
        ([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], 0.15),
        ([[0.7]], 0.7),
        ([[i / 100 + j / 20 for j in range(5)] for i in range(5)], 0.02),  # 0.05 j + 0.01 i
        ([[0.3, 0.3], [0.3, 0.3]], 0.3),
    ],
)
def test_the_best_pairs_by_hand(matrix, expected):
    entries = torch.tensor(matrix, dtype=torch.float64)
    near(aggregate(entries.flatten()), expected)
    near(aggregate(entries.T.flatten()), expected)
    assert references.aggregate(matrix) == pytest.approx(expected)
    logits = entries.flatten().logit()
    near(aggregate_logits(logits).sigmoid(), expected)


@pytest.mark.parametrize('percentile', [0, 20, 33.3, 100])
def test_aggregation_is_that_of_the_loops(percentile):
    for rows, columns in [(1, 1), (1, 2), (2, 3), (3, 7), (4, 4), (1, 6), (6, 6)]:
        logits = drawn(2, 3, rows, columns, seed=rows * columns)
        logits = (2 * logits).round() / 2  # some are equal
        different = logits.sigmoid()
        expected = [[references.aggregate(one, percentile) for one in row] for row in different]
        near(aggregate(different.flatten(2), percentile), expected)
        near(aggregate_logits(logits.flatten(2), percentile).sigmoid(), expected)


def test_a_worse_snippet_enters_only_by_the_limit():
    entries = drawn(40).sigmoid()
    worse = torch.cat(
        [entries, torch.full((4,), 0.999).double()]
    )  # 44: (43 * 0.2) is 8, 39 * 0.2 7
    near(aggregate(worse), entries.sort().values[:9].mean())
    near(aggregate(entries), entries.sort().values[:8].mean())


def test_far_pairs_are_told_apart():
    far = torch.tensor([[60.0], [61.0], [62.0]])
    assert (far.sigmoid() == 1).all()
    near(aggregate_logits(far.double()).float(), far[:, 0])  # one pair: its own logit
    several = torch.stack([far[:, 0] + i for i in range(6)], dim=1).double()
    assert (aggregate_logits(several).diff() > 0.5).all()


@variants
def test_tracklets_are_ranked_by_the_best_pairs_of_their_clips(variant, models):
    model = models[str(variant)]
    counts = [1, 2, 3], [2, 1, 4, 1, 3]
    raw = [drawn(sum(own), L, D, seed=i) for i, own in enumerate(counts)]
    with torch.no_grad():
        clips = [
            TrackletClips(model.pair_features(own), np.array(count))
            for own, count in zip(raw, counts, strict=True)
        ]
        rows = joined_rows(*clips, model.score_pairs, model.join_scores, limit=1 << 14)
        distances = torch.cat(list(rows)).double()
        expected = torch.empty(3, 5).double()
        probes, gallery = (x.split(own) for x, own in zip(raw, counts, strict=True))
        for i, ours in enumerate(map(model.pair_features, probes)):
            for j, theirs in enumerate(map(model.pair_features, gallery)):
                different = 1 - model.score_pairs(ours, theirs).sigmoid()
                expected[i, j] = references.aggregate(different)
    near(distances.sigmoid(), expected, 1e-6)
    assert torch.equal(distances.argsort(dim=1), expected.argsort(dim=1))


def test_how_the_released_code_cuts_and_how_clips_are_cut_here():
    def starts(*numbers):
        return [snippet[0] for snippet in references.released_snippets(*numbers)]

    assert starts(18, 8, 4) == [0, 4, 8] and starts(16, 8, 4) == [0, 4]
    assert references.released_snippets(8, 8, 4) == [list(range(8))]
    assert references.released_snippets(5, 8, 4) == [[0, 1, 2, 3, 4, 4, 4, 4]]
    assert starts(30, 10, 5) == [0, 5, 10, 15]
    for num_frames in (18, 16, 8, 5):  # here every frame is in a clip
        plan = ClipPlan(8, 'all')
        clips = [plan.clip(num_frames, i) for i in range(plan.count(num_frames))]
        assert set(np.concatenate(clips)) == set(range(num_frames))


# --- losses ---


def test_verification_by_hand():
    eye = torch.eye(2, dtype=torch.bool)
    for same in (eye, torch.tensor([[True, False, False]]), PIDS[::2, None] == PIDS[1::2]):
        near(verification_loss(torch.zeros(same.shape).double(), same), math.log(2) / 10)
    log_odds = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double().logit()
    near(verification_loss(log_odds, eye), 0.010536051565782628)


@pytest.mark.parametrize('negative_weight', [3.0, 1.0])
def test_verification_is_that_of_the_loops(negative_weight):
    logits = drawn(3, 5, 2).requires_grad_()
    same = torch.tensor([0, 1, 2])[:, None] == torch.tensor([0, 0, 1, 9, 7])  # 3 of 15
    loss = verification_loss(logits[..., 1] - logits[..., 0], same, negative_weight)
    same_with_gradients(loss, references.verification(logits, same, negative_weight), [logits])


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(drawn(*shape, seed=seed), dim=-1)


def test_online_instance_matching_is_that_of_the_loops():
    v, pids, table = (
        unit(9, d).requires_grad_(),
        torch.tensor([0, 3, 0, 0, 1, 3, 0, 0, 4]),
        unit(5, d),
    )
    loss = oim_loss(v, pids, table)
    same_with_gradients(loss, references.oim(v, pids, table), [v])
    with torch.no_grad():
        for momentum in (0.5, 0.9, 0.0):
            moved = updated_table(table, v, pids, momentum)
            near(moved, references.moved_table(table, v, pids, momentum))
    assert nth_of_identity(pids).tolist() == [0, 0, 1, 2, 0, 1, 3, 4, 0]


def test_a_table_starts_at_zero_and_learns_what_it_sees():
    table, v = OIMTable(6, d).double(), unit(2, d).requires_grad_()
    loss = table(v, torch.tensor([4, 1]))
    near(loss, math.log(6))
    near(table.weight[[4, 1]], v)  # the first sample of an identity
    assert not table.weight[[0, 2, 3, 5]].any()
    before = table.weight.clone()
    loss = table(unit(3, d, seed=1).requires_grad_(), torch.tensor([4, 4, 2]))
    loss.backward()  # by the table as it was
    near(loss, oim_loss(unit(3, d, seed=1), torch.tensor([4, 4, 2]), before))
    near(table.weight[[1, 2, 4]].norm(dim=1), torch.ones(3))
    assert torch.equal(table.weight[[0, 1, 3, 5]], before[[0, 1, 3, 5]])
    kept = table.weight.clone()
    table.eval()(unit(2, d), torch.tensor([0, 1]))
    assert torch.equal(table.weight, kept) and 'weight' in table.state_dict()


@variants
def test_losses_are_those_of_the_loops(variant):
    model = scattered(network(**variant)).train()
    raw = drawn(len(PIDS), L, D).requires_grad_()
    outputs = model.snippets(raw)
    outputs = outputs._replace(logits=model.classifier(model.bnneck(outputs.feature)))
    model.classifier_oim.weight.copy_(unit(CLASSES, DIM))
    table = model.classifier_oim.weight.clone()
    losses = model.losses(outputs, PIDS, Recipe())
    assert losses.keys() == {'cross_entropy', 'triplet', 'oim', 'verification'}
    near(losses['cross_entropy'], Recipe().cross_entropy(outputs.logits, PIDS))
    near(losses['triplet'], Recipe().triplet(outputs.feature, PIDS))
    # clips 0, 2, 4 and 6 are the first or third of their identity
    probe, gallery = [0, 2, 4, 6], [1, 3, 5, 7]
    theirs = outputs.feature[gallery].expand(4, -1, -1)
    if outputs.other_keys is not None:
        theirs = attentive_pooling(
            outputs.values[gallery],
            outputs.other_keys[gallery],
            outputs.query[probe][:, None],
            model.config.attention,
        )
    logits = references.pair_logits(outputs.feature[probe], theirs, model.matcher)
    same = PIDS[probe][:, None] == PIDS[gallery]
    verification = 100 * references.verification(logits, same)
    frames, of_frames = outputs.values.flatten(0, 1), PIDS.repeat_interleave(L)
    oim = references.oim(frames, of_frames, table)
    inputs = [raw, model.value.linear.weight, model.matcher.linear.weight]
    own, expected = losses['oim'] + losses['verification'], oim + verification
    near(own, expected)
    grads = [torch.autograd.grad(x, inputs, retain_graph=True) for x in (own, expected)]
    near_all(*grads)
    near(
        model.classifier_oim.weight,
        references.moved_table(table, frames.detach(), of_frames),
    )


def test_weights_of_losses_are_keys():
    def losses(**config):
        model = network(**config).train()
        outputs = model.snippets(drawn(len(PIDS), L, D))
        outputs = outputs._replace(logits=model.classifier(model.bnneck(outputs.feature)))
        return model.losses(outputs, PIDS, Recipe())

    usual = losses()
    other = losses(oim_weight=3.0, verification_weight=10.0)
    near(other['oim'], 3 * usual['oim'])
    near(other['verification'], usual['verification'] / 10)
    assert 'oim' not in losses(oim=False)


def test_keys_reach_what_they_are_of():
    keys = {'oim_scale': 7.0, 'oim_momentum': 0.9, 'negative_weight': 1.0, 'percentile': 50.0}
    model = scattered(network(**keys)).train()
    assert (model.classifier_oim.scale, model.classifier_oim.momentum) == (7.0, 0.9)
    outputs = model.snippets(drawn(len(PIDS), L, D))
    near(outputs.values.norm(dim=2), torch.ones(len(PIDS), L))
    outputs = outputs._replace(logits=model.classifier(model.bnneck(outputs.feature)))
    delta = model._delta(outputs, torch.tensor([0, 2, 4, 6]), torch.tensor([1, 3, 5, 7]))
    same = PIDS[::2, None] == PIDS[1::2]
    expected = 100 * references.verification(model.matcher(delta), same, 1.0)
    near(model.losses(outputs, PIDS, Recipe())['verification'], expected)
    scores = drawn(1, 1, 3, 4)
    expected = references.aggregate((-scores[0, 0]).sigmoid(), 50)
    near((-model.join_scores(scores)).sigmoid().flatten(), [expected])


def test_a_batch_without_pairs_is_refused():
    model = network().train()
    outputs = model.snippets(drawn(3, L, D))
    outputs = outputs._replace(logits=model.classifier(model.bnneck(outputs.feature)))
    with pytest.raises(InputError, match=r'sampler\.train_sampler: csa compares clips of an id'):
        model.losses(outputs, torch.tensor([0, 3, 4]), Recipe())


# --- the network ---


@pytest.mark.parametrize(
    ('config', 'head', 'gigaflops'),
    [
        ({}, 262_528 + 262_528 + 262_528 + 1_115_136 + 514, 48.6621),
        ({'query': 'mean'}, 262_528 + 525_056 + 262_528 + 514, 48.6515),
        ({'query': 'mean', 'co_attention': False}, 262_528 + 525_056 + 514, 48.6484),
    ],
    ids=str,
)
def test_size_and_cost_are_those_of_the_paper(config, head, gigaflops):
    with torch.device('meta'):
        model = CSA(625, 6, CSAConfig(backbone='resnet50', **config), pretrained=False).eval()
        frames = torch.empty(6, 3, 256, 128)
        with FlopCounterMode(display=False) as counter:
            feature = model.embed(model.encode_frames(frames).view(1, 6, -1))
        pairs = model.pair_features(torch.empty(2, 6, 2048))
        scores = model.score_pairs(pairs, pairs)
    sizes = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert sizes.pop('encoder') == 23_508_032
    assert sizes.pop('classifier') == 625 * DIM and sizes.pop('bnneck') == DIM
    assert sum(sizes.values()) == head
    assert sizes['value'] == 262_528 and sizes['matcher'] == 514
    assert feature.shape == (1, DIM) and scores.shape == (2, 2)
    assert model.classifier_oim.weight.shape == (625, DIM)
    assert not list(model.classifier_oim.parameters())
    assert counter.get_total_flops() / 1e9 == pytest.approx(gigaflops, abs=1e-3)


def test_every_parameter_that_can_move_does():
    """A softmax over the frames and a batch norm do not see what all frames have in common."""
    model = network().train()
    clips = drawn(len(PIDS), L, 3, 32, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sum(model.losses(model(clips), PIDS, Recipe()).values()).backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if (p - before[name]).abs().max() > 1e-12}
    blind = {f'{head}.norm.bias' for head in ('key', 'other_key')}
    blind |= {f'{head}.linear.bias' for head in ('value', 'key', 'other_key')}
    assert before.keys() - moved == blind


def test_a_feature_is_pooled_by_its_own_query_and_explained():
    model = scattered(network()).eval()
    clips = drawn(2, L, 3, 32, 16)
    with torch.no_grad():
        feature = model(clips)
        snippets = model.snippets(model.encode_frames(clips.flatten(0, 1)).view(2, L, -1))
        near(feature, snippets.feature)
        near(model(clips[:, 0]), snippets.values[:, 0])  # of a still clip: v of its frame
    assert feature.shape == (2, DIM)
    explained = model.explain(clips)
    check_explained(explained, 2, L)
    near(explained['attention'].sum(dim=1), torch.ones(2))
    expected = (explained['channel_attention'] * snippets.values).sum(dim=1)
    near(explained['clip_feature'], expected)
    near(explained['clip_feature'], feature)


def test_the_start_and_the_defaults():
    torch.manual_seed(0)
    model = CSA(CLASSES, L, CSAConfig(backbone='resnet18', query='mean'), pretrained=False)
    for head in (model.value, model.key, model.other_key, model.query):
        bound = (6 / DIM) ** 0.5  # He uniform, of the outputs
        assert 0.99 * bound < head.linear.weight.abs().max() <= bound
        assert head.linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert not head.linear.bias.any()
    matcher = CSA(2, L, CSAConfig(backbone='resnet18'), pretrained=False).matcher
    assert 0.0008 < matcher.linear.weight.std() < 0.0012 and not matcher.linear.bias.any()
    config = CSAConfig()
    assert (config.query, config.lstm_state, config.attention) == ('lstm', 'last', 'channel')
    assert config.co_attention and config.oim
    weights = config.oim_weight, config.verification_weight, config.negative_weight
    assert weights == (1, 100, 3)
    assert (config.oim_scale, config.oim_momentum, config.percentile) == (30, 0.5, 20)


@variants
def test_half_precision_is_of_the_encoder_alone(variant):
    model = network(**variant).float().train()
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(drawn(4, L, 3, 32, 16).float())
    assert {one.dtype for one in outputs if one is not None} == {torch.float32}
    near(outputs.logits, model.classifier(model.bnneck(outputs.feature)), 1e-6)


def test_only_the_matcher_keeps_statistics_of_its_own_process():
    model = network()
    synchronize_outside_backbone(model)
    names = ('value', 'key', 'other_key')
    assert all(type(getattr(model, name).norm) is SyncBatchNorm for name in names)
    assert type(model.bnneck) is SyncBatchNorm and type(model.matcher.norm) is not SyncBatchNorm


@pytest.mark.parametrize('key', ['test.rerank', 'test.normalize_feature'])
def test_what_needs_distances_of_vectors_is_refused(key, mars_root, small_run, repository, capsys):
    from stmn_plugin.cli import train

    words = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), '-a', 'csa']
    words += ['--root', mars_root, *small_run, 'test.evaluate', 'True', key, 'True']
    with pytest.raises(SystemExit) as stop:
        train.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f'error: {key}: CSA scores pairs of tracklets itself')
