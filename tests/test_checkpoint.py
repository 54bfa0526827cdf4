"""Checkpoints: whole or absent, safe to load, of the right network; the host reads them too."""

import contextlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchreid

from stmn_plugin.errors import InputError
from stmn_plugin.models import STMN
from stmn_plugin.models.weights import fitted_weights
from stmn_plugin.training.checkpoint import (
    count_classes,
    load_checkpoint,
    load_resumable,
    load_weights,
    save_checkpoint,
    saved_epochs,
)
from stmn_plugin.training.resumable import resume
from stmn_plugin.whole_files import atomic_path


def small(seq_len=4, num_classes=5, **options):
    torch.manual_seed(0)
    config = STMN.Config(backbone='resnet18', **options)
    return STMN(num_classes, seq_len, config, pretrained=False)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A checkpoint of a small model, with its model and optimizer."""
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    state = {
        'state_dict': model.state_dict(),
        'epoch': 3,
        'rank1': 0.5,
        'optimizer': optimizer.state_dict(),
        'scheduler': scheduler.state_dict(),
    }
    return save_checkpoint(state, str(tmp_path_factory.mktemp('saved')), 3), model


@pytest.mark.slow
def test_weights_come_back(saved):
    path, model = saved
    other = small()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert load_weights(other, path)['epoch'] == 3
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_the_host_resumes_from_it_and_loads_its_weights(saved):
    path, model = saved
    for load in (torchreid.utils.resume_from_checkpoint, torchreid.utils.load_pretrained_weights):
        other = small()
        other.classifier_clip.weight.data.add_(1)
        with contextlib.redirect_stdout(io.StringIO()):
            load(path, other) if load.__name__ == 'resume_from_checkpoint' else load(other, path)
        assert torch.equal(other.classifier_clip.weight, model.classifier_clip.weight)


def test_the_hosts_own_checkpoints_load(tmp_path):
    model = torchreid.models.build_model('osnet_x0_25', 3, pretrained=False)
    state = {
        'state_dict': {f'module.{key}': value for key, value in model.state_dict().items()},
        'epoch': 1,
        'rank1': np.float32(0.25),  # what torch's safe loader refuses by itself
    }
    with contextlib.redirect_stdout(io.StringIO()):
        torchreid.utils.save_checkpoint(state, str(tmp_path))
    checkpoint = load_weights(model, str(tmp_path / 'model.pth.tar-1'))
    assert checkpoint['rank1'] == np.float32(0.25)


def test_classifiers_of_another_size_keep_their_start_for_testing(saved):
    path, model = saved
    other = small(num_classes=9)
    before = other.classifier_clip.weight.clone()
    load_weights(other, path)
    assert torch.equal(other.classifier_clip.weight, before)
    assert torch.equal(other.temporal_memory.keys, model.temporal_memory.keys)
    with pytest.raises(InputError, match='classifier_clip'):
        fitted_weights(small(num_classes=9), load_checkpoint(path)['state_dict'], path)


@pytest.mark.parametrize(
    'build, part',
    [
        (lambda: small(seq_len=6), 'video.seq_len 4, the config says 6'),
        (lambda: small(spatial_mode='none'), 'another architecture than STMN'),
        (lambda: small(temporal_mode='mlp'), 'another architecture than STMN'),
        (lambda: small(spatial_items=3), 'stmn.spatial_items 10, the config says 3'),
        (lambda: torchreid.models.build_model('osnet_x0_25', 3, pretrained=False), 'OSNet'),
    ],
)
def test_another_network_is_refused_with_the_path(saved, build, part):
    with pytest.raises(InputError) as caught:
        load_weights(build(), saved[0])
    assert saved[0] in str(caught.value) and part in str(caught.value)
    assert '\n' not in str(caught.value)


def test_damaged_missing_and_foreign_files_are_refused(saved, tmp_path):
    data = Path(saved[0]).read_bytes()
    (tmp_path / 'half').write_bytes(data[: len(data) // 2])
    (tmp_path / 'empty').write_bytes(b'')
    (tmp_path / 'text').write_text('weights')
    torch.save([1, 2], tmp_path / 'list')
    for name in ('half', 'empty', 'text', 'list', 'missing'):
        with pytest.raises(InputError) as caught:
            load_checkpoint(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value) and '\n' not in str(caught.value)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_a_malicious_pickle_runs_nothing(tmp_path):
    target = str(tmp_path / 'pwned')
    torch.save({'state_dict': {}, 'epoch': Malicious(target)}, tmp_path / 'zip')
    (tmp_path / 'plain').write_bytes(pickle.dumps({'state_dict': Malicious(target)}))
    for name in ('zip', 'plain'):
        with pytest.raises(InputError):
            load_checkpoint(str(tmp_path / name))
        assert not os.path.exists(target)
    torch.load(tmp_path / 'zip', weights_only=False)  # it does bite when it is let
    assert os.path.exists(target)


def test_the_newest_checkpoints_and_the_best_stay(tmp_path):
    for epoch in range(1, 6):
        save_checkpoint({'epoch': epoch}, str(tmp_path), epoch, keep_last=2, is_best=epoch == 2)
    assert sorted(saved_epochs(str(tmp_path))) == [4, 5]
    best = torch.load(tmp_path / 'model-best.pth.tar', weights_only=True)
    assert best == {'epoch': 2}
    assert sorted(os.listdir(tmp_path)) == [
        'model-best.pth.tar',
        'model.pth.tar-4',
        'model.pth.tar-5',
    ]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(OSError, match='No space left'), atomic_path(str(path)) as temporary:
        with open(temporary, 'w') as file:
            file.write('half')
        raise OSError(28, 'No space left on device')
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file']


def test_a_full_disk_is_named_and_costs_no_checkpoint(tmp_path):
    resource = pytest.importorskip('resource')
    import signal

    save_checkpoint({'state_dict': {}, 'epoch': 1}, str(tmp_path), 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r'cannot write .*model\.pth\.tar-2'):
            save_checkpoint({'x': torch.zeros(100_000)}, str(tmp_path), 2, keep_last=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ['model.pth.tar-1']
    assert load_checkpoint(str(tmp_path / 'model.pth.tar-1'))['epoch'] == 1


def test_resuming_needs_more_than_weights(saved, tmp_path):
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    checkpoint = load_resumable(saved[0])
    assert checkpoint['epoch'] == 3
    resume(checkpoint, saved[0], model, optimizer, scheduler)
    torch.save(model.state_dict(), tmp_path / 'weights')
    with pytest.raises(InputError, match='model.resume'):
        load_resumable(str(tmp_path / 'weights'))


def test_classes_are_counted_by_the_largest_classifier(tmp_path):
    for names, count in (
        ({'classifier_clip.weight': (7, 2), 'classifier_frame.weight': (7, 2)}, 7),
        ({'image_model.classifier.weight': (1, 9), 'classifier.weight': (5, 9)}, 5),
        ({'module.classifier.2.weight': (4, 3), 'classifier.bias': (9,)}, 4),
        ({'bn.weight': (8,)}, 1),
    ):
        state = {name: torch.zeros(shape) for name, shape in names.items()}
        path = save_checkpoint({'state_dict': state, 'epoch': 1}, str(tmp_path), 1)
        assert count_classes(path) == count
