"""tools/visualize.py on trained runs: files, captions, numbers, and what a model cannot have."""

import json
from pathlib import Path

import pytest

from stmn_plugin.cli import visualize
from stmn_plugin.cli.train import main
from stmn_plugin.looking import explained_run
from stmn_plugin.looking.figure_parts import thumbnail
from stmn_plugin.looking.figures import retrieval

pytestmark = pytest.mark.slow

MEASURES = {
    'spatial_usage',
    'spatial_read_out',
    'temporal_usage',
    'temporal_attention',
    'attention_and_visibility',
    'refinement_and_distractors',
}


@pytest.fixture
def train(repository, small_run, tmp_path, capsys):
    """Train a run for an epoch → its folder."""

    def call(name, config, root, *words):
        folder = str(tmp_path / name)
        config = ['--config-file', str(repository / 'configs' / config), '--root', str(root)]
        main([*config, *small_run, 'data.save_dir', folder, *words])
        capsys.readouterr()
        return folder

    return call


@pytest.fixture
def run(capsys):
    """Run the tool → exit code, stdout, stderr."""

    def call(*words):
        code = 0
        try:
            visualize.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return call


def test_two_runs_on_data_with_truth(train, run, tmp_path):
    words = 'synthetic.preset', 'tiny', 'train.batch_size', '4'
    folder = train('with', 'stmn_synthetic.yaml', tmp_path, *words)
    mlp = 'stmn.temporal_mode', 'mlp', 'loss.spread.weight', '0.0'
    other = train('mlp', 'stmn_synthetic.yaml', tmp_path, *words, *mlp)
    code, out, _ = run('--run', folder, '--against', other)
    assert code == 0
    figures = tmp_path / 'with' / 'figures'
    names = {f'figure-{n}.{kind}' for n in range(5, 11) for kind in ('png', 'svg', 'txt')}
    assert {path.name for path in figures.iterdir()} == names | {'analysis.json'}
    named, other_named = '.../with', '.../mlp'  # figures are handed on: they name no folders
    for number in range(5, 11):
        caption = (figures / f'figure-{number}.txt').read_text()
        assert caption.startswith(f'Figure {number}. ')
        for fact in (named, 'model-best.pth.tar, epoch 1', 'synthetic, query and gallery', 'rrs'):
            assert fact in caption
    for number in (5, 10):
        assert other_named in (figures / f'figure-{number}.txt').read_text()
    assert 'distractor mask' in (figures / 'figure-7.txt').read_text()

    runs = json.loads((figures / 'analysis.json').read_text())['runs']
    assert [one['run'] for one in runs] == [named, other_named]
    for one in runs:
        assert one['measures'].keys() == MEASURES
        assert (one['dataset'], one['weights']) == ('synthetic', 'model-best.pth.tar, epoch 1')
        for name, measure in one['measures'].items():
            assert len(measure['definition']) > 100 and measure['verdict'] in out
            without = one is runs[1] and name == 'temporal_usage'
            assert (measure['values'] == {}) == without
            # four persons say nothing of others
            assert measure['does_its_job'] is None
            assert measure['verdict'].startswith('No evidence') == (not without)
            for value in measure['values'].values():
                assert value['low'] is value['high'] is None
    assert runs[1]['measures']['temporal_usage']['verdict'].startswith('The model has no temporal')

    again = tmp_path / 'again'
    code, *_ = run('--run', folder, '--figures', 7, 9, '--format', 'svg', '--output', again)
    assert code == 0
    assert {path.name for path in again.glob('figure*')} == {
        f'figure-{n}.{kind}' for n in (7, 9) for kind in ('svg', 'txt')
    }
    for path in again.glob('*.svg'):
        assert path.read_bytes() == (figures / path.name).read_bytes()


def assert_found_are_right(searches, mars_root):
    """Every picture of Fig. 8 is marked right when its file bears the query's person."""
    paths = Path(mars_root, 'mars', 'bbox_test').glob('*/*.jpg')
    name_of = {thumbnail(str(path)).tobytes(): path.name for path in paths}
    assert [search.title for search in searches] == ['0006C2T0001', '0150C3T0001']
    for search in searches:
        assert name_of[search.picture.tobytes()].startswith(search.title)
        for _, found in search.lists:
            names = [name_of[one.picture.tobytes()] for one in found]
            assert len(set(names)) == len(names) == 10
            own = [name.startswith(search.title[:4]) for name in names]
            assert [one.right for one in found] == own
            assert not any(name.startswith(search.title[:6]) for name in names)  # same camera


def test_data_without_truth_and_tracklets_by_name(train, run, mars_root, tmp_path, monkeypatch):
    searches, draw = [], retrieval.draw

    def spy(shown, caption):
        searches.extend(shown)
        return draw(shown, caption)

    monkeypatch.setattr(retrieval, 'draw', spy)
    folder = train('run', 'stmn_mars.yaml', mars_root)
    names = '0006C2T0001', '0150C3T0001', '0150C4T0002'  # the last is no query
    words = '--tracklets', *names, '--items', 2, '--format', 'png', 'data.root', mars_root
    code, out, _ = run('--run', folder, '--seed', 3, *words)
    assert code == 0 and 'No truth for this dataset' in out
    assert_found_are_right(searches, mars_root)
    figures = tmp_path / 'run' / 'figures'
    (one,) = json.loads((figures / 'analysis.json').read_text())['runs']
    assert (one['tracklets'], one['clips']) == (30, 30)  # 32 rows, two of them junk
    for name in ('attention_and_visibility', 'refinement_and_distractors'):
        assert one['measures'][name]['values'] == {}
    assert 'chosen by name' in (figures / 'figure-8.txt').read_text()
    assert 'mask' not in (figures / 'figure-7.txt').read_text()


def test_a_config_with_weights_and_models_that_cannot_have_a_figure(
    train, run, repository, small_run, mars_root, tmp_path, monkeypatch
):
    plain = 'stmn.spatial_mode', 'none', 'stmn.temporal_mode', 'average'
    folder = train('plain', 'stmn_mars.yaml', mars_root, *plain)
    config = '--config-file', repository / 'configs' / 'stmn_mars.yaml', '--root', mars_root
    weights = 'model.load_weights', f'{folder}/model/model-best.pth.tar'
    output = '--output', tmp_path / 'out'
    code, out, _ = run(*config, *output, *small_run, *plain, *weights)
    assert code == 0
    for number, reason in (
        (5, 'no model has a spatial memory (spatial_probs) or temporal memory (temporal_probs)'),
        (6, 'the model has no spatial memory (spatial_probs)'),
        (7, 'the model has no refined feature maps (refined_norms)'),
        (9, 'the model has no temporal memory (temporal_probs)'),
        (10, 'the model has no temporal attention (attention)'),
    ):
        assert f'Figure {number} is left out: {reason}' in out
    names = {f'figure-8.{kind}' for kind in ('png', 'svg', 'txt')}
    assert {path.name for path in (tmp_path / 'out').iterdir()} == names | {'analysis.json'}
    assert 'by the features of the model' in (tmp_path / 'out' / 'figure-8.txt').read_text()
    monkeypatch.setattr(explained_run, 'reduce_clips', None)  # nothing is computed
    code, _, err = run(*config, *output, '--figures', 6, *small_run, *plain, *weights)
    assert (code, err) == (
        2,
        'error: --figures 6: the model has no spatial memory (spatial_probs)\n',
    )


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['--figures', '4'], "--figures: takes a whole number from 5 to 10, got '4'"),
        (['--format', 'pdf'], "--format: takes one of png, svg, got 'pdf'"),
        (['--tracklets', 'nobody'], '--tracklets nobody'),
        (['--against', 'nowhere'], 'nowhere holds no trained run'),
    ],
)
def test_wrong_words_are_named(words, says, run, repository, small_run, mars_root):
    config = '--config-file', repository / 'configs' / 'stmn_mars.yaml', '--root', mars_root
    code, _, err = run(*config, *words, *small_run)
    assert code == 2 and says in err


def test_another_runs_tracklets_must_be_the_same(train, run, mars_root, miniature_roots):
    mars = train('mars', 'stmn_mars.yaml', mars_root)
    duke = train('duke', 'stmn_dukev.yaml', miniature_roots['dukemtmcvidreid'])
    code, _, err = run('--run', mars, '--against', duke, '--figures', 5)
    assert code == 2 and f'--against {duke}: its target has other tracklets' in err


def test_another_run_that_cannot_be_compared_is_refused_before_any_pass(
    train, run, mars_root, monkeypatch
):
    mars = train('mars', 'stmn_mars.yaml', mars_root)
    longer = train('longer', 'stmn_mars.yaml', mars_root, 'test.frames', 'all')
    monkeypatch.setattr(explained_run, 'reduce_clips', None)
    code, _, err = run('--run', mars, '--against', longer)
    assert code == 2 and f'--against {longer}: test.frames is all, of {mars} rrs; both' in err


def test_a_model_that_explains_nothing_has_the_figure_of_its_searches(
    train, run, mars_root, tmp_path
):
    folder = train('other', 'stmn_mars.yaml', mars_root, 'model.name', 'resnet18')
    code, out, _ = run('--run', folder, '--format', 'svg')
    assert code == 0 and out.count('is left out: ') == 5
    figures = tmp_path / 'other' / 'figures'
    assert {path.name for path in figures.glob('figure*')} == {'figure-8.svg', 'figure-8.txt'}
    (one,) = json.loads((figures / 'analysis.json').read_text())['runs']
    assert (one['tracklets'], one['clips']) == (30, 30)
    for measure in one['measures'].values():
        assert measure['values'] == {} and measure['verdict'].startswith('The model has no ')
    (score,) = json.loads((tmp_path / 'other' / 'metrics.json').read_text())['evaluations']
    assert f'mAP {score["mAP"]:.1%}. ' in (figures / 'figure-8.txt').read_text()


def test_held_out_identities_have_figures(train, run, mars_root, tmp_path):
    folder = train('held', 'stmn_mars.yaml', mars_root, 'data.validation_ids', '3')
    code, out, _ = run('--run', folder, '--figures', 5, '--format', 'svg')
    assert code == 0
    caption = (tmp_path / 'held' / 'figures' / 'figure-5.txt').read_text()
    assert 'mars-validation, query and gallery' in caption
    assert 'the epoch with the best result on the test data of its training run' in caption
