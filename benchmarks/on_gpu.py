"""Run tests, benchmarks and the study's four rows within a time limit; started by on_gpu.sh.

Every part is a separate process with a budget. Its results are appended to a file of JSON lines,
and the summary is rewritten after each part, so that an interruption keeps earlier measurements.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DRY = os.environ.get('ON_GPU_DRY') == '1'
NEEDED = 'torch torchvision torchreid yacs tabulate numpy scipy h5py PIL tqdm filelock safetensors '
NEEDED += 'platformdirs tensorboard cv2 yaml six gdown pytest pytest_timeout hypothesis'
PARTS = ('tests', 'benchmarks', 'study')
SHARES = {'tests': 0.35, 'benchmarks': 0.35, 'study': 0.3}  # of the time, where all three run
ROWS = {'baseline': '1_baseline', '+ SM': '3_sm', '+ TM': '5_tm', '+ SM + TM': '7_sm_tm'}
WARNING = '**DRY RUN ON A CPU. Nothing here was measured on a GPU, and no number is shown.**'
PROFILED = ['--only', 'ours, bf16', '--without', 'compile']
COMPILED = ['--only', 'compiled', '--without', '+']
BENCHMARKS = (  # name, command, share of the time of the benchmarks
    ('memory block', ['memory_block.py'], 0.08),
    ('training step', ['train_step.py', '--without', 'compile'], 0.26),
    ('testing', ['extract.py', '--without', 'compile'], 0.12),
    ('profile of a step', ['train_step.py', '--profile', *PROFILED], 0.12),
    ('profile of testing', ['extract.py', '--profile', *PROFILED], 0.08),
    ('training step, compiled', ['train_step.py', *COMPILED], 0.2),
    ('testing, compiled', ['extract.py', *COMPILED], 0.14),
)
GOALS = (
    'Goals: 35 % of the matrix rate in bf16 training, 45 % in testing, the memory block 2.5 times '
)
GOALS += 'the straightforward one, less than 5 % of a step waiting for data.'


class Results:
    """The output folder: JSON lines, a summary in Markdown and the output of every process."""

    def __init__(self, folder, device):
        self.folder, self.device = Path(folder), device
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = 'dry-run' if DRY else 'gpu'
        self.lines = self.folder / f'{stem}.jsonl'
        self.summary = self.folder / f'{stem}.md'
        self.log = self.folder / f'{stem}.log'
        for path in (self.lines, self.summary, self.log):
            path.unlink(missing_ok=True)
        self.rows = []

    def add(self, part, **row):
        self.rows.append({'part': part, 'dry': DRY, 'device': self.device, **row})
        with open(self.lines, 'a', encoding='utf-8') as file:
            file.write(json.dumps(self.rows[-1]) + '\n')
        self.summary.write_text(summary_of(self.rows, self.device), encoding='utf-8')


def summary_of(rows, device, dry=DRY):
    """Format a Markdown table per kind of row; for a dry run only commands and their ends."""
    head = WARNING if dry else GOALS
    lines = [f'# {"Dry run of" if dry else "Measured by"} benchmarks/on_gpu.sh', '', head, '']
    lines += [f'Machine: {device}', '']
    groups = {}
    for row in rows:
        shown = {k: v for k, v in row.items() if k not in ('part', 'dry', 'device')}
        if dry:
            shown = {k: v for k, v in shown.items() if isinstance(v, str)}
        groups.setdefault((row['part'], tuple(shown)), []).append(shown)
    for (part, columns), shown in groups.items():
        lines += [f'## {"DRY: " if dry else ""}{part}', '']
        lines += ['| ' + ' | '.join(columns) + ' |', '|' + '---|' * len(columns)]
        lines += ['| ' + ' | '.join(map(cell, row.values())) + ' |' for row in shown] + ['']
    return '\n'.join(lines)


def cell(value):
    text = f'{value:.4g}' if isinstance(value, float) else str(value)
    return text.replace('|', '/').replace('\n', ' ')


def call(results, words, seconds, on_line=None, stop=signal.SIGTERM):
    """Run a Python process with a time limit; return its end, such as 'exit code 1'."""
    environment = dict(os.environ)
    if DRY:
        environment['CUDA_VISIBLE_DEVICES'] = ''
    start = time.monotonic()
    with open(results.log, 'a+', encoding='utf-8') as log:
        log.write(f'\n$ {" ".join(map(str, words))}\n')
        log.flush()
        begin = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(max(seconds, 1))
            state = 'ended' if code == 0 else f'exit code {code}'
        except subprocess.TimeoutExpired:
            state = f'stopped after {time.monotonic() - start:.0f} s'
        finally:
            end_group(process, stop)
        log.seek(begin)
        for line in log if on_line else ():
            on_line(line.rstrip('\n'))
    return state


def end_group(process, stop):
    """Kill a process and its workers."""
    for signum in (stop, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(8)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            pass


def run_tests(results, seconds):
    found = {}

    def read(line):
        match = re.match(r'tests/test_gpu\.py::(\S+.*?) (PASSED|FAILED|ERROR|SKIPPED)', line)
        if match:
            found[match[1]] = match[2]
        elif line.startswith('E  ') and len(errors) < 50:
            errors.append(line[1:].strip()[:200])

    errors = []
    marker = 'not gpu and not slow' if DRY else 'gpu'
    words = ['-m', 'pytest', '-p', 'no:cacheprovider', '-o', 'addopts=', '-v', '--tb=short']
    words += ['tests/test_gpu.py', '-m', marker]
    state = call(
        results, [*words, *(['-k', 'ranking or one_identity'] if DRY else [])], seconds, read
    )
    outcomes = list(found.values())
    counts = {kind.lower(): outcomes.count(kind) for kind in ('PASSED', 'FAILED', 'SKIPPED')}
    results.add('tests', command=f'pytest -m "{marker}" tests/test_gpu.py', state=state, **counts)
    for name, outcome in found.items():
        if outcome in ('FAILED', 'ERROR'):
            results.add('failed tests', test=name, outcome=outcome)
    for text in errors:
        results.add('errors of tests', error=text)


def run_benchmarks(results, seconds):
    until = time.monotonic() + seconds
    wanted = [one for one in BENCHMARKS if not (DRY and 'compiled' in one[0])]
    left = sum(share for *_, share in wanted)
    for name, words, share in wanted:
        budget = (until - time.monotonic()) * (1 if DRY else share / left)
        left -= share
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder, 'rows')
            more = ['--json', rows, '--seconds', f'{budget / 3:.0f}']
            if DRY:
                more += small(words)
            state = call(results, [f'benchmarks/{words[0]}', *words[1:], *more], budget)
            results.add('benchmarks', benchmark=name, state=state)
            for line in rows.read_text().splitlines() if rows.exists() else ():
                results.add(name, **json.loads(line))


def small(words):
    """Return the sizes of a dry run."""
    more = ['--small', '--repeats', '1']
    if words[0] == 'train_step.py':
        more += ['--clips', '4', '--workers', '0']
    else:
        more += ['--frames', '2']
    if words[0] != 'memory_block.py' and '--profile' not in words:
        more += ['--only', 'ours, default']
    return more


def draw(root, log):
    """Start drawing the study's persons, as many as these cores have time for."""
    count = min(100, 6 * (os.cpu_count() or 1))
    words = ['--preset', 'tiny'] if DRY else ['--preset', 'study', '--train-ids', 2 * count]
    words += [] if DRY else ['--test-ids', count]
    return subprocess.Popen(
        [sys.executable, 'tools/make_synthetic.py', '--root', root, *map(str, words)],
        cwd=ROOT,
        stdout=open(log, 'a', encoding='utf-8'),  # noqa: SIM115  as long as the process lives
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def run_study(results, seconds, root, drawing):
    """Train the rows of Table 1 on drawn persons: equal epochs, as many as the time allows."""
    until = time.monotonic() + seconds
    try:
        code = drawing.wait(seconds / 2)
    except subprocess.TimeoutExpired:
        code = 'not in time'
    if code != 0:
        results.add('study', row='all', state=f'drawing the persons failed: {code}')
        return
    (folder,) = Path(root, 'synthetic').glob('*/mars')
    common = ['--root', folder.parent, 'model.pretrained', 'False', 'test.eval_freq', '-1']
    common += ['train.save_freq', 1000, 'train.print_freq', 1000, 'train.lr', '3.5e-4']
    if DRY:
        common += ['use_gpu', 'False', 'stmn.backbone', 'resnet18']
        common += ['data.height', '64', 'data.width', '32']
        common += ['data.workers', '0', 'train.batch_size', '4', 'sampler.num_instances', '2']
    else:
        common += ['train.amp', 'bf16', 'test.amp', 'bf16', 'data.workers', os.cpu_count() or 1]

    def train(name, config, epochs, budget):
        save = Path(root, 'runs', config)
        words = ['tools/main.py', '--config-file', f'configs/ablation/{config}.yaml', *common]
        words += ['train.max_epoch', epochs, 'train.stepsize', f'[{max(1, 2 * epochs // 3)}]']
        words += ['data.save_dir', save, 'train.overwrite', 'True']
        state = call(results, words, budget)
        log = lines_of(save / 'metrics.jsonl')
        scores = scores_of(save / 'metrics.json')
        row = {'row': name, 'state': state, 'epochs': len(log), 'of': epochs, **scores}
        if log:
            row |= {f'last {k}': v for k, v in log[-1].items() if isinstance(v, int | float)}
        shutil.rmtree(save, ignore_errors=True)
        return row

    start = time.monotonic()
    first = train(
        '+ SM + TM, two epochs to plan with',
        ROWS['+ SM + TM'],
        1 if DRY else 2,
        seconds / (1 if DRY else 4),
    )
    whole = time.monotonic() - start
    results.add('study', **first)
    if first['state'] != 'ended' or DRY:
        return
    each = first['last seconds'] if 'last seconds' in first else whole / 2
    budget = (until - time.monotonic()) / len(ROWS)
    epochs = max(1, int(0.9 * (budget - (whole - 2 * each)) / each))
    for number, (name, config) in enumerate(ROWS.items()):
        budget = (until - time.monotonic()) / (len(ROWS) - number)
        results.add('study', **train(name, config, epochs, budget))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scores_of(path):
    """Return Rank-1 and mAP of the last evaluation, in percent."""
    if not path.exists():
        return {}
    last = json.loads(path.read_text())['evaluations'][-1]
    return {'mAP, %': 100 * last['mAP'], 'rank-1, %': 100 * last['rank-1']}


def check():
    """Return the name of the device; end with a line and exit code 2 if something is missing."""
    missing = [name for name in NEEDED.split() if importlib.util.find_spec(name) is None]
    if missing:
        fail(f'{sys.executable} lacks {", ".join(missing)} (WHEELS=FOLDER installs wheels)')
    import torch

    if DRY:
        return f'CPU, {os.cpu_count()} cores, torch {torch.__version__}'
    if not torch.cuda.is_available():
        fail(f'torch {torch.__version__} sees no GPU (ON_GPU_DRY=1 tries the script on the CPU)')
    free, total = (round(x / 2**30) for x in torch.cuda.mem_get_info())
    return (
        f'{torch.cuda.get_device_name()}, {free} of {total} GiB free, {os.cpu_count()} cores, '
        f'torch {torch.__version__}, CUDA {torch.version.cuda}'
    )


def fail(message):
    print(f'error: {message}', file=sys.stderr)
    raise SystemExit(2)


def main():
    start = time.monotonic()
    parts = sys.argv[1:] or list(PARTS)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        fail(f'on_gpu.sh takes {", ".join(PARTS)}, got {unknown[0]!r}')
    try:
        in_all = float(os.environ.get('SECONDS_IN_ALL', 900 if DRY else 540))
    except ValueError:
        fail(f'SECONDS_IN_ALL takes seconds, got {os.environ["SECONDS_IN_ALL"]!r}')
    device = check()
    results = Results(os.environ.get('OUT', ROOT / 'log' / 'on_gpu'), device)
    print(f'{WARNING if DRY else ""}\n{device}; results: {results.summary}'.strip(), flush=True)
    runs = {'tests': run_tests, 'benchmarks': run_benchmarks, 'study': run_study}
    with tempfile.TemporaryDirectory() as root:
        drawing = draw(root, results.log) if 'study' in parts else None
        try:
            for number, part in enumerate(PARTS):
                later = [SHARES[p] for p in PARTS[number:] if p in parts]
                if part not in parts:
                    continue
                seconds = (start + in_all - time.monotonic()) * SHARES[part] / sum(later)
                more = (root, drawing) if part == 'study' else ()
                runs[part](results, seconds, *more)
                print(f'{part}: {time.monotonic() - start:.0f} s so far', flush=True)
        finally:
            if drawing is not None and drawing.poll() is None:
                end_group(drawing, signal.SIGTERM)
    print(results.summary.read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
