"""benchmarks/on_gpu.sh: within its limit, results as they come, and a dry run that says so."""

import json
import os
import runpy
import subprocess
import sys

import pytest

from stmn_plugin.training.metric_files import write_metrics


@pytest.fixture
def modules(repository, monkeypatch):
    """The benchmarks' own modules ``on_gpu``, ``profiling`` and ``measuring``."""
    monkeypatch.syspath_prepend(str(repository / 'benchmarks'))
    import measuring
    import on_gpu
    import profiling

    return on_gpu, profiling, measuring


def test_every_benchmark_is_importable(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / 'benchmarks'))
    for path in sorted((repository / 'benchmarks').glob('*.py')):
        assert runpy.run_path(str(path), run_name=path.stem)['__doc__']


def test_a_dry_summary_shows_no_number(modules):
    on_gpu, *_ = modules
    rows = [
        {'part': 'testing', 'dry': True, 'device': 'CPU', 'testing': 'ours', 'frames/s': 123.456},
        {'part': 'study', 'dry': True, 'device': 'CPU', 'row': '+ SM', 'mAP, %': 77.7},
    ]
    dry = on_gpu.summary_of(rows, 'CPU', dry=True)
    assert on_gpu.WARNING in dry.splitlines() and '## DRY: testing' in dry and '| + SM |' in dry
    assert '123' not in dry and '77' not in dry
    real = on_gpu.summary_of(rows, 'a card', dry=False)
    assert '| ours | 123.5 |' in real and 'DRY' not in real and 'Machine: a card' in real


WITH_A_WORKER = """
import subprocess, sys, time
print('in the log', flush=True)
worker = 'import time; print("begun", flush=True); time.sleep(60); print("lived on")'
subprocess.Popen([sys.executable, '-c', worker], stdout=open(sys.argv[1], 'w'))
time.sleep(60)
"""


def test_a_process_beyond_its_budget_is_stopped_with_its_workers(modules, tmp_path, monkeypatch):
    on_gpu, *_ = modules
    results, pipe, lines = on_gpu.Results(tmp_path, 'CPU'), tmp_path / 'pipe', []
    os.mkfifo(pipe)

    class Begun(subprocess.Popen):
        """Its budget begins when its worker runs; the pipe stays open until the worker ends."""

        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            lines.append(open(pipe))  # noqa: SIM115
            assert lines[0].readline() == 'begun\n'

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, 'Popen', Begun)
        state = on_gpu.call(results, ['-c', WITH_A_WORKER, pipe], 1, lines.append)
    told, *lines = lines
    assert state.startswith('stopped after') and lines == ['in the log']
    assert told.read() == ''
    told.close()
    assert on_gpu.call(results, ['-c', 'raise SystemExit(3)'], 600) == 'exit code 3'
    assert on_gpu.call(results, ['-c', 'pass'], 600) == 'ended'


def test_results_are_on_disk_before_the_next(modules, tmp_path):
    on_gpu, *_ = modules
    results = on_gpu.Results(tmp_path, 'a card')
    for number in (1, 2):
        results.add('testing', testing='ours', seconds=float(number))
        lines = [json.loads(line) for line in results.lines.read_text().splitlines()]
        assert [line['seconds'] for line in lines] == [1.0, 2.0][:number]
        assert lines[-1]['device'] == 'a card'
        assert f'| ours | {number} |' in results.summary.read_text()


def test_scores_are_those_of_the_last_evaluation(modules, tmp_path):
    """In the file that a run writes."""
    on_gpu, *_ = modules
    assert on_gpu.scores_of(tmp_path / 'metrics.json') == {}
    scores = [
        {'epoch': epoch, 'mAP': value, 'rank-1': 0.5} for epoch, value in ((1, 0.1), (2, 0.25))
    ]
    write_metrics(str(tmp_path), scores, {})
    assert on_gpu.scores_of(tmp_path / 'metrics.json') == {'mAP, %': 25, 'rank-1, %': 50}


def on_gpu_sh(repository, out, *words, **environment):
    return subprocess.run(
        [repository / 'benchmarks' / 'on_gpu.sh', *words],
        env={**os.environ, 'PYTHON': sys.executable, 'OUT': str(out), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_what_is_missing_is_one_line(repository, tmp_path):
    for words, environment, said in (
        ([], {'CUDA_VISIBLE_DEVICES': ''}, 'sees no GPU'),
        (['tets'], {}, "got 'tets'"),
        ([], {'SECONDS_IN_ALL': 'ten'}, "got 'ten'"),
    ):
        done = on_gpu_sh(repository, tmp_path / 'out', *words, **environment)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count('\n') == 1
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_dry_run_goes_through_every_part(repository, tmp_path):
    done = on_gpu_sh(repository, tmp_path, ON_GPU_DRY='1', OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / 'dry-run.jsonl').read_text().splitlines()]
    assert all(row['dry'] and row['device'].startswith('CPU') for row in rows)
    states = [row['state'] for row in rows if 'state' in row]
    assert states == ['ended'] * 7, (states, (tmp_path / 'dry-run.log').read_text()[-3000:])
    assert rows[0]['passed'] > 3 and rows[0]['failed'] == 0
    assert {'memory block', 'training step', 'profile of a step', 'testing', 'study'} <= {
        row['part'] for row in rows
    }
    (study,) = (row for row in rows if row['part'] == 'study')
    assert study['epochs'] == 1 and 0 <= study['mAP, %'] <= 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'dry-run.jsonl',
        'dry-run.log',
        'dry-run.md',
    ]


# --- profiling ---


@pytest.mark.parametrize(
    'name, kind',
    [
        ('sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc', 'PRODUCTS'),
        ('nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT', 'PRODUCTS'),
        ('void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float>', 'batch norm'),
        ('at::native::batch_norm_collect_statistics_channels_last_kernel', 'batch norm'),
        ('void cudnn::ops::nchwToNhwcKernel<__half>', 'change of layout'),
        ('multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>>', 'optimizer and norms'),
        ('Memcpy HtoD (Pinned -> Device)', 'copies and casts'),
        (
            'at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>',
            'element by element',
        ),
        ('at::native::max_pool_forward_nhwc<c10::BFloat16>', 'pooling'),
        ('aten::mkldnn_convolution', 'PRODUCTS'),
        ('aten::addmm', 'PRODUCTS'),
        ('aten::native_batch_norm', 'batch norm'),
        ('ncclDevKernel_AllReduce', 'between processes'),
        ('void mine()', 'other'),
    ],
)
def test_kernels_have_a_kind(name, kind, modules):
    _, profiling, _ = modules
    assert profiling.kind_of(name) == getattr(profiling, kind, kind)


def test_time_of_kernels_that_overlap_counts_once(modules):
    _, profiling, _ = modules
    assert profiling.union_length([(5, 7), (0, 2), (1, 3), (1.5, 2)]) == 5
    assert profiling.union_length([]) == 0
    found = profiling.by_kind([('gemm', 2000.0), ('memcpy', 4000.0), ('gemv', 1000.0)], steps=2)
    assert found == {'copies and casts': 2.0, profiling.PRODUCTS: 1.5}


def test_candidates_take_turns_until_the_time_is_over(modules, monkeypatch):
    *_, measuring = modules
    done = []
    candidates = {name: (lambda name=name: done.append(name)) for name in 'ab'}
    assert len(measuring.in_turns(candidates, 3, warm_up=1)['a']) == 3 and done == list('ab') * 4
    assert len(measuring.in_turns(candidates, 3, warm_up=1, limit=-1)['b']) == 1


def test_the_operations_of_a_frame(modules):
    *_, measuring = modules
    assert measuring.gflop_per_frame() == pytest.approx(15.83, abs=0.005)
