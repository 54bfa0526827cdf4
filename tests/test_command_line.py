"""Command lines: flags and KEY VALUE words in any order, and one line for what is wrong."""

import os
import sys

import pytest

from stmn_plugin.cameras.readers.formats import FORMATS
from stmn_plugin.cli import (
    check_data,
    compare,
    cost_curve,
    demo,
    embed,
    export,
    index,
    make_synthetic,
    make_tracklets,
    report,
    search,
    train,
    visualize,
)
from stmn_plugin.cli.track_flags import FORMAT_NAMES, IN_PIXELS, OF_STREAMS
from stmn_plugin.config import RANGES, SECTIONS, load_config
from stmn_plugin.errors import InputError
from stmn_plugin.models import VIDEO_MODELS
from stmn_plugin.plugins import import_words

TOOLS = [check_data, compare, cost_curve, make_synthetic, report, train, visualize]


def values(words):
    """What tools/main.py makes of a command line, as a config."""
    return load_config(opts=train.parse_args(words).opts)


@pytest.mark.parametrize(
    'words, opts',
    [
        ('data.save_dir X -a resnet18', 'model.name resnet18 data.save_dir X'),
        ('train.lr -1 --debug', 'train.lr -1'),
        ('data.root -x --root a.b', 'data.root a.b data.root -x'),
        ('-s a b use_gpu False', 'data.sources ["a",_"b"] use_gpu False'),
        ('train.max_epoch=3 -t a', 'data.targets ["a"] train.max_epoch 3'),
        ('data.save_dir=--debug', 'data.save_dir --debug'),
        ('data.root=a=b', 'data.root a=b'),
        ('-s a -- data.root x', 'data.sources ["a"] data.root x'),
        ('-aresnet18 --root=/x', 'model.name resnet18 data.root /x'),
        ('--config-file train.yaml -s a', 'data.sources ["a"]'),
        ('-t a data.tpye x', 'data.targets ["a"] data.tpye x'),
        ('-t a trian.lr 1', 'data.targets ["a"] trian.lr 1'),
        ('-t v1.0 log/v1.0 b.2', 'data.targets ["v1.0",_"log/v1.0",_"b.2"]'),
        ('data.save_dir train.lr train.lr 1', 'data.save_dir train.lr train.lr 1'),
        ('train.lr 1 train.lr 2', 'train.lr 1 train.lr 2'),
        ('--root a -a x --root b', 'model.name x data.root b'),
        ('--debug', ''),
    ],
)
def test_flags_and_pairs_stand_in_any_order(words, opts):
    args = train.parse_args(words.split())
    assert args.opts == [word.replace('_"', ' "') for word in opts.split()]
    assert args.debug == ('--debug' in words.split())
    assert args.config_file == ('train.yaml' if 'train.yaml' in words else '')


TRACKLETS = 'a.mp4 --tracks a.txt --camera a --output tree --format'
EXPORT = 'model.pth --output x --format'


@pytest.mark.parametrize(
    'tool, words, said',
    [
        (train, '--video', '--video goes with --list-archs'),
        (compare, '--systems qan', '--systems goes with --table2'),
        (compare, '--grid --runs a', '--grid cannot be combined with --runs'),
        (compare, '--runs a --seeds 3', '--seeds goes with --archs, --ablation'),
        (compare, '--runs a --config b', '--config goes with --archs, --ablation'),
        (export, f'{EXPORT} torch --push me/x', '--push goes with --format hub'),
        (export, f'{EXPORT} onnx --terms x', '--terms goes with --format hub'),
        (export, f'{EXPORT} hub --terms x --public', '--public goes with --push'),
        (export, f'{EXPORT} torch --int8 x', '--int8 goes with --format onnx'),
        (export, f'{EXPORT} onnx --labelled x', '--labelled goes with --int8'),
        (export, '--weights a b --output x', '--weights cannot be combined with --output'),
        (export, 'model.pth --weights a b', 'another CHECKPOINT is one too many'),
        (index, 'a.db --all', '--all goes with --delete'),
        (index, 'a.db --rows --all', '--all goes with --delete'),
        (index, 'a.db --delete --all --person Ann', '--all cannot be combined with --person'),
        (index, 'a.db --hnsw --camera a', '--hnsw cannot be combined with --camera'),
        (index, 'a.db --hnsw --older-than 30d', '--hnsw cannot be combined with --older-than'),
        *(
            (search, f'--index a.db --tracklet 1 {flag}', f'{flag.split()[0]} goes with --')
            for flag in (
                '--track 1', '--tracks a', '--format mot', '--fps 5', '--first-frame 0',
                '--stride 2', '--first-pixel 0', '--picture-size 1x1', '--frame-column a',
                '--stream a',
            )
        ),
        (make_tracklets, f'{TRACKLETS} mot --frame-column a', '--frame-column goes with --format'),
        (make_tracklets, f'{TRACKLETS} cvat --stream a', '--stream goes with --format ultralytics'),
        (make_tracklets, f'{TRACKLETS} ultralytics --picture-size 1x1', '--picture-size goes with'),
        (make_tracklets, f'{TRACKLETS} ultralytics --first-pixel 1', '--first-pixel goes with'),
        (make_synthetic, '--footage x --contact-sheet a', '--contact-sheet goes with --root'),
        (make_synthetic, '--footage x --workers 2', '--workers goes with --root'),
        (make_synthetic, '--footage x --min-frames 2', '--min-frames goes with --root'),
        (make_synthetic, '--root x --strangers 2', '--strangers goes with --footage'),
        (visualize, '--run x --figures 5 --items 3', '--items goes with --figures 6 or 9'),
        (visualize, '--run x --figures 5 --tracklets a', '--tracklets goes with --figures 7 or'),
    ],
)  # fmt: skip
def test_a_flag_without_its_partner_is_refused(tool, words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(words.split())
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    'tool, words, said',
    [
        (cost_curve, 'test.frames all', 'test.frames is set by --clips'),
        (cost_curve, 'test.clips_per_tracklet=2', 'test.clips_per_tracklet is set by --clips'),
        (cost_curve, 'test.evaluate False', 'test.evaluate is set by this command'),
        (compare, 'data.save_dir x', 'data.save_dir is set by --output'),
        (compare, 'test.visrank True', 'test.visrank is set by the comparison'),
        (compare, 'model.resume auto', 'model.resume is set by the comparison'),
        (compare, '--grid test.rerank True', 'test.rerank is set by --grid'),
        (demo, 'test.frames all', 'test.frames is set by the demo'),
    ],
)
def test_a_key_that_a_command_sets_is_refused(tool, words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        tool.main(['data.type', 'video', *words.split()])
    assert ended.value.code == 2 and f'error: {said}' in capsys.readouterr().err


def test_partners_allow_a_flag_wherever_they_stand():
    for tool, words in (
        (export, f'--public --push me/x {EXPORT} hub --terms x'),
        (index, '--all a.db --delete'),
        (make_tracklets, f'--stream a {TRACKLETS} coco --picture-size 1x1'),
    ):
        tool.parse_args(words.split())
    visualize.check_figures(visualize.parse_args(['--run', 'x', '--items', '3']))


def test_words_behind_two_dashes_are_no_flags():
    args = parsed(index, '--rows --camera a b -- -x.db')
    assert (args.index, args.camera, args.rows) == ('-x.db', ['a', 'b'], True)
    args = parsed(embed, '--index=-x.db -- -model.pth --debug')
    assert (args.checkpoint, str(args.tree), args.debug) == ('-model.pth', '--debug', False)
    args = parsed(search, '--index x.db --tracklet 1 2 -- model.pth')
    assert (args.checkpoint, args.tracklet) == ('model.pth', ['1', '2'])
    flags = '--tracks a --format mot --camera c --output t'
    assert list(map(str, parsed(make_tracklets, f'{flags} -- -a.mp4 b').videos)) == ['-a.mp4', 'b']


def test_facts_of_formats_are_those_of_the_readers():
    assert tuple(FORMATS) == FORMAT_NAMES
    assert IN_PIXELS == tuple(name for name, one in FORMATS.items() if not one.fractions)
    assert OF_STREAMS == tuple(name for name, one in FORMATS.items() if one.several)


def test_flags_set_keys_and_words_count_more():
    cfg = values(
        ['--transforms', 'random_crop', '-s', "it's", 'b"c', '-t', 'x', '-a', 'osnet_x1_0']
    )
    assert (cfg.data.sources, cfg.data.targets) == (["it's", 'b"c'], ['x'])
    assert (cfg.data.transforms, cfg.model.name) == (['random_crop'], 'osnet_x1_0')
    cfg = values(['model.name', 'resnet18', '-a', 'stmn', '-s', 'a', 'data.sources', 'b,c'])
    assert (cfg.model.name, cfg.data.sources) == ('resnet18', ['b', 'c'])


def parsed(tool, line):
    return tool.parse_args(line.split())


def test_given_runs_may_have_dots_and_keys_behind_them():
    args = parsed(compare, '--runs log/v1.0 v2.1 ./test.v3 data.root /x --ablation')
    assert args.runs == ['log/v1.0', 'v2.1', './test.v3'] and args.ablation
    assert args.opts == ['data.root', '/x']
    args = parsed(compare, '--runs a test.flips True --root /y')
    assert (args.runs, args.opts) == (['a'], ['data.root', '/y', 'test.flips', 'True'])


@pytest.mark.parametrize(
    'words, parts',
    [
        (['--arc', 'stmn'], ["'--arc'", '--arch']),  # no abbreviations
        (['--configfile', 'x'], ['--configfile', '--config-file']),
        (['--sources=a', '-s', 'x'], ['-s', 'twice']),
        (['--config-file', 'a', '--config-file', 'b'], ['--config-file', 'twice']),
        (['--root', ''], ['--root', 'needs a value']),
        (['--root='], ['--root', 'needs a value']),
        (['-s', 'a', ''], ['-s', 'needs a value']),
        (['--config-file', ''], ['--config-file', 'needs a value']),
        (['--root'], ['--root', 'expected one argument']),
        (['-s', 'data.root', '/x'], ['-s', 'at least one argument']),
        (['train.lr'], ['train.lr', 'KEY VALUE']),
        (['data.root', 'a', 'train.lr', '--debug'], ['train.lr', 'no value']),
        (['data.root', 'a', 'b'], ["'b'", 'neither a flag nor a key']),
        (['configs/x.yaml'], ["'configs/x.yaml'", 'neither']),
        (['use_gup', 'False'], ["'use_gup'", 'nearest', 'use_gpu']),
        (['--list-archs=yes'], ['--list-archs']),
        (['x' * 5000], ['...']),
        (['a\nb'], ['a\\nb']),
        (['-z\x1b[2J'], ['\\x1b']),
        (['-'], ["'-'", 'neither']),
        (['-1'], ["'-1'", 'neither']),
        ([''], ["''", 'neither']),
    ],
)
def test_a_wrong_command_line_is_one_line(words, parts, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith('error: ') and len(error) < 600
    assert error.count('\n') == 1 and error.isprintable() is False and error[:-1].isprintable()
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    'tool, words',
    [
        (compare, ['--seeds', '0']),
        (compare, ['--seeds', 'nan']),
        (compare, ['--seeds', '9' * 5000]),
        (compare, ['--seeds', '-1']),
        (report, ['--run', 'x', '--top-k', '0']),
        (report, ['--run', 'x', '--max-queries', '1.5']),
        (report, ['--run', 'x', '--embed', '--folder']),
        (visualize, ['--run', 'x', '--figures', '5', '4']),
        (visualize, ['--run', 'x', '--format', 'pdf']),
        (visualize, ['--run', 'x', '--items', '-1']),
        (visualize, ['--run', 'x', '--seed', '1e11']),
        (visualize, ['--run', 'x', '--config-file', 'y']),
        (visualize, ['--seed', '1']),
        (cost_curve, ['--clips', '0']),
        (cost_curve, ['--clips', 'most']),
        (check_data, ['--root', 'x', '-s', 'mars', '--workers', '100000']),
        (check_data, ['--root', 'x', '-s', 'marx']),
        (check_data, ['--root', 'x', '-s', 'mars', 'data.root', 'y']),
        (make_synthetic, ['--root', 'x', '--workers', '0']),
        (make_synthetic, ['--root', 'x', '--seed', '9' * 5000]),
        (make_synthetic, ['--root', 'x', '--spatial-distractors', 'nan']),
    ],
)
def test_wrong_flags_of_every_tool_are_one_line(tool, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        tool.main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith('error: ') and error.count('\n') == 1
    assert len(error) < 600 and not os.listdir(tmp_path)


@pytest.mark.parametrize('tool', TOOLS, ids=lambda tool: tool.__name__)
def test_without_words_a_tool_prints_its_help(tool, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main([])
    assert stop.value.code == 2
    assert capsys.readouterr().out.startswith('usage: ')


def test_every_key_is_taken_for_one():
    for key in RANGES:
        assert train.parse_args(['-s', 'a', key, 'x']).opts[-2:] == [key, 'x']


MODEL = """
from dataclasses import dataclass
from stmn_plugin.config import setting
from stmn_plugin.config.rules import Whole
from stmn_plugin.models import VideoModel, register_video_model

@dataclass(frozen=True)
class Config:
    depth: int = setting(3, Whole(1, 9), 'layers of a toy')

@register_video_model('{name}')
class Toy(VideoModel):
    Config = Config
"""


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    """A file that registers an architecture of its name; forgotten after the test."""

    def write(name):
        module = f'stmn_plugin_import_{name}'
        for table, key in ((SECTIONS, name), (VIDEO_MODELS, name), (sys.modules, module)):
            monkeypatch.setitem(table, key, None)
            del table[key]
        (tmp_path / f'{name}.py').write_text(MODEL.replace('{name}', name))
        return str(tmp_path / f'{name}.py')

    return write


@pytest.mark.parametrize('place', ['first', 'last', 'one word'])
def test_an_imported_file_brings_its_keys(place, model_file, tmp_path):
    file = model_file('imported_toy')
    keys = ['imported_toy.depth', '4', 'model.name', 'imported_toy', 'data.type', 'video']
    flag = [f'--import={file}'] if place == 'one word' else ['--import', file]
    words = [*keys, *flag] if place == 'last' else [*flag, *keys]
    with pytest.raises(SystemExit):
        train.parse_args(keys)
    args = train.parse_args(['-s', 'a', *words])
    assert args.opts == ['data.sources', '["a"]', *keys] and args.imports == [file]
    (tmp_path / 'c.yaml').write_text('imported_toy: {depth: 5}\n')
    assert load_config(opts=args.opts).imported_toy.depth == 4
    assert load_config(str(tmp_path / 'c.yaml')).imported_toy.depth == 5
    assert import_words()[-2:] == ['--import', file]  # what compare.py hands to its runs
    with pytest.raises(InputError, match='imported_toy.depth takes a whole number from 1 to 9'):
        load_config(opts=['imported_toy.depth', '10'])


def test_several_files_are_imported(model_file):
    files = [model_file('toy_a'), model_file('toy_b')]
    words = ['--import', files[0], '--import', files[1], 'toy_a.depth', '1', 'toy_b.depth', '2']
    assert train.parse_args(words).opts == words[4:]
    assert compare.parse_args(words).imports == files


def test_compare_hands_imported_files_to_its_runs(model_file, monkeypatch):
    file = model_file('toy_d')
    compare.parse_args(['--import', file, 'toy_d.depth', '1'])
    commands = []
    monkeypatch.setattr(
        'stmn_plugin.comparing.child_process.run_process', lambda *args: commands.append(args[0])
    )
    compare.child(['toy_d.depth', '1'], log='', watch=None)
    words = commands[0][3:]  # behind python, the package and the command
    assert words[words.index(file) - 1] == '--import'
    assert train.parse_args(words).opts == ['toy_d.depth', '1']


@pytest.mark.parametrize(
    'text, parts',
    [
        (None, ['--import', 'toy.py', 'no such file']),
        ('def x(:', ['--import', 'toy.py:1', 'invalid syntax']),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(text, parts, tmp_path, capsys):
    if text:
        (tmp_path / 'toy.py').write_text(text)
    for tool in (train, compare, cost_curve, report, visualize):
        with pytest.raises(SystemExit) as stop:
            tool.main(['train.lr', '1', '--import', str(tmp_path / 'toy.py')])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith('error: ') and error.count('\n') == 1
        for part in parts:
            assert part in error


def test_a_bug_in_an_imported_file_is_a_traceback(tmp_path):
    (tmp_path / 'broken.py').write_text('1 / 0\n')
    with pytest.raises(ZeroDivisionError):
        train.parse_args(['--import', str(tmp_path / 'broken.py')])


def test_an_unknown_section_hints_at_import(capsys):
    with pytest.raises(SystemExit):
        train.parse_args(['nowhere.depth', '4'])
    assert '--import FILE.py' in capsys.readouterr().err
    with pytest.raises(InputError, match=r"'nowhere.depth'; .*--import FILE.py .*'nowhere'"):
        load_config(opts=['nowhere.depth', '4'])
    for key in ('trian.lr', 'train.lrr', 'use_gup'):  # misspelled
        with pytest.raises(InputError) as caught:
            load_config(opts=[key, '1'])
        assert '--import' not in str(caught.value)


def listed(words, capsys, monkeypatch):
    """What --help-config prints, as rows of words."""
    monkeypatch.setenv('COLUMNS', '160')
    with pytest.raises(SystemExit) as stop:
        train.main(words)
    assert stop.value.code == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_help_config_lists_every_key_with_its_default(capsys, monkeypatch, model_file):
    lines = listed(['--help-config'], capsys, monkeypatch)
    assert lines[0] == ['key', 'default', 'takes', 'meaning']
    # a help that continues in the next line may begin with a key, too
    found = {words[0]: words[1] for words in lines[:0:-1] if words[2:] and words[0] in RANGES}
    assert found.keys() == set(RANGES)
    expected = {
        'test.flip': 'False',
        'train.fused': 'True',
        'train.lr': '0.0003',
        'train.weight_decay': '0.0005',
        'test.eval_freq': '-1',
        'model.resume': "''",
        'train.stepsize': '[20]',
    }
    assert {key: found[key] for key in expected} == expected
    lines = listed(
        ['--help-config', 'LAYERS of', '--import', model_file('toy_c')], capsys, monkeypatch
    )
    row = 'toy_c.depth 3 a whole number from 1 to 9 layers of a toy'
    assert list(map(' '.join, lines[1:])) == [row]


@pytest.mark.parametrize('words', [['--help-config', 'keep_last'], ['--help-config=KEEP_last']])
def test_help_config_takes_a_word(words, capsys, monkeypatch):
    _, line = listed(words, capsys, monkeypatch)
    assert line[:4] == ['train.keep_last', '2', 'a', 'whole']


def test_help_config_names_a_word_that_occurs_nowhere(capsys):
    for tool in (train, compare, cost_curve, report, visualize):
        with pytest.raises(SystemExit) as stop:
            tool.main(['--help-config', 'nix\n'])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and "'nix\\n'" in error and error.count('\n') == 1
