"""Checkpoints of the authors' released code → ours: the same features, losses and gradients."""

import copy
import functools

import pytest
import torch
import torchvision
from references.released import spread_of_parts
from references.released_network import ReleasedNetwork, randomise
from references.stmn import batch_hard_triplet, cross_entropy, relative_error

import stmn_plugin
from stmn_plugin.cli import convert_authors
from stmn_plugin.config import flatten, load_config
from stmn_plugin.config.kwargs import recipe_kwargs
from stmn_plugin.config.shipped import config_path
from stmn_plugin.errors import InputError
from stmn_plugin.losses import Recipe
from stmn_plugin.models.authors_weights import converted, read_authors_weights
from stmn_plugin.models.building import ModelSpec, build_video_model

CLASSES, M, N, L = 6, 4, 5, 3
RELEASED = 'stmn_mars_released'


@pytest.fixture
def config(tmp_path):
    """The released config with a small backbone."""
    path = tmp_path / 'small.yaml'
    path.write_text(f'_BASE_: {config_path(RELEASED)}\nstmn: {{backbone: resnet18}}\n')
    return str(path)


@functools.lru_cache(1)
def small_network():
    return network('resnet18', (M, N, L))


def network(backbone, sizes):
    resnet = torchvision.models.get_model(backbone)
    return randomise(ReleasedNetwork(resnet, CLASSES, *sizes)).eval()


def clips(count=2, size=(64, 32), seq_len=L):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, seq_len, 3, *size, generator=generator, dtype=torch.float64)


def convert(state, tmp_path, config, name='ours.pth.tar'):
    theirs, ours = tmp_path / 'ckpt_best.pth', tmp_path / name
    torch.save(state, theirs)
    convert_authors.main([str(theirs), str(ours), '--config', config])
    return stmn_plugin.load_model(ours).double()


def parallel(network):
    """As their training saves it."""
    return {f'module.{name}': tensor for name, tensor in network.state_dict().items()}


@pytest.mark.slow
@torch.no_grad()
def test_a_converted_checkpoint_has_their_features(tmp_path, config, capsys):
    theirs = copy.deepcopy(small_network())
    ours = convert(parallel(theirs), tmp_path, config)
    assert 'stmn.spatial_items 4, stmn.temporal_items 5, video.seq_len 3' in capsys.readouterr().out
    assert ours.spec.config['stmn.addressing'] == 'group' and ours.spec.seq_len == L
    for size in ((64, 32), (48, 48)):  # K = 8 and 9 positions, D = 512
        batch = clips(size=size)
        expected = theirs.double()(batch)
        assert relative_error(ours(batch), expected) <= 1e-9
        plain = copy.deepcopy(ours)
        plain.spatial_memory.bn.weight.zero_()
        assert relative_error(plain(batch), expected) > 0.01  # the spatial memory counts


@pytest.mark.slow
@torch.no_grad()
def test_every_tensor_counts_but_those_that_only_training_uses(tmp_path, config):
    state, batch = small_network().state_dict(), clips(1)
    ours = convert(state, tmp_path, config)
    tensors, before = read_authors_weights(str(tmp_path / 'ckpt_best.pth')), ours.state_dict()
    before, feature = {name: value.clone() for name, value in before.items()}, ours(batch)
    names = 'smem.key smem.val tmem.key tmem.val tmem.lstm.bias_hh_l0 bn_t.running_mean '
    names += 'features.backbone.layer2.1.bn1.running_var features.backbone.layer4_key_t.1.bn2.bias '
    for name in [*names.split(), 'bn_s.running_mean', 'cls_s.weight', 'cls_t.weight']:
        tensor = tensors[name]
        other = tensor + torch.linspace(0, 1, tensor.numel()).view(tensor.shape)
        ours.load_state_dict(converted({**tensors, name: other}, ours, 'x'))
        changed = [key for key, value in ours.state_dict().items() if (value != before[key]).any()]
        assert len(changed) == 1, name
        moved = relative_error(ours(batch), feature) > 1e-9
        assert moved == (name.partition('.')[0] not in ('bn_s', 'cls_s', 'cls_t')), name


@pytest.mark.slow
def test_losses_and_gradients_in_training_are_theirs(tmp_path, config):
    theirs = copy.deepcopy(small_network())
    ours = convert(theirs.state_dict(), tmp_path, config).train()
    theirs = theirs.double().train()
    batch, pids = clips(5), torch.tensor([0, 0, 1, 1, 1])
    out = theirs(batch)
    expected = sum(
        cross_entropy(out[f'{part}_logits'], pids)
        + batch_hard_triplet(out[f'{part}_feature'], pids)
        for part in ('clip', 'frame')
    ) + sum(
        spread_of_parts(out[f'{part}_probs'], 5, 0.3, 'mean', 3) for part in ('spatial', 'temporal')
    )
    recipe = Recipe(**recipe_kwargs(load_config(config)))
    loss = sum(ours.losses(ours(batch), pids, recipe).values())
    assert relative_error(loss, expected) <= 1e-9
    pairs = [
        (ours.spatial_memory.values, theirs.smem.val),
        (ours.spatial_memory.keys, theirs.smem.key),
        (ours.temporal_memory.keys, theirs.tmem.key),
        (ours.temporal_memory.values, theirs.tmem.val),
        (ours.encoder.trunk[0].weight, theirs.features.backbone.conv1.weight),
        (ours.bnneck_frame.weight, theirs.bn_s.weight),
    ]
    one = torch.autograd.grad(loss, [a for a, _ in pairs])
    other = torch.autograd.grad(expected, [b for _, b in pairs])
    for (_, parameter), mine, wanted in zip(pairs, one, other, strict=True):
        assert relative_error(mine, wanted) <= 1e-8, parameter.shape
    for mine, wanted in ((ours.bnneck_frame, theirs.bn_s), (ours.bnneck_clip, theirs.bn_t)):
        assert relative_error(mine.running_var, wanted.running_var) <= 1e-9
    assert relative_error(ours.spatial_memory.bn.running_var, theirs.smem.bn.running_var) <= 1e-9


@pytest.mark.slow
@torch.no_grad()
def test_transposed_memories_and_wrapped_files_are_read(tmp_path, config):
    state = copy.deepcopy(small_network()).state_dict()
    batch = clips(1)
    expected = convert(state, tmp_path, config)(batch)
    turned = dict(state)
    for name in ('smem.key', 'smem.val', 'tmem.key', 'tmem.val'):
        turned[name] = state[name].T.contiguous()
    for name in list(turned):
        if name.endswith('num_batches_tracked'):
            del turned[name]
    model = convert({'state_dict': turned, 'epoch': 9}, tmp_path, config, 'ours.safetensors')
    assert torch.equal(model(batch), expected)


@pytest.mark.slow
@torch.no_grad()
def test_a_bias_of_a_bnneck_goes_into_its_mean(tmp_path, config):
    theirs = copy.deepcopy(small_network())
    theirs.bn_t.bias.normal_()
    theirs.bn_s.bias.normal_()
    ours = convert(theirs.state_dict(), tmp_path, config)
    batch = clips(1)
    assert relative_error(ours(batch), theirs.double()(batch)) <= 1e-6  # a mean in float32


def broken(state, change):
    state = dict(state)
    for name, value in change.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'smem.key': None}, "no weights of the authors' released code: it has no smem.key"),
        ({'bn_s.bias': None}, 'it has no features.backbone.conv1.weight'),
        ({'head.weight': torch.zeros(3)}, 'unknown tensor head.weight'),
        ({'smem.key': torch.zeros(4, 500)}, 'smem.key has shape (4, 500): neither its rows nor'),
        ({'tmem.val': torch.zeros(4, 6)}, 'tmem.val has shape (4, 6): neither its rows nor'),
        ({'smem.val': torch.zeros(5, 512)}, 'smem.val has shape (5, 512), the config says (4, 512'),
        ({'cls_s.weight': torch.zeros(7, 512)}, 'cls_s.weight has shape (7, 512), the config says'),
        ({'bn_t.weight': torch.full((512,), float('nan'))}, 'not finite, first bn_t.weight'),
        (
            {'smem.key': torch.full((4, 512), 1e300, dtype=torch.float64)},
            'not finite, first smem.key',
        ),
        ({'smem.key': torch.ones(4, 512).long()}, 'smem.key is of type torch.int64, not torch.flo'),
        ({'smem.val': torch.ones(4, 512).cfloat()}, 'smem.val is of type torch.complex64, not tor'),
        ({'smem.key': torch.zeros(0, 512)}, 'smem.key is empty'),
        ({'cls_t.weight': torch.zeros(())}, 'cls_t.weight is no matrix'),
        ({'bn_t.weight': torch.zeros(())}, 'bn_t.weight is no vector'),
        ({'bn_t.bias': torch.ones(3)}, 'bn_t.bias has shape (3,), the config says (512,)'),
        ({'bn_t.running_var': None, 'bn_t.bias': torch.ones(512)}, 'it has no'),
    ],
    ids=lambda value: '' if isinstance(value, str) else '+'.join(value),
)
def test_what_cannot_be_read_is_one_line(change, said, tmp_path, config, capsys):
    state = small_network().state_dict()
    small = {name: value for name, value in state.items() if not name.startswith('features.')}
    torch.save(broken(small, change), tmp_path / 'theirs.pth')
    with pytest.raises(SystemExit) as ended:
        convert_authors.main(
            [str(tmp_path / 'theirs.pth'), str(tmp_path / 'ours.pth'), '--config', config]
        )
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count('\n') == 1
    assert not (tmp_path / 'ours.pth').exists()


@pytest.mark.parametrize(
    'change',
    [
        {'bias': torch.full((512,), 3e38)},
        {'bias': torch.ones(512), 'weight': torch.zeros(512)},
        {'bias': torch.ones(512), 'running_var': -torch.ones(512)},
    ],
    ids='+'.join,
)
def test_a_bias_that_cannot_be_folded_is_one_line(change, config):
    changed = {f'bn_s.{name}': value for name, value in change.items()}
    model = our_network(config)
    with pytest.raises(InputError, match=r'^x: bn_s.bias cannot be folded into its mean'):
        converted({**small_network().state_dict(), **changed}, model, 'x')


def our_network(config, *words):
    """Without weights."""
    sizes = f'stmn.spatial_items {M} stmn.temporal_items {N} video.seq_len {L}'.split()
    spec = ModelSpec.from_config(flatten(load_config(config, [*sizes, *words])))
    with torch.device('meta'):
        return build_video_model(spec, CLASSES, pretrained=False)


@pytest.mark.parametrize('dtype', [torch.half, torch.float8_e4m3fn], ids=str)
def test_numbers_of_less_precision_are_read_as_they_are(dtype, config, tmp_path):
    state = {name: value.to(dtype) for name, value in small_network().state_dict().items()}
    torch.save(state, tmp_path / 'theirs.pth')  # counters are rounded, too
    tensors = read_authors_weights(str(tmp_path / 'theirs.pth'))
    weights = converted(tensors, our_network(config), 'x')
    assert weights['bnneck_clip.num_batches_tracked'].dtype == torch.int64
    ours, theirs = weights['temporal_memory.values'], state['tmem.val']
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs.float())


def test_another_network_than_theirs_is_one_line(config):
    model = our_network(config, 'stmn.temporal_mode', 'mlp')
    with pytest.raises(InputError, match=r'has temporal_memory\.hidden\.weight, the authors'):
        converted(small_network().state_dict(), model, 'x')


def test_the_checkpoint_is_not_overwritten(tmp_path, config, capsys):
    path = tmp_path / 'theirs.pth'
    path.write_bytes(b'precious')
    for output in (path, tmp_path):
        with pytest.raises(SystemExit) as ended:
            convert_authors.main([str(path), str(output), '--config', config])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count('\n') == 1
        assert str(output) in error and path.read_bytes() == b'precious'


def test_another_backbone_than_the_configs_is_one_line(tmp_path):
    torch.save(small_network().state_dict(), tmp_path / 'theirs.pth')
    said = r'layer1.0.conv1.weight has shape \(64, 64, 3, 3\), the config says \(64, 64, 1, 1\)'
    with pytest.raises(InputError, match=said):
        convert_authors.convert(str(tmp_path / 'theirs.pth'), str(tmp_path / 'ours.pth'))


@pytest.mark.slow
@torch.no_grad()
def test_a_resnet_50_of_the_papers_size(tmp_path):
    theirs = network('resnet50', (10, 5, 6))
    theirs.bn_t.running_var.fill_(1e5)  # features of the size that trained ones have
    ours = convert(parallel(theirs), tmp_path, RELEASED)
    batch = clips(1, (128, 64), 6).float()
    expected = theirs(batch)
    assert (ours.float()(batch) - expected).abs().max() <= 1e-4
    assert expected.abs().mean() > 0.1
