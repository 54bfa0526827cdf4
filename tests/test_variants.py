"""Rows of a table as data: of Table 1, of config files, and of one's own."""

import re

import pytest
import yaml

from stmn_plugin.cli import compare
from stmn_plugin.comparing.run_plan import plan_runs
from stmn_plugin.comparing.variants import (
    Variant,
    ablation_variants,
    config_variants,
    named_variants,
)
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError


def test_rows_of_ones_own(tmp_path):
    file = tmp_path / 'rows.yaml'
    file.write_text("""
'+ SM, scale 1.0': {stmn.temporal_mode: average, stmn: {similarity_scale: 1.0}}
Full: {}
""")
    first, full = named_variants(str(file))
    assert first == (
        '+ SM, scale 1.0',
        'sm-scale-1-0',
        {'stmn.temporal_mode': 'average', 'stmn.similarity_scale': 1.0},
    )
    assert full == ('Full', 'full', {})
    for text, part in (
        ('Full: 3', "'Full' must hold keys"),
        ('Full: {}\n+ full: {}', "'+ full' and 'Full' cannot name"),
        ("'+': {}", "'+' cannot name"),
        ('- Full', 'holds no config'),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=re.escape(part)):
            named_variants(str(file))


def test_a_config_file_is_a_row(tmp_path):
    file = tmp_path / 'osnet.yaml'
    file.write_text("""
_BASE_: ../nowhere.yaml
model: {name: osnet_x0_25}
video: {image_models: frames}
data: {save_dir: log/osnet}
""")
    changes = {'model.name': 'osnet_x0_25', 'video.image_models': 'frames'}
    assert config_variants({str(file): 'OSNet'}) == [Variant('OSNet', 'osnet', changes)]
    with pytest.raises(InputError, match='missing.yaml'):
        config_variants({str(tmp_path / 'missing.yaml'): 'Missing'})


@pytest.mark.parametrize('config', ['stmn_mars.yaml', 'stmn_synthetic.yaml'])
def test_the_ablation_is_a_delta_on_any_config(config, repository, tmp_path):
    file = str(repository / 'configs' / config)
    variants = ablation_variants(compare.ABLATION)
    assert {f'{v.name.removeprefix("ablation-")}.yaml' for v in variants} == {
        path.name for path in (repository / 'configs' / 'ablation').glob('*.yaml')
    }
    runs = plan_runs(variants, 1, file, [], str(tmp_path))
    base = flatten(load_config(file))
    for run, variant in zip(runs, variants, strict=True):
        own = yaml.safe_load(
            (repository / 'configs' / 'ablation' / f'{variant.name[9:]}.yaml').open()
        )
        own = {k: v for k, v in flatten(own).items() if k not in ('_BASE_', 'data.save_dir')}
        values = flatten(run.cfg)
        assert {k: v for k, v in values.items() if v != base[k]} == {
            k: v for k, v in own.items() if v != base[k]
        }
    assert runs[0].cfg.stmn.spatial_mode == 'none' and runs[6].title == '+ SM + TM'
