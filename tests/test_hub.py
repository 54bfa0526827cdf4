"""Shared folders: written, read back bit by bit, pushed and downloaded without a network."""

import hashlib
import json
import re
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
import yaml

import stmn_plugin
from stmn_plugin.cameras import hub
from stmn_plugin.cli import export
from stmn_plugin.config import load_config
from stmn_plugin.config.sections import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.fingerprint import weights_digest
from stmn_plugin.models import ModelSpec, build_video_model
from stmn_plugin.training.checkpoint import save_checkpoint

WORDS = (
    'model.name eug eug.backbone resnet18 data.type video data.height 64 data.width 32 '
    'video.seq_len 4'
)
TERMS = 'Research only, as MARS: ask its authors.'
EVALUATION = {
    'dataset': 'mars', 'protocol': 'official', 'reranked': False, 'frames': 'rrs', 'flip': False,
    'num_query_with_match': 9, 'num_query': 10, 'num_gallery': 40, 'doubt': '',
    'epoch': 1, 'dist_metric': 'euclidean', 'normalize_feature': False,
    'seconds': {'per_tracklet': 0.1}, 'rank-1': 0.5, 'mAP': 0.25, 'mINP': 0.125,
}  # fmt: skip


ROOT = 'data.root', '/home/anna/reid-data'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run with a checkpoint, and evaluations of its weights and of others."""
    folder = tmp_path_factory.mktemp('run')
    spec = ModelSpec.from_config(
        flatten(load_config('', [*WORDS.split(), 'data.sources', 'mars', *ROOT]))
    )
    model = build_video_model(spec, 4, pretrained=False)
    state = {'state_dict': model.state_dict(), 'epoch': 1, 'config': dict(spec.config)}
    path = save_checkpoint({**state, 'rank1': 0.0}, str(folder / 'model'), 1)
    own = {**EVALUATION, 'weights': weights_digest(model)}
    others = {**EVALUATION, 'weights': 'of another epoch', 'mAP': 0.75}
    again = {**own, 'rank-3': 0.875, 'normalize_feature': True}  # with other test settings
    content = {'evaluations': [others, own, again]}
    (folder / 'metrics.json').write_text(json.dumps(content))
    return SimpleNamespace(checkpoint=path, model=model.eval())


@pytest.fixture(scope='module')
def shared(run, tmp_path_factory):
    """The folder that the command writes of it."""
    folder = tmp_path_factory.mktemp('shared') / 'stmn'
    export.main([run.checkpoint, '--format', 'hub', '--output', str(folder), '--terms', TERMS])
    return folder


def assert_same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.slow
def test_a_shared_folder_gives_the_model_back(run, shared):
    model = stmn_plugin.from_pretrained(shared)
    assert_same(model, run.model)
    assert (model.spec.arch, model.spec.height, model.spec.seq_len) == ('eug', 64, 4)
    assert not model.training
    described = json.loads((shared / 'config.json').read_text())
    assert described['config']['model.pretrained'] is False
    assert {path.name for path in shared.iterdir()} == {
        'model.safetensors', 'config.json', 'README.md'
    }  # fmt: skip


def test_a_shared_folder_does_not_say_where_things_lie(run, shared):
    """Neither its config nor the header of its weights; the checkpoint does."""
    assert torch.load(run.checkpoint)['config']['data.root'] == ROOT[1]
    for path in shared.iterdir():
        assert b'/home/anna' not in path.read_bytes(), path.name
    described = json.loads((shared / 'config.json').read_text())
    assert described['config']['data.root'] == '.../reid-data'


def test_the_card_has_data_numbers_with_protocol_and_terms(shared):
    text = (shared / 'README.md').read_text()
    _, header, body = text.split('---\n', 2)
    [index] = yaml.safe_load(header)['model-index']
    first, second = index['results']  # not that of other weights
    assert first == second and first['dataset']['name'] == 'mars'
    values = {each['name']: each['value'] for each in first['metrics']}
    assert values == {'mAP (official)': 25.0, 'rank-1 (official)': 50.0}
    digest = hashlib.sha256((shared / 'model.safetensors').read_bytes()).hexdigest()
    assert digest in body and 'trained on mars' in body and body.endswith(f'{TERMS}\n')
    assert 'protocol official' in body
    assert re.search(r'mars +euclidean .* 50\.0 +25\.0 +12\.5', body) and '75.0' not in body
    assert re.search(r'mars +euclidean, normalised .* 50\.0 +87\.5 +25\.0 +12\.5', body)


def test_a_checkpoint_without_evaluations(run, tmp_path):
    alone = tmp_path / 'alone' / 'weights' / 'stmn.safetensors'
    alone.parent.mkdir(parents=True)
    export.main(['--weights', str(alone), run.checkpoint])
    assert hub.save_pretrained(alone, tmp_path / 'shared', TERMS) == []
    text = (tmp_path / 'shared' / 'README.md').read_text()
    assert 'model-index' not in text and 'None: no metrics.json' in text
    assert_same(stmn_plugin.from_pretrained(tmp_path / 'shared'), run.model)


@pytest.mark.slow
def test_push_and_download(run, shared, tmp_path, monkeypatch, capsys):
    """Push to a stand-in for the hub that fills the cache from which the download is served."""
    cache = tmp_path / 'cache'
    repository = cache / 'models--me--stmn'
    made = []

    class Hub:
        def create_repo(self, name, private, exist_ok):
            made.append((name, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            assert repo_id == 'me/stmn'
            snapshot = repository / 'snapshots' / ('a' * 40)
            snapshot.mkdir(parents=True)
            for name in allow_patterns:
                (snapshot / name).write_bytes((folder_path / name).read_bytes())
            (repository / 'refs').mkdir()
            (repository / 'refs' / 'main').write_text('a' * 40)
            return SimpleNamespace(commit_url='hub/me/stmn/commit/a')

    monkeypatch.setattr(huggingface_hub, 'HfApi', Hub)
    words = ['--format', 'hub', '--output', str(tmp_path / 'out'), '--terms', TERMS]
    export.main([run.checkpoint, *words, '--push', 'me/stmn'])
    assert made == [('me/stmn', True, True)]
    assert capsys.readouterr().out.endswith('Pushed to hub/me/stmn/commit/a\n')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(cache))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert_same(stmn_plugin.from_pretrained('me/stmn'), run.model)
    with pytest.raises(InputError, match='hub repository me/other: '):
        stmn_plugin.from_pretrained('me/other')
    with pytest.raises(InputError, match='hub repository me/stmn: '):
        stmn_plugin.from_pretrained('me/stmn', revision='v2')


def test_bad_input_is_one_line(run, shared, tmp_path, monkeypatch):
    with pytest.raises(InputError, match='--terms'):
        hub.save_pretrained(run.checkpoint, tmp_path / 'new', '  ')
    with pytest.raises(InputError, match='already exists'):
        hub.save_pretrained(run.checkpoint, shared, TERMS)
    with pytest.raises(InputError, match='no file .*model.safetensors'):
        stmn_plugin.from_pretrained(tmp_path)
    with pytest.raises(InputError, match='neither a folder nor OWNER/NAME'):
        stmn_plugin.from_pretrained(tmp_path / 'no')
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(InputError, match='hub repository me/stmn: '):
        hub.push_to_hub(shared, 'me/stmn')


def test_flags_of_the_hub_go_with_it(run, capsys):
    with pytest.raises(SystemExit) as ended:
        export.main([run.checkpoint, '--format', 'torch', '--output', 'x', '--push', 'me/stmn'])
    assert ended.value.code == 2
    assert '--push goes with --format hub' in capsys.readouterr().err
