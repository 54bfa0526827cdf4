"""Values, batches and batch norms over several processes, and how a run of several ends."""

import copy
import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from processes import on_processes
from torch import nn

from stmn_plugin import distributed, interrupt
from stmn_plugin.config import load_config
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.identity_sampler import EpochBatchSampler
from stmn_plugin.errors import InputError
from stmn_plugin.host.parts import check_processes
from stmn_plugin.interrupt import Interrupted, Interruption
from stmn_plugin.models.heads import BNNeck
from stmn_plugin.models.sync_batch_norm import (
    SyncBatchNorm,
    synchronize_batch_norm,
)

# --- moving values ---


def gathered_and_gradient(rows, weights):
    own = rows[distributed.shard([1] * len(rows))].clone().requires_grad_()
    whole = distributed.gather(own)
    # each process has a loss of its own here: the gradient is that of their sum
    (whole.square() * weights[distributed.rank()]).sum().backward()
    return whole.detach(), own.grad


def test_gathered_rows_and_their_gradients():
    torch.manual_seed(0)
    rows, weights = torch.randn(6, 3, dtype=torch.float64), torch.rand(2, 6, 3).double()
    results = on_processes(gathered_and_gradient, rows, weights)
    expected = 2 * rows * weights.sum(dim=0)
    for (whole, gradient), part in zip(results, expected.split(3), strict=True):
        assert torch.equal(whole, rows)
        torch.testing.assert_close(gradient, part, rtol=0, atol=1e-14)


def slope():
    point = torch.ones(1, requires_grad=True)
    (3 * point).backward()
    return point.grad


def test_processes_differentiate_after_a_compilation():
    torch.compile(nn.Linear(2, 1), backend='eager')(torch.ones(1, 2)).sum().backward()
    torch._dynamo.reset()
    assert on_processes(slope) == [torch.tensor([3.0])] * 2


def test_only_the_tests_of_a_gpu_see_one():
    assert os.environ['CUDA_VISIBLE_DEVICES'] == ''


def test_a_single_process_passes_through():
    rows = torch.ones(2, requires_grad=True)
    with distributed.process_group(use_gpu=False), distributed.main_first():
        assert distributed.gather(rows) is rows and distributed.gather(None) is None
        assert distributed.total(rows) is rows and distributed.max_over_ranks(3) == 3
        assert distributed.broadcast(rows) is rows and distributed.gather_objects(5) == [5]
        assert distributed.shard([1, 2, 3]) == slice(0, 3) and distributed.is_main()
        assert distributed.replicate(nn.Linear(1, 1)) is None
        assert not torch.distributed.is_initialized()


def exchange(folder, lists):
    rank = distributed.rank()
    with distributed.main_first():
        found = len(os.listdir(folder))
        (folder / str(rank)).write_text('')
    norm = nn.BatchNorm1d(2)
    norm.running_mean += rank
    distributed.broadcast_buffers(norm)
    return {
        'found': found,
        'max': distributed.max_over_ranks(7 - rank),
        'broadcast': distributed.broadcast({'from': rank}),
        'gathered': distributed.gather_objects('abc'[rank]),
        'shards': [sizes[distributed.shard(sizes)] for sizes in lists],
        'mean': norm.running_mean.tolist(),
    }


def test_values_go_round(tmp_path):
    lists = [[1] * 6, [1, 1, 6, 1], [5], [], [0, 0], [1, 0]]
    results = on_processes(exchange, tmp_path, lists, count=3)
    for rank, result in enumerate(results):
        assert (result['found'] > 0) == (rank > 0)
        assert result['max'] == 7 and result['broadcast'] == {'from': 0}
        assert result['gathered'] == (['a', 'b', 'c'] if rank == 0 else [])
        assert result['mean'] == [0, 0]
    for number, sizes in enumerate(lists):  # everything once, in order
        assert sum((result['shards'][number] for result in results), []) == sizes
    assert [result['shards'][0] for result in results] == [[1, 1]] * 3
    # the long one in the middle process' third, what is before and after it outside
    assert [result['shards'][1] for result in results] == [[1, 1], [6], [1]]


def test_batches_are_dealt_and_keep_their_positions():
    draw = [[[3, 1, 4, 1], [5, 9, 2, 6]], [[1, 2, 3, 4], [5, 6, 7, 8]]].__getitem__

    def requests():
        sampler = EpochBatchSampler(draw)
        return len(sampler), list(sampler)

    length, whole = requests()
    (first_length, first), (_, second) = on_processes(requests)
    assert length == first_length == 2
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert [request.position for request in second[1]] == [6, 7]


# --- batch normalisation ---


def normalized(norm, batch, weights):
    norm, part = copy.deepcopy(norm), distributed.shard([1] * len(batch))
    module = nn.Sequential(norm)
    if distributed.world_size() > 1:
        synchronize_batch_norm(module, use_gpu=False)
        assert type(module[0]) is SyncBatchNorm
    images = batch[part].clone().requires_grad_()
    for _ in range(2):
        output = module(images)
    (output * weights[part]).sum().backward()
    gradients = [distributed.total(p.grad) for p in module.parameters()]
    return output.detach(), images.grad, gradients, module.state_dict(), module.eval()(images[:1])


@pytest.mark.parametrize(
    'norm, shape',
    [
        (nn.BatchNorm2d(3), (6, 3, 4, 5)),
        (nn.BatchNorm1d(3, momentum=None, eps=0.1), (6, 3)),
        (nn.BatchNorm2d(3, affine=False, track_running_stats=False), (4, 3, 1, 2)),
        (BNNeck(3), (6, 3)),
    ],
)
def test_batch_normalisation_over_all_processes_is_torchs_over_the_whole_batch(norm, shape):
    torch.manual_seed(0)
    norm = norm.double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    batch, weights = (torch.randn(shape).double() * 3 + 5 for _ in range(2))
    output, gradient, gradients, state, tested = normalized(norm, batch, weights)
    results = on_processes(normalized, norm, batch, weights)
    exact = {'rtol': 0, 'atol': 1e-10}
    torch.testing.assert_close(torch.cat([r[0] for r in results]), output, **exact)
    torch.testing.assert_close(torch.cat([r[1] for r in results]), gradient, **exact)
    for result in results:
        torch.testing.assert_close(result[2], gradients, **exact)
        torch.testing.assert_close(result[3], state, **exact)
    if norm.track_running_stats:
        torch.testing.assert_close(results[0][4], tested, **exact)


def test_half_precision_keeps_its_type_and_sums_in_float32():
    norm = SyncBatchNorm(2)
    images = torch.randn(4, 2, 50, 50, generator=torch.Generator().manual_seed(0)) + 300
    output = norm(images.bfloat16())
    assert output.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(10 * norm.running_mean, images.bfloat16().float().mean((0, 2, 3)))
    with pytest.raises(ValueError, match='shape'):
        norm(torch.ones(3))


@pytest.mark.parametrize('use_gpu, kind', [(False, SyncBatchNorm), (True, nn.SyncBatchNorm)])
def test_synchronised_models_keep_their_tensors_and_names(use_gpu, kind):
    model = nn.ModuleDict({'a': nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), 'b': nn.ReLU()})
    parameters, keys = list(model.parameters()), list(model.state_dict())
    synchronize_batch_norm(model, use_gpu)
    assert type(model['a'][1]) is kind and list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model.eval()['a'](torch.ones(1, 2)).shape == (1, 3)


# --- what ends a run ---


def stop_together():
    now = [0.0]
    interrupt.time = SimpleNamespace(monotonic=lambda: now[0])  # of this process
    with Interruption() as interruption:
        before = interruption.agreed()
        if distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            if interruption.agreed():
                interruption.stop()
        # torchrun's own signal comes late, or again: the state is being saved
        now[0] += 4
        os.kill(os.getpid(), signal.SIGTERM)
        return before, caught.value.code, interruption.requested


def test_a_signal_to_one_process_stops_all_of_them():
    assert on_processes(stop_together) == [(False, 143, True)] * 2


def die(met):
    met.wait()  # else one may die while the other is still in the making of the group
    if distributed.rank() == 1:
        os._exit(9)
    with pytest.raises(InputError, match='another process of this run died') as caught:  # noqa: SIM117
        with distributed.peer_errors():
            distributed.max_over_ranks(0)
    os.write(1, str(caught.value).encode())
    os._exit(3)


def test_a_process_that_dies_is_noticed(capfd):
    assert on_processes(die, multiprocessing.get_context('fork').Barrier(2)) == [None, None]
    assert 'model.resume auto' in capfd.readouterr().out


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('shape mismatch'),
        RuntimeError('[gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4'),
        dist.DistBackendError('NCCL error: invalid usage. Last error: Duplicate GPU detected'),
        KeyError('socket'),
    ],
)
def test_errors_of_other_kinds_are_no_death_of_a_process(error):
    with pytest.raises(type(error)) as caught, distributed.peer_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:29'),
        RuntimeError('[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms'),
        dist.DistBackendError('NCCL error: remote process exited or there was a network error'),
        dist.DistNetworkError('The client socket has timed out after 300000ms'),
        dist.DistStoreError('Broken pipe'),
    ],
)
def test_lost_connections_are(error):
    with pytest.raises(InputError, match='another process'), distributed.peer_errors():
        raise error


def refusal(words, mars_root):
    cfg = load_config('', ['data.type', 'video', 'data.root', mars_root, *words])
    with pytest.raises(InputError) as caught:
        check_processes(cfg)
        VideoDataManager(root=mars_root, sources='mars', batch_size_train=cfg.train.batch_size)
    return str(caught.value)


@pytest.mark.parametrize(
    'words, named',
    [
        (['data.type', 'image'], 'data.type image'),
        (['test.evaluate', 'True', 'test.features_dir', 'vectors'], 'test.features_dir is for'),
        (['train.batch_size', '9'], 'train.batch_size 9'),
    ],
)
def test_what_needs_one_process_or_an_even_share_is_refused(words, named, mars_root):
    for message in on_processes(refusal, words, mars_root):
        assert named in message and '2' in message


def test_an_environment_that_does_not_fit_is_named(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(InputError, match='cannot meet.*RANK'), distributed.process_group(False):
        pass
    monkeypatch.setenv('WORLD_SIZE', 'two')
    with pytest.raises(InputError, match="WORLD_SIZE is 'two'"), distributed.process_group(False):
        pass
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(InputError, match='1 GPUs'), distributed.process_group(use_gpu=True):
        pass
