"""Which runs a comparison wants, which folder holds them, and what is reused."""

import os
import re

import pytest
import yaml
from test_comparison import DATA, VIDEO, alone, evaluation, write_run

from stmn_plugin.cli import compare
from stmn_plugin.comparing.given_runs import given_runs
from stmn_plugin.comparing.run_folders import read_run, recipe_changes
from stmn_plugin.comparing.run_queue import complete_runs, words_to_test, words_to_train
from stmn_plugin.comparing.run_results import standalone_evaluations
from stmn_plugin.comparing.variants import Variant, ablation_variants, arch_variants, named_variants
from stmn_plugin.comparing.wanted_runs import TESTING, as_words, place_variants
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError


def test_how_far_a_run_is(tmp_path):
    cfg = load_config('', VIDEO)

    def state(run):
        (wanted,) = given_runs([run.path], [])
        return wanted.state

    assert state(write_run(tmp_path / 'whole')) == 'finished'
    assert state(write_run(tmp_path / 'part', epochs=2)) == 'interrupted after epoch 2 of 3'
    # killed between its last evaluation and the line or the checkpoint that says so
    killed = write_run(tmp_path / 'killed')
    (tmp_path / 'killed' / 'metrics.jsonl').write_text('')
    assert state(killed) == 'interrupted after epoch 3 of 3'
    lost = write_run(tmp_path / 'lost')
    os.unlink(lost.checkpoint(3))
    assert state(lost) == f'{lost.path} holds results of epoch 3 without its weights, left alone'
    (wanted,) = given_runs([lost.path], [])
    (outcome,) = complete_runs([wanted._replace(may_train=True)], execute=None)
    assert outcome.error == state(lost) and read_run(lost.path).lines == lost.lines
    # killed before the first evaluation and the first checkpoint: nothing is lost but time
    early = write_run(tmp_path / 'early', evaluations=[])
    os.unlink(early.checkpoint(3))
    assert state(early) == 'interrupted after epoch 0 of 3'
    digestless = evaluation(epoch=3)
    del digestless['weights']
    assert state(write_run(tmp_path / 'older', evaluations=[digestless])) == 'finished'
    assert read_run(str(tmp_path / 'nothing')).final_evaluations(3) == []
    # stopped within the third epoch, before any checkpoint of a whole one was due
    within = write_run(tmp_path / 'within', epochs=2, evaluations=[])
    os.rename(within.checkpoint(2), tmp_path / 'within' / 'model' / 'unfinished.pth.tar')
    assert state(within) == 'interrupted after epoch 2 of 3'
    more = load_config('', [*VIDEO, 'train.max_epoch', '5'])
    assert recipe_changes(read_run(str(tmp_path / 'whole')), more) == {}
    fewer = load_config('', [*VIDEO, 'train.max_epoch', '2'])
    assert recipe_changes(read_run(str(tmp_path / 'whole')), fewer) == {'train.max_epoch': (3, 2)}
    assert recipe_changes(read_run(str(tmp_path / 'whole')), cfg) == {}


@pytest.mark.parametrize(
    'words',
    [
        'test.protocol matlab',
        'test.frames all',
        'test.clips_per_tracklet 2',
        'test.flip True',
        'test.dist_metric cosine',
        'test.normalize_feature True',
        'test.rerank True',
        'test.ranks [1]',
        'test.fold_bn False',
        'data.bad_frames skip',
        'data.height 64',
        'video.rrs_chunks ceil',
        '',
    ],
)
def test_an_evaluation_is_reused_only_for_what_it_is_of(words, tmp_path):
    cfg = load_config('', [*VIDEO, *as_words({**TESTING})])
    final, done = evaluation(epoch=3), alone(words.split())
    run = write_run(tmp_path / 'run', evaluations=[final, done])
    assert standalone_evaluations(run, cfg) == ([] if words else [done])
    asked = load_config('', [*VIDEO, *as_words({**TESTING}), *words.split()])
    assert standalone_evaluations(run, asked) == [done]
    free = ['test.batch_size', '7', 'data.workers', '1', 'train.print_freq', '3']
    assert standalone_evaluations(run, load_config('', [*asked_words(words), *free])) == [done]


def asked_words(words):
    return [*VIDEO, *as_words({**TESTING}), *words.split()]


@pytest.mark.parametrize(
    'change',
    [
        {'weights': 'others'},
        {'epoch': 3},
        {'dataset': 'lsvid'},
        {'data': {**DATA, 'query': 'another'}},
        {'data': {**DATA, 'gallery': 'another'}},
        {'made_from': None},  # an older one
    ],
)
def test_an_evaluation_is_of_weights_a_target_and_data(change, tmp_path):
    cfg = load_config('', [*VIDEO, *as_words({**TESTING})])
    data = change.pop('data', DATA)
    done = {**alone(data=data), **change}
    run = write_run(tmp_path / 'run', evaluations=[evaluation(epoch=3), done])
    assert standalone_evaluations(run, cfg) == []


def test_a_target_named_twice_counts_once(tmp_path):
    cfg = load_config('', asked_words(''))
    cfg.defrost()
    cfg.data.targets = ['mars', 'mars']
    run = write_run(tmp_path / 'run', evaluations=[evaluation(epoch=3), alone()])
    assert len(standalone_evaluations(run, cfg)) == 1


def test_a_run_is_found_by_its_recipe_and_another_is_never_overwritten(tmp_path):
    output, words = str(tmp_path), [*VIDEO, 'train.lr', '0.01']
    (fresh,) = place_variants(arch_variants(['resnet50']), 1, '', words, output)
    assert fresh.state == 'new'
    name = os.path.basename(fresh.folder)
    assert name == 'resnet50_type=video_sources=mars_sample_method=rrs_lr=0.01_seed1'
    write_run(tmp_path / 'named otherwise', ['train.lr', '0.01', 'data.workers', '7'])
    variants = [*arch_variants(['resnet50', 'resnet50']), Variant('again', 'again', {})]
    found = place_variants(variants, 2, '', words, output)
    assert [run.title for run in found] == ['resnet50', 'resnet50', 'again', 'again']
    assert [os.path.basename(run.folder) for run in found] == [
        'named otherwise',
        f'{name[:-1]}2',
    ] * 2
    assert [run.state for run in found][:2] == ['finished', 'new']
    write_run(tmp_path / name, ['train.lr', '0.02'])
    os.rename(tmp_path / 'named otherwise', tmp_path.parent / 'elsewhere')
    (conflict,) = place_variants(arch_variants(['resnet50']), 1, '', words, output)
    assert 'left alone: train.lr was 0.02, is 0.01' in conflict.state
    before = (tmp_path / name / 'config.yaml').read_bytes()
    (outcome,) = complete_runs([conflict], execute=None)
    assert outcome.error == conflict.state
    assert (tmp_path / name / 'config.yaml').read_bytes() == before


def test_results_at_the_end_of_a_training_are_not_taken_for_those_of_another_test(tmp_path):
    write_run(tmp_path / 'run')
    variants = [Variant('again', 'again', {})]
    for words, named in (
        ([], ''),
        (['test.features_dir', 'x', 'test.batch_size', '3'], ''),  # change no number
        (['test.protocol', 'torchreid'], "test.protocol was 'official', is 'torchreid'"),
        (['test.ranks', '[5]'], 'test.ranks was [1, 5, 10, 20], is [5]'),
        (['test.flip', 'True'], 'test.flip was '),
        (['data.bad_frames', 'skip'], "data.bad_frames was 'raise', is 'skip'"),
    ):
        (wanted,) = place_variants(variants, 1, '', [*VIDEO, *words], str(tmp_path))
        assert wanted.folder == str(tmp_path / 'run')
        (outcome,) = complete_runs([wanted], None, strategies=())
        assert named in outcome.error and bool(outcome.error) == bool(named)


def test_folder_names_are_short_and_tell_runs_apart(tmp_path):
    words = [*VIDEO, 'train.lr_scheduler', 'multi_step', 'data.root', str(tmp_path)]
    names = []
    for last in (50, 60):
        own = [*words, 'train.stepsize', str([*range(1, 40), last]), 'test.flip', 'True']
        (run,) = place_variants(arch_variants(['resnet50']), 1, '', own, str(tmp_path))
        names.append(os.path.basename(run.folder))
    assert len(set(names)) == 2 and max(map(len, names)) < 110
    assert all(re.fullmatch(r'resnet50_[\w.=+,-]+_seed1', name) for name in names)


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


@pytest.mark.parametrize('config', ['stmn_mars.yaml', 'stmn_synthetic.yaml'])
def test_the_ablation_is_a_delta_on_any_config(config, repository, tmp_path):
    file = str(repository / 'configs' / config)
    variants = ablation_variants(compare.ABLATION)
    assert {f'{v.name.removeprefix("ablation-")}.yaml' for v in variants} == {
        path.name for path in (repository / 'configs' / 'ablation').glob('*.yaml')
    }
    runs = place_variants(variants, 1, file, [], str(tmp_path))
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


def test_words_for_testing_are_for_the_tests(tmp_path):
    words = [*VIDEO, 'test.rerank', 'True', 'test.clips_per_tracklet', '4', 'test.flip', 'True']
    (run,) = place_variants(arch_variants(['resnet50']), 1, '', words, str(tmp_path))
    write_run(tmp_path / os.path.basename(run.folder))
    trained = load_config('', words_to_train(run))
    assert not trained.test.rerank and not trained.test.evaluate and trained.model.resume == 'auto'
    assert trained.data.save_dir == run.folder
    for frames, clips in (('rrs', 4), ('all', 1)):
        tested = load_config('', words_to_test(run, read_run(run.folder), frames)).test
        assert (tested.frames, tested.clips_per_tracklet) == (frames, clips)
        assert tested.rerank and tested.evaluate and tested.flip


def test_two_rows_of_one_title_and_a_row_with_a_seed_are_refused(tmp_path):
    rows = [Variant('Baseline', 'ablation-1', {}), Variant('Baseline', 'baseline', {})]
    with pytest.raises(InputError, match="two rows are called 'Baseline'"):
        place_variants(rows, 1, '', VIDEO, str(tmp_path))
    rows = [Variant('mine', 'mine', {'train.seed': 5})]
    with pytest.raises(InputError, match="row 'mine': train.seed is set by --seeds"):
        place_variants(rows, 1, '', VIDEO, str(tmp_path))


def test_image_data_is_refused(tmp_path):
    with pytest.raises(InputError, match='data.type image'):
        place_variants(arch_variants(['resnet50']), 1, '', [], str(tmp_path))


def test_a_damaged_folder_costs_its_own_row(tmp_path, capsys):
    write_run(tmp_path / 'good')
    for name, file in (('config', 'config.yaml'), ('metrics', 'metrics.json')):
        write_run(tmp_path / name)
        (tmp_path / name / file).write_text('{')
    paths = [str(tmp_path / name) for name in ('config', 'metrics', 'good')]
    runs = given_runs(paths, [])
    assert [bool(run.problem) for run in runs] == [True, True, False]
    (run,) = place_variants([Variant('again', 'again', {})], 1, '', VIDEO, str(tmp_path))
    assert run.folder == paths[2] and capsys.readouterr().out.count('Passed over: ') == 2
    (fresh,) = place_variants(arch_variants(['resnet18']), 1, '', VIDEO, str(tmp_path))
    write_run(tmp_path / os.path.basename(fresh.folder))
    (tmp_path / os.path.basename(fresh.folder) / 'metrics.json').write_text('{')
    (wanted,) = place_variants(arch_variants(['resnet18']), 1, '', VIDEO, str(tmp_path))
    assert wanted.folder == fresh.folder and 'damaged' in wanted.problem


@pytest.mark.parametrize(
    'change',
    [
        ('model.pretrained', 'False'),
        ('model.load_weights', __file__),  # any file
        ('stmn.backbone_weights', 'other.pth'),
        ('data.root', 'elsewhere'),
    ],
)
def test_a_run_from_other_weights_or_data_is_another_run(change, tmp_path):
    variants = [Variant('again', 'again', {})]
    (run,) = place_variants(variants, 1, '', VIDEO, str(tmp_path))
    write_run(tmp_path / os.path.basename(run.folder))
    (other,) = place_variants(variants, 1, '', [*VIDEO, *change], str(tmp_path))
    assert other.state == 'new' and change[0].split('.')[1] in os.path.basename(other.folder)
    absolute = ['data.root', os.path.abspath('reid-data')]
    (same,) = place_variants(variants, 1, '', [*VIDEO, *absolute], str(tmp_path))
    assert same.folder == run.folder and same.state == 'finished'
