"""metrics.json and metrics.jsonl: whatever is wrong with them is one line that names it."""

import copy
import json
import os

import pytest

from stmn_plugin.errors import InputError
from stmn_plugin.training.metric_files import (
    keep_lines,
    read_epoch_lines,
    read_metrics,
    remove_metrics,
)

EVALUATION = {
    'dataset': 'mars', 'protocol': 'official', 'frames': 'rrs', 'flip': False, 'reranked': False,
    'dist_metric': 'cosine', 'normalize_feature': False, 'epoch': 2, 'mAP': 0.5, 'mINP': 0.25,
    'num_query': 4, 'num_gallery': 9, 'num_query_with_match': 3,
    'rank-1': 0.75, 'seconds': {'per_tracklet': 0.5}, 'peak_memory': {'resident': 3, 'gpu': None},
}  # fmt: skip
METRICS = {'arch': 'stmn', 'parameters': 12, 'gflops_per_frame': 0.5, 'evaluations': [EVALUATION]}
LINE = {
    'epoch': 2, 'losses': {'loss': 1.5}, 'lr': 0.1, 'seconds': 2.0, 'images_per_second': 8.0,
    'data_wait': 0.5, 'gradient_norm': {'mean': 1.0, 'max': 2.0}, 'evaluations': [EVALUATION],
}  # fmt: skip
NEVER = ('x', [1], {'a': []}, float('nan'), float('inf'), -1, 10**400, None, True, 1.5)
# keys of which one of these values is right after all
TEXT, FLAG, NUMBER = NEVER[:1], (True,), (NEVER[-1],)
FINE = {
    'dataset': TEXT, 'protocol': TEXT, 'frames': TEXT, 'dist_metric': TEXT, 'flip': FLAG,
    'reranked': FLAG, 'normalize_feature': FLAG, 'epoch': (None,), 'peak_memory': (None,),
}  # fmt: skip
FINE_FACTS = {'arch': TEXT, 'gflops_per_frame': NUMBER}
FINE_OF_LINE = dict.fromkeys(('lr', 'seconds', 'images_per_second', 'data_wait'), NUMBER)
NEEDED = [key for key in EVALUATION if key not in ('rank-1', 'peak_memory')]


def damages(content, needed, fine):
    """(title, changed content) for every key and every value that is wrong for it."""
    for key in content:
        for value in NEVER:
            if not any(value is right for right in fine.get(key, ())):
                yield f'{key} {str(value)[:20]}', {**content, key: value}
    for key in needed:
        yield f'{key} missing', {k: v for k, v in content.items() if k != key}


def test_the_right_ones_are_read(tmp_path):
    assert (
        read_metrics(str(tmp_path)) == {'evaluations': []} and read_epoch_lines(str(tmp_path)) == []
    )
    (tmp_path / 'metrics.json').write_text(json.dumps(METRICS))
    lines = [LINE, {**LINE, 'epoch': 4}]
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    assert read_metrics(str(tmp_path)) == METRICS and read_epoch_lines(str(tmp_path)) == lines


@pytest.mark.parametrize('epoch', [1, 2])
def test_epochs_out_of_order_are_damage(epoch, tmp_path):
    lines = [LINE, {**LINE, 'epoch': epoch}]  # times of both would add up
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    with pytest.raises(InputError, match=f'line 2 is damaged: epoch {epoch} follows 2'):
        read_epoch_lines(str(tmp_path))


def test_what_cannot_be_removed_is_a_line(tmp_path):
    remove_metrics(str(tmp_path))  # nothing there
    (tmp_path / 'metrics.json').mkdir()
    with pytest.raises(InputError, match=f'cannot remove {tmp_path}/metrics.json: '):
        remove_metrics(str(tmp_path))


def test_every_wrong_field_of_metrics_json_is_a_line(tmp_path):
    path, seen = tmp_path / 'metrics.json', 0
    cases = [(t, {**METRICS, 'evaluations': [e]}) for t, e in damages(EVALUATION, NEEDED, FINE)]
    cases += damages(METRICS, ['evaluations'], FINE_FACTS)
    for title, content in cases:
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match='metrics.json') as caught:
            read_metrics(str(tmp_path))
            pytest.fail(title)
        key = title.split()[0]
        assert key in str(caught.value) and len(str(caught.value)) < 300, title
        seen += 1
    assert seen > 100


def test_every_wrong_field_of_a_line_is_named_with_its_number(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    for title, content in damages(LINE, list(LINE)[:2] + ['seconds'], FINE_OF_LINE):
        path.write_text(json.dumps(LINE) + '\n' + json.dumps(content) + '\n' + json.dumps(LINE))
        with pytest.raises(InputError, match='metrics.jsonl, line 2 is damaged') as caught:
            read_epoch_lines(str(tmp_path))
            pytest.fail(title)
        assert title.split()[0] in str(caught.value), title


BYTES = (
    b'{',
    b'[]',
    b'3',
    b'null',
    b'\xff\xfe{}',
    b'\0\0\0',
    b'[' * 99999,
    b'1' * 5000,
)


@pytest.mark.parametrize('content', BYTES, ids=lambda content: str(content[:6]))
def test_files_that_are_no_such_thing(content, tmp_path):
    (tmp_path / 'metrics.json').write_bytes(content)
    with pytest.raises(InputError, match='metrics.json'):
        read_metrics(str(tmp_path))
    (tmp_path / 'metrics.jsonl').write_bytes(content + b'\n')
    with pytest.raises(InputError, match='metrics.jsonl, line 1'):
        read_epoch_lines(str(tmp_path))


@pytest.mark.parametrize(
    'name, read', [('metrics.json', read_metrics), ('metrics.jsonl', read_epoch_lines)]
)
def test_what_is_no_regular_file(name, read, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=name):
        read(str(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=name):
        read(str(tmp_path))


def test_a_half_written_last_line_is_left_out_with_a_word_and_goes(tmp_path, messages):
    path, whole = tmp_path / 'metrics.jsonl', json.dumps(LINE).encode() + b'\n'
    for cut in (1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole + whole[:cut])
        assert read_epoch_lines(str(tmp_path)) == [LINE]
        assert messages() == f'Warning: {path}: ignored the last line, which is incomplete\n'
    path.write_bytes(whole + b'\0' * 40)  # as a lost power supply leaves it
    words = []
    assert read_epoch_lines(str(tmp_path), report=words.append) == [LINE] and len(words) == 1
    keep_lines(str(tmp_path), 2)
    assert path.read_bytes() == whole
    later = copy.deepcopy(LINE) | {'epoch': 3}
    path.write_bytes(whole + json.dumps(later).encode())
    keep_lines(str(tmp_path), 2)
    assert path.read_bytes() == whole
    keep_lines(str(tmp_path), 1)
    assert not path.exists()
