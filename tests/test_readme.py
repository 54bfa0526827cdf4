"""What the documents say: commands, keys, values, links and measured numbers hold, examples run."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from documents import (
    COMMANDS,
    DOCUMENTS,
    OF_TODAY,
    REPOSITORY,
    blocks,
    fences,
    lines_of,
    parts_of,
    recipe_of,
)

from stmn_plugin.config import RANGES, SECTIONS, load_config
from stmn_plugin.config.sections import known_settings
from stmn_plugin.config.table import with_table
from stmn_plugin.errors import InputError

CONFIGURATION = REPOSITORY / 'docs' / 'configuration.md'
SCORES = 'rank-1', 'mAP'


def command_lines():
    """(document, words) of what does not run: marked lines, and commands between backticks."""
    for document in OF_TODAY:
        text = document.read_text(encoding='utf-8')
        lines = sum(map(lines_of, blocks(text, 'bash')), [])
        found = [line.words for line in lines if line.needs]
        found += map(shlex.split, re.findall(r'`(python (?:tools|benchmarks)/[^`]*)`', text))
        for words in found:
            yield f'{document.name}: {shlex.join(words)}', words


@pytest.mark.parametrize('words', [pytest.param(w, id=line) for line, w in command_lines()])
def test_every_command_line_is_taken(words, tmp_path, monkeypatch):
    script, words = parts_of(words)
    if script is None:
        assert words[0] in ('make', 'pip', 'unzip', 'trackers', 'boxmot'), words
        if words[0] == 'make':
            assert all(recipe_of(target) for target in words[1:])
        return
    if script not in COMMANDS:
        flags = [word for word in words if word.startswith('--')]
        files = script, 'benchmarks/measuring.py'  # which has what the benchmarks share
        source = ''.join((REPOSITORY / file).read_text(encoding='utf-8') for file in files)
        assert all(f"'{flag}'" in source for flag in flags)
        return
    (tmp_path / 'configs').symlink_to(REPOSITORY / 'configs')
    (tmp_path / 'studies').symlink_to(REPOSITORY / 'studies')
    monkeypatch.chdir(tmp_path)
    for word in words:
        if word.endswith('.pth.tar'):
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word).touch()
    args = COMMANDS[script].parse_args(words)
    if hasattr(args, 'opts'):
        load_config(getattr(args, 'config_file', '') or 'configs/stmn_mars.yaml', args.opts)


def test_commands_are_in_blocks_of_bash():
    for document in OF_TODAY:
        for language, block in fences(document.read_text(encoding='utf-8')):
            if language != 'bash':
                assert not re.search(r'^(python|pip|make|stmn-\w+) ', block, re.M), document.name


def mentions():
    """(key, value words) of everything between backticks that begins with a section and a dot."""
    for document in OF_TODAY:
        text = re.sub(
            r'^```.*?^```$',
            '',
            document.read_text(encoding='utf-8'),
            flags=re.DOTALL | re.MULTILINE,
        )
        for words in map(str.split, re.findall(r'`([^`]+)`', text)):
            key = words[0].rstrip(':')
            is_file = key.endswith(('.onnx', '.pt2', '.safetensors', '.xml', '.bin', '.json'))
            is_key = re.fullmatch(r'\w+(\.\w+)+', key) and key.split('.')[0] in SECTIONS
            if is_key and not is_file:
                yield key, words[1:]


def test_every_key_between_backticks_exists_and_takes_its_value():
    found = list(mentions())
    assert len({key for key, _ in found}) > 40
    for key, values in found:
        assert key in RANGES, key
        if len(values) == 1:
            assert RANGES[key].read(values[0]) is not None, (key, values)


def test_the_table_of_keys_is_made_from_the_settings():
    text = CONFIGURATION.read_text(encoding='utf-8')
    command = 'run: python -m stmn_plugin.config.table docs/configuration.md'
    assert with_table(text, CONFIGURATION.name) == text, command
    row = '| `train.keep_last` | `2` | a whole number from 1 to 1,000,000 | number of newest '
    assert row in text
    for other in ('| `train.lr`', '| `use_gpu`', '| `loss.triplet'):  # the host's
        assert other not in text
    stale = text.replace(row, '| `train.keep_last` | `3` | a number |')
    assert with_table(stale, CONFIGURATION.name) == text
    with pytest.raises(InputError, match='page.md needs the lines <!-- settings'):
        with_table(text, 'page.md')
    with pytest.raises(InputError, match='needs the lines'):
        with_table(text.replace('<!-- end of settings -->', ''), CONFIGURATION.name)
    assert with_table('# A page\n', 'page.md') == '# A page\n'


def test_the_help_of_a_key_is_read_alone():
    """As --help-config WORD shows it: it needs no line above it."""
    helps = {key: one.help for key, one in known_settings()}
    assert len(helps) > 200
    for key, text in helps.items():
        assert not re.match(r'(of|its|their|the same|that|it|as) ', text), (key, text)


def test_the_table_of_keys_tells_the_defaults():
    table = CONFIGURATION.read_text(encoding='utf-8')
    defaults = load_config().clone()
    checked = 0
    for line in table.splitlines():
        cells = [re.findall(r'`([^`]+)`', cell) for cell in line.split('|')[1:3]]
        if len(cells) < 2 or not cells[1]:
            continue
        names, values = cells
        full = [names[0].rsplit('.', 1)[0] + name if name[0] == '.' else name for name in names]
        full = [name for name in full if name in RANGES]
        for name, value in zip(
            full, values if len(values) > 1 else values * len(full), strict=True
        ):
            node = defaults
            for part in name.split('.'):
                node = node[part]
            assert RANGES[name].read(value.strip("'")) == node, (name, value)
            checked += 1
    assert checked > 30


@pytest.mark.slow
def test_the_example_from_python_runs_as_written_on_spawned_workers(mars_root, tmp_path):
    [example] = blocks((REPOSITORY / 'docs' / 'train.md').read_text(encoding='utf-8'), 'python')
    small = {  # of the miniature, on a CPU, without a download
        "'/data'": repr(mars_root),
        'batch_size_train=32': 'batch_size_train=8, workers=1, height=32, width=16, use_gpu=False',
        'max_epoch=200': 'max_epoch=1',
        'seq_len=6)': "seq_len=6, backbone='resnet18')",
        'num_train_pids)': 'num_train_pids, pretrained=False)',
        'scheduler)\n': 'scheduler, use_gpu=False)\n',
    }
    for old, new in small.items():
        assert example.count(old) == 1, old
        example = example.replace(old, new)
    spawn = "    import multiprocessing\n\n    multiprocessing.set_start_method('spawn')\n"
    script = tmp_path / 'example.py'
    script.write_text(example.replace('def main():\n', f'def main():\n{spawn}'))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'Rank-1  :' in done.stderr and not done.stdout  # where logging writes
    assert (tmp_path / 'log' / 'stmn' / 'metrics.json').exists()


@pytest.mark.slow
def test_the_trained_model_from_python_gives_features_as_written(small_run, mars_root, tmp_path):
    from stmn_plugin.cli import train

    config = str(REPOSITORY / 'configs' / 'stmn_mars.yaml')
    train.main(['--config-file', config, '--root', mars_root, *small_run])
    page = REPOSITORY / 'docs' / 'use-a-model.md'
    example, *_ = blocks(page.read_text(encoding='utf-8'), 'python')
    frames = sorted(Path(mars_root).rglob('*.jpg'))[:3]
    written = [
        'log/stmn_mars/model/model-best.pth.tar',
        'anna/0001.jpg',
        'anna/0002.jpg',
        'ben/0001.jpg',
    ]
    for old, new in zip(
        written, [tmp_path / 'run' / 'model' / 'model-best.pth.tar', *frames], strict=True
    ):
        assert example.count(old) == 1, old
        example = example.replace(old, str(new))
    names = {}
    exec(example, names)
    assert names['features'].shape == (2, 512) and names['features'].isfinite().all()


def anchors(text):
    """Anchors of the headings of a document, as GitHub and mkdocs make them."""
    prose = re.sub(r'^```.*?^```$', '', text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r'^#+ (.*)$', prose, re.MULTILINE):
        words = re.sub(r'[^\w\- ]', '', heading.lower()).strip()
        yield re.sub(r'[- ]+', '-', words)


def links():
    """(document, target) of every link or picture that leads to a file of the repository."""
    for document in DOCUMENTS:
        text = document.read_text(encoding='utf-8')
        prose = re.sub(r'^```.*?^```$|`[^`\n]*`', '', text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r'\]\(([^)\s]+)\)', prose):
            if not re.match(r'\w+:', target):
                yield document, target


def test_every_link_leads_to_a_file_and_a_heading():
    found = list(links())
    assert len(found) > 60
    for document, target in found:
        path, _, anchor = unquote(target).partition('#')
        place = document.parent / path if path else document
        assert place.exists(), f'{document.name}: {target}'
        if anchor and not anchor.startswith('stmn_plugin.'):  # those are made by mkdocstrings
            text = place.read_text(encoding='utf-8')
            assert anchor in anchors(text), f'{document.name}: {target}'


def test_the_readme_is_short():
    assert len((REPOSITORY / 'README.md').read_text(encoding='utf-8').splitlines()) <= 170


TABLE_2 = REPOSITORY / 'studies' / 'table2'


@pytest.mark.parametrize(
    'document, files',
    [('README.md', ['study.csv']), ('studies/table2/README.md', ['table2.csv', 'study.csv'])],
)
def test_the_results_of_table_2_are_those_of_its_csv(document, files):
    text = (REPOSITORY / document).read_text(encoding='utf-8')
    tables = re.findall(r'^\| method \|.*\n\|[-|]+\n((?:\|.*\n)+)', text, re.MULTILINE)
    for table, name in zip(tables, files, strict=True):
        check_results(table.splitlines(), TABLE_2 / name)


def check_results(lines, path):
    with open(path, encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    measured = {(row['method'], row['frames'].split(',')[0]): row for row in rows}
    assert len(measured) == 2 * len(lines)
    for line in lines:
        method, *cells = (cell.strip() for cell in line.strip('|').split('|'))
        rrs, every = (
            measured[method.replace('MGH, 2 graphs', 'MGH of 2 graphs'), frames]
            for frames in ('rrs', 'all')
        )
        means = [f'{float(row[f"{name} mean"]):.1f}' for row in (rrs, every) for name in SCORES]
        size = f'{float(rrs["parameters"]) / 1e6:.2f}', f'{float(rrs["gflops_per_clip"]):.2f}'
        assert [cell.split(' ')[0] for cell in cells[:6]] == [*means, *size], method
