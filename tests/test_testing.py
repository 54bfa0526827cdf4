"""What an evaluation says it did, and in which order it writes and prints."""

import contextlib
import io
import json
from types import SimpleNamespace

import pytest
import torch

import stmn_plugin
from stmn_plugin.data import VideoDataManager
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.searched import count_searched
from stmn_plugin.evaluation.settings import TestSettings
from stmn_plugin.evaluation.testing import TestingMixin
from stmn_plugin.training.run_record import RunRecord


class TwoTargets(TestingMixin):
    """An engine of images with the targets 'one' and 'two', whose features are given."""

    epoch, writer, use_gpu = None, None, False

    def __init__(self, features):
        self.features = features
        self.model = torch.nn.Linear(1, 1)
        self.settings, self.record = TestSettings(protocol='torchreid'), RunRecord()
        self.test_loader = {'one': None, 'two': None}
        lists = {
            'query': [(f'q{i}.jpg', i % 3, 0, 0) for i in range(6)],
            'gallery': [(f'g{i}.jpg', i % 3, 1, 0) for i in range(9)],
        }
        self.datamanager = SimpleNamespace(
            data_type='image',
            test_dataset={'one': lists, 'two': lists},
            fetch_test_loaders=lambda name: (lists['query'], lists['gallery']),
            train_loader=SimpleNamespace(dataset=SimpleNamespace(train=lists['query'])),
        )

    def set_model_mode(self, mode):
        assert mode == 'eval'

    def searched_features(self, name, options):
        if name not in self.features:
            raise InputError(f'{name}: a frame cannot be read')
        features = self.features[name]
        labels = ([item[1:3] for item in x] for x in self.datamanager.test_dataset[name].values())
        parts = zip(features.split([6, 9]), map(torch.tensor, labels), strict=True)
        return tuple(TrackletFeatures(x, y[:, 0].numpy(), y[:, 1].numpy()) for x, y in parts)


def some_features(seed):
    return torch.randn(15, 4, generator=torch.Generator().manual_seed(seed))


def test_what_a_target_gave_is_on_disk_when_the_next_one_fails(tmp_path, capsys):
    engine = TwoTargets({'one': some_features(1)})
    with pytest.raises(InputError, match='two'):
        engine.test(save_dir=str(tmp_path))
    kept = json.loads((tmp_path / 'metrics.json').read_text())
    assert [e['dataset'] for e in kept['evaluations']] == ['one'] and kept['bad_frames'] == []
    assert '##### one' in capsys.readouterr().out


def test_results_are_on_disk_before_they_are_printed(tmp_path, monkeypatch):
    engine = TwoTargets({'one': some_features(1), 'two': some_features(2)})
    seen = []

    class Console(io.StringIO):
        def write(self, text):
            file = tmp_path / 'metrics.json'
            kept = json.loads(file.read_text())['evaluations'] if file.exists() else []
            seen.append((text, [e['dataset'] for e in kept]))
            return len(text)

    with contextlib.redirect_stdout(Console()):
        rank1 = engine.test(save_dir=str(tmp_path))
    for text, kept in seen:
        if 'one' in text:
            assert 'one' in kept
        if 'two' in text:
            assert kept == ['one', 'two']
    assert rank1 == pytest.approx(engine.evaluations[0]['rank-1'], abs=1e-6)


def test_a_collapsed_model_says_so(tmp_path, capsys):
    engine = TwoTargets({'one': torch.ones(15, 4), 'two': some_features(2)})
    engine.test(save_dir=str(tmp_path))
    out = capsys.readouterr().out
    assert 'Warning: The features of all tracklets of one are equal: the model collapsed.' in out
    assert out.count('Warning') == 1
    head, _, first, second, *_ = out.splitlines()[-4:]
    assert head.split()[-1] == 'doubt' and first.split()[-1] == 'collapsed'
    assert second.split()[0] == 'two' and 'collapsed' not in second
    one, two = json.loads((tmp_path / 'metrics.json').read_text())['evaluations']
    assert one['collapsed'] and one['num_query_tied'] == 6 and 'collapsed' in one['doubt']
    assert not two['collapsed'] and two['num_query_tied'] == 0 and two['doubt'] == ''


SEARCHED = {  # dataset, protocol → are the queries searched
    ('mars', 'official'): True,
    ('mars', 'torchreid'): False,
    ('dukemtmcvidreid', 'official'): True,
    ('dukemtmcvidreid', 'torchreid'): True,  # its gallery holds them
    ('lsvid', 'A'): True,
    ('lsvid', 'C'): False,
    ('tracklets', 'official'): False,
    ('tracklets', 'matlab'): False,
}


@pytest.mark.parametrize('name, protocol', list(SEARCHED), ids='-'.join)
def test_it_is_told_from_the_data_whether_queries_are_searched(name, protocol, miniature_roots):
    stmn_plugin.register()
    engine = TestingMixin()
    engine.settings = TestSettings(protocol=protocol)
    with contextlib.redirect_stdout(io.StringIO()):
        engine.datamanager = VideoDataManager(
            miniature_roots[name], name, height=32, width=16, batch_size_train=2, workers=0
        )
    queries, tracklets = engine.searched_tracklets(name)
    expected = len(queries) if SEARCHED[name, protocol] else 0
    assert count_searched(queries, tracklets) == expected
