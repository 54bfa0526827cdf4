"""Configs that come with the package: by name wherever one is, files as ever."""

from pathlib import Path

import pytest

from stmn_plugin.cli import compare, cost_curve, report, train, visualize
from stmn_plugin.config import load_config, read_yaml, shipped
from stmn_plugin.config.shipped import config_names, config_path
from stmn_plugin.errors import InputError

CONFIGS = Path(__file__).parents[1] / 'configs'


def test_every_config_has_a_name_that_is_its_path():
    files = {path.relative_to(CONFIGS).with_suffix('').as_posix() for path in CONFIGS.rglob('*.*')}
    assert {'stmn_mars', 'stmn_synthetic', 'ablation/1_baseline'} <= files == set(config_names())
    for name in files:
        assert Path(config_path(name)) == CONFIGS / f'{name}.yaml'


def test_a_name_loads_what_its_file_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config('stmn_synthetic') == load_config(str(CONFIGS / 'stmn_synthetic.yaml'))
    assert load_config('stmn_synthetic').data.sources == ['synthetic']  # _BASE_ is found, too
    assert load_config('ablation/3_sm') == load_config(str(CONFIGS / 'ablation' / '3_sm.yaml'))


def test_a_file_goes_before_a_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('stmn_mars').mkdir()
    assert Path(config_path('stmn_mars')) == CONFIGS / 'stmn_mars.yaml'
    Path('stmn_lsvid').write_text('train: {seed: 7}\n')
    assert load_config('stmn_lsvid').train.seed == 7


@pytest.mark.parametrize(
    'word, said',
    [
        ('stmn_mras', "no config is called 'stmn_mras'; the nearest is 'stmn_mars'"),
        ('../stmn_mars', 'cannot read config file ../stmn_mars: No such file'),
        ('configs/stmn_mars.yaml', 'no config file configs/stmn_mars.yaml; .*--config stmn_mars$'),
        ('configs/mine.yaml', 'cannot read config file configs/mine.yaml: No such file'),
        ('folder', 'cannot read config file folder'),
    ],
)
def test_what_is_not_there_is_one_line(word, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('folder').mkdir()
    with pytest.raises(InputError, match=said):
        load_config(word)


def test_a_package_without_its_configs_says_so(tmp_path, monkeypatch):
    module = tmp_path / 'stmn_plugin' / 'config' / 'shipped.py'
    monkeypatch.setattr(shipped, '__file__', str(module))
    with pytest.raises(InputError, match='stmn_plugin: the configs of this package are missing'):
        config_path('stmn_mars')


@pytest.mark.parametrize('command', [compare, cost_curve, report, train, visualize])
def test_config_is_one_flag_with_two_spellings(command, capsys):
    for flag in ('--config', '--config-file'):
        assert command.parse_args([flag, 'stmn_mars']).config_file == 'stmn_mars'
    with pytest.raises(SystemExit):
        command.parse_args(['--config', 'stmn_mars', '--config-file', 'stmn_lsvid'])
    assert 'twice' in capsys.readouterr().err


def test_the_ablation_of_a_comparison_is_shipped():
    assert read_yaml(Path(compare.ABLATION) / '3_sm.yaml') == read_yaml(
        CONFIGS / 'ablation' / '3_sm.yaml'
    )
