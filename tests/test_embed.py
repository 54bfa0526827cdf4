"""A tree of tracklets and a checkpoint → an index, in one go or in pieces."""

import datetime
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import postgres
import pytest
import torch
import toy_models
from PIL import Image
from torch import nn

from stmn_plugin.cameras.index import ModelKey, TrackletIndex, embedding
from stmn_plugin.cameras.index.embedding import crops_of, embed_rows, tree_rows
from stmn_plugin.cameras.index.thresholds import thresholds_for
from stmn_plugin.cameras.manifest import ManifestEntry, read_manifest, write_manifest
from stmn_plugin.cli import embed as command
from stmn_plugin.cli import index as index_command
from stmn_plugin.cli import search
from stmn_plugin.config import flatten, load_config
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import Embedder
from stmn_plugin.evaluation.thresholds import Thresholds
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.building import ModelSpec, build_video_model
from stmn_plugin.models.loading import load_model

MEASURED = Thresholds(
    'w', 0.4, 0.9, 1e-3, 0.75, 0.05, 'mars', 'rrs', False, 'cosine', False, 900, 90_000, 100
)


class MeanColours(VideoModel):
    """The mean colour of a clip, times a scale that is its only weight."""

    takes_any_length = True

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, num_classes, seq_len, config, pretrained=True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, clips):
        return self.as_clips(clips).mean(dim=(1, 3, 4)) * self.scale

    def backbone(self):
        return nn.Identity()


@pytest.fixture(scope='module', autouse=True)
def registered():
    with toy_models.registered(mean_colours=MeanColours):
        yield


@pytest.fixture
def checkpoint(tmp_path):
    words = 'model.name mean_colours data.height 32 data.width 16 data.type video'
    config = flatten(load_config('', words.split()))
    network = build_video_model(ModelSpec.from_config(config), 2, pretrained=False)
    path = tmp_path / 'model.pth.tar-1'
    torch.save({'state_dict': network.state_dict(), 'epoch': 1, 'config': config}, path)
    return path


@pytest.fixture
def tree(tmp_path):
    """Twelve tracklets, each of one colour."""
    folder, entries = tmp_path / 'people', []
    for i in range(12):
        name = f'gallery/unknown/{["lobby", "gate"][i % 2]}/video-{i}'
        (folder / name).mkdir(parents=True)
        for frame in range(3):
            picture = Image.new('RGB', (16, 32), tuple(colour_of(i)))
            picture.save(folder / name / f'{frame:08}.png')
        start = f'2026-03-01T08:{i:02}:00.250+01:00'
        entries.append(
            ManifestEntry(
                tracklet=name,
                camera=['lobby', 'gate'][i % 2],
                source='video.mp4',
                track=str(i),
                person='unknown' if i else 'Käthe',
                start=start,
                end=start,
                frames=[0, 1, 2],
                times=[0, 0.1, 0.2],
                boxes=[[0, 0, 1, 1]] * 3,
                confidence=None,
            )
        )
    write_manifest(folder, entries)
    return folder


def colour_of(i):
    return [20 * i, 255 - 20 * i, (70 * i) % 256]


def run(*words):
    command.main([str(word) for word in words])


def test_every_tracklet_is_embedded_with_what_the_manifest_says(tree, checkpoint, tmp_path, capsys):
    run(checkpoint, tree, '--index', tmp_path / 'people.db')
    said = capsys.readouterr().out
    assert '12 tracklets added' in said and '12 in all' in said
    with TrackletIndex.open(tmp_path / 'people.db') as index:
        rows = index.rows()
        assert [row.track for row in rows] == [str(i) for i in range(12)]
        assert {row.tree for row in rows} == {str(tree)} and rows[0].person == 'Käthe'
        utc = datetime.timezone.utc
        assert rows[3].start == datetime.datetime(2026, 3, 1, 7, 3, 0, 250_000, utc)
        assert {row.num_frames for row in rows} == {3}
        # what the model does, with the normalisation of ImageNet
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        expected = [(np.array(colour_of(i)) / 255 - mean) / std for i in range(12)]
        found = index.features([row.number for row in rows]).numpy()
        if index.model.has_unit_features:
            expected = [one / np.linalg.norm(one) for one in expected]
        assert np.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize(
    ('changes', 'chosen', 'mirrored'),
    [
        ({}, [0, 2, 4, 6, 6, 6], False),
        ({'frames': 'rrs'}, [0, 2, 4, 6, 6, 6], False),
        ({'frames': 'all'}, [0, 1, 2, 3, 4, 5], True),
    ],
    ids=['default', 'rrs', 'all'],
)
def test_an_index_has_the_features_of_the_released_codes_test(
    changes, chosen, mirrored, tmp_path, monkeypatch
):
    """Seven frames: ceil(7/6) in a chunk, floor(7/6) clips, mirrored only where all are tested."""
    monkeypatch.setattr(MeanColours, 'forward', mean_of_left_half)
    words = 'model.name mean_colours data.height 32 data.width 16'
    config = flatten(load_config('stmn_mars_released', words.split()))
    spec = ModelSpec.from_config(config)
    model = build_video_model(spec, 2, pretrained=False)
    model.spec = spec
    pictures = np.random.default_rng(0).integers(0, 256, (7, 32, 16, 3), dtype=np.uint8)
    paths = [str(tmp_path / f'{i}.png') for i in range(7)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    colours = (pictures / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    views = [colours, colours[:, :, ::-1]] if mirrored else [colours]
    expected = np.mean([view[chosen, :, :8] for view in views], axis=(0, 1, 2, 3))

    key = ModelKey.of(model, **changes)
    embedders = [key.embedder(model)]
    if not changes:
        embedders.append(Embedder(model))
    with TrackletIndex.open(tmp_path / 'people.db', key) as index:  # a search, by the same rule
        torch.save({'state_dict': model.state_dict(), 'config': config}, tmp_path / 'ours.pth')
        embedders.append(search.embedder_of(str(tmp_path / 'ours.pth'), index))
    for embed in embedders:
        assert np.allclose(embed([paths]).features, expected, atol=1e-5)
    record = replace(MEASURED, weights=key.weights, flip=mirrored)
    record = replace(record, frames='all (floor)' if mirrored else 'rrs')
    assert thresholds_for(key, [record]) == record


def mean_of_left_half(self, clips):
    """What the mirrored clip has of other pixels."""
    return self.as_clips(clips)[..., : clips.shape[-1] // 2].mean(dim=(1, 3, 4)) * self.scale


def test_what_is_there_is_not_embedded_again(tree, checkpoint, tmp_path, capsys, monkeypatch):
    run(checkpoint, tree, '--index', tmp_path / 'people.db')
    with TrackletIndex.open(tmp_path / 'people.db') as index:
        before = index.rows()
    monkeypatch.setattr(MeanColours, 'forward', lambda *_: pytest.fail('embedded again'))
    model = load_model(checkpoint)
    key = ModelKey(**{**vars(index.model)})
    with TrackletIndex.open(tmp_path / 'people.db', key) as index:
        assert embed_rows(index, key.embedder(model), tree_rows(tree)) == (0, 0, 0, {})
        assert index.rows() == before


def test_a_tracklet_that_has_changed_is_embedded_again(tree, checkpoint, tmp_path, capsys):
    """A name, other pictures, a crop less, a tracklet less; crops that are gone change nothing."""
    path = tmp_path / 'people.db'
    run(checkpoint, tree, '--index', path)
    with TrackletIndex.open(path) as index:
        before = {row.track: row for row in index.rows()}
        old = index.features([before['2'].number]).half().numpy().tobytes()
    entries = read_manifest(tree)
    folders = [tree / entry.tracklet for entry in entries]
    write_manifest(tree, [replace(entries[0], person='Karl'), *entries[1:11]])
    for crop in folders[2].iterdir():
        Image.new('RGB', (32, 64), (200, 10, 90)).save(crop)
    next(folders[3].iterdir()).unlink()
    for crop in folders[4].iterdir():
        crop.unlink()
    folders[4].rmdir()
    (folders[5] / '.thumbnails').touch()
    capsys.readouterr()
    run(checkpoint, tree, '--index', path)
    said = capsys.readouterr().out
    assert '3 tracklets added' in said and '12 in all' in said
    assert '3 had changed since they were embedded: embedded again' in said
    assert f'1 in the index are no longer in {tree}/manifest.jsonl' in said
    with TrackletIndex.open(path) as index:
        after = {row.track: row for row in index.rows()}
        assert {track for track, row in after.items() if row != before[track]} == {'0', '2', '3'}
        assert after['0'].person == 'Karl' and after['4'] == before['4']
        new = index.features([after['2'].number])[0].numpy()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (np.array([200, 10, 90]) / 255 - mean) / std
    assert np.allclose(new, expected, atol=2e-3)
    assert old not in path.read_bytes()
    run(checkpoint, tree, '--index', path)
    said = capsys.readouterr().out
    assert '0 tracklets added' in said and 'had changed' not in said


def test_an_erased_tracklet_without_crops_is_left_out(tree, checkpoint, tmp_path, capsys):
    """Whether its folder is gone, or empty; so is the crop of one that stays in the index."""
    path = tmp_path / 'people.db'
    run(checkpoint, tree, '--index', path)
    names = [entry.tracklet for entry in read_manifest(tree)]
    index_command.main([str(path), '--delete', '--tracklet', *names[:2]])
    for name in names[:3]:
        for crop in (tree / name).iterdir():
            crop.unlink()
    (tree / names[1]).rmdir()
    for _ in range(2):
        capsys.readouterr()
        run(checkpoint, tree, '--index', path)
        said = capsys.readouterr().out
        assert '0 tracklets added' in said and '10 in all' in said
        assert said.endswith('tracklets left out: 2 without crops\n')
    with TrackletIndex.open(path) as index:
        assert names[2] in {row.tracklet for row in index.rows()}


def test_progress_has_the_rate_and_the_time_that_is_left(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(embedding, 'REPORT_SECONDS', 0)
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(embedding, 'time', SimpleNamespace(monotonic=lambda: next(clock)))
    progress = embedding._Progress(1200)
    progress.start(200)  # at 0 s
    progress.report(200)  # 2 s
    progress.report(230)  # 4 s
    progress.report(700)  # 6 s
    assert caplog.messages == [
        '200 of 1,200 tracklets are in the index',
        '230 of 1,200 tracklets, 7.5 a second, 0:02:09 left',
        '700 of 1,200 tracklets, 83.3 a second, 0:00:06 left',
    ]


def test_names_that_are_no_text_end_it_before_the_model_is_loaded(tree, tmp_path, capsys):
    entries = read_manifest(tree)
    write_manifest(tree, [*entries[:5], replace(entries[5], source='\udcff.mp4'), *entries[6:]])
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / 'no model', tree, '--index', tmp_path / 'people.db')
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count('\n') == 1
    assert 'video-5: ' in said and 'is not UTF-8 text' in said


def test_a_tree_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(InputError, match=r'missing/manifest\.jsonl: not found, so no tracklet'):
        tree_rows(tmp_path / 'missing')
    (tmp_path / 'manifest.jsonl').touch()
    with pytest.raises(InputError, match=r'/manifest\.jsonl: lists no tracklet; tools/make_tr'):
        tree_rows(tmp_path)


def test_what_another_process_has_embedded_again_is_kept(tree, checkpoint, tmp_path, monkeypatch):
    """Between the look at the revisions and the deletion."""
    path = tmp_path / 'people.db'
    run(checkpoint, tree, '--index', path)
    rows = tree_rows(tree)
    with TrackletIndex.open(path) as index:
        known = index.known(str(tree))
        stale = {**known, rows[3].tracklet: 'earlier'}
        monkeypatch.setattr(index, 'known', lambda _: stale)
        assert embed_rows(index, None, rows) == (0, 0, 0, {}) and len(index) == 12


def test_a_crop_that_is_damaged_ends_it_and_the_work_is_kept(tree, checkpoint, tmp_path, capsys):
    rows = tree_rows(tree)
    broken = Path(crops_of(rows[5])[1])
    whole = broken.read_bytes()
    broken.write_bytes(b'no picture')
    model = load_model(checkpoint)
    key = ModelKey.of(model)
    path = tmp_path / 'people.db'
    with (
        TrackletIndex.open(path, key) as index,
        pytest.raises(ValueError, match=r'00000001\.png'),
    ):
        embed_rows(index, key.embedder(model), rows, at_once=1)
    with TrackletIndex.open(path, key) as index:
        there = {row.track for row in index.rows()}
        assert '5' not in there
        broken.write_bytes(whole)
        assert embed_rows(index, key.embedder(model), tree_rows(tree), at_once=4) == (
            12 - len(there),
            0,
            0,
            {},
        )
        assert sorted(int(row.track) for row in index.rows()) == list(range(12))


def test_skip_bad_leaves_out_what_cannot_be_read(tree, checkpoint, tmp_path, capsys):
    """A crop of one tracklet; all crops of two, which one warning names; the rest is embedded."""
    path, names = tmp_path / 'people.db', [entry.tracklet for entry in read_manifest(tree)]
    crops = [sorted((tree / name).iterdir()) for name in names]
    for crop in [crops[1][0], *crops[4], *crops[7]]:
        crop.write_bytes(crop.read_bytes()[:60])
    crops[9][1].unlink()
    shown = f'tracklets without a readable crop, left out: {names[4]}, {names[7]}\n'
    for added in (10, 0):  # a second run tries them again
        capsys.readouterr()
        run(checkpoint, tree, '--index', path, '--skip-bad', '--workers', 0)
        said = capsys.readouterr().out
        assert f'{added} tracklets added' in said and '10 in all' in said
        assert said.count(shown) == said.count('left out: 2 without a readable crop\n') == 1
        assert (f'left out 1 unreadable crop, first {crops[1][0]}\n' in said) == bool(added)
    with TrackletIndex.open(path) as index:
        assert {row.tracklet for row in index.rows()} == {*names} - {names[4], names[7]}
    Image.new('RGB', (16, 32)).save(crops[4][2])  # repaired
    run(checkpoint, tree, '--index', path, '--skip-bad')
    assert '1 tracklet added' in capsys.readouterr().out


def test_a_warning_names_some_of_many_unreadable_tracklets(tree, checkpoint, tmp_path, capsys):
    names = [entry.tracklet for entry in read_manifest(tree)]
    for crop in tree.rglob('*.png'):
        crop.write_bytes(b'')
    run(checkpoint, tree, '--index', tmp_path / 'people.db', '--skip-bad')
    said = capsys.readouterr().out
    assert f'{names[9]} and 2 more\n' in said and names[10] not in said
    assert said.endswith('0 in all\ntracklets left out: 12 without a readable crop\n')


def test_the_command_index_counts_lists_and_deletes(tree, checkpoint, tmp_path, capsys):
    path = str(tmp_path / 'people.db')
    run(checkpoint, tree, '--index', path)
    capsys.readouterr()
    index_command.main([path])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:4] == ['gate', '6', '1', '0'] and lines[3].split()[3] == '1'
    assert lines[-1] == '12 tracklets, times in UTC'
    index_command.main([path, '--camera', 'elsewhere'])
    assert capsys.readouterr().out == '0 tracklets, times in UTC\n'
    index_command.main([path, '--rows', '--person', 'Käthe'])
    [line] = capsys.readouterr().out.splitlines()
    assert line.split('\t')[2:6] == ['gallery/unknown/lobby/video-0', 'lobby', 'video.mp4', 'Käthe']
    with pytest.raises(SystemExit) as ended:
        index_command.main([path, '--delete'])
    assert ended.value.code == 2
    assert capsys.readouterr().err == 'error: --delete: give a condition, or --all\n'
    for action in ([], ['--delete']):
        with pytest.raises(SystemExit) as ended:
            index_command.main([path, *action, '--not-camera', 'gat'])
        assert ended.value.code == 2
        assert capsys.readouterr().err == (
            'error: --not-camera gat: the index has no such camera; it has gate, lobby\n'
        )
    for age in ('0d', '30', '100000w'):  # the last would end before the calendar begins
        with pytest.raises(SystemExit):
            index_command.main([path, '--delete', '--older-than', age])
        assert 'takes a length of time such as 30d' in capsys.readouterr().err
    index_command.main([path, '--rows', '--older-than', '99999w'])
    assert capsys.readouterr().out == ''
    index_command.main([path, '--delete', '--camera', 'gate', '--to', '2026-03-01T07:05:00Z'])
    assert capsys.readouterr().out == f'{path}: 2 tracklets deleted, 10 left\n'
    index_command.main([path, '--delete', '--older-than', '1d'])
    assert capsys.readouterr().out == f'{path}: 10 tracklets deleted, 0 left\n'


def test_a_password_in_the_url_is_nowhere_in_what_is_written(
    tree, checkpoint, tmp_path, postgres_url, capsys
):
    pytest.importorskip('jinja2')
    url = f'{postgres.empty(postgres_url)}&password=secret'
    run(checkpoint, tree, '--index', url)
    index_command.main([url])
    files = [str(tmp_path / f'answer.{name}') for name in ('json', 'html', 'csv')]
    flags = ['--json', files[0], '--html', files[1], '--csv', files[2]]
    search.main(['--index', url, '--person', 'Käthe', *flags])
    index_command.main([url, '--delete', '--camera', 'gate'])
    out, err = capsys.readouterr()
    assert '12 tracklets added' in out and 'tracklets deleted' in out and '12 tracklets in' in out
    for text in (out, err, *(Path(file).read_text() for file in files)):
        assert 'secret' not in text
