"""The encoder's three heads against torchvision's own, and where its first weights come from."""

import copy
import functools
import hashlib
import os
import pickle
import shutil
import socket

import gdown
import pytest
import references.stmn as references
import torch
import torchvision

from stmn_plugin.errors import InputError
from stmn_plugin.models import BACKBONES, Encoder

QUERY_HEADS = ('spatial_head', 'temporal_head')


@functools.cache
def fresh_resnet(name):
    torch.manual_seed(0)
    return torchvision.models.get_model(name)


@torch.no_grad()
def randomise(module, seed=0):
    """Every BN away from its start, and convolutions that differ from seed to seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.dim() == 4:
            tensor.copy_(tensor.roll(seed + 1, dims=0))
        elif tensor.is_floating_point() and not name.startswith('fc.'):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module


def own_conv5(name, conv5):
    """torchvision's layer4 with its two strides set by hand."""
    conv5 = copy.deepcopy(conv5)
    first = conv5[0]
    strided = first.conv1 if name in ('resnet18', 'resnet34') else first.conv2
    assert strided.stride == (2, 2) and first.downsample[0].stride == (2, 2)
    strided.stride = first.downsample[0].stride = (1, 1)
    return conv5


# --- maps ---


RESNETS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')


@pytest.mark.slow
@pytest.mark.parametrize('name', RESNETS)
def test_a_256x128_frame_gives_16x8_positions(name):
    with torch.device('meta'):
        encoder = Encoder(name, pretrained=False)
        maps = encoder(torch.empty(2, 3, 256, 128))
    dim = 512 if name in ('resnet18', 'resnet34') else 2048
    assert encoder.dim == dim
    assert [tuple(m.shape) for m in maps[:2]] == [(2, dim, 16, 8)] * 2
    assert maps.temporal_queries.shape == (2, dim)


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_the_three_heads_start_equal_and_share_no_tensor(name):
    encoder = Encoder(name, pretrained=False)
    frame = encoder.frame_head.state_dict()
    for head in QUERY_HEADS:
        other = getattr(encoder, head).state_dict()
        assert frame.keys() == other.keys()
        for key, tensor in frame.items():
            assert torch.equal(tensor, other[key])
            assert tensor.data_ptr() != other[key].data_ptr()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(('name', 'size'), [('resnet18', (48, 32)), ('resnet50', (64, 32))])
def test_every_head_equals_torchvisions_conv5_at_stride_one(name, size):
    torch.manual_seed(0)
    encoder = Encoder(name, pretrained=False).double().eval()
    fresh = fresh_resnet(name)
    for seed, head in enumerate(('trunk', 'frame_head', *QUERY_HEADS)):
        randomise(getattr(encoder, head), seed)
    frames = torch.randn(2, 3, *size, dtype=torch.float64)
    maps = encoder(frames)

    resnet = copy.deepcopy(fresh).double().eval()
    layers = ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3')
    conv4 = frames
    for layer, ours in zip(layers, encoder.trunk, strict=True):
        getattr(resnet, layer).load_state_dict(ours.state_dict())
        conv4 = getattr(resnet, layer)(conv4)
    own = own_conv5(name, resnet.layer4)

    own.load_state_dict(encoder.frame_head.state_dict())
    assert references.relative_error(maps.frame_features, own(conv4)) <= 1e-10
    own.load_state_dict(encoder.spatial_head.state_dict())
    assert references.relative_error(maps.spatial_queries.clamp(min=0), own(conv4)) <= 1e-10
    spatial, temporal = (
        references.query_map(encoder, getattr(encoder, head), frames) for head in QUERY_HEADS
    )
    assert references.relative_error(maps.spatial_queries, spatial) <= 1e-10
    assert references.relative_error(maps.temporal_queries, references.gap(temporal)) <= 1e-10
    assert references.relative_error(spatial, temporal) > 0.01


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_queries_can_be_negative_and_frame_features_cannot(training):
    torch.manual_seed(1)
    encoder = Encoder('resnet18', pretrained=False).train(training)
    maps = encoder(torch.randn(2, 3, 64, 32))
    assert maps.frame_features.min() == 0
    queries = maps.spatial_queries
    assert (queries < 0).float().mean() > 0.1
    assert torch.equal(queries.clamp(min=0), maps.frame_features)  # equal heads at the start
    pooled = queries.mean(dim=(2, 3))
    torch.testing.assert_close(maps.temporal_queries, pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_the_pooled_query_has_the_gradients_of_the_map(name):
    torch.manual_seed(3)
    encoder = Encoder(name, spatial=False, pretrained=False).double().train()
    randomise(encoder.temporal_head, 1)
    frames = torch.randn(3, 3, 48, 32, dtype=torch.float64)
    parameters = list(encoder.temporal_head.parameters())
    weights = torch.randn(3, encoder.dim, dtype=torch.float64)
    ours = torch.autograd.grad((encoder(frames).temporal_queries * weights).sum(), parameters)
    pooled = references.gap(references.query_map(encoder, encoder.temporal_head, frames))
    theirs = torch.autograd.grad((pooled * weights).sum(), parameters)
    for gradient, expected in zip(ours, theirs, strict=True):
        assert references.relative_error(gradient, expected) <= 1e-9


def test_query_heads_train_like_the_block_itself():
    """Same batch statistics, running statistics and, above zero, the same gradients."""
    torch.manual_seed(2)
    encoder = Encoder('resnet18', temporal=False, pretrained=False).double().train()
    maps = encoder(torch.randn(3, 3, 48, 32, dtype=torch.float64))
    frame, spatial = encoder.frame_head, encoder.spatial_head
    for key, tensor in frame.state_dict().items():
        assert torch.equal(tensor, spatial.state_dict()[key]), key
    weights = torch.randn_like(maps.frame_features)
    ours = torch.autograd.grad(
        (maps.spatial_queries.clamp(min=0) * weights).sum(),
        list(spatial.parameters()),
        retain_graph=True,
    )
    theirs = torch.autograd.grad((maps.frame_features * weights).sum(), list(frame.parameters()))
    for gradient, expected in zip(ours, theirs, strict=True):
        assert references.relative_error(gradient, expected) <= 1e-10


@pytest.mark.parametrize(
    ('spatial', 'temporal'), [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_head_that_is_not_wanted_has_neither_weights_nor_map(spatial, temporal):
    with torch.device('meta'):
        encoder = Encoder('resnet18', spatial, temporal, pretrained=False)
        maps = encoder(torch.empty(1, 3, 64, 32))
    assert (maps.spatial_queries is not None) == spatial
    assert (maps.temporal_queries is not None) == temporal
    parts = ['trunk', 'frame_head'] + ['spatial_head'] * spatial + ['temporal_head'] * temporal
    assert {name.split('.')[0] for name, _ in encoder.named_parameters()} == set(parts)


def test_an_unknown_backbone_is_quoted_with_the_known_ones():
    with pytest.raises(InputError) as caught:
        Encoder('resnet19', pretrained=False)
    assert "'resnet19'" in str(caught.value) and 'stmn.backbone' in str(caught.value)
    for name in BACKBONES:
        assert name in str(caught.value)


# --- weights ---


@pytest.fixture(scope='module')
def weights_file(tmp_path_factory):
    """A file like torchvision's own, and the model that is in it."""
    resnet = randomise(copy.deepcopy(fresh_resnet('resnet18')))
    path = tmp_path_factory.mktemp('weights') / 'resnet18.pth'
    torch.save(resnet.state_dict(), path)
    return path, resnet


def assert_holds(encoder, resnet):
    layers = [resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool]
    layers += [resnet.layer1, resnet.layer2, resnet.layer3]
    pairs = list(zip(encoder.trunk, layers, strict=True))
    pairs += [(getattr(encoder, head), resnet.layer4) for head in ('frame_head', *QUERY_HEADS)]
    for ours, theirs in pairs:
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        for key, tensor in ours.state_dict().items():
            assert torch.equal(tensor, expected[key]), key


def refusal(path, backbone='resnet18', **arguments):
    """The message with which a file is refused: one line that names key and file."""
    with pytest.raises(InputError) as caught:
        Encoder(backbone, weights=str(path), **arguments)
    message = str(caught.value)
    assert str(path) in message and 'stmn.backbone_weights' in message
    assert '\n' not in message
    return message


def test_weights_of_a_file_reach_the_trunk_and_all_three_heads(weights_file):
    path, resnet = weights_file
    assert_holds(Encoder('resnet18', weights=str(path)), resnet)


@pytest.mark.parametrize('classes', [None, 21])
def test_a_file_needs_no_class_scores_and_ignores_those_it_has(weights_file, tmp_path, classes):
    _, resnet = weights_file
    state = {k: v for k, v in resnet.state_dict().items() if not k.startswith('fc.')}
    if classes:
        state |= {'fc.weight': torch.zeros(classes, 512), 'fc.bias': torch.zeros(classes)}
    torch.save(state, tmp_path / 'trunk.pth')
    assert_holds(Encoder('resnet18', weights=str(tmp_path / 'trunk.pth')), resnet)


def test_a_checkpoint_with_a_state_dict_inside_works(weights_file, tmp_path):
    _, resnet = weights_file
    torch.save({'state_dict': resnet.state_dict(), 'epoch': 3}, tmp_path / 'checkpoint.pth')
    assert_holds(Encoder('resnet18', weights=str(tmp_path / 'checkpoint.pth')), resnet)


@pytest.mark.slow
@pytest.mark.parametrize('prefix', ['encoder.', 'module.encoder.'])
def test_a_checkpoint_of_this_package_gives_its_encoder(weights_file, tmp_path, prefix):
    _, resnet = weights_file
    trained = Encoder('resnet18', weights=str(weights_file[0]))
    with torch.no_grad():  # no copies of each other any more
        for parameter in trained.spatial_head.parameters():
            parameter.add_(1)
    state = {prefix + key: tensor for key, tensor in trained.state_dict().items()}
    state[prefix.replace('encoder.', 'classifier_clip.weight')] = torch.ones(3, 512)
    path = tmp_path / 'model.pth.tar-3'
    torch.save({'state_dict': state, 'epoch': 3}, path)
    assert_holds(Encoder('resnet18', weights=str(path)), resnet)
    assert 'does not fit resnet34' in refusal(path, backbone='resnet34')


@pytest.mark.slow
@pytest.mark.parametrize('wrap', ['model', 'DDP', 'compiled', 'float64', 'without counters'])
def test_weights_of_other_programs_work(weights_file, tmp_path, wrap):
    _, resnet = weights_file
    state = resnet.state_dict()
    content = {
        'model': {'model': state},
        'DDP': {f'module.{key}': value for key, value in state.items()},
        'compiled': {f'_orig_mod.{key}': value for key, value in state.items()},
        'float64': {key: value.to(torch.float64) for key, value in state.items()},
        'without counters': {k: v for k, v in state.items() if 'num_batches' not in k},
    }[wrap]
    torch.save(content, tmp_path / 'weights.pth')
    assert_holds(Encoder('resnet18', weights=str(tmp_path / 'weights.pth')), resnet)


def test_weights_that_are_not_finite_are_refused(weights_file, tmp_path):
    state = dict(weights_file[1].state_dict())
    state['layer3.0.conv1.weight'] = torch.full_like(state['layer3.0.conv1.weight'], torch.nan)
    torch.save(state, tmp_path / 'nan.pth')
    assert 'not finite, first layer3.0.conv1.weight' in refusal(tmp_path / 'nan.pth')


def test_a_path_may_begin_with_the_home_folder(weights_file, monkeypatch):
    path, resnet = weights_file
    monkeypatch.setenv('HOME', str(path.parent))
    assert_holds(Encoder('resnet18', weights='~/resnet18.pth'), resnet)


def test_without_pretrained_the_file_is_not_read(tmp_path):
    torch.manual_seed(5)
    encoder = Encoder('resnet18', pretrained=False, weights=str(tmp_path / 'missing.pth'))
    torch.manual_seed(5)
    assert_holds(encoder, torchvision.models.get_model('resnet18'))


@pytest.mark.parametrize('spelling', [str.lower, str.upper])
def test_a_matching_sha256_is_accepted(weights_file, spelling):
    path, resnet = weights_file
    digest = spelling(hashlib.sha256(path.read_bytes()).hexdigest())
    assert_holds(Encoder('resnet18', weights=str(path), sha256=digest), resnet)


def test_another_sha256_is_refused_with_both_digests(weights_file):
    path, _ = weights_file
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    message = refusal(path, sha256='0' * 64)
    assert found in message and '0' * 64 in message


def test_a_missing_file_is_refused(tmp_path):
    assert 'no file' in refusal(tmp_path / 'missing.pth')


def test_a_folder_in_the_files_place_is_refused(tmp_path):
    assert 'a folder' in refusal(tmp_path)


@pytest.mark.parametrize('kind', ['truncated', 'empty', 'web page', 'flipped'])
def test_a_damaged_file_is_refused(weights_file, tmp_path, kind):
    data = weights_file[0].read_bytes()
    damaged = {
        'truncated': data[: len(data) // 2],
        'empty': b'',
        'web page': b'<html>Quota exceeded</html>',
        'flipped': b'\0' * 4096 + data[4096:],
    }[kind]
    path = tmp_path / 'damaged.pth'
    path.write_bytes(damaged)
    message = refusal(path)
    assert (kind in message or 'damaged' in message) and 'weights_only' not in message


def hollow_state(name):
    """The tensors of a ResNet by name and shape, of which each holds one number."""
    with torch.device('meta'):
        state = torchvision.models.get_model(name).state_dict()
    return {key: torch.zeros((), dtype=t.dtype).expand(t.shape) for key, t in state.items()}


@pytest.mark.parametrize('name', ['resnet34', 'resnet50'])
def test_weights_of_another_backbone_are_refused(tmp_path, name):
    path = tmp_path / f'{name}.pth'
    torch.save(hollow_state(name), path)
    assert 'does not fit resnet18' in refusal(path)


def test_weights_of_a_smaller_backbone_are_refused(tmp_path):
    path = tmp_path / 'resnet18.pth'
    torch.save(hollow_state('resnet18'), path)
    with pytest.raises(InputError, match='does not fit resnet34') as caught:
        Encoder('resnet34', weights=str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    'content',
    [
        [torch.zeros(2)],
        torch.zeros(2),
        {},
        {'state': {}, 'param_groups': []},
        {'state_dict': [torch.zeros(2)]},
        {0: torch.zeros(2)},
        {'conv1.weight': 3},
    ],
    ids=['list', 'tensor', 'nothing', 'optimizer', 'inner-list', 'numbered', 'number'],
)
def test_a_file_with_something_else_inside_is_refused(tmp_path, content):
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    refusal(path)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize('container', ['torch', 'torch-legacy', 'pickle'])
def test_a_malicious_pickle_runs_nothing(tmp_path, container):
    marker, path = tmp_path / 'ran', tmp_path / 'weights.pth'
    content = {'conv1.weight': Payload(marker)}
    if container == 'pickle':
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == 'torch')
    refusal(path)
    assert not marker.exists()
    if container == 'pickle':  # the trap is a working one
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


# --- torchvision's own weights, and links ---


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No name resolves, no socket connects, and nothing is in torch's cache."""

    def refuse(*_, **__):
        raise OSError('Network is unreachable')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch'


def test_without_network_the_message_says_how_to_go_on(no_network):
    with pytest.raises(InputError) as caught:
        Encoder('resnet18')
    message = str(caught.value)
    for words in ('resnet18', 'stmn.backbone_weights', 'model.pretrained False', 'unreachable'):
        assert words in message
    assert '\n' not in message


@pytest.mark.parametrize('content', [b'', b'not weights', b'PK\x03\x04 half a zip'])
def test_a_damaged_file_in_torchs_cache_is_an_input_error(no_network, content):
    name = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit('/', 1)[1]
    cached = no_network / 'hub' / 'checkpoints' / name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    with pytest.raises(InputError, match='resnet18') as caught:
        Encoder('resnet18')
    assert 'weights_only' not in str(caught.value)


def test_torchvisions_own_imagenet_weights_are_taken_by_default(weights_file, monkeypatch):
    _, resnet = weights_file
    asked = []

    def served(url, *_, **arguments):
        asked.append((url, arguments.get('check_hash')))
        return resnet.state_dict()

    names = torchvision.models.WeightsEnum.get_state_dict.__globals__
    monkeypatch.setitem(names, 'load_state_dict_from_url', served)
    assert_holds(Encoder('resnet18'), resnet)
    assert asked == [(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url, True)]


DRIVE_LINK = 'https://drive.google.com/file/d/1AbCdEf/view?usp=sharing'


@pytest.fixture
def drive(monkeypatch, weights_file):
    """gdown.download that copies a file; says what was asked of it."""
    asked = []

    def download(url=None, output=None, **_):
        asked.append((url, output))
        return shutil.copy(weights_file[0], output)

    monkeypatch.setattr(gdown, 'download', download)
    return asked


def test_a_google_drive_link_goes_through_gdown_and_leaves_no_file(drive, weights_file):
    path, resnet = weights_file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert_holds(Encoder('resnet18', weights=DRIVE_LINK, sha256=digest), resnet)
    ((url, output),) = drive
    assert url == DRIVE_LINK
    assert not os.path.exists(output) and not os.path.exists(os.path.dirname(output))


def test_the_sha256_of_a_downloaded_file_is_checked_and_the_link_named(drive):
    assert '1' * 64 in refusal(DRIVE_LINK, sha256='1' * 64)
    assert not os.path.exists(drive[0][1])


def test_plain_http_needs_a_digest(drive):
    link = DRIVE_LINK.replace('https', 'http')
    assert 'plain http needs' in refusal(link) and not drive
    assert '1' * 64 in refusal(link, sha256='1' * 64) and drive


@pytest.mark.parametrize('failure', ['raises', 'none'])
def test_a_link_that_cannot_be_fetched_is_refused(monkeypatch, failure):
    def download(*_, **__):
        if failure == 'raises':
            raise RuntimeError('Cannot retrieve the public link\nof the file')

    monkeypatch.setattr(gdown, 'download', download)
    refusal(DRIVE_LINK)
