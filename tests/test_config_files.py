"""YAML files of configs and of rows: what is refused, in which words, and what is read."""

import os

import pytest

from stmn_plugin.config import (
    load_config,
    read_rows,
)
from stmn_plugin.config.yaml_file import LARGEST
from stmn_plugin.errors import InputError

BOMB = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 10)
)


MERGED_BOMB = 'a0: &a0 {x: 1}\n' + ''.join(
    f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 9)}]}}\n' for i in range(1, 10)
)


@pytest.mark.parametrize(
    'text, parts',
    [
        ('a: [1', ['no YAML', ':1:']),
        ('just text', ['no config']),
        ('', ['no config']),
        ('[1, 2]', ['no config']),
        ('data:\n  rot: x', ["'data.root'", ':2:']),
        ('train: {lr: 1}\nvideo: {}\ntrain: {gamma: 1}', ["'train'", ':3:', 'line 1']),
        ('train:\n  lr: 1\n  gamma: 1\n  lr: 1', ["'lr'", ':4:', 'line 2']),
        ('train:\n  lr: 1\ntrain.lr: 2', ["'train.lr'", ':3:', 'line 2']),
        ('train.lr: 1\ntrain: {lr: 2}', ["'train.lr'", ':2:', 'line 1']),
        ('train: {lr: 1, "lr": 1}', ["'lr'", ':1:', 'line 1']),
        ('_BASE_: a\n_BASE_: b', ["'_BASE_'", ':2:', 'line 1']),
        ('train: &t\n  x: *t', ['nested deeper', ':1:']),
        ('train: &t\n  <<: *t', ['nested deeper']),
        ('train:\n  <<: 1', ['<<', ':2:']),
        ('train: *t', ['no YAML', ':1:', 'alias']),
        (BOMB, ['larger than any config']),
        (MERGED_BOMB, ['larger than any config']),
        ('a:\n' + ' [\n' * 2000, ['nested deeper']),
        ('a:\n' + ' {b:\n' * 2000, ['nested deeper']),
        ('#' * LARGEST + '#', ['larger than any config']),
        ('train:\n\tlr: 1', ['no YAML', ':2:']),
        ('train:\n  lr: 1\0', ['no YAML', ':2:']),
        ('data:\n  root: "a\\0b"', ['data.root', ':2:']),
        ('train: {lr: 1}\n---\ntrain: {lr: 2}', ['no YAML', 'single document']),
        ('data:\n  root: !!python/object/apply:os.system [ls]', ['tag', ':2:']),
        ('data:\n  root: !mine x', ['tag', ':2:']),
        ('data:\n  sources: !!set {mars}', ['tag', ':2:']),
        ('1: 2', ["'1'", ':1:']),
        ('null: 2', ["'null'", ':1:']),
        ('? [a]\n: 1', [':1:', 'a key is a word']),
        ('train: 5', ['section', ':1:']),
        ("'': {}", ["unknown config key ''", ':1:']),
        ('train: [lr, 5]', ['section', ':1:']),
        ('train:\n  lr: {a: 1}', ["'train.lr.a'", ':2:']),
        ('train:\n  lr: {}', ['train.lr', ':2:', '{}']),
        ('train:\n  lr: [1]', ['train.lr', ':2:']),
        ('train:\n  lr: .nan', ['train.lr', ':2:', 'a number']),
        ('train:\n  lr: -.inf', ['train.lr', ':2:']),
        ('train:\n  batch_size: 010', ['train.batch_size', ':2:', "'010'"]),
        ('train:\n  batch_size: 1:30', ['train.batch_size', ':2:', "'1:30'"]),
        ('train:\n  lr: 2024-01-01', ['train.lr', ':2:', "'2024-01-01'"]),
        ('data:\n  root:', ['data.root', ':2:', 'null']),
        ('data:\n  root: ~', ['data.root', ':2:', 'null']),
        ('data:\n  sources: {}', ['data.sources', ':2:', '{}']),
        ('data:\n  sources: [mars, 2, mars]', ['data.sources', ':2:', 'none twice']),
        ('data:\n  sources: [[mars]]', ['data.sources', ':2:']),
        ('data:\n  sources: [null]', ['data.sources', ':2:']),
        ('test:\n  ranks: [a]', ['test.ranks', ':2:', "'a'"]),
        ('_BASE_: [a]', ['_BASE_']),
        ('_BASE_:', ['_BASE_']),
        ('_BASE_: no.yaml', ['_BASE_', ':1:', 'no.yaml']),
    ],
)
def test_a_wrong_file_is_named_on_one_line(text, parts, tmp_path):
    file = tmp_path / 'wrong.yaml'
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(str(file))
    message = str(caught.value)
    assert str(file) in message and '\n' not in message and len(message) < 400 + len(str(file))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    'content, part',
    [
        (b'\x80', ':1:'),
        ('data:\n  root: ü'.encode('latin-1'), ':2:'),
        ('train: {lr: 1}'.encode('utf-16-le'), 'no YAML'),  # nothing says what it is
        (b'\xff\xfe\x00\xd8', 'no YAML'),
    ],
)
def test_bytes_that_are_no_text_are_named(content, part, tmp_path):
    file = tmp_path / 'wrong.yaml'
    file.write_bytes(content)
    with pytest.raises(InputError, match='no YAML') as caught:
        load_config(str(file))
    assert str(file) in str(caught.value) and part in str(caught.value)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_file_is_read_in_every_encoding_that_yaml_allows(encoding, tmp_path):
    file = tmp_path / 'c.yaml'
    file.write_text('data: {root: /dätä}\r\ntrain: {lr: 1e-4}\r\n', encoding=encoding, newline='')
    cfg = load_config(str(file))
    assert (cfg.data.root, cfg.train.lr) == ('/dätä', 1e-4)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path / 'pipe', tmp_path, '/dev/zero', '/dev/full', 'a\0b', 'x' * 5000):
        with pytest.raises(InputError, match='cannot read config file|no config is called'):
            load_config(str(path))


def test_values_of_a_file_are_what_is_written(tmp_path):
    file = tmp_path / 'c.yaml'
    file.write_text(
        'train: &train\n  lr: 1e-4\n  gamma: "0.5"\n  amp: off\n  print_freq: 1_000\n'
        'data:\n  save_dir: 2024-01-01\n  root: 010\n  sources: mars\n  targets: [2024, off]\n'
        'stmn: {similarity_scale: 1}\ntest:\nvideo: {}\nloss: {softmax: , spread: {}}\n'
    )
    cfg = load_config(str(file))
    assert (cfg.train.lr, cfg.train.gamma, cfg.train.amp) == (1e-4, 0.5, 'off')
    assert (cfg.data.save_dir, cfg.data.root, cfg.train.print_freq) == ('2024-01-01', '010', 1000)
    assert (cfg.data.sources, cfg.data.targets) == (['mars'], ['2024', 'off'])


def test_merge_keys_follow_yaml_and_own_keys_win(tmp_path):
    (tmp_path / 'rows.yaml').write_text(
        'a: &a {train.lr: 1, train.gamma: 0.5}\nb: &b {train: {lr: 2}}\n'
        'c: {train.gamma: 0.25, <<: *a}\nd: {<<: [*a, *b]}\n'
    )
    with pytest.raises(InputError, match="'train.lr' stands there twice, first on line 1"):
        read_rows(str(tmp_path / 'rows.yaml'))  # d: with dots and nested
    (tmp_path / 'rows.yaml').write_text(
        'a: &a {train.lr: 1, train.gamma: 0.5}\nb: &b {train.lr: 2, train.seed: 3}\n'
        'c: {train.gamma: 0.25, <<: *a}\nd: {<<: [*a, *b]}\n'
    )
    rows = read_rows(str(tmp_path / 'rows.yaml'))
    assert rows['c'] == {'train.lr': 1.0, 'train.gamma': 0.25}
    assert rows['d'] == {'train.lr': 1.0, 'train.gamma': 0.5, 'train.seed': 3}


@pytest.mark.parametrize(
    'text, parts',
    [
        ('A: {train.lr: 1}\nA: {train.lr: 2}', ["'A'", ':2:', 'line 1']),
        ('A:\n  train.lr: 1\n  train.lr: 2', ["'train.lr'", ':3:', 'line 2']),
        ('A:\n  train.lr: 1\n  train: {lr: 2}', ["'train.lr'", ':3:', 'line 2']),
        ('A: {train.lrr: 1}', ["'train.lrr'", "'train.lr'", ':1:']),
        ('A:\n  train.lr: fast', ['train.lr', "'fast'", ':2:']),
        ('A: 5', ["'A'", ':1:', "'5'"]),
        ('A: [1]', ["'A'", ':1:']),
        ('A:', ["'A'", ':1:', 'null']),
    ],
)
def test_a_wrong_file_of_rows_is_named_on_one_line(text, parts, tmp_path):
    file = tmp_path / 'rows.yaml'
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_rows(str(file))
    for part in (str(file), *parts):
        assert part in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r'/no/such\.yaml'):
        load_config('/no/such.yaml')


def test_a_config_builds_on_its_base_and_never_on_itself(tmp_path):
    (tmp_path / 'base.yaml').write_text('train:\n  lr: 0.5\n  gamma: 0.5\n')
    (tmp_path / 'child.yaml').write_text('_BASE_: base.yaml\ntrain:\n  gamma: 0.25\n')
    cfg = load_config(str(tmp_path / 'child.yaml'))
    assert (cfg.train.lr, cfg.train.gamma) == (0.5, 0.25)
    (tmp_path / 'base.yaml').write_text('train: {lr: fast}\n')
    with pytest.raises(InputError, match=r'base\.yaml:1: train\.lr'):
        load_config(str(tmp_path / 'child.yaml'))
    (tmp_path / 'here').symlink_to('.')  # another name of the same file is that file
    for back in ('child.yaml', 'base.yaml', './here/base.yaml'):
        (tmp_path / 'base.yaml').write_text(f'_BASE_: {back}\n')
        with pytest.raises(InputError, match=r'base\.yaml:1: _BASE_ leads back to'):
            load_config(str(tmp_path / 'child.yaml'))
