"""Videos and tracks → tracklets: decoding, filters, the tree, and what is refused."""

import datetime
import errno
import json
import multiprocessing
import os
import shutil
import signal
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stmn_plugin import whole_files
from stmn_plugin.cameras import making
from stmn_plugin.cameras import tree as tree_files
from stmn_plugin.cameras.boxes import BoxRows
from stmn_plugin.cameras.index.embedding import tree_rows
from stmn_plugin.cameras.making import CroppingJob, make_tracklets
from stmn_plugin.cameras.manifest import read_manifest
from stmn_plugin.cameras.readers.options import Recording, TrackOptions
from stmn_plugin.cameras.selection import Filters, crop_corners, sampled, select
from stmn_plugin.cameras.videos import VideoFile, open_source
from stmn_plugin.cli import make_tracklets as command
from stmn_plugin.data.frames import read_frame
from stmn_plugin.datasets.tracklets import find_source, read_own_tracklets
from stmn_plugin.errors import InputError
from stmn_plugin.labels import UNKNOWN

av = pytest.importorskip('av')

WIDTH, HEIGHT = 96, 64
LEVELS = 8  # bits of the frame number, painted as black and white squares
ONE = 0x10000  # in the matrix of an MP4 file


def painted(number):
    """A picture (64, 96, 3) that encodes its number: squares along the top, first bit left."""
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(LEVELS):
        pixels[:16, 12 * bit : 12 * bit + 12] = 255 * (number >> bit & 1)
    return pixels


def number_of(pixels):
    """The number that :func:`painted` has painted."""
    return sum(int(pixels[8, 12 * bit + 6, 1] > 128) << bit for bit in range(LEVELS))


def write_video(
    path, frames=20, codec='libx264', rate=10, times=None, picture=painted, gop=250, **options
):
    """Encode numbered frames; ``times`` are those of frames in hundredths of a second."""
    schedule = scheduling()
    quality = {'libsvtav1': {'crf': '20', 'preset': '12'}, 'libx265': {'crf': '15'}}
    with av.open(str(path), 'w', options=options) as container:
        stream = container.add_stream(
            codec, rate=100 if times else rate, options=quality.get(codec, {'crf': '12'})
        )
        stream.pix_fmt, stream.gop_size = 'yuv420p', gop
        stream.height, stream.width = picture(0).shape[:2]
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format='rgb24')
            frame.pts = times[number] if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if schedule:  # SVT-AV1 makes the thread that calls it a real-time one if it may
        os.sched_setscheduler(0, *schedule)
    return path


def scheduling():
    """Policy and priority of this thread, on systems that tell."""
    if hasattr(os, 'sched_getscheduler'):
        return os.sched_getscheduler(0), os.sched_getparam(0)
    return None


def turn(path, quarters):
    """Write into an MP4 file that its picture is shown turned clockwise by quarters."""
    content = bytearray(path.read_bytes())
    header = content.index(b'tkhd')
    place = header + 8 + (32 if content[header + 4] else 20) + 16
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    matrix = (cos * ONE, sin * ONE, 0, -sin * ONE, cos * ONE, 0, 0, 0, 0x40000000)
    content[place : place + 36] = struct.pack('>9i', *matrix)
    path.write_bytes(content)
    return path


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp('video') / 'lobby.mp4')


def mot(path, boxes):
    """A MOT file of (frame, track, left, top, width, height, ...)."""
    path.write_text(''.join(','.join(map(str, box)) + '\n' for box in boxes))
    return path


def walk(track=1, frames=range(20), box=(8, 4, 24, 48)):
    return [(frame, track, *box, 0.9, -1, -1, -1) for frame in frames]


@pytest.fixture
def job(video, tmp_path):
    """A function: boxes and what differs → a CroppingJob."""

    def make(boxes, **changes):
        tracks = mot(tmp_path / 'tracks.txt', boxes)
        known = {'options': TrackOptions(first_frame=0), 'format': 'mot', 'camera': 'door'}
        return CroppingJob(
            **{'video': video, 'tracks': tracks, 'output': tmp_path / 'tree', **known, **changes}
        )

    return make


# --- videos ----------------------------------------------------------------------------------


@pytest.mark.parametrize('codec', ['libx264', 'libx265', 'libsvtav1'])
def test_every_frame_comes_once_in_order(codec, tmp_path):
    schedule = scheduling()
    path = write_video(tmp_path / 'a.mp4', frames=30, codec=codec)
    frames = [
        (f.number, round(f.seconds, 3), number_of(f.pixels())) for f in VideoFile(path).frames()
    ]
    assert frames == [(i, i / 10, i) for i in range(30)]
    assert scheduling() == schedule, 'the tests behind this one would stop everything else'


def test_decoder_threads_never_wait_for_python(tmp_path):
    """As they do for a message once torchvision 0.23 has turned messages on: then they hang."""
    path = write_video(tmp_path / 'a.mp4', frames=2)
    av.logging.set_level(av.logging.ERROR)
    VideoFile(path)
    assert av.logging.get_level() is None


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    times = [0, 10, 15, 80, 81, 200]
    source = VideoFile(write_video(tmp_path / 'a.mp4', frames=6, times=times))
    assert [round(f.seconds * 100) for f in source.frames()] == times
    again = VideoFile(tmp_path / 'a.mp4', fps=4)
    assert [f.seconds for f in again.frames()] == [0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_times_begin_with_the_first_frame(tmp_path):
    """Those of a transport stream begin anywhere."""
    path = write_video(tmp_path / 'a.ts', frames=5)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).time > 0.1
    assert [round(f.seconds, 3) for f in VideoFile(path).frames()] == [0, 0.1, 0.2, 0.3, 0.4]


def test_paths_that_cannot_be_looked_up_are_one_line(tmp_path, monkeypatch):
    """As below a folder that the user may not enter, or in one that may not be listed."""
    path = tmp_path / ('n' * 300) / 'x'
    for read in (open_source, read_manifest):
        with pytest.raises(InputError, match='cannot read .*: File name too long'):
            read(path)

    def refused(path):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr('stmn_plugin.cameras.videos.os.listdir', refused)
    with pytest.raises(InputError, match=f'cannot read {tmp_path}: Permission denied'):
        open_source(tmp_path, fps=1)


def test_times_that_go_back_are_refused(tmp_path):
    """Joined transport streams begin again: a tracklet would end before it starts."""
    path = write_video(tmp_path / 'a.ts', frames=5)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(InputError, match=r'a\.ts: the time of frame 5, 0 s, is before .* 0\.4 s'):
        list(VideoFile(path).frames())
    assert [f.seconds for f in VideoFile(path, fps=10).frames()] == [i / 10 for i in range(10)]


@pytest.mark.parametrize('quarters', [0, 1, 2, 3])
def test_a_turned_video_is_made_upright_as_opencv_does(quarters, tmp_path):
    source = VideoFile(turn(write_video(tmp_path / 'a.mp4', frames=2), quarters))
    video = cv2.VideoCapture(str(tmp_path / 'a.mp4'))
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # off in OpenCV 4.11
    oracle = video.read()[1][..., ::-1]
    pixels = next(source.frames()).pixels()
    assert pixels.shape == oracle.shape
    assert np.abs(pixels.astype(int) - oracle).max() <= 3  # its own conversion of colours
    size = (WIDTH, HEIGHT) if quarters % 2 == 0 else (HEIGHT, WIDTH)
    assert (source.recording.width, source.recording.height) == size


def test_a_recording_that_begins_within_a_group_of_pictures(tmp_path):
    """As one of a live stream does: what needs the lost picture is skipped, as OpenCV does."""
    path = write_video(tmp_path / 'a.ts', frames=40, gop=10)
    content = path.read_bytes()
    path.write_bytes(content[188 * 8 :])  # the first packets hold the first picture
    video, oracle = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        oracle.append(number_of(read[1]))
    frames = [number_of(frame.pixels()) for frame in VideoFile(path).frames()]
    assert frames == oracle and 0 < len(frames) < 40


def test_a_folder_of_images_is_in_natural_order(tmp_path):
    for number in (10, 9, 2):
        Image.fromarray(painted(number)).save(tmp_path / f'f{number}.png')
    (tmp_path / 'notes.txt').write_text('no image')
    source = open_source(tmp_path, fps=2)
    frames = [(f.seconds, number_of(f.pixels())) for f in source.frames()]
    assert frames == [(0, 2), (0.5, 9), (1, 10)] and source.recording.images[0] == 'f2.png'
    with pytest.raises(InputError, match='images have no times; give --fps N'):
        open_source(tmp_path)
    Image.fromarray(painted(3)[:32]).save(tmp_path / 'f3.png')
    with pytest.raises(InputError, match='f3.png: has 96 x 32 pixels, the first image 96 x 64'):
        [f.pixels() for f in open_source(tmp_path, fps=2).frames()]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='empty: contains no image'):
        open_source(tmp_path / 'empty', fps=1)


def sound_alone(path):
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_what_is_no_video_is_one_line(video, tmp_path):
    content = video.read_bytes()
    (tmp_path / 'no_index.mp4').write_bytes(content[: content.index(b'moov') - 4])
    (tmp_path / 'text.mp4').write_text('1,3,10,20,30,40\n' * 100)
    (tmp_path / 'tracks.txt').write_text('1,3,10,20,30,40\n' * 100)
    (tmp_path / 'empty.mp4').touch()
    (tmp_path / 'list.m3u8').write_text(f'#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n')
    sound_alone(tmp_path / 'sound.mp4')
    for name, said in {
        'no_index.mp4': 'cannot be read as a video; it is damaged, truncated or not a video',
        'text.mp4': 'damaged, truncated or not a video',
        'tracks.txt': 'is a text file, not a video',  # FFmpeg draws its letters
        'empty.mp4': 'damaged, truncated or not a video',
        'list.m3u8': 'damaged, truncated or not a video',
        'sound.mp4': 'contains no video',
        'none.mp4': 'cannot read .*none.mp4: No such file',
    }.items():
        with pytest.raises(InputError, match=said) as error:
            list(VideoFile(tmp_path / name).frames())
        assert name in str(error.value) and '\n' not in str(error.value)


def test_a_codec_without_a_decoder_is_one_line(video, tmp_path, capsys):
    """Its name in the file is one that no FFmpeg knows; the command makes no tree."""
    content = video.read_bytes()
    assert content.count(b'avc1') >= 1
    unknown = tmp_path / 'unknown.mp4'
    unknown.write_bytes(content.replace(b'avc1', b'zz9z'))
    tracks = mot(tmp_path / 't.txt', walk())
    with pytest.raises(SystemExit) as ended:
        command.main(words(unknown, tracks, tmp_path / 'tree', '--first-frame', 0))
    assert ended.value.code == 2 and not (tmp_path / 'tree').exists()
    said = f'error: {unknown}: this PyAV has no decoder of its codec\n'
    assert capsys.readouterr().err == said


def test_without_av_a_line_says_what_to_install(video, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(InputError, match=r'av is not installed: pip install "stmn_plugin\[cameras'):
        VideoFile(video)


# --- which boxes -----------------------------------------------------------------------------

RECORDING = Recording('a.mp4', 100, 80)


def boxes_of(*rows):
    """Boxes of (frame, track, left, top, right, bottom[, confidence[, class]])."""
    collected = BoxRows()
    for frame, track, *rest in rows:
        collected.add(frame, track, tuple(rest[:4]), *rest[4:])
    return collected.boxes('tracks.txt')


def kept(filters, *rows):
    chosen = select('tracks.txt', boxes_of(*rows), RECORDING, filters)
    names = [chosen.boxes.track_ids[place] for place in chosen.boxes.tracks]
    return list(zip(chosen.boxes.frames.tolist(), names, strict=True)), chosen


def test_filters_say_what_they_left_out():
    rows = [
        (0, 'a', 0, 0, 10, 20, 0.9, 'person'),
        (1, 'a', 0, 0, 10, 20, 0.2, 'person'),
        (2, 'a', 0, 0, 10, 20, 0.9, 'car'),
        (3, 'a', 0, 0, 4, 20, 0.9, 'person'),
        (4, 'a', -30, 0, 20, 20, 0.9, 'person'),
        (5, 'a', 200, 0, 220, 20, 0.9, 'person'),
        (6, 'a', 0, 0, 10, 20, 0.9, 'person'),
        (6, 'b', 0, 0, 10, 20, 0.9, 'person'),
    ]
    filters = Filters(('person',), min_confidence=0.5, min_width=5, min_frames=2)
    frames, chosen = kept(filters, *rows)
    assert frames == [(0, 'a'), (6, 'a')]
    assert chosen.left_out == {
        'with a confidence below 0.5': 1,
        'of another class': 1,
        'smaller than 5 x 1 pixels': 1,
        'less than half in the picture': 1,
        'outside the picture': 1,
        'in tracks of fewer than 2 boxes': 1,
    }
    assert chosen.tracks_left_out == {'in tracks of fewer than 2 boxes': 1}
    assert (chosen.total_boxes, chosen.total_tracks) == (8, 2)
    with pytest.raises(
        InputError, match=r'no box is of the class dog; --classes takes car, person'
    ):
        kept(Filters(('dog',)), *rows)
    with pytest.raises(InputError, match='no track is left for a.mp4; of 8 boxes .* 1 outside'):
        kept(Filters(min_height=50), *rows)


def test_confidences_that_are_not_there_cannot_be_filtered():
    row = (0, 'a', 0, 0, 10, 20)
    assert kept(Filters(), row)[0] == [(0, 'a')]
    with pytest.raises(InputError, match='has no confidences, --min-confidence cannot be used'):
        kept(Filters(min_confidence=0.0), row)


def test_many_boxes_outside_the_picture_are_a_wrong_size():
    inside = [(i, 'a', 0, 0, 10, 20) for i in range(20)]
    outside = [(i, 'b', 150, 0, 160, 20) for i in range(4)]
    assert kept(Filters(), *inside, *outside[:3])[1].left_out == {'outside the picture': 3}
    with pytest.raises(
        InputError, match='4 of 24 boxes lie outside the picture of a.mp4, 100 x 80'
    ):
        kept(Filters(), *inside, *outside)


def test_sampling_takes_one_in_every_and_then_spreads():
    boxes = boxes_of(*((i, track, 0, 0, 1, 1) for i in range(12) for track in 'ab'))
    for every, most, expected in [
        (1, None, range(12)),
        (5, None, (0, 5, 10)),
        (1, 3, (2, 6, 10)),
        (3, 2, (3, 9)),
        (1, 1, (6,)),
        (1, 12, range(12)),
    ]:
        chosen = sampled(boxes, every, most)
        for track in (0, 1):
            rows = chosen & (boxes.tracks == track)
            assert boxes.frames[rows].tolist() == list(expected), (every, most)


def test_a_crop_holds_the_box_and_its_margin():
    corners = np.array([[10.2, 20.8, 30.5, 60.1], [0, 0, 100, 80]])
    assert crop_corners(corners, 0, RECORDING).tolist() == [[10, 20, 31, 61], [0, 0, 100, 80]]
    grown = crop_corners(corners, 0.5, RECORDING).tolist()
    assert grown == [[0, 1, 41, 80], [0, 0, 100, 80]]


# --- the tree --------------------------------------------------------------------------------


def test_crops_are_those_of_their_frames(job):
    top = (0, 0, WIDTH, 20)  # the numbers that are painted
    made = make_tracklets(job(walk(7, range(3, 15, 2), top) + walk(8, range(4, 6))))
    folder = job([]).output / 'gallery' / 'unknown' / 'door' / 'lobby-7'
    crops = {path.name: number_of(np.asarray(Image.open(path))) for path in folder.iterdir()}
    assert crops == {f'{frame:08}.jpg': frame for frame in range(3, 15, 2)}
    assert made.frames == 14  # nothing is decoded behind the last box
    assert [(e.track, len(e.frames)) for e in made.entries] == [('7', 6), ('8', 2)]


def test_the_manifest_says_where_and_when(job):
    start = datetime.datetime.fromisoformat('2026-03-01T23:59:59+01:00')
    boxes = walk(7, range(10, 20, 5), (-4, 4, 24.126, 80)) + walk(9, [3])[:1]
    make_tracklets(job(boxes, start=start, filters=Filters(margin=0.1)))
    first, last = read_manifest(job([]).output)
    assert first.__dict__ == {
        'tracklet': 'gallery/unknown/door/lobby-7',
        'camera': 'door',
        'source': 'lobby.mp4',
        'track': '7',
        'person': 'unknown',
        'start': '2026-03-02T00:00:00.000+01:00',
        'end': '2026-03-02T00:00:00.500+01:00',
        'frames': [10, 15],
        'times': [1.0, 1.5],
        'boxes': [[0.0, 4.0, 20.13, 64.0]] * 2,
        'confidence': [0.9, 0.9],
    }
    assert last.start == last.end == '2026-03-01T23:59:59.300+01:00'
    lines = (job([]).output / 'manifest.jsonl').read_text().splitlines()
    assert [json.loads(line)['track'] for line in lines] == ['7', '9']


def test_without_a_start_or_confidences_there_is_none(job):
    make_tracklets(job([(0, 1, 8, 4, 24, 48)]))
    [entry] = read_manifest(job([]).output)
    assert entry.start is entry.end is entry.confidence is None


def test_a_tree_takes_more_videos_but_none_twice(job, tmp_path, video):
    make_tracklets(job(walk(1)))
    with pytest.raises(
        InputError, match='already has tracklets of lobby.mp4 at camera door; --repl'
    ):
        make_tracklets(job(walk(2)))
    make_tracklets(job(walk(2), camera='gate'))
    assert [e.track for e in read_manifest(tmp_path / 'tree')] == ['1', '2']
    make_tracklets(job(walk(3), replace=True))
    assert [e.tracklet for e in read_manifest(tmp_path / 'tree')] == [
        'gallery/unknown/gate/lobby-2',
        'gallery/unknown/door/lobby-3',
    ]
    assert not (tmp_path / 'tree/gallery/unknown/door/lobby-1').exists()
    other = tmp_path / 'lobby.mkv'
    other.write_bytes(video.read_bytes())
    with pytest.raises(InputError, match='lobby-3: belongs to lobby.mp4; rename lobby.mkv'):
        make_tracklets(job(walk(3), video=other))


@pytest.fixture
def other_disk(monkeypatch):
    """Makes renaming into a folder fail, as into one on another disk."""
    rename = os.rename

    def refuse(folder):
        def renamed(source, target, **options):
            if Path(target).resolve().is_relative_to(folder):
                raise OSError(errno.EXDEV, 'Invalid cross-device link')
            rename(source, target, **options)

        monkeypatch.setattr(os, 'rename', renamed)

    return refuse


def test_replacing_what_is_elsewhere_keeps_what_links_point_to(job, tmp_path, other_disk):
    """A tracklet's folder that is a link, and a camera's folder that is one to another disk."""
    tree, elsewhere = tmp_path / 'tree', tmp_path / 'elsewhere'
    door = tree / 'gallery/unknown/door'
    make_tracklets(job(walk(1) + walk(2)))
    elsewhere.mkdir()
    for name in ('lobby-1', 'lobby-2'):
        (door / name).rename(elsewhere / name)
        (door / name).symlink_to(elsewhere / name)
    kept = sorted(elsewhere.rglob('*.jpg'))
    made = make_tracklets(job(walk(1, range(3)), replace=True))
    assert made.entries == read_manifest(tree) and os.listdir(door) == ['lobby-1']
    assert not (door / 'lobby-1').is_symlink() and len(os.listdir(door / 'lobby-1')) == 3
    assert sorted(elsewhere.rglob('*.jpg')) == kept and len(kept) == 40
    door.rename(elsewhere / 'door')
    door.symlink_to(elsewhere / 'door')
    other_disk(elsewhere)
    made = make_tracklets(job(walk(1, range(4)) + walk(3, range(2)), replace=True))
    assert made.entries == read_manifest(tree) and door.is_symlink()
    for entry in made.entries:
        assert len(os.listdir(tree / entry.tracklet)) == len(entry.frames)
    assert {path.name for path in tree.iterdir()} <= {'gallery', 'manifest.jsonl', '.manifest.lock'}


def test_what_ends_early_leaves_nothing_that_counts(job, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    tree = tmp_path / 'tree'
    with monkeypatch.context() as patch:
        patch.setattr(making, '_without_past', fail)
        with pytest.raises(KeyboardInterrupt):
            make_tracklets(job(walk(1)))
    assert not [path for path in tree.rglob('*.jpg')]
    with monkeypatch.context() as patch:
        patch.setattr(tree_files, 'write_manifest', fail)
        with pytest.raises(KeyboardInterrupt):
            make_tracklets(job(walk(1)))
    assert read_manifest(tree) == []
    make_tracklets(job(walk(1, range(3))))  # takes the place of the folder that was left
    assert len(list((tree / 'gallery/unknown/door/lobby-1').iterdir())) == 3
    assert {path.name for path in tree.iterdir()} <= {'gallery', 'manifest.jsonl', '.manifest.lock'}


def killed_at(call, number):
    """A function that kills its process with -9 in the number-th call of ``call``, half-way."""
    calls = []

    def act(self, target, *args, **kwargs):
        calls.append(target)
        if len(calls) == number:
            if isinstance(self, Image.Image):
                Path(target).write_bytes(b'\xff\xd8 half a picture')
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, target, *args, **kwargs)

    return act


@pytest.mark.parametrize(
    'place, number',
    [
        ((Image.Image, 'save'), 1),
        ((Image.Image, 'save'), 17),
        ((Image.Image, 'save'), 60),  # of 60
        ((shutil, 'move'), 1),
        ((shutil, 'move'), 2),  # the second tracklet to its place
        ((shutil, 'move'), 3),
    ],
)
def test_kill_9_leaves_nothing_that_looks_whole_and_the_next_call_finishes(
    place, number, job, tmp_path, monkeypatch
):
    tree, one = tmp_path / 'tree', job(walk(1) + walk(2) + walk(3))
    monkeypatch.setattr(*place, killed_at(getattr(*place), number))
    victim = multiprocessing.get_context('fork').Process(target=make_tracklets, args=(one,))
    victim.start()
    victim.join()
    monkeypatch.undo()
    assert victim.exitcode == -signal.SIGKILL
    assert read_manifest(tree) == []
    left = [path for path in tree.glob('gallery/*/*/*') if path.is_dir()]
    assert len(left) == (number - 1 if place[0] is shutil else 0)
    assert {len(list(path.iterdir())) for path in left} <= {20}  # of these no crop is missing
    with pytest.raises(InputError, match='no tracklet'):
        tree_rows(tree)
    said = 'did not finish' if place[0] is shutil else 'no tracklets in it'
    with pytest.raises(InputError, match=said):
        find_source(str(tree))
    made = make_tracklets(one)
    assert made.entries == read_manifest(tree) and len(made.entries) == 3
    assert {path.name for path in tree.iterdir()} <= {'gallery', 'manifest.jsonl', '.manifest.lock'}
    for entry in made.entries:
        crops = sorted((tree / entry.tracklet).iterdir())
        assert [int(path.stem) for path in crops] == list(entry.frames)
        assert all(read_frame(path).shape[0] == 3 for path in crops)


@pytest.mark.slow
@pytest.mark.parametrize('number', range(1, 8))  # of two folders that go, and one that comes
def test_a_replacement_that_is_killed_leaves_no_crops_for_ever(number, job, tmp_path, monkeypatch):
    tree = tmp_path / 'tree'
    make_tracklets(job(walk(1) + walk(2)))
    make_tracklets(job(walk(5), camera='gate'))
    calls = []

    def counted(call):
        def act(*args, **options):
            result = call(*args, **options)
            calls.append(args)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return act

    for module, name in (tree_files, 'write_manifest'), (tree_files, '_remove'), (shutil, 'move'):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    one = job(walk(3), replace=True)
    victim = multiprocessing.get_context('fork').Process(target=make_tracklets, args=(one,))
    victim.start()
    victim.join()
    monkeypatch.undo()
    assert victim.exitcode == -signal.SIGKILL
    for entry in read_manifest(tree):
        assert len(list((tree / entry.tracklet).iterdir())) == 20
    if (tree / tree_files.UNLISTED).exists():  # else it was killed before, or at the very end
        with pytest.raises(InputError, match='make_tracklets.py did not finish in this tree'):
            find_source(str(tree))
    else:
        assert len(read_own_tracklets(find_source(str(tree)))[0][2]) == len(read_manifest(tree))
    whole_files._clean_once.cache_clear()  # as a process of its own
    other = job(walk(4), camera='yard') if number % 2 else job(walk(4), replace=True)
    make_tracklets(other)
    listed = {entry.tracklet for entry in read_manifest(tree)}
    assert {str(path.relative_to(tree)) for path in tree.glob('*/*/*/*')} == listed
    assert {path.name for path in tree.iterdir()} <= {'gallery', 'manifest.jsonl', '.manifest.lock'}


def test_boxes_past_the_last_frame(job):
    """A few are left out, more are a wrong base, another video or a truncated one."""
    made = make_tracklets(job(walk(1, range(18, 23))))
    assert made.selection.left_out == {'past the last frame': 3} and made.frames == 20
    made = make_tracklets(job(walk(1, range(1, 21)), camera='a'))
    assert made.selection.left_out == {'past the last frame by one (see --first-frame)': 1}
    people = [box for track in range(4) for box in walk(track, range(1, 21))]
    with pytest.raises(InputError, match='4 of 80 boxes are past the last frame of lobby.mp4, which'
                       ' has 20; all by one: .* another number than --first-frame'):  # fmt: skip
        make_tracklets(job(people, camera='b'))
    with pytest.raises(
        InputError, match='10 of 30 boxes .*; the file belongs to another video, or the vid'
    ):
        make_tracklets(job(walk(1, range(30)), camera='c'))
    assert {entry.camera for entry in read_manifest(job([]).output)} == {'door', 'a'}


def test_a_time_beyond_the_calendar_is_one_line(job):
    last = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc)
    with pytest.raises(
        InputError, match='1.9 s after 9999-12-31 23:59:59.00:00 is past the year 9999'
    ):
        make_tracklets(job(walk(), start=last))
    assert not read_manifest(job([]).output)


def test_a_truncated_video_is_one_line(job, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, HEIGHT, WIDTH, 3), np.uint8)
    path = write_video(tmp_path / 'cut.mp4', picture=lambda i: noise[i], movflags='faststart')
    content = path.read_bytes()
    assert content.index(b'moov') < content.index(b'mdat')
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match='cut.mp4.*truncated'):
        make_tracklets(job(walk(), video=path))


def test_a_damaged_manifest_names_the_line(job):
    make_tracklets(job(walk(), start=datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)))
    path = job([]).output / 'manifest.jsonl'
    whole = path.read_text()
    [entry] = map(json.loads, whole.splitlines())
    assert read_manifest(path.parent) and entry['start'] is not None
    folders = ('../x', '/x', '', '.')  # what --replace removes lies within the tree
    for change, said in (
        *(({'tracklet': folder}, 'tracklet must be a folder within') for folder in folders),
        *(({name: 7}, f'{name} must be text') for name in ('tracklet', 'camera', 'track')),
        *(({name: None}, f'{name} must be text') for name in ('source', 'person')),
        *(
            ({'end': time}, 'end must be a time with its offset')
            for time in (5, 'today', '2026-03-01T08:00:00', '9999-12-31T23:00:00-02:00')
        ),
        ({'start': None}, 'start and end must both be given'),
        *(({name: []}, 'lists of one length') for name in ('frames', 'times', 'boxes')),
        ({'frames': None}, 'lists of one length'),
        ({'confidence': [0.5]}, 'lists of one length'),
        ({'boxes': 'x' * len(entry['boxes'])}, 'lists of one length'),
        ({'colour': 'red'}, 'colour'),
    ):
        path.write_text(json.dumps({**entry, **change}) + '\n')
        with pytest.raises(
            InputError, match=f'manifest.jsonl:1: not a line of a manifest: .*{said}'
        ):
            read_manifest(path.parent)
    for line in ('{"tracklet": "a"}', '[1]', 'null', '', '[' * 100_000):
        path.write_text(f'{whole}{line}\n')
        with pytest.raises(InputError, match='manifest.jsonl:2: not a line of a manifest'):
            read_manifest(path.parent)
    path.write_text(whole + whole.replace('lobby-1"', 'lobby-1/"'))
    with pytest.raises(InputError, match='manifest.jsonl:2: gallery.*lobby-1/ is listed twice'):
        read_manifest(path.parent)
    path.write_bytes(b'\xff\xfe')
    with pytest.raises(InputError, match='manifest.jsonl: it is not UTF-8 text'):
        read_manifest(path.parent)


def test_the_tree_is_a_data_root_of_the_dataset(job, tmp_path):
    make_tracklets(job(walk(1) + walk(2), persons={'1': 'anna'}, split='query'))
    make_tracklets(job(walk(1) + walk(2), persons={'2': 'anna'}, camera='gate'))
    (_, query, gallery), _ = read_own_tracklets(find_source(str(tmp_path / 'tree')))
    assert [(pid, camid) for _, pid, camid, _ in query] == [(0, 0), (UNKNOWN, 0)]
    assert [(pid, camid) for _, pid, camid, _ in gallery] == [(0, 1), (UNKNOWN, 1)]
    assert [len(paths) for paths, *_ in gallery] == [20, 20]
    assert read_frame(query[0][0][0]).shape == (3, 48, 24)


# --- the command -----------------------------------------------------------------------------


def words(video, tracks, tree, *more):
    base = [video, '--tracks', tracks, '--format', 'mot', '--output', tree]
    camera = [] if '--camera' in more else ['--camera', 'door']
    return [str(word) for word in (*base, *camera, *more)]


def test_the_command_says_what_was_kept_and_what_was_left_out(video, tmp_path, capsys):
    tracks = mot(tmp_path / 't.txt', walk(1) + walk(2, range(2)) + walk(-1, range(1)))
    more = ('--first-frame', 0, '--min-frames', 5, '--every', 2, '--start', '2026-03-01T08:00:00Z')
    command.main(words(video, tracks, tmp_path / 'tree', *more))
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        'lobby.mp4, camera door: 1 tracklet with 10 crops, of 2 tracks with 23 boxes',
        '  boxes left out: 10 not sampled (--every, --max-frames), '
        '2 in tracks of fewer than 5 boxes, 1 no track id',
        '  tracks left out: 1 in tracks of fewer than 5 boxes',
    ]
    assert said[-1] == f'{tmp_path}/tree/manifest.jsonl: 1 tracklet, 1 camera'
    assert read_manifest(tmp_path / 'tree')[0].start == '2026-03-01T08:00:00.000+00:00'


def test_skip_bad_leaves_out_a_broken_video_among_several(video, tmp_path, capsys):
    """A truncated file, and a folder with a damaged image; without the flag the first ends it."""
    cut, images, yard = tmp_path / 'cut.mp4', tmp_path / 'images', tmp_path / 'yard.mp4'
    cut.write_bytes(video.read_bytes()[:300])
    yard.write_bytes(video.read_bytes())
    images.mkdir()
    for number in range(20):
        Image.fromarray(painted(number)).save(images / f'{number}.png')
    (images / '7.png').write_bytes(b'')
    tracks = mot(tmp_path / 't.txt', walk())
    files = [video, cut, images, yard, '--tracks', *[tracks] * 4, '--output', tmp_path / 'tree']
    flags = ['--format', 'mot', '--first-frame', 0, '--camera', 'a', 'b', 'c', 'd', '--fps', 10]
    with pytest.raises(SystemExit) as ended:
        command.main([*map(str, [*files, *flags])])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count('\n') == 1 and 'cut.mp4: cannot be read' in said
    assert [entry.camera for entry in read_manifest(tmp_path / 'tree')] == ['a']
    command.main([*map(str, [*files, *flags, '--replace', '--skip-bad'])])
    said = capsys.readouterr().out
    assert f'left out: {cut}: cannot be read as a video' in said
    assert f'left out: cannot read frame {images}/7.png: ' in said
    assert said.endswith('2 tracklets, 2 cameras; 2 of 4 videos left out: cut.mp4, images\n')
    assert [entry.camera for entry in read_manifest(tmp_path / 'tree')] == ['a', 'd']
    assert not [path for path in (tmp_path / 'tree').glob('.crops*')]
    files[-3] = tmp_path / 'none.txt'  # a mistake in the tracks is none in a video
    with pytest.raises(SystemExit):
        command.main([*map(str, [*files, *flags, '--replace', '--skip-bad'])])


def test_persons_are_named_by_a_csv(video, tmp_path):
    tracks = mot(tmp_path / 't.txt', walk(1, range(4)) + walk(2, range(4)))
    table = tmp_path / 'persons.csv'
    table.write_text('video,track,person\nlobby.mp4,1,Anna B.\nother.mp4,2,Ben\n')
    more = ('--first-frame', 0, '--persons', table)
    command.main(words(video, tracks, tmp_path / 'a', *more))
    assert [e.person for e in read_manifest(tmp_path / 'a')] == ['Anna B.', 'unknown']
    command.main(words(video, tracks, tmp_path / 'b', *more, '--split', 'train'))
    assert [e.tracklet for e in read_manifest(tmp_path / 'b')] == ['train/Anna B./door/lobby-1']


def test_names_of_persons_that_no_tracklet_has_are_said(video, tmp_path, capsys):
    tracks = mot(tmp_path / 't.txt', walk(1, range(4)) + walk(2, range(4)))
    table = tmp_path / 'persons.csv'
    table.write_text('track,person\n01,Anna\n2.0,Ben\n2,Cem\n')
    command.main(words(video, tracks, tmp_path / 'a', '--first-frame', 0, '--persons', table))
    said = f'  {table}: 1 tracklet named; no tracklet has the track 01, 2.0\n'
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    'more, said',
    [
        ([], '--first-frame must give the number of the first frame'),
        (['--first-frame', '-1'], '--first-frame'),
        (['--first-frame', 'names'], '--first-frame names: only for folders of images'),
        (['--first-frame', '0', '--start', '2026-03-01T08:00:00'], 'a time with its offset'),
        (['--first-frame', '0', '--camera', '../x'], 'a name that a folder can have'),
        (['--first-frame', '0', '--camera', '.x'], 'a name that a folder can have'),
        (['--first-frame', '0', '--picture-size', '12'], 'a size such as 1920x1080'),
        (
            ['--first-frame', '0', '--split', 'train'],
            '--persons CSV must name the persons',
        ),
        (['--first-frame', '0', '--format', 'cvat'], 'not valid XML'),
        (['--first-frame', '0', '--start', *['2026-03-01T08:00:00Z'] * 2], '2 times for 1 videos'),
        (['--first-frame', '0', '--camera', 'a', 'b'], '--camera: 2 names for 1 videos'),
        (['--first-frame', '0', '--start', '0001-01-01T00:00:00+14:00'], 'a time with its offset'),
        (['--first-frame', '0', '--fps', '0'], 'a number above 0'),
        (['--first-frame', '0', '--frobnicate'], 'no flag is called'),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(more, said, video, tmp_path, capsys):
    tracks = mot(tmp_path / 't.txt', walk())
    with pytest.raises(SystemExit) as ended:
        command.main(words(video, tracks, tmp_path / 'tree', *more))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count('\n') == 1, error
    assert not (tmp_path / 'tree').exists()


@pytest.mark.parametrize('videos, files, said', [(2, 1, '1 for 2 videos'), (1, 2, '2 for 1 vid')])
def test_numbers_of_videos_and_tracks_must_fit(videos, files, said, video, tmp_path, capsys):
    tracks = mot(tmp_path / 't.txt', walk())
    rest = ['--format', 'mot', '--camera', 'a', '--output', tmp_path / 'tree']
    with pytest.raises(SystemExit):
        command.main(
            [str(word) for word in [*[video] * videos, '--tracks', *[tracks] * files, *rest]]
        )
    assert said in capsys.readouterr().err


def test_a_video_with_a_hidden_name_is_refused(video, tmp_path, capsys):
    """No reader of the dataset would see its tracklets."""
    hidden = tmp_path / '.lobby.mp4'
    hidden.write_bytes(video.read_bytes())
    tracks = mot(tmp_path / 't.txt', walk())
    with pytest.raises(SystemExit):
        command.main(words(hidden, tracks, tmp_path / 'tree', '--first-frame', 0))
    assert capsys.readouterr().err == (
        'error: VIDEO: .lobby.mp4 would name hidden folders; rename it\n'
    )


def test_several_videos_of_one_folder_of_tracks(video, tmp_path):
    yard = tmp_path / 'yard.mp4'
    yard.write_bytes(video.read_bytes())
    labels = tmp_path / 'labels'
    labels.mkdir()
    for name in ('lobby_1', 'lobby_2', 'yard_2'):
        (labels / f'{name}.txt').write_text('0 0.5 0.5 0.5 0.5 3\n')
    files = [str(path) for path in (video, yard, '--tracks', labels, '--output', tmp_path / 'tree')]
    command.main([*files, '--format', 'ultralytics', '--camera', 'door'])
    entries = read_manifest(tmp_path / 'tree')
    assert [(e.source, e.frames) for e in entries] == [('lobby.mp4', [0, 1]), ('yard.mp4', [1])]
    assert entries[0].boxes[0] == [24, 16, 72, 48]
    command.main([*files, '--format', 'ultralytics', '--camera', 'gate', 'yard'])
    entries = read_manifest(tmp_path / 'tree')[2:]
    assert [e.video for e in entries] == [('gate', 'lobby.mp4'), ('yard', 'yard.mp4')]


def test_a_track_of_two_persons_is_refused(tmp_path):
    table = tmp_path / 'persons.csv'
    for rows, said in (('1,a\n1,b', ':3: track 1 is already a'), ('1,../a', ':2: person must be')):
        table.write_text(f'track,person\n{rows}\n')
        with pytest.raises(InputError, match=said):
            command.read_persons(table, 'lobby.mp4')


def test_the_formats_of_the_command_are_those_of_the_package():
    from stmn_plugin.cameras.readers.formats import FORMATS

    assert tuple(FORMATS) == command.FORMAT_NAMES
