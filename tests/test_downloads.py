"""Nothing is fetched unasked, and never over plain http."""

import os
import socket
import urllib.request

import gdown
import pytest
import torch
import torchreid

import stmn_plugin
from stmn_plugin.cli import train
from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.host.parts import build_model


@pytest.fixture
def fetched(monkeypatch):
    """Links that would have been opened; no test here reaches a network."""
    links = []

    def note(url, *_args, **_options):
        links.append(url)
        raise OSError('no network')

    monkeypatch.setattr(urllib.request, 'urlretrieve', note)
    monkeypatch.setattr(gdown, 'download', note)
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', note)
    monkeypatch.setattr(socket.socket, 'connect', note)
    yield links
    stmn_plugin.register()  # as other tests expect it


HOSTS_OWN = ['market1501', 'dukemtmcreid', 'viper', 'grid', 'ilids', 'university1652']


def image_data(name, root):
    return torchreid.data.ImageDataManager(root=str(root), sources=name, use_gpu=False, workers=0)


@pytest.mark.parametrize('name', HOSTS_OWN)
def test_no_dataset_is_fetched_unasked_and_nothing_is_left_behind(name, fetched, tmp_path):
    stmn_plugin.register()
    for _ in range(2):  # the host takes an empty folder for a dataset
        with pytest.raises(InputError, match=r'data\.root: no dataset in .* torchreid would fetch'):
            image_data(name, tmp_path)
        assert not fetched and not os.listdir(tmp_path)


@pytest.mark.parametrize('name', HOSTS_OWN)
def test_on_request_it_is_fetched_by_https_only(name, fetched, tmp_path):
    stmn_plugin.register(load_config(opts=['data.download', 'True']))
    with pytest.raises((OSError, InputError)) as caught:
        image_data(name, tmp_path)
    if name == 'university1652':
        assert str(caught.value) == 'no network' and fetched[0].startswith('https://')
    else:
        assert 'only https' in str(caught.value)
        assert not fetched and not os.listdir(tmp_path)


def test_a_dataset_of_ones_own_with_a_link_is_fetched_when_asked_for(monkeypatch, tmp_path):
    class Mine(torchreid.data.ImageDataset):
        def __init__(self, root='', **kwargs):
            self.download_dataset(os.path.join(root, 'mine'), 'https://host/mine.zip')

    links = []
    monkeypatch.setattr(
        urllib.request, 'urlretrieve', lambda url, path, _: links.append((url, path))
    )
    stmn_plugin.register()
    with pytest.raises(InputError, match=r'data\.download True'):
        Mine(str(tmp_path))
    stmn_plugin.register(load_config(opts=['data.download', 'True']))
    with pytest.raises(FileNotFoundError):  # what is to be unpacked: nothing has come
        Mine(str(tmp_path))
    path = str(tmp_path / 'mine' / 'mine.zip')
    assert links == [('https://host/mine.zip', path)]
    assert os.path.isdir(tmp_path / 'mine')
    stmn_plugin.register()


def test_the_default_config_alone_fetches_nothing(fetched, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main(['model.pretrained', 'False'])
    assert stop.value.code == 2 and not fetched
    (line,) = capsys.readouterr().err.splitlines()
    assert 'market1501' in line and 'data.root' in line and not (tmp_path / 'reid-data').exists()


def test_weights_come_by_https_and_run_no_code(fetched):
    stmn_plugin.register()
    with pytest.raises(InputError, match=r'plain http .*model\.pretrained False'):
        torchreid.models.build_model('xception', 5, pretrained=True)
    with pytest.raises(InputError, match='plain http'):
        torchreid.models.build_model('se_resnet50', 5, pretrained=True)
    assert not fetched
    options = {}
    torch.hub.load_state_dict_from_url = lambda url, **given: options.update(given, url=url) or {}
    torchreid.models.build_model('resnet18', 5, pretrained=True)
    assert options['weights_only'] is True and options['url'].startswith('https://')


def test_a_connection_that_ends_without_a_word_is_named(monkeypatch):
    def fail(name, *_, pretrained, **options):
        if pretrained:
            raise ConnectionResetError

    monkeypatch.setattr(torchreid.models, 'build_model', fail)
    with pytest.raises(InputError, match='cannot be downloaded or read .ConnectionResetError.'):
        build_model(load_config(opts=['model.name', 'resnet18']), 5)
