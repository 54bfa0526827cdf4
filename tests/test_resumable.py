"""Whatever is wrong with a checkpoint: one line under its path, skipped under ``auto``."""

import contextlib
import copy
import io
import os
import warnings

import numpy as np
import pytest
import torch
import torchreid
from torch import nn

from stmn_plugin.config import get_default_config, load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.plain_values import is_like
from stmn_plugin.training.checkpoint import BEST, UNFINISHED, save_checkpoint, save_unfinished
from stmn_plugin.training.resumable import newest_checkpoint
from stmn_plugin.training.resuming import path_to_resume, resume_run
from stmn_plugin.training.run_state import RunFacts

LOG = {
    'epoch': 3, 'batches': 2, 'images': 8, 'seconds': 1.5, 'data_seconds': 0.5,
    'learning_rate': 0.1, 'totals': {'loss': [1.0, 2]}, 'trained': False,
}  # fmt: skip
OPTIMIZERS = {
    'adam': torch.optim.Adam,
    'sgd': lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
}


def parts(optimizer='adam', steps=0):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    for _ in range(steps):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9])
    return model, optimizer, scheduler


CONFIG = flatten(get_default_config())


def checkpoint(epoch=2, **more):
    model, optimizer, scheduler = parts(steps=2)
    state = {
        'state_dict': model.state_dict(), 'epoch': epoch, 'rank1': 0.5, 'best_map': 0.25,
        'facts': {'arch': 'linear'}, 'config': CONFIG, 'unfinished': None,
        'optimizer': optimizer.state_dict(), 'scheduler': scheduler.state_dict(),
    }  # fmt: skip
    return {**copy.deepcopy(state), **more}


def to(*path_and_value):
    """Set what lies under a path of keys; no value removes it."""
    *path, value = path_and_value

    def change(state):
        *above, last = path
        for key in above:
            state = state[key]
        if value is MISSING:
            del state[last]
        else:
            state[last] = value

    return change


MISSING, NAN, INF = object(), float('nan'), float('inf')
GROUP, MOMENTS = ('optimizer', 'param_groups', 0), ('optimizer', 'state', 0)
WRONG = (None, 'x', 3, 1.5, NAN, [], {}, [1], {'a': 1}, {0: 1}, True, b'x', torch.ones(2))
with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # that nested ones are a prototype
    NESTED = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
# tensors that hold no number for each of their places
ODD = (torch.ones(2, 3).to_sparse(), torch.ones(2, 3, device='meta'), NESTED)


def changes():
    """(title, change) of everything that a fuzzer would do to each field."""
    for field in ('state_dict', 'optimizer', 'scheduler'):
        yield f'{field} missing', to(field, MISSING)
        for value in WRONG:
            yield f'{field} {value!r}', to(field, value)
    for value in (*WRONG, -1, 10**30, 2.0, INF):
        if value is not WRONG[2]:  # 3 is right
            yield f'epoch {value!r}', to('epoch', value)
    for field in ('rank1', 'best_map'):
        for value in (*WRONG, 7.0, INF, -INF, 10**400):
            yield f'{field} {value!r}'[:80], to(field, value)
    for value in ([], 3, 'x', True, {0: 1}, {'train.lr': torch.ones(2)}, {'train.lr': {'a': 1}}):
        yield f'config {value!r}', to('config', value)
    for value in (3, 'x', [], {}, True, {'epoch': 3, 'other': 1}):
        yield f'unfinished {value!r}', to('unfinished', value)
    for key, value in (
        ('epoch', 3), ('epoch', 5), ('epoch', 'x'), ('epoch', 0), ('batches', -1), ('batches', 1.5),
        ('images', None), ('seconds', NAN), ('seconds', 'x'), ('learning_rate', INF),
        ('trained', 1), ('trained', True), ('totals', []), ('totals', {'loss': 1}),
        ('totals', {'loss': [NAN, 1]}), ('totals', {3: [1.0, 1]}), ('totals', {'loss': [1.0, 0]}),
    ):  # fmt: skip
        yield f'unfinished {key} {value!r}', to('unfinished', {**LOG, 'epoch': 4, key: value})
    for key in ('epoch', 'batches', 'trained'):
        log = {name: value for name, value in {**LOG, 'epoch': 4}.items() if name != key}
        yield f'unfinished {key} missing', to('unfinished', log)
    for value in ([], 'x', {}, {'scale': 'x'}, {'scale': 1.0}):
        yield f'scaler {value!r}', to('scaler', value)
    for key in ('state', 'param_groups'):
        yield f'optimizer {key} missing', to('optimizer', key, MISSING)
        for value in (None, 3, 'x', [3], {'x': 1}, {5: {}}, [{}]):
            yield f'optimizer {key} {value!r}', to('optimizer', key, value)
    for value in ([0], [0, 0], [0, 1, 2], ['x', 1], None, [0, 7]):
        yield f'params {value!r}', to(*GROUP, 'params', value)
    for key, values in {
        'lr': ('x', NAN, None, [1], True, -0.1),
        'betas': (0.9, (0.9,), (0.9, NAN), ('x', 'y')),
        'amsgrad': (3, 'x'),
    }.items():
        for value in values:
            if value is not None:
                yield f'{key} {value!r}', to(*GROUP, key, value)
    for key in ('exp_avg', 'exp_avg_sq', 'step'):
        yield f'{key} missing', to(*MOMENTS, key, MISSING)
        for value in (
            None, 'x', [1.0], torch.ones(5), torch.full((2, 3), NAN), torch.tensor(INF),
            torch.ones(2, 3, dtype=torch.int64), *ODD,
        ):  # fmt: skip
            yield f'{key} {value!r}', to(*MOMENTS, key, value)
    for key, values in {
        'last_epoch': (None, 'x', -1, 1.5, NAN, MISSING),
        'gamma': ('x', NAN, [1], -0.5),
        'milestones': (3, 'x', {5: 'x'}),
        'base_lrs': ([], [NAN], 'x', [0.1, 0.1]),
    }.items():
        for value in values:
            yield f'{key} {value!r}', to('scheduler', key, value)
    for value in (
        torch.full((2, 3), NAN),
        torch.full((2, 3), INF),
        torch.ones(3, 2),
        'x',
        None,
        *ODD,
    ):
        yield f'weight {value!r}', to('state_dict', 'weight', value)
    yield 'weight missing', to('state_dict', 'weight', MISSING)
    yield 'another weight', to('state_dict', 'other', torch.ones(1))
    yield 'named by a number', to('state_dict', 3, torch.ones(1))


def test_a_setting_keeps_its_sign():
    assert is_like(7, 20) and is_like(0, 0) and is_like(0.0, 0.1)  # the end of a cosine schedule
    assert not (is_like(0, 20) or is_like(-1, 0) or is_like(-0.1, 0.1))


def auto(folder):
    cfg = load_config('', ['data.save_dir', str(folder), 'model.resume', 'auto'])
    return path_to_resume(cfg, *parts(), RunFacts(config=CONFIG))


@pytest.mark.slow
def test_every_damage_is_a_line_under_its_path_and_skipped_by_auto(tmp_path, messages):
    model_folder = tmp_path / 'model'
    good = save_checkpoint(checkpoint(epoch=2), str(model_folder), 2)
    assert resume_run(good, *parts(), RunFacts(config=CONFIG)).epochs == 2
    bad, seen = str(model_folder / 'model.pth.tar-3'), 0
    for title, change in changes():
        state = checkpoint(epoch=3)
        change(state)
        torch.save(state, bad)
        model, optimizer, scheduler = parts()
        before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
        with pytest.raises(InputError) as caught:
            resume_run(bad, model, optimizer, scheduler, RunFacts(config=CONFIG))
            pytest.fail(f'resumed from {title}')
        assert bad in str(caught.value) and len(str(caught.value)) < 500, title
        assert str([model.state_dict(), optimizer.state_dict()]) == str(before), title
        messages()
        assert auto(tmp_path) == good, title
        words = messages().splitlines()
        assert len(words) == 1 and words[0].startswith('Warning: Skipped: ') and bad in words[0], (
            title
        )
        seen += 1
    assert seen > 150


def test_auto_goes_by_the_position_in_the_files_not_by_clock_or_name(tmp_path, messages):
    folder = tmp_path / 'model'
    paths = {epoch: save_checkpoint(checkpoint(epoch), str(folder), epoch) for epoch in (1, 2, 9)}
    for age, epoch in enumerate((9, 2, 1)):  # the first is dated last, in the future
        os.utime(paths[epoch], ns=(2**62 + age, 2**62 + age))
    assert auto(tmp_path) == paths[9]
    # renamed, or copied: the file says where it is
    torch.save(checkpoint(epoch=1), paths[9])
    assert auto(tmp_path) == paths[2]
    # within epoch 3 it is ahead of epoch 2, and behind it once epoch 3 is finished
    unfinished = save_unfinished(checkpoint(2, unfinished=LOG), str(folder))
    assert os.path.basename(unfinished) == UNFINISHED and auto(tmp_path) == unfinished
    save_checkpoint(checkpoint(3), str(folder), 3)
    assert not os.path.exists(unfinished)
    # still to be evaluated is before evaluated, whatever they are called
    torch.save(checkpoint(4, unfinished={**LOG, 'epoch': 4, 'trained': True}), paths[9])
    assert auto(tmp_path) == paths[9]
    torch.save(checkpoint(4), folder / BEST)
    assert auto(tmp_path) == str(folder / BEST)
    # as the first version named a checkpoint within an epoch
    torch.save(checkpoint(4, unfinished={**LOG, 'epoch': 5}), folder / 'model.pth.tar-4')
    assert auto(tmp_path) == str(folder / 'model.pth.tar-4')
    assert messages() == ''


def test_auto_passes_over_what_is_no_file_and_follows_links(tmp_path, messages):
    folder = tmp_path / 'model'
    good = save_checkpoint(checkpoint(1), str(folder), 1)
    (folder / 'model.pth.tar-5').mkdir()
    os.mkfifo(folder / 'model.pth.tar-6')
    os.symlink('nowhere', folder / 'model.pth.tar-7')
    os.symlink('model.pth.tar-8', folder / 'model.pth.tar-8')
    (folder / 'model.pth.tar-9').write_bytes(b'<html>')
    for name in ('model.pth.tar-' + '9' * 5000, 'model.pth.tar-٣', 'model.pth.tar-03'):
        if len(name) < 200:
            (folder / name).write_bytes(b'other names')
    assert auto(tmp_path) == good
    words = messages().splitlines()
    assert len(words) == 5 and all(word.startswith('Warning: Skipped: ') for word in words)
    target = tmp_path / 'elsewhere'
    torch.save(checkpoint(3), target)
    os.symlink(target, folder / 'model.pth.tar-3')
    assert auto(tmp_path) == str(folder / 'model.pth.tar-3')
    # removing old ones leaves folders alone, and of a link its target
    save_checkpoint(checkpoint(10), str(folder), 10, keep_last=1)
    assert target.exists() and (folder / 'model.pth.tar-5').is_dir()
    assert not (folder / 'model.pth.tar-3').exists()


def test_auto_refuses_another_recipe_instead_of_going_back(tmp_path):
    save_checkpoint(checkpoint(1), str(tmp_path / 'model'), 1)
    other = save_checkpoint(
        checkpoint(2, config={**CONFIG, 'train.lr': 9.0}), str(tmp_path / 'model'), 2
    )
    assert auto(tmp_path) == other
    with pytest.raises(InputError, match='train.lr was 9.0'):
        resume_run(other, *parts(), RunFacts(config=CONFIG))


def test_another_optimizer_starts_without_moments(tmp_path, messages):
    path = save_checkpoint(checkpoint(1), str(tmp_path), 1)
    model, optimizer, scheduler = parts('sgd')
    run = RunFacts(config={**CONFIG, 'train.optim': 'sgd'})
    assert resume_run(path, model, optimizer, scheduler, run, allow_changed=True).epochs == 1
    assert 'moments of the other optimizer' in messages()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()  # moments of Adam would end it here


def test_the_host_resumes_from_an_unfinished_epoch(tmp_path):
    path = save_unfinished(checkpoint(2, unfinished=LOG), str(tmp_path))
    model, optimizer, scheduler = parts()
    with contextlib.redirect_stdout(io.StringIO()):
        done = torchreid.utils.resume_from_checkpoint(path, model, optimizer, scheduler)
    assert done == 2 and torch.equal(model.weight, checkpoint()['state_dict']['weight'])


def test_a_run_resumes_from_a_checkpoint_of_the_host(tmp_path, messages):
    model, optimizer, scheduler = parts(steps=2)
    state = {
        'state_dict': {f'module.{key}': value for key, value in model.state_dict().items()},
        'epoch': 2,
        'rank1': np.float32(0.5),
        'optimizer': optimizer.state_dict(),
        'scheduler': scheduler.state_dict(),
    }
    torchreid.utils.save_checkpoint(state, str(tmp_path / 'model'))
    path = auto(tmp_path)
    assert os.path.basename(path) == 'model.pth.tar-2'
    again = parts()
    assert resume_run(path, *again, RunFacts(config=CONFIG)).epochs == 2
    assert 'does not record its recipe' in messages()
    for one, other in zip(optimizer.state.values(), again[1].state.values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize('where', ['weights', 'buffer', 'moments'])
def test_nothing_is_saved_that_is_not_finite(where, tmp_path):
    state = checkpoint(2)
    place = state['optimizer']['state'][1] if where == 'moments' else state['state_dict']
    name = {'weights': 'bias', 'buffer': 'running_mean', 'moments': 'exp_avg'}[where]
    place[name] = torch.tensor([0.0, -INF])
    save_checkpoint(checkpoint(1), str(tmp_path), 1)
    for save in (
        lambda: save_checkpoint(state, str(tmp_path), 2, keep_last=1, is_best=True),
        lambda: save_unfinished(state, str(tmp_path)),
    ):
        with pytest.raises(InputError, match=f'not written: 1 of .* not finite, first {name}'):
            save()
    assert os.listdir(tmp_path) == ['model.pth.tar-1']
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'model.pth.tar-1')
