"""Several processes train and test like one: losses, weights, features and evaluations."""

import collections
import copy
import dataclasses
import json
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torchvision
from processes import on_processes
from torch import nn

from stmn_plugin import distributed
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.settings import TestSettings
from stmn_plugin.host.engine import VideoEngine
from stmn_plugin.host.registration import model_registry
from stmn_plugin.models import STMN, FramePooling, VideoModel
from stmn_plugin.models.frame_pooling import ImageModelConfig
from stmn_plugin.models.heads import BNNeck
from stmn_plugin.models.sync_batch_norm import (
    SyncBatchNorm,
    synchronize_batch_norm,
    synchronize_outside_backbone,
)
from stmn_plugin.training.batches import EpochBatches
from stmn_plugin.training.settings import TrainingSettings
from stmn_plugin.training.step import map_tensors

CLASSES, CLIPS, L = 4, 8, 2


def test_outside_the_backbone_every_batch_norm_is_synchronised_and_names_stay(narrow):
    model = narrow()
    before = {name: type(part) for name, part in model.named_modules()}
    parameters, keys = list(model.parameters()), list(model.state_dict())
    synchronize_outside_backbone(model)
    changed = {name for name, part in model.named_modules() if type(part) is not before[name]}
    assert changed == {'bnneck_clip', 'bnneck_frame', 'spatial_memory.bn'}
    assert all(type(model.get_submodule(name)) is SyncBatchNorm for name in changed)
    assert list(model.state_dict()) == keys and 'bnneck_clip.bias' not in keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not model.bnneck_clip.bias.requires_grad and not model.bnneck_clip.bias.any()


def test_what_runs_in_the_losses_is_left_as_it_is(narrow, monkeypatch):
    model = narrow()
    monkeypatch.setattr(model, 'parts_of_losses', lambda: [model.bnneck_frame])
    synchronize_outside_backbone(model)
    assert type(model.bnneck_frame) is BNNeck and type(model.bnneck_clip) is SyncBatchNorm


def narrow_resnet(name):
    """What the encoder takes of a ResNet, 8 channels wide."""
    block = torchvision.models.resnet.BasicBlock
    return SimpleNamespace(
        conv1=nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        bn1=nn.BatchNorm2d(8),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.Identity(),
        layer1=nn.Sequential(block(8, 8)),
        layer2=nn.Sequential(),
        layer3=nn.Sequential(),
        layer4=nn.Sequential(block(8, 8), block(8, 8)),
        fc=nn.Linear(8, 1),
    )


@pytest.fixture
def narrow(monkeypatch):
    """Makes a small STMN of any kind."""
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)
    torch.manual_seed(3)
    sizes = {'spatial_items': 4, 'temporal_items': 3}

    def make(**modes):
        return STMN(CLASSES, L, STMN.Config(**sizes, **modes), pretrained=False).double()

    return make


@pytest.fixture
def stmn(narrow):
    model = narrow()
    nn.init.uniform_(model.spatial_memory.bn.weight, 0.5, 1)  # 0 would hide it in the first step
    # its loss gradient is zero, as BNNecks remove it: from 0, Adam would follow rounding errors
    nn.init.uniform_(model.spatial_memory.bn.bias, 0.5, 1)
    return model


@pytest.fixture
def batches():
    """Three P x K batches of clips."""
    torch.manual_seed(4)
    pids = torch.arange(CLASSES).repeat_interleave(CLIPS // CLASSES)
    clips = torch.randn(3, CLIPS, L, 3, 8, 6, dtype=torch.float64) + pids.view(-1, 1, 1, 1, 1) / 4
    return [{'img': batch, 'pid': pids} for batch in clips]


def own_part(batch):
    return {key: value[distributed.shard([1] * CLIPS)] for key, value in batch.items()}


SOFTMAX = {'weight_t': None}  # cross-entropy alone


def trained(
    model,
    batches,
    optimizer,
    sync_bn=False,
    frozen=None,
    epochs=1,
    accumulate=1,
    amp='off',
    **options,
):
    """Losses of every step and weights after ``epochs``, in the first of which a layer is frozen.

    Returns:
        tuple: list of dictionaries of losses, state dict.
    """
    model, seen = copy.deepcopy(model), []
    if sync_bn and distributed.world_size() > 1:
        inside = model.backbone() if isinstance(model, VideoModel) else model
        synchronize_batch_norm(inside, use_gpu=False)
    optimizer = {
        'sgd': lambda: torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3),
        'adam': lambda: torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3),
    }[optimizer]()
    data = SimpleNamespace(
        train_loader=[own_part(batch) for batch in batches],
        test_loader={},
        num_train_pids=CLASSES,
        data_type='video',
    )

    training = TrainingSettings(accumulate=accumulate, amp=amp)
    engine = VideoEngine(data, model, optimizer, use_gpu=False, training=training, **options)
    engine.max_epoch = epochs
    step = engine.trainer.train_batch
    engine.trainer.train_batch = lambda batch: seen.append(step(batch)) or seen[-1]
    layers = [name for name, _ in model.named_children() if name != frozen]
    for epoch in range(epochs):
        engine.epoch = epoch
        engine.train(99, fixbase_epoch=1 if frozen else 0, open_layers=layers)
    assert engine.trainer.log.images == len(batches) * CLIPS * L  # those of all processes
    return seen, model.state_dict()


def assert_like_one_process(number_of_steps, *args, **kwargs):
    losses, weights = trained(*args, **kwargs)
    assert len(losses) == number_of_steps
    close = {'rtol': 0, 'atol': 1e-8}
    for own_losses, own_weights in on_processes(lambda: trained(*args, **kwargs)):
        for step, own_step in zip(losses, own_losses, strict=True):
            assert own_step == pytest.approx(step, rel=0, abs=1e-8)
        torch.testing.assert_close(own_weights, weights, **close)
    return losses, weights


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', ['sgd', 'adam'])
def test_two_processes_train_like_one(optimizer, stmn, batches):
    _, weights = assert_like_one_process(3, stmn, batches, optimizer, sync_bn=True)
    for key, before in stmn.state_dict().items():  # or it would prove little
        assert not torch.equal(weights[key], before), key


def test_image_models_on_clips_do_too(monkeypatch, batches):
    torch.manual_seed(5)
    monkeypatch.setitem(model_registry(), 'mine', lambda **_: FeaturesInTesting(True))
    model = FramePooling(CLASSES, L, ImageModelConfig('mine', 8, 6), pretrained=False).double()
    assert_like_one_process(3, model, batches, 'sgd', sync_bn=True)


@pytest.mark.slow
@pytest.mark.parametrize('spatial, temporal', [('none', 'average'), ('memory', 'mlp')])
def test_its_variants_do_too(spatial, temporal, narrow, batches):
    model = narrow(spatial_mode=spatial, temporal_mode=temporal)
    assert_like_one_process(3, model, batches, 'sgd', sync_bn=True)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, SOFTMAX], ids=['clips', 'frames'])
def test_batches_that_make_a_step_together_do_too(options, stmn, batches):
    model = ImageModel(with_features=False).double() if options else stmn
    options = {'sync_bn': True, **options}
    _, weights = assert_like_one_process(3, model, batches, 'sgd', accumulate=2, **options)
    _, single = trained(model, batches, 'sgd', **options)
    assert any(not torch.equal(weights[key], value) for key, value in single.items())


@pytest.mark.slow
def test_activations_that_are_computed_again_do_too(stmn, batches):
    stmn.encoder.checkpoint_activations = True
    assert_like_one_process(3, stmn, batches, 'sgd', sync_bn=True)


@pytest.mark.slow
def test_all_but_the_batch_statistics_of_the_backbone_is_global_without_sync_bn(stmn, batches):
    """The encoder is frozen here, and with it its statistics."""
    assert_like_one_process(3, stmn, batches, 'adam', frozen='encoder')
    with pytest.raises(AssertionError):  # whereas statistics of each process are others
        assert_like_one_process(3, stmn, batches, 'adam')


@pytest.mark.slow
def test_layers_that_are_frozen_at_first_train_later(stmn, batches):
    for frozen in ('encoder', 'spatial_memory', 'classifier_clip'):
        _, weights = assert_like_one_process(
            6, stmn, batches, 'sgd', sync_bn=True, frozen=frozen, epochs=2
        )
        for key, before in stmn.state_dict().items():
            assert not torch.equal(weights[key], before), key


class ImageModel(nn.Module):
    """A model as the host's: logits of images, and with a triplet loss their features."""

    def __init__(self, with_features, pair=lambda *outputs: outputs):
        super().__init__()
        self.with_features, self.pair = with_features, pair
        resnet = narrow_resnet('')
        self.backbone = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.layer4)
        self.neck = nn.BatchNorm1d(8)
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, images):
        features = self.neck(self.backbone(images).mean(dim=(2, 3)))
        logits = self.classifier(features)
        return self.pair(logits, features) if self.with_features else logits


class FeaturesInTesting(ImageModel):
    """A model as the host's in full: features alone while its own flag says testing."""

    def forward(self, images):
        outputs = super().forward(images)
        return outputs if self.training else outputs[1]


class Named(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


@pytest.mark.slow
@pytest.mark.parametrize(
    'options',
    [SOFTMAX, {'soft_margin': True}, {'weight_x': 0}],  # nothing needs the classifier in the last
    ids=str,
)
def test_models_of_the_host_train_like_in_one_process(options, batches):
    torch.manual_seed(5)
    model = ImageModel(with_features=options is not SOFTMAX).double()
    assert_like_one_process(3, model, batches, 'sgd', sync_bn=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize('amp', ['off', 'bf16'])
def test_outputs_with_names_are_outputs(amp, batches):
    torch.manual_seed(5)
    models = [ImageModel(True, pair).double() for pair in (lambda *outputs: outputs, Named)]
    models[1].load_state_dict(models[0].state_dict())

    def steps(model):
        return trained(model, batches, 'sgd', soft_margin=True, amp=amp)

    expected, found = (on_processes(steps, model) for model in models)
    assert expected[0][0] == found[0][0] == found[1][0] and len(found[0][0]) == 3
    for key, value in expected[0][1].items():
        assert torch.equal(found[0][1][key], value), key


def test_other_outputs_are_refused_in_one_line(batches):
    for pair, word in (
        (lambda *two: dict(enumerate(two)), 'a dict'),
        (lambda *two: two[0], 'one tensor'),
        (lambda *two: [*two, *two], '4 outputs'),
    ):
        model = ImageModel(True, pair).double()
        with pytest.raises(InputError, match=f'model.name.*the model gives {word}'):
            trained(model, batches, 'sgd', soft_margin=True)


def test_every_tensor_of_nested_outputs_is_changed():
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        tensor: torch.Tensor
        name: str

    one, counts = torch.ones(2), collections.defaultdict(list, a=[torch.ones(1)])
    nested = (Named(one, None), Frozen(one, 'x'), counts, collections.OrderedDict(b=(one,)), 7)
    found = map_tensors(lambda tensor: tensor + 1, nested)
    assert [type(value) for value in found] == [type(value) for value in nested]
    assert found[0].features is None and found[1].name == 'x' and found[4] == 7
    for tensor in (found[0].logits, found[1].tensor, found[2]['a'][0], found[3]['b'][0]):
        assert (tensor == 2).all()
    assert (one == 1).all() and (counts['a'][0] == 1).all()


def drawn():
    """What a step draws, for example in dropout."""
    loader = [{'img': torch.zeros(1), 'pid': torch.zeros(1)}] * 3
    prepare = lambda images, draws: images  # noqa: E731
    *_, _ = EpochBatches(loader, prepare, seed=1).of_epoch(2)
    return torch.rand(2).tolist()


def test_dropout_differs_from_process_to_process():
    alone, (main_draw, other) = drawn(), on_processes(drawn)
    assert main_draw == alone and other != alone


@pytest.fixture
def engine(stmn, mars_root):
    size = {'height': 16, 'width': 8}
    data = VideoDataManager(
        root=mars_root, sources='mars', seq_len=L, sample_method='rrs', workers=0, **size
    )
    return VideoEngine(data, stmn.float(), None, use_gpu=False)


@pytest.mark.slow
@pytest.mark.parametrize('frames, count', [('rrs', 2), ('all', 2), ('rrs', 5)])
def test_features_extracted_by_many_are_those_of_one(frames, count, engine):
    dataset = engine.datamanager.test_dataset['mars']
    dataset['query'] = dataset['query'][:3]  # too few for five processes
    engine.settings = TestSettings(plan=ClipPlan(L, frames), flip=True, batch_size=3)

    def features():
        return list(map(engine.embedder, engine.datamanager.fetch_test_loaders('mars')))

    alone, (parts, *others) = features(), on_processes(features, count=count)
    assert others == [[None, None]] * (count - 1)
    for one, other in zip(alone, parts, strict=True):
        torch.testing.assert_close(other.features, one.features, rtol=0, atol=1e-5)
        assert other.pids.tolist() == one.pids.tolist()
        assert other.camids.tolist() == one.camids.tolist()


def evaluated(engine, folder):
    rank = distributed.rank()
    for buffer in engine.model.buffers():
        buffer.add_(2 * rank)  # batch statistics of another part of the batches
    engine.record.bad_frames.append(f'{rank}.jpg')
    rank1 = engine.test(save_dir=str(folder))
    measured = ('seconds', 'peak_memory')
    return rank1, [
        {k: v for k, v in e.items() if k not in measured} for e in engine.record.evaluations
    ]


def test_every_process_learns_the_main_ones_evaluation(engine, tmp_path):
    alone = evaluated(engine, tmp_path)
    engine.record.evaluations = []
    assert on_processes(evaluated, engine, tmp_path) == [alone, alone]
    assert 0 < alone[1][0]['mAP'] < 1
    bad_frames = json.loads((tmp_path / 'metrics.json').read_text())['bad_frames']
    assert bad_frames == ['0.jpg', '1.jpg']
