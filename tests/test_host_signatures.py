"""Whatever overrides something of the host accepts every call that the host accepts."""

import importlib
import inspect
import pkgutil
import sys
from types import SimpleNamespace

import pytest

import stmn_plugin
from stmn_plugin.evaluation.settings import TestOptions
from stmn_plugin.host.engine import VideoEngine
from stmn_plugin.training.run_record import RunRecord

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def from_host(cls):
    return cls.__module__.split('.')[0] == 'torchreid'


def our_classes():
    for module in pkgutil.walk_packages(stmn_plugin.__path__, 'stmn_plugin.'):
        if not module.name.endswith('__main__'):
            importlib.import_module(module.name)
    return {
        value
        for name, module in list(sys.modules.items())
        if name.startswith('stmn_plugin')
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__.startswith('stmn_plugin')
    }


def overrides():
    """(class, name) of whatever is the host's and ours, by inheritance also through mixins."""
    for cls in sorted(our_classes(), key=lambda cls: (cls.__module__, cls.__qualname__)):
        hosts = [base for base in cls.__mro__ if from_host(base)]
        for name in sorted({name for base in hosts for name in vars(base)}):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            host = next(base for base in hosts if name in vars(base))
            if from_host(owner) or not callable(getattr(host, name)):
                continue
            # a constructor replaces the host's where the class takes the name of the host's, and
            # where it is one of the classes that others build upon
            replaces = host.__name__ in (cls.__name__, 'VideoDataset')
            datasets_of_our_own = ('LSVID', 'Tracklets')
            if name == '__init__' and (not replaces or cls.__name__ in datasets_of_our_own):
                continue
            yield cls, name, getattr(host, name)


OVERRIDES = list(overrides())


@pytest.mark.parametrize(
    'cls, name, host', OVERRIDES, ids=[f'{cls.__name__}.{name}' for cls, name, _ in OVERRIDES]
)
def test_an_override_takes_the_hosts_arguments_in_the_hosts_order(cls, name, host):
    own, hosts = (
        [x for x in inspect.signature(f).parameters.values() if x.kind in POSITIONAL]
        for f in (getattr(cls, name), host)
    )
    assert [x.name for x in own[: len(hosts)]] == [x.name for x in hosts]
    for mine, other in zip(own, hosts, strict=False):
        plain = [list(x) if isinstance(x, tuple) else x for x in (mine.default, other.default)]
        assert plain[0] == plain[1]
    assert all(extra.default is not inspect.Parameter.empty for extra in own[len(hosts) :])


def test_the_overrides_that_matter_are_compared():
    compared = {(cls.__name__, name) for cls, name, _ in OVERRIDES}
    names = ('run', 'train', 'test', 'save_model', 'forward_backward', 'register_model')
    more = ('parse_data_for_train', 'parse_data_for_eval', 'extract_features')
    assert compared >= {('VideoEngine', name) for name in names + more}
    assert {
        ('VideoDataManager', '__init__'),
        ('Mars', '__init__'),
        ('TrackletDataset', '__init__'),
        ('TrackletDataset', '__add__'),
    } <= compared


def test_positional_options_of_a_test_are_what_the_host_makes_of_them(monkeypatch):
    class Found(Exception):
        pass

    def take(self, options):
        raise Found(options)

    monkeypatch.setattr(VideoEngine, 'evaluator', take)
    engine = object.__new__(VideoEngine)
    engine.model, engine.trainer = None, SimpleNamespace(epoch=None)
    engine.ends_with_table = False
    engine.datamanager = SimpleNamespace(width=1, height=2)
    engine.set_model_mode = lambda mode: None
    with pytest.raises(Found) as caught:
        engine.test('cosine', True, False, 5, 'folder', False, [1, 2], True)
    assert caught.value.args[0] == TestOptions('cosine', True, False, 5, False, [1, 2], True)


def test_positional_options_of_a_run_reach_the_test(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(VideoEngine, 'test', lambda self, **options: calls.append(options))
    engine = object.__new__(VideoEngine)
    engine.record, engine.trainer = RunRecord(), SimpleNamespace()
    folder = str(tmp_path)
    engine.run(folder, 0, 0, 10, 0, None, 0, -1, True, 'cosine', True, True, 3, False, [1], True)
    names = ('dist_metric', 'normalize_feature', 'visrank', 'visrank_topk', 'use_metric_cuhk03')
    values = ('cosine', True, True, 3, False)
    expected = dict(zip(names, values, strict=True))
    assert calls == [{'save_dir': folder, **expected, 'ranks': [1], 'rerank': True}]
