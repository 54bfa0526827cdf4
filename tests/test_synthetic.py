"""The synthetic pedestrians: MARS layout, determinism, truth, files that are whole or absent."""

import dataclasses
import hashlib
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torchreid
from PIL import Image
from scipy.io import loadmat

from stmn_plugin.datasets.synthetic import (
    PRESETS,
    SyntheticSpec,
    contact_sheet,
    ensure,
    ensure_changed,
    ensure_painted,
    generate,
    load_truth,
    mask_below,
    writer,
)
from stmn_plugin.datasets.synthetic.look import person_look
from stmn_plugin.datasets.synthetic.truth import is_generated_from
from stmn_plugin.datasets.synthetic_dataset import SyntheticDataset
from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import whole_folder

TOOL = Path(__file__).resolve().parents[1] / 'tools' / 'make_synthetic.py'
TINY = PRESETS['tiny']
# Enough tracklets that every pattern and both kinds of distractors occur.
VARIED = dataclasses.replace(
    TINY, train_ids=10, test_ids=10, cameras=3, max_frames=10, temporal_distractors=0.9
)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return generate(tmp_path_factory.mktemp('tiny') / 'data', TINY, workers=1)


@pytest.fixture(scope='module')
def varied(tmp_path_factory):
    return generate(tmp_path_factory.mktemp('varied') / 'data', VARIED)


@pytest.fixture(scope='module')
def truth(varied):
    return load_truth(varied)


def hashes(folder):
    """Relative path -> digest of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def host_mars(root):
    return torchreid.data.datasets.init_video_dataset(
        'mars', root=str(root), transform=lambda image: image, verbose=False
    )


# -- layout ---------------------------------------------------------------------------------------


def test_host_mars_loader_reads_every_tracklet(tiny):
    data = host_mars(tiny)
    per_person = TINY.cameras * TINY.tracklets_per_camera
    assert len(data.train) == TINY.train_ids * per_person
    assert len(data.query) == TINY.test_ids * TINY.cameras
    persons = [item for item in data.gallery if item[1] > 0]
    assert len(persons) == TINY.test_ids * per_person - len(data.query)
    assert len(data.gallery) > len(persons)  # distractors
    assert {pid for _, pid, *_ in data.query} == {5, 6, 7, 8}
    for paths, _, camid, *_ in data.train + data.query + data.gallery:
        assert 0 <= camid < TINY.cameras
        assert TINY.min_frames <= len(paths) <= TINY.max_frames
        for path in paths:
            with Image.open(path) as image:
                assert image.size == (TINY.width, TINY.height)


def test_names_and_lists_are_those_of_mars(tiny):
    info = tiny / 'mars' / 'info'
    for split in ('train', 'test'):
        text = (info / f'{split}_name.txt').read_bytes()
        names = text.decode().split('\r\n')
        assert names.pop() == '' and b'\n' not in text.replace(b'\r\n', b'')
        on_disk = sorted(p.name for p in (tiny / 'mars' / f'bbox_{split}').rglob('*.jpg'))
        assert sorted(names) == on_disk
        tracks = loadmat(info / f'tracks_{split}_info.mat')[f'track_{split}_info']
        assert tracks.dtype == np.int32 and tracks.shape[1] == 4
        assert tracks[0, 0] == 1 and tracks[-1, 1] == len(names)
        assert (tracks[1:, 0] == tracks[:-1, 1] + 1).all()  # contiguous, end inclusive
        assert (np.diff(tracks[:, 2]) >= 0).all()  # sorted by pid
        for start, end, pid, cam in tracks:
            prefix = f'{pid:04d}' if pid >= 0 else '00-1'
            rows = names[start - 1 : end]
            assert {name[:6] for name in rows} == {f'{prefix}C{cam}'}
            assert len({name[:11] for name in rows}) == 1
            assert [name[11:] for name in rows] == [
                f'F{i:03d}.jpg' for i in range(1, len(rows) + 1)
            ]
    pids = set(tracks[:, 2].tolist())
    assert {-1, 0} < pids and (tiny / 'mars/bbox_test/00-1').is_dir()
    query = loadmat(info / 'query_IDX.mat')['query_IDX']
    assert query.dtype == np.uint16 and query.shape == (1, TINY.test_ids * TINY.cameras)
    seen = [tuple(tracks[row - 1, 2:]) for row in query[0]]
    assert len(set(seen)) == len(seen) and min(pid for pid, _ in seen) > 0


def test_number_of_workers_does_not_change_a_byte(tiny, tmp_path):
    assert hashes(generate(tmp_path / 'other', TINY, workers=2)) == hashes(tiny)


def test_another_seed_gives_other_crops(tiny, tmp_path):
    other = generate(tmp_path / 'other', dataclasses.replace(TINY, seed=2), workers=1)
    name = 'mars/bbox_train/0001/0001C1T0001F001.jpg'
    assert (other / name).read_bytes() != (tiny / name).read_bytes()


# -- truth ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_truth_has_one_row_per_listed_frame(varied, truth):
    info = varied / 'mars' / 'info'
    listed = [*(info / 'train_name.txt').read_text().split()]
    listed += (info / 'test_name.txt').read_text().split()
    assert truth.names == listed and len(truth.index) == len(listed)
    assert truth.visibility.shape == (len(listed),) and truth.visibility.dtype == np.float32
    assert truth.spec == VARIED
    assert list(truth.tracklets) == list(truth.patterns)
    assert sum(rows.stop - rows.start for rows in truth.tracklets.values()) == len(listed)


def thirds(truth, pattern):
    """Mean visibility in the first and in the last third of a pattern's tracklets."""
    spans = [truth.tracklets[name] for name, found in truth.patterns.items() if found == pattern]
    assert spans, f'no {pattern} tracklet'
    first = [truth.visibility[s][: (s.stop - s.start) // 3].mean() for s in spans]
    last = [truth.visibility[s][-((s.stop - s.start) // 3) :].mean() for s in spans]
    return np.mean(first), np.mean(last)


def test_visibility_follows_the_patterns(truth):
    assert truth.visibility.min() >= 0 and truth.visibility.max() <= 1
    assert min(thirds(truth, 'clean')) > 0.9
    for hidden_first in ('occluded_start', 'enters_at_start'):
        first, last = thirds(truth, hidden_first)
        assert first < last - 0.25, hidden_first
    for hidden_last in ('occluded_end', 'leaves_at_end'):
        first, last = thirds(truth, hidden_last)
        assert last < first - 0.25, hidden_last
    assert max(thirds(truth, 'background')) == 0


def test_occluders_add_to_the_mask(truth):
    """Frames of an occluded person show more distractors than clear frames of the same tracklet."""
    more = []
    for name, rows in truth.tracklets.items():
        if truth.patterns[name] == 'occluded_start':
            share = truth.masks(rows).mean(axis=(1, 2))
            more.append(share[0] - share[-1])
    assert np.mean(more) > 0.05


def test_objects_of_a_camera_stay_at_their_places(truth):
    """Half of a camera's crops predict the mask of the other half, another camera's do not."""
    assert truth.mask_shape == (VARIED.height // 4, VARIED.width // 4)
    halves = []
    for cam in range(1, VARIED.cameras + 1):
        rows = [row for row, name in enumerate(truth.names) if name[5] == str(cam)]
        masks = truth.masks(rows).reshape(len(rows), -1)
        assert masks.any(axis=1).mean() > 0.9
        persons = np.array([truth.names[row][:4] for row in rows])
        even = np.isin(persons, np.unique(persons)[::2])
        halves.append((masks[even].mean(axis=0), masks[~even].mean(axis=0)))
    correlation = np.array([[np.corrcoef(a, b)[0, 1] for _, b in halves] for a, _ in halves])
    assert correlation.diagonal().min() > 0.7
    assert (correlation.diagonal() > correlation.mean(axis=1) + 0.1).all()


def test_spec_without_distractors_is_clean(tmp_path):
    spec = dataclasses.replace(TINY, spatial_distractors=0, temporal_distractors=0)
    calm = load_truth(generate(tmp_path / 'calm', spec))
    assert set(calm.patterns.values()) == {'clean', 'background'}
    assert not calm.masks().any()


# -- persons --------------------------------------------------------------------------------------


def clothes(folder, truth, name):
    """(6,) mean colour where upper and lower garments are, over a tracklet's well seen frames."""
    rows = truth.tracklets[name]
    split = 'bbox_train' if int(name[:4]) <= VARIED.train_ids else 'bbox_test'
    colours = []
    for row in range(rows.start, rows.stop):
        if truth.visibility[row] > 0.8:
            with Image.open(folder / 'mars' / split / name[:4] / truth.names[row]) as image:
                pixels = np.asarray(image, dtype=float)
            height, width, _ = pixels.shape
            middle = pixels[:, int(0.4 * width) : int(0.6 * width)]
            upper = middle[int(0.28 * height) : int(0.45 * height)]
            lower = middle[int(0.55 * height) : int(0.68 * height)]
            colours.append(np.concatenate((upper.mean(axis=(0, 1)), lower.mean(axis=(0, 1)))))
    return np.mean(colours, axis=0) if colours else None


def test_clothes_tell_persons_apart_within_a_camera(varied, truth):
    """The nearest tracklet in mean garment colour is the same person's far more than by chance."""
    hits = []
    for cam in range(1, VARIED.cameras + 1):
        names = [n for n in truth.tracklets if n[5] == str(cam) and n[:4] not in ('00-1', '0000')]
        found = {name: clothes(varied, truth, name) for name in names}
        found = {name: colour for name, colour in found.items() if colour is not None}
        for name, colour in found.items():
            others = [other for other in found if other != name]
            nearest = min(others, key=lambda other: np.linalg.norm(found[other] - colour))
            hits.append(nearest[:4] == name[:4])
    assert len(hits) > 80 and np.mean(hits) > 0.4


def test_similar_clothes_are_nearer():
    def spread(similarity):
        spec = dataclasses.replace(TINY, clothing_similarity=similarity)
        looks = [person_look(spec, pid) for pid in range(1, 40)]
        return np.std([look.upper for look in looks], axis=0).mean()

    assert spread(1) < 0.3 * spread(0)


@pytest.mark.slow
def test_contact_sheet_is_written(varied, tmp_path):
    path = contact_sheet(varied, tmp_path / 'new' / 'sheet.png', persons=2, strip=4, per_camera=3)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert('RGB'))
    assert pixels.shape[0] > 1000 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    assert (pixels == (0, 114, 178)).all(axis=2).any()  # visibility bars
    with pytest.raises(InputError, match='sheet.png'):
        contact_sheet(varied, varied / 'mars/info/truth.h5' / 'sheet.png')


# -- whole or absent ------------------------------------------------------------------------------


def test_failure_of_a_worker_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    for workers in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(writer, 'draw_tracklet', full)
            with pytest.raises(InputError, match=r'data.*No space left') as caught:
                generate(tmp_path / 'data', TINY, workers=workers)
            assert str(tmp_path / 'data') in str(caught.value)
        assert list(tmp_path.iterdir()) == []
    generate(tmp_path / 'data', TINY, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def test_a_bug_in_a_worker_is_reported_with_its_traceback(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError('hat')

    monkeypatch.setattr(writer, 'draw_tracklet', broken)
    with pytest.raises(RuntimeError, match='hat'):
        generate(tmp_path / 'data', TINY, workers=2)
    assert list(tmp_path.iterdir()) == []


def start(folder):
    """Another process that generates ``folder``; forked, so that it need not import torch again."""
    context = multiprocessing.get_context('fork')
    process = context.Process(target=generate, args=(folder, TINY), kwargs={'workers': 2})
    process.start()
    return process


def test_kill_halfway_leaves_no_folder_and_the_next_call_succeeds(tmp_path, monkeypatch):
    folder = tmp_path / 'data'
    reader, pipe = os.pipe()

    draw_tracklet, drawn = writer.draw_tracklet, []

    def draw_one(*args):
        if drawn:
            os.write(pipe, b'.')
            signal.pause()
        drawn.append(args)
        return draw_tracklet(*args)

    with monkeypatch.context() as patch:
        patch.setattr(writer, 'draw_tracklet', draw_one)
        process = start(folder)
    os.close(pipe)
    assert os.read(reader, 1) == b'.'
    process.kill()  # SIGKILL
    process.join()
    assert not folder.exists()
    (lock,) = tmp_path.glob('.data.tmp-*.lock')
    assert any(lock.with_suffix('').rglob('*.jpg'))  # it was half-way
    while os.read(reader, 1):  # until its workers have ended, too
        pass
    os.close(reader)
    generate(folder, TINY, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ['data']  # the left-over is gone
    assert load_truth(folder).spec == TINY


def dying(*_):
    os._exit(1)


def test_a_worker_that_dies_or_cannot_be_started_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, '_draw', dying)
    with pytest.raises(InputError, match='data: a drawing process died: .* jobs are missing'):
        generate(tmp_path / 'data', TINY, workers=2)

    def refuse(_):
        raise BlockingIOError(11, 'Resource temporarily unavailable')

    monkeypatch.setattr(multiprocessing.get_context('fork').Process, 'start', refuse)
    with pytest.raises(InputError, match='cannot be started .Resource temporarily unavailable.'):
        generate(tmp_path / 'data', TINY, workers=2)
    assert not list(tmp_path.iterdir())


def test_temporary_of_a_living_process_is_left_alone(tmp_path):
    with whole_folder(tmp_path / 'data') as theirs:
        (theirs / 'mars').mkdir()
        generate(tmp_path / 'data', TINY, workers=1)
        assert (theirs / 'mars').is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ['data']
    assert load_truth(tmp_path / 'data').spec == TINY  # the first one stays


@pytest.mark.slow
def test_two_racing_processes_end_with_one_good_folder(tiny, tmp_path):
    racers = [start(tmp_path / 'data') for _ in range(2)]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ['data']
    assert hashes(tmp_path / 'data') == hashes(tiny)


def test_ensure_draws_once(tmp_path, monkeypatch):
    folder = ensure(tmp_path, TINY)
    assert folder == tmp_path / 'synthetic' / TINY.fingerprint
    monkeypatch.setattr(writer, 'draw_tracklet', None)
    assert ensure(str(tmp_path), TINY) == folder


# -- painted data ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def painted(tmp_path_factory):
    """Folders of the same data: as drawn, painted."""
    root = tmp_path_factory.mktemp('painted')
    painted = ensure_painted(root, TINY, workers=1)
    return root / 'synthetic' / TINY.fingerprint, painted


def pixels(folder, split, name):
    return np.asarray(Image.open(folder / 'mars' / split / name[:4] / name), dtype=float)


def test_painting_covers_exactly_the_masked_cells(painted):
    drawn, other = painted
    truth = load_truth(drawn)
    masks, splits = truth.masks(), {True: 'bbox_train', False: 'bbox_test'}
    seen = {'inside': 0, 'outside': 0}
    for row in range(0, len(truth.names), 7):
        name = truth.names[row]
        split = splits[(drawn / 'mars' / 'bbox_train' / name[:4] / name).is_file()]
        before, after = pixels(drawn, split, name), pixels(other, split, name)
        assert after.shape == before.shape == (TINY.height, TINY.width, 3)
        for y in range(masks.shape[1]):
            for x in range(masks.shape[2]):
                near = masks[row, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
                if near.min() != near.max():
                    continue  # JPEG's blocks hold both
                cell = np.s_[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                place = 'inside' if masks[row, y, x] else 'outside'
                expected = (124, 116, 104) if masks[row, y, x] else before[cell].mean(axis=(0, 1))
                assert np.abs(after[cell].mean(axis=(0, 1)) - expected).max() < 12, (name, y, x)
                seen[place] += 1
    assert min(seen.values()) > 30


def test_painted_data_has_the_names_lists_and_truth_of_the_drawn(painted):
    drawn, other = painted
    assert other == drawn.with_name(f'{drawn.name}-painted')
    before, after = hashes(drawn), hashes(other)
    assert before.keys() == after.keys()
    assert all(after[name] == before[name] for name in before if '/info/' in name)
    assert len(host_mars(str(other)).train) == len(host_mars(str(drawn)).train)


def test_painted_data_is_made_once_and_what_lies_there_is_refused(painted, tmp_path, monkeypatch):
    drawn, other = painted
    assert is_generated_from(other, TINY)
    monkeypatch.setattr('stmn_plugin.datasets.synthetic.painted.paint_out', None)
    assert ensure_painted(drawn.parents[1], TINY) == other
    shutil.copytree(drawn, tmp_path / 'synthetic' / drawn.name)
    (tmp_path / 'synthetic' / other.name).mkdir()
    (tmp_path / 'synthetic' / other.name / 'mine').write_text('keep me')
    with pytest.raises(InputError, match='-painted: exists and is not'):
        ensure_painted(tmp_path, TINY)


def test_a_mask_is_below_its_frame(painted):
    drawn, _ = painted
    other = ensure_changed(drawn.parents[1], TINY, 'masks', mask_below, workers=1)
    assert other == drawn.with_name(f'{drawn.name}-masks')
    truth = load_truth(other)
    rows = [row for row, name in enumerate(truth.names) if name[:4] == '0001'][:40:4]
    for row, mask in zip(rows, truth.masks(rows), strict=True):
        before, after = (pixels(f, 'bbox_train', truth.names[row]) for f in (drawn, other))
        assert after.shape == (2 * TINY.height, TINY.width, 3)
        assert np.abs(after[: TINY.height] - before).mean() < 3  # written twice as JPEG
        for y, x in np.ndindex(TINY.height, TINY.width):
            assert (after[TINY.height + y, x] > 127).all() == mask[y // 4, x // 4]
    assert truth.masks(rows).any() and not truth.masks(rows).all()


def test_the_key_trains_and_tests_on_painted_frames(painted):
    drawn, other = painted
    for flag, folder in ((False, drawn), (True, other)):
        options = {'transform': lambda image: image, 'verbose': False}
        dataset = SyntheticDataset(str(drawn.parents[1]), 'tiny', paint_out=flag, **options)
        for split in (dataset.train, dataset.query, dataset.gallery):
            assert all(Path(paths[0]).is_relative_to(folder) for paths, *_ in split)


# -- bad input ------------------------------------------------------------------------------------


def test_folder_with_something_else_is_refused(tiny, tmp_path):
    (tmp_path / 'precious.txt').write_text('keep me')
    with pytest.raises(InputError, match=tmp_path.name):
        generate(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ['precious.txt']
    with pytest.raises(InputError, match='exists and is not'):
        generate(tiny, dataclasses.replace(TINY, seed=9))
    with pytest.raises(InputError, match='precious.txt'):
        generate(tmp_path / 'precious.txt' / 'data', TINY)


def test_missing_or_foreign_truth_is_named(tmp_path):
    with pytest.raises(InputError, match='truth.h5'):
        load_truth(tmp_path)
    (tmp_path / 'mars/info').mkdir(parents=True)
    (tmp_path / 'mars/info/truth.h5').write_text('not HDF5')
    with pytest.raises(InputError, match='truth.h5'):
        load_truth(tmp_path)
    (tmp_path / 'mars/info/truth.h5').unlink()
    os.mkfifo(tmp_path / 'mars/info/truth.h5')
    with pytest.raises(InputError, match='truth.h5: .* no regular file'):
        load_truth(tmp_path)
    assert not is_generated_from(tmp_path, TINY)


TRUTH_DAMAGE = {
    'names elsewhere': ('names', h5py.ExternalLink('secret.h5', '/names'), 'no dataset within'),
    'names that loop': ('names', h5py.SoftLink('/names'), 'no dataset within'),
    'no names': ('names', None, "no variable 'names'"),
    'names of any length': ('names', np.array(['a.jpg'], object), 'names has shape'),
    'a name too few': ('names', np.array([b'a.jpg']), 'distractor_mask has shape'),
    'names not ASCII': ('names', np.array([b'\xff']), 'ascii'),
    'visibility NaN': ('visibility', np.float32([np.nan]), 'its visibility'),
    'visibility 2': ('visibility', np.float32([2]), 'its visibility'),
    'visibility of another length': ('visibility', np.float32([1]), 'its visibility'),
    'an unknown pattern': ('tracklet_patterns', np.array([b'odd']), 'its patterns'),
    'masks of numbers': ('distractor_mask', np.zeros((3, 4, 4)), 'distractor_mask has shape'),
    'no spec': ('spec', None, 'spec'),
    'a spec of another version': ('spec', '{"colours": 3}', 'colours'),
    'a spec that is no JSON': ('spec', '{', 'Expecting'),
    'a spec of lists': ('spec', '[' * 10_000, 'recursion'),
    'a spec out of range': ('spec', '{"cameras": 70}', 'cameras'),
    'a spec that is no text': ('spec', np.zeros(3), 'JSON'),
}


@pytest.mark.parametrize('case', TRUTH_DAMAGE)
def test_a_damaged_truth_is_named(tiny, tmp_path, case):
    name, value, reason = TRUTH_DAMAGE[case]
    path = tmp_path / 'mars' / 'info' / 'truth.h5'
    path.parent.mkdir(parents=True)
    shutil.copy(tiny / 'mars/info/truth.h5', path)
    with h5py.File(path, 'r+') as file:
        place = file.attrs if name == 'spec' else file
        del place[name]
        if value is not None:
            place[name] = value
    with pytest.raises(InputError, match=f'truth.h5.*{reason}'):
        load_truth(tmp_path)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('train_ids', 0),
        ('test_ids', -3),
        ('test_ids', 9998),  # together with the train ids more than four digits
        ('cameras', 7),
        ('tracklets_per_camera', 0),
        ('tracklets_per_camera', 9999),  # more test tracklets than query_IDX can number
        ('min_frames', 25),  # above max_frames
        ('max_frames', 1000),
        ('height', 100),
        ('width', 16),  # narrower than a quarter of the height
        ('width', 256),
        ('seed', -1),
        ('seed', 1.5),
        ('cameras', True),
        ('cameras', '4'),
        ('spatial_distractors', 1.01),
        ('temporal_distractors', -0.1),
        ('temporal_distractors', float('nan')),
        ('clothing_similarity', 'much'),
    ],
)
def test_bad_values_are_named(field, value):
    shown = '10030' if value == 9998 else str(value)
    with pytest.raises(InputError) as caught:
        SyntheticSpec(**{field: value})
    message = str(caught.value)
    assert field in message and shown in message and '\n' not in message


def test_fingerprint_depends_on_values_not_on_their_types():
    same = dataclasses.replace(TINY, cameras=np.int64(2), spatial_distractors=np.float32(0.5))
    base = dataclasses.replace(TINY, spatial_distractors=0.5)
    assert same.fingerprint == base.fingerprint and base.fingerprint.startswith('s1-')
    every = {dataclasses.replace(base, seed=seed).fingerprint for seed in range(50)}
    assert len(every) == 50


def run_tool(monkeypatch, *arguments):
    """Its exit code."""
    monkeypatch.setattr(sys, 'argv', ['make_synthetic.py', *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name='__main__')
    return ended.value.code or 0


@pytest.mark.slow
def test_tool_says_what_it_made(tmp_path, monkeypatch, capsys):
    sheet = tmp_path / 'sheet.png'
    arguments = ('--preset', 'tiny', '--train-ids', '2', '--contact-sheet', str(sheet))
    assert run_tool(monkeypatch, '--root', str(tmp_path), *arguments) == 0
    (folder,) = (tmp_path / 'synthetic').iterdir()
    out, err = capsys.readouterr()
    assert str(folder) in out and '2 + 4 persons, 2 cameras' in out
    assert sheet.exists() and err == ''  # no progress bar without a terminal


def test_tool_refuses_bad_values_in_one_line(tmp_path, monkeypatch, capsys):
    assert run_tool(monkeypatch, '--root', str(tmp_path), '--cameras', '9') == 2
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == 'error: cameras must be within 1..6, got 9\n'
