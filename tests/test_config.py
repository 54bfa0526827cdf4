"""Every YAML file merges and builds; every wrong key, type and value is one clear line."""

import dataclasses

import pytest
import torch
import torchreid
import yaml

from stmn_plugin.config import (
    RANGES,
    SECTIONS,
    add_section,
    get_default_config,
    host_sections,
    load_config,
    our_sections,
    section_from,
    section_of,
    setting,
)
from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.kwargs import recipe_kwargs
from stmn_plugin.config.rules import (
    HOST_SAMPLERS,
    IDENTITY_PASS,
    ListOf,
    Number,
    Text,
    Whole,
    WordOr,
    as_written,
)
from stmn_plugin.data.frame_samplers import ALL_CLIPS, FRAME_SAMPLERS, RRS_CHUNKS
from stmn_plugin.datasets.synthetic import PRESETS
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.protocols import PROTOCOLS
from stmn_plugin.losses import Recipe
from stmn_plugin.losses.memory_spread import REDUCTIONS, memory_spread_loss
from stmn_plugin.models import BACKBONES, STMN
from stmn_plugin.models.stmn.memory import ADDRESSINGS, KEY_NORMALISATIONS

# what the nine public torchreid configs set: the network, then what differs between them
HOST_YAML = """
model:
  name: '{name}'
  pretrained: True
data:
  type: 'image'
  sources: ['market1501']
  targets: {targets}
  height: 256
  width: 128
  combineall: False
  transforms: {transforms}
  save_dir: 'log/{name}_market1501_softmax'
loss:
  name: 'softmax'
  softmax:
    label_smooth: True
train:
  optim: 'amsgrad'
  lr: {lr}
  max_epoch: {epochs}
  batch_size: 64
  fixbase_epoch: 10
  open_layers: ['classifier']
  lr_scheduler: '{scheduler}'
  stepsize: [60]
test:
  batch_size: 300
  dist_metric: '{metric}'
  normalize_feature: False
  evaluate: False
  eval_freq: -1
  rerank: False
  visactmap: False
"""
FLIP, JITTER = "['random_flip']", "['random_flip', 'color_jitter']"
ONE, TWO = "['market1501']", "['market1501', 'dukemtmcreid']"
HOST_CONFIGS = {
    'im_osnet_ain_x1_0_cosine': ('osnet_ain_x1_0', TWO, JITTER, 0.0015, 100, 'cosine', 'cosine'),
    'im_osnet_ibn_x1_0': ('osnet_ibn_x1_0', TWO, JITTER, 0.0015, 150, 'single_step', 'euclidean'),
    'im_osnet_x0_25': ('osnet_x0_25', ONE, FLIP, 0.003, 180, 'single_step', 'euclidean'),
    'im_osnet_x0_5': ('osnet_x0_5', ONE, FLIP, 0.003, 180, 'single_step', 'euclidean'),
    'im_osnet_x0_75': ('osnet_x0_75', ONE, FLIP, 0.0015, 150, 'single_step', 'euclidean'),
    'im_osnet_x1_0': ('osnet_x1_0', ONE, FLIP, 0.0015, 150, 'single_step', 'euclidean'),
    'im_osnet_x1_0_cosine': ('osnet_x1_0', ONE, FLIP, 0.0015, 250, 'cosine', 'euclidean'),
    'im_r50': ('resnet50', ONE, FLIP, 0.0003, 60, 'single_step', 'euclidean'),
    'im_r50fc512': ('resnet50_fc512', ONE, FLIP, 0.0003, 60, 'single_step', 'euclidean'),
}


@pytest.mark.parametrize('title', HOST_CONFIGS)
def test_the_hosts_public_configs_merge(title, tmp_path):
    name, targets, transforms, lr, epochs, scheduler, metric = HOST_CONFIGS[title]
    file = tmp_path / f'{title}.yaml'
    file.write_text(
        HOST_YAML.format(
            name=name,
            targets=targets,
            transforms=transforms,
            lr=lr,
            epochs=epochs,
            scheduler=scheduler,
            metric=metric,
        )
    )
    cfg = load_config(str(file))
    assert (cfg.model.name, cfg.train.lr, cfg.train.max_epoch) == (name, lr, epochs)
    assert cfg.data.type == 'image'
    assert 'visactmap' not in cfg.test


def our_configs():
    from conftest import REPOSITORY

    return sorted(str(path) for path in (REPOSITORY / 'configs').rglob('*.yaml'))


@pytest.mark.slow
@pytest.mark.parametrize('file', our_configs(), ids=lambda file: file.split('/configs/')[1])
def test_every_config_of_ours_merges_and_builds(file):
    cfg = load_config(file, ['model.pretrained', 'False', 'stmn.backbone', 'resnet18'])
    model = STMN(5, cfg.video.seq_len, section_of(cfg, 'stmn'), pretrained=False)
    assert model.seq_len == cfg.video.seq_len
    Recipe(**recipe_kwargs(cfg))


def test_the_papers_recipe():
    from conftest import REPOSITORY

    cfg = load_config(str(REPOSITORY / 'configs' / 'stmn_mars.yaml'))
    assert cfg.stmn == {
        'backbone': 'resnet50',
        'backbone_weights': '',
        'backbone_sha256': '',
        'spatial_mode': 'memory',
        'spatial_items': 10,
        'spatial_bn_scale': 0.0,
        'temporal_mode': 'memory',
        'temporal_items': 5,
        'similarity_scale': 'auto',
        'attention_scale': 1.0,
        'temporal_value_range': 1.0,
        'key_normalisation': 'item',
        'addressing': 'position',
        'stem_relu': True,
        'frame_bnneck': 'clip',
    }
    assert cfg.video.seq_len == 6
    assert recipe_kwargs(cfg) == {
        'cross_entropy_weight': 1.0,
        'triplet_weight': 1.0,
        'triplet_margin': None,
        'label_smoothing': 0.0,
        'spread_weight': 1.0,
        'spread_margin': 0.3,
        'spread_reduction': 'mean',
        'spread_reach': 'all',
        'spread_replicas': 1,
    }
    assert (cfg.train.lr, cfg.train.weight_decay, cfg.train.max_epoch) == (1e-4, 1e-5, 200)
    assert (cfg.train.stepsize, cfg.train.gamma) == ([50], 0.1)
    assert (cfg.train.batch_size, cfg.sampler.num_instances) == (32, 4)
    assert (cfg.data.height, cfg.data.width) == (256, 128)


def test_the_hosts_keys_keep_their_names_types_and_defaults(repository):
    text = (repository / 'tests' / 'data' / 'torchreid_defaults.yaml').read_text()
    host = flatten(yaml.safe_load(text))
    both = flatten(get_default_config())
    assert host.items() <= both.items()
    assert {key: type(value) for key, value in host.items()} == {
        key: type(both[key]) for key in host
    }
    assert both['use_gpu'] is torch.cuda.is_available()
    sections = {name: getattr(host_sections, one.__name__, None) for name, one in SECTIONS.items()}
    names = {
        f'{name}.{field.name}'
        for name, section in sections.items()
        if section is not None and name
        for field in dataclasses.fields(section)
    }
    assert names == set(host)  # the rest is ours


@pytest.mark.parametrize('arch', ['stmn', 'resnet18'])
@pytest.mark.parametrize('loss', ['softmax', 'triplet', 'stmn'])
def test_every_model_on_video_takes_every_recipe(arch, loss):
    words = ['model.name', arch, 'loss.name', loss, 'data.type']
    assert load_config(opts=[*words, 'video']).loss.name == loss
    if 'stmn' in (arch, loss):
        with pytest.raises(InputError, match='name stmn needs data.type video'):
            load_config(opts=[*words, 'image'])


def test_the_name_of_the_loss_makes_the_recipe_of_every_model():
    """Against the terms by hand: cross-entropy, hinge or soft margin, spread."""
    torch.manual_seed(0)
    pids = torch.tensor([0, 0, 1, 1])
    logits, features = torch.randn(2, 4, 3, dtype=torch.float64)
    probs = torch.rand(5, 6, dtype=torch.float64).softmax(dim=1)
    smooth = -(0.9 * logits.log_softmax(1)[range(4), pids] + logits.log_softmax(1).mean(1) / 10)
    distances = [[(a - b).norm() for b in features] for a in features]
    gaps = torch.stack(
        [
            max(distances[i][j] for j in range(4) if pids[j] == pids[i])
            - min(distances[i][j] for j in range(4) if pids[j] != pids[i])
            for i in range(4)
        ]
    )
    hinge, soft = (gaps + 0.5).clamp(min=0).mean(), (1 + gaps.exp()).log().mean()
    expected = {
        'softmax': (smooth.mean(), 0, 0),
        'triplet': (0.25 * smooth.mean(), 2 * hinge, 0),
        'stmn': (0.25 * smooth.mean(), 2 * soft, 4 * memory_spread_loss(probs, 0.7, 'sum')),
    }
    words = 'data.type video loss.triplet.weight_x 0.25 loss.triplet.weight_t 2 '
    words += 'loss.triplet.margin 0.5 loss.spread.weight 4 loss.spread.margin 0.7 '
    words += 'loss.spread.reduction sum loss.name '
    for name, terms in expected.items():
        recipe = Recipe(**recipe_kwargs(load_config(opts=[*words.split(), name])))
        found = recipe.cross_entropy(logits, pids), recipe.triplet(features, pids)
        found = torch.stack([*found, recipe.spread(probs)])
        torch.testing.assert_close(found, torch.tensor(terms, dtype=torch.float64))


@dataclasses.dataclass(frozen=True)
class Toy:
    depth: int = setting(3, Whole(1, 9), 'layers of the toy')
    names: list = setting(['a', 'b'], ListOf(Text('a name')), 'of its layers')


def test_a_section_added_later_is_known_everywhere(monkeypatch, tmp_path):
    monkeypatch.setitem(SECTIONS, 'toy', None)  # taken away again
    del SECTIONS['toy']
    with pytest.raises(InputError, match="unknown config key 'toy.depth'"):
        load_config(opts=['toy.depth', '4'])
    add_section('toy', Toy)
    add_section('toy', Toy)
    assert 'toy.depth' in RANGES and 'toy.depth' in list(RANGES)
    (tmp_path / 'c.yaml').write_text('toy: {depth: 4}\n')
    with pytest.raises(InputError, match='model.name toy needs data.type video'):
        load_config(opts=['model.name', 'toy'])
    load_config(opts=['model.name', 'toy', 'data.type', 'video'])
    for cfg in (load_config(opts=['toy.depth', '4']), load_config(str(tmp_path / 'c.yaml'))):
        assert section_of(cfg, 'toy') == Toy(4, ['a', 'b'])
    assert load_config().toy.names is not load_config().toy.names
    with pytest.raises(InputError, match="'toy.detph'; the nearest known key is 'toy.depth'"):
        load_config(opts=['toy.detph', '4'])
    with pytest.raises(InputError, match='toy.depth takes a whole number from 1 to 9'):
        load_config(opts=['toy.depth', '10'])


def test_a_section_that_cannot_be_is_refused():
    plain = dataclasses.make_dataclass('Plain', [('depth', int, 3)], frozen=True)
    wrong = dataclasses.make_dataclass('Wrong', [('depth', int, setting(0, Whole(1, 9), 'x'))])
    for name in ('train', 'loss', 'stmn'):
        with pytest.raises(ValueError, match=f"'{name}': the name is taken"):
            add_section(name, Toy)
    for name in ('my-model', 'loss.toy', ''):
        with pytest.raises(ValueError, match='cannot add section'):
            add_section(name, Toy)
    with pytest.raises(TypeError, match='Plain.depth was not made by'):
        add_section('plain', plain)
    with pytest.raises(ValueError, match='wrong.depth takes .* not its default 0'):
        add_section('wrong', wrong)
    assert not {'my-model', 'loss.toy', 'plain', 'wrong'} & set(SECTIONS)


def test_a_section_is_an_instance_of_its_dataclass():
    cfg = load_config(opts=['loss.spread.margin', '0.5'])
    assert section_of(cfg, 'loss.spread') == our_sections.Spread(1.0, 0.5, 'mean')
    assert section_of(cfg, 'loss').name == 'softmax'
    stored = {'train.lr': 1.0, 'train.of_a_later_version': 2}  # as checkpoints keep it
    assert section_from(stored, 'train') == our_sections.Train(lr=1.0)


TRIPLET = ['loss.name', 'triplet', 'sampler.train_sampler', 'RandomIdentitySampler']


@pytest.mark.parametrize('sampler', HOST_SAMPLERS)
def test_a_triplet_loss_takes_any_sampler(sampler):
    words = ['loss.name', 'triplet', 'sampler.train_sampler', sampler]
    assert load_config(opts=words).sampler.train_sampler == sampler
    if sampler != 'RandomIdentitySampler':  # K is no concern of the others
        load_config(opts=[*words, 'train.batch_size', '4', 'sampler.num_instances', '1'])
    load_config(opts=[*words, 'train.batch_size', '1', 'test.evaluate', 'True'])


@pytest.mark.parametrize(
    'words, parts',
    [
        (['data.typ', 'video'], ["'data.typ'", "'data.type'"]),
        (['train.learning_rate', '1'], ["'train.learning_rate'", 'nearest']),
        (['train.lr', 'fast'], ['train.lr', 'a number from 0', "'fast'"]),
        (['model.pretrained', '1'], ['model.pretrained', 'True or False', "'1'"]),
        (['train.batch_size', '2.5'], ['train.batch_size', 'whole number', '2.5']),
        (['loss.name', 'softmx'], ['loss.name', "'softmx'", 'stmn']),
        (['stmn.similarity_scale', 'big'], ['stmn.similarity_scale', "'big'"]),
        (['stmn.similarity_scale', '-1'], ['stmn.similarity_scale', '-1']),
        (['stmn.spatial_items', '0'], ['stmn.spatial_items', '0']),
        (['data.transforms', "['random_flp']"], ['data.transforms', "'random_flp'"]),
        (['model.name', 'stmn'], ['model.name', 'data.type video']),
        (TRIPLET + ['sampler.num_instances', '1'], ['sampler.num_instances', '1']),
        (['model.load_weights', '/no/file.pth'], ['model.load_weights', '/no/file.pth']),
        (['test.visrank', 'True'], ['test.visrank', 'test.evaluate']),
        (['train.lr'], ['train.lr', 'KEY VALUE']),
        (['train.lr', '-1'], ['train.lr', '-1']),
        (['train.start_epoch', '60'], ['train.start_epoch 60', 'train.max_epoch 60']),
        (['train.print_freq', '0'], ['train.print_freq', '0']),
        (['train.stepsize', '[]'], ['train.stepsize', '[]']),
        (['train.seed', '99999999999'], ['train.seed']),
        (['test.ranks', '[a]'], ['test.ranks', 'a']),
        (['test.ranks', '[0]'], ['test.ranks', '0']),
        (['data.norm_mean', '[0.5]'], ['data.norm_mean', '0.5']),
        (['data.norm_std', '[0,0,0]'], ['data.norm_std']),
        (['data.targets', '[]'], ['data.targets']),
        (['test.rerank', 'True'], ['test.rerank', 'test.evaluate']),
        (['test.features_dir', 'x'], ['test.features_dir', 'test.evaluate']),
        (['synthetic.preset', 'foo'], ['synthetic.preset', "'foo'", 'tiny']),
        (TRIPLET + ['train.batch_size', '4'], ['train.batch_size 4', 'two']),
        (['loss.name', 'triplet', 'train.batch_size', '1'], ['train.batch_size 1', 'two']),
        (['video.sample_method', 'all'], ['video.sample_method', 'test.frames all']),
        (['test.frames', 'all', 'test.clips_per_tracklet', '2'], ['test.clips_per_tracklet']),
        (['train.stepsize', '[20, 40]'], ['train.stepsize', '[20, 40]', 'multi_step']),
        (['data.sources', '[mars, lsvid, mars]'], ['data.sources', 'none twice']),
        (['data.targets', 'mars, mars'], ['data.targets', 'none twice']),
        (['data.sources', '{[]:1}'], ['data.sources', '{[]:1}']),
        (['train.stepsize', '[True]'], ['train.stepsize', 'True']),
        (['train.stepsize', '[1.5]'], ['train.stepsize', '1.5']),
        (['train.stepsize', '[' * 400], ['train.stepsize', '402 characters']),
        (['data.norm_std', '[1, 1, nan]'], ['data.norm_std', 'nan']),
        (['data.root', ''], ['data.root', 'a folder']),
        (['model.name', ''], ['model.name']),
        (['data.save_dir', 'a\0b'], ['data.save_dir']),
        (['stmn.similarity_scale', 'auto '], ['stmn.similarity_scale', "'auto '"]),
        (['stmn.backbone_sha256', 'abc'], ['stmn.backbone_sha256', '64']),
        (['adam.beta1', '1.0'], ['adam.beta1', 'below 1']),
        (['use_gpu', '1'], ['use_gpu', 'True or False']),
        (['train', '1'], ['train', 'section', 'train.optim']),
        (['loss.spread', '1'], ['loss.spread', 'section', 'loss.spread.weight']),
        (['.use_gpu', 'True'], ["'.use_gpu'", "'use_gpu'"]),
        (['', 'True'], ["unknown config key ''"]),
    ],
)
def test_a_wrong_word_is_named_on_one_line(words, parts):
    with pytest.raises(InputError) as caught:
        load_config(opts=words)
    assert '\n' not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def numeric(rule):
    """Whether a rule or the elements of its list are numbers."""
    rule = getattr(rule, 'element', getattr(rule, 'other', rule))
    return isinstance(rule, (Whole, Number))


NO_NUMBERS = ['nan', '-nan', 'inf', '-inf', '.nan', '.inf', '1e400', '9' * 5000, '-' + '9' * 5000]
NO_NUMBERS += ['1e11', '-1e11', '100000000000', '010', '1:30', '0x10', '', ' ', 'x', 'True', 'null']
NO_NUMBERS += ['1;2', '٣', '1__', '{}', '[[1]]', '--', '1 2']


@pytest.mark.parametrize('key', [key for key, rule in RANGES.items() if numeric(rule)])
def test_whatever_is_a_number_is_finite_and_in_its_range(key):
    rule = RANGES[key]
    for word in NO_NUMBERS:
        for text in [word, f'[{word}]', f'[{word}, {word}, {word}]']:
            with pytest.raises(InputError) as caught:
                load_config(opts=[key, text])
            assert str(caught.value).startswith(f'{key} takes ')
            assert len(str(caught.value)) < 250
    bounds = rule.other if isinstance(rule, WordOr) else getattr(rule, 'element', rule)
    for beyond in (bounds.least - 1, bounds.most + 1, bounds.most * 2 + 1):
        assert rule.read(as_written([beyond] if isinstance(rule, ListOf) else beyond)) is None
    if getattr(rule, 'length', None) is None and not getattr(bounds, 'below', False):
        assert rule.read(str(bounds.most)) in (bounds.most, [bounds.most])


def test_every_key_has_its_range_and_every_default_is_within():
    defaults = flatten(get_default_config())
    assert set(RANGES) == set(defaults)
    for key, value in defaults.items():
        read = RANGES[key].read(as_written(value))
        assert (read, type(read)) == (value, type(value)), key


FREE_TEXT = [
    key
    for key, rule in RANGES.items()
    if isinstance(rule, Text) and rule.pattern == Text('any').pattern
]


@pytest.mark.parametrize('key', FREE_TEXT)
def test_keys_that_take_text_take_any_word(key):
    for word in ('2024', 'off', 'null', '1e5', '[x]', 'True', '-a', 'a: b', "it's", '\udcff'):
        assert RANGES[key].read(word) == word
    if key == 'data.save_dir':
        assert load_config(opts=[key, '2024']).data.save_dir == '2024'


@pytest.mark.parametrize('word', ['false', 'False', 'no', 'off', 'NO'])
def test_booleans_are_read_as_in_yaml_and_python(word, tmp_path):
    (tmp_path / 'c.yaml').write_text(f'model: {{pretrained: {word}}}\ntest: {{flip: {word}}}\n')
    for cfg in (
        load_config(opts=['model.pretrained', word]),
        load_config(overrides={'model.pretrained': False}),
        load_config(str(tmp_path / 'c.yaml')),
    ):
        assert cfg.model.pretrained is False
    assert load_config(opts=['test.flip', 'yes']).test.flip is True


def test_of_a_key_that_comes_twice_among_the_words_the_later_counts():
    assert load_config(opts=['train.lr', '1', 'train.lr', '2']).train.lr == 2


def test_values_are_read_as_they_are_written():
    cfg = load_config(
        opts=['train.lr', '1', 'stmn.similarity_scale', '1.0', 'data.sources', 'mars']
        + ['train.weight_decay', '1e-5', 'test.ranks', '[1,2]'],
        overrides={'data.targets': ['a', 'b']},
    )
    assert cfg.train.lr == 1.0 and isinstance(cfg.train.lr, float)
    assert cfg.stmn.similarity_scale == 1.0
    assert (cfg.data.sources, cfg.data.targets) == (['mars'], ['a', 'b'])
    assert (cfg.train.weight_decay, cfg.test.ranks) == (1e-5, [1, 2])


def test_a_dumped_config_loads_to_the_same(tmp_path):
    cfg = load_config(opts=['stmn.similarity_scale', '2.5'])
    file = tmp_path / 'config.yaml'
    file.write_text(cfg.dump())
    assert flatten(load_config(str(file))) == flatten(cfg)


def test_the_choices_are_those_of_the_code():
    choices = {key: rule.choices for key, rule in RANGES.items() if hasattr(rule, 'choices')}
    assert choices['video.sample_method'] == tuple(FRAME_SAMPLERS)
    assert choices['video.rrs_chunks'] == RRS_CHUNKS
    assert choices['test.all_clips'] == tuple(ALL_CLIPS)
    assert choices['stmn.addressing'] == ADDRESSINGS
    assert choices['stmn.key_normalisation'] == KEY_NORMALISATIONS
    assert choices['loss.spread.reduction'] == REDUCTIONS
    for name in (*BACKBONES, 'resnet', 'resnet500', 'shared'):
        taken = RANGES['stmn.backbone'].read(name)
        assert taken == (name if name in BACKBONES else None)
    assert choices['test.protocol'] == tuple(PROTOCOLS)
    assert choices['synthetic.preset'] == tuple(PRESETS)
    assert set(choices['sampler.train_sampler']) == {IDENTITY_PASS, *HOST_SAMPLERS}
    assert set(choices['sampler.train_sampler_t']) == {*HOST_SAMPLERS}
    assert list(HOST_SAMPLERS) == torchreid.data.sampler.AVAI_SAMPLERS


def test_what_the_host_takes_of_lists_is_taken():
    """Its transforms are in any case; no layer need be named while none is frozen."""
    cfg = load_config(
        '', ['data.transforms', '[Random_Flip, RANDOM_ERASE]', 'train.open_layers', '[]']
    )
    assert cfg.data.transforms == ['random_flip', 'random_erase']
    assert cfg.train.open_layers == []
    with pytest.raises(InputError, match='train.open_layers'):
        load_config('', ['train.open_layers', '[]', 'train.fixbase_epoch', '1'])


def test_own_losses_alone_may_be_trained():
    words = ['data.type', 'video', 'loss.name', 'stmn']
    words += ['loss.triplet.weight_x', '0', 'loss.triplet.weight_t', '0']
    assert load_config('', [*words, 'model.name', 'csa']).model.name == 'csa'
    with pytest.raises(InputError, match='weight_t and weight_x are both 0: nothing to train'):
        load_config('', [*words, 'model.name', 'stmn'])
