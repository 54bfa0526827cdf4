"""Every YAML merges and builds; every wrong key, type and value is one clear line."""

import pytest

from stmn_plugin.config import get_default_config, load_config, split_words
from stmn_plugin.config.checks import CHOICES
from stmn_plugin.config.defaults import flatten, host_config
from stmn_plugin.config.kwargs import criterion_kwargs, stmn_kwargs
from stmn_plugin.data.frame_samplers import FRAME_SAMPLERS, RRS_CHUNKS
from stmn_plugin.data.synthetic import PRESETS
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import PROTOCOLS
from stmn_plugin.losses import STMNCriterion
from stmn_plugin.losses.memory_spread import REDUCTIONS
from stmn_plugin.models import BACKBONES, STMN
from stmn_plugin.models.stmn import SPATIAL_MODES, TEMPORAL_MODES

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


@pytest.mark.parametrize('file', our_configs(), ids=lambda file: file.split('/configs/')[1])
def test_every_config_of_ours_merges_and_builds(file):
    cfg = load_config(file, ['model.pretrained', 'False', 'stmn.backbone', 'resnet18'])
    model = STMN(5, pretrained=False, **stmn_kwargs(cfg))
    assert model.seq_len == cfg.video.seq_len
    STMNCriterion(**criterion_kwargs(cfg))


def test_the_papers_recipe():
    from conftest import REPOSITORY

    cfg = load_config(str(REPOSITORY / 'configs' / 'stmn_mars.yaml'))
    assert stmn_kwargs(cfg) == {
        'backbone': 'resnet50',
        'backbone_weights': '',
        'backbone_sha256': '',
        'spatial_mode': 'memory',
        'spatial_items': 10,
        'spatial_bn_scale': 0.0,
        'temporal_mode': 'memory',
        'temporal_items': 5,
        'seq_len': 6,
        'similarity_scale': None,
    }
    assert criterion_kwargs(cfg) == {
        'cross_entropy_weight': 1.0,
        'triplet_weight': 1.0,
        'label_smoothing': 0.0,
        'spread_weight': 1.0,
        'spread_margin': 0.3,
        'spread_reduction': 'mean',
    }
    assert (cfg.train.lr, cfg.train.weight_decay, cfg.train.max_epoch) == (1e-4, 1e-5, 200)
    assert (cfg.train.stepsize, cfg.train.gamma) == ([50], 0.1)
    assert (cfg.train.batch_size, cfg.sampler.num_instances) == (32, 4)
    assert (cfg.data.height, cfg.data.width) == (256, 128)


def test_the_hosts_keys_keep_their_place():
    host, both = flatten(host_config()), flatten(get_default_config())
    assert {key: both[key] for key in host} == host
    assert (host['train.lr'], host['video.seq_len'], host['loss.name']) == (0.0003, 15, 'softmax')


@pytest.mark.parametrize(
    'words, parts',
    [
        (['data.typ', 'video'], ["'data.typ'", "'data.type'"]),
        (['train.learning_rate', '1'], ["'train.learning_rate'", 'nearest']),
        (['train.lr', 'fast'], ['train.lr', 'float', "'fast'"]),
        (['model.pretrained', '1'], ['model.pretrained', 'bool']),
        (['train.batch_size', '2.5'], ['train.batch_size', 'int', '2.5']),
        (['loss.name', 'softmx'], ['loss.name', "'softmx'", 'stmn']),
        (['stmn.similarity_scale', 'big'], ['stmn.similarity_scale', "'big'"]),
        (['stmn.similarity_scale', '-1'], ['stmn.similarity_scale', '-1']),
        (['stmn.spatial_items', '0'], ['stmn.spatial_items', '0']),
        (['data.transforms', "['random_flp']"], ['data.transforms', "'random_flp'"]),
        (['model.name', 'stmn'], ['model.name', 'data.type video']),
        (['loss.name', 'triplet', 'sampler.num_instances', '1'], ['sampler.num_instances', '1']),
        (['model.load_weights', '/no/file.pth'], ['model.load_weights', '/no/file.pth']),
        (['test.visrank', 'True'], ['test.visrank', 'test.evaluate']),
        (['train.lr'], ['train.lr', 'KEY VALUE']),
        (['train.lr', '-1'], ['train.lr', '-1']),
        (['train.print_freq', '0'], ['train.print_freq', '0']),
        (['train.stepsize', '[]'], ['train.stepsize', '[]']),
        (['train.seed', '99999999999'], ['train.seed']),
        (['test.ranks', '[a]'], ['test.ranks', 'a']),
        (['test.ranks', '[0]'], ['test.ranks', '0']),
        (['data.norm_mean', '[0.5]'], ['data.norm_mean', '0.5']),
        (['data.norm_std', '[0,0,0]'], ['data.norm_std']),
        (['data.targets', '[]'], ['data.targets']),
        (['test.rerank', 'True'], ['test.rerank', 'test.evaluate']),
        (['synthetic.preset', 'foo'], ['synthetic.preset', "'foo'", 'tiny']),
        (['loss.name', 'triplet', 'train.batch_size', '4'], ['train.batch_size 4', 'two']),
        (['video.sample_method', 'all'], ['video.sample_method', 'test.frames all']),
        (['test.frames', 'all', 'test.clips_per_tracklet', '2'], ['test.clips_per_tracklet']),
    ],
)
def test_a_wrong_word_is_named_on_one_line(words, parts):
    with pytest.raises(InputError) as caught:
        load_config(opts=words)
    assert '\n' not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    'text, part',
    [('a: [1', 'no YAML'), ('just text', 'no config'), ('data:\n  rot: x', "'data.root'")],
)
def test_a_wrong_file_is_named_on_one_line(text, part, tmp_path):
    file = tmp_path / 'wrong.yaml'
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(str(file))
    assert str(file) in str(caught.value) and part in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r'/no/such\.yaml'):
        load_config('/no/such.yaml')


def test_a_config_builds_on_its_base_and_never_on_itself(tmp_path):
    (tmp_path / 'base.yaml').write_text('train:\n  lr: 0.5\n  gamma: 0.5\n')
    (tmp_path / 'child.yaml').write_text('_BASE_: base.yaml\ntrain:\n  gamma: 0.25\n')
    cfg = load_config(str(tmp_path / 'child.yaml'))
    assert (cfg.train.lr, cfg.train.gamma) == (0.5, 0.25)
    (tmp_path / 'base.yaml').write_text('_BASE_: child.yaml\n')
    with pytest.raises(InputError, match='_BASE_'):
        load_config(str(tmp_path / 'child.yaml'))


def test_values_are_read_as_they_are_written():
    cfg = load_config(
        opts=['train.lr', '1', 'stmn.similarity_scale', '1.0', 'data.sources', 'mars']
        + ['train.weight_decay', '1e-5', 'test.ranks', '[1,2]'],
        overrides={'data.targets': ['a', 'b']},
    )
    assert cfg.train.lr == 1.0 and isinstance(cfg.train.lr, float)
    assert stmn_kwargs(cfg)['similarity_scale'] == 1.0
    assert (cfg.data.sources, cfg.data.targets) == (['mars'], ['a', 'b'])
    assert (cfg.train.weight_decay, cfg.test.ranks) == (1e-5, [1, 2])


def test_a_dumped_config_loads_to_the_same(tmp_path):
    cfg = load_config(opts=['stmn.similarity_scale', '2.5'])
    file = tmp_path / 'config.yaml'
    file.write_text(cfg.dump())
    assert flatten(load_config(str(file))) == flatten(cfg)


def test_a_flag_with_many_words_gives_back_the_pairs():
    assert split_words(['mars', 'data.type', 'video']) == (['mars'], ['data.type', 'video'])
    assert split_words(['mars', 'data.tpye', 'video'])[0] == ['mars']
    assert split_words(['mars', 'lsvid']) == (['mars', 'lsvid'], [])


def test_the_choices_are_those_of_the_code():
    assert CHOICES['video.sample_method'] == tuple(FRAME_SAMPLERS)
    assert CHOICES['video.rrs_chunks'] == RRS_CHUNKS
    assert CHOICES['loss.spread.reduction'] == REDUCTIONS
    assert CHOICES['stmn.spatial_mode'] == SPATIAL_MODES
    assert CHOICES['stmn.temporal_mode'] == TEMPORAL_MODES
    assert CHOICES['stmn.backbone'] == BACKBONES
    assert CHOICES['test.protocol'] == tuple(PROTOCOLS)
    assert CHOICES['synthetic.preset'] == tuple(PRESETS)
