"""Readers of tracker files, on files written by the rules of each tool; a trap a test."""

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from stmn_plugin.cameras.numbering import read_tracks
from stmn_plugin.cameras.readers.formats import FORMATS
from stmn_plugin.cameras.readers.options import Recording, TrackOptions
from stmn_plugin.errors import InputError

VIDEO = Recording('lobby.mp4', 640, 480)
IMAGES = Recording('img1', 640, 480, ('000005.jpg', '000007.jpg', '000010.jpg'))


def rows(boxes):
    """Boxes as a sorted list of (frame, track, left, top, right, bottom)."""
    return sorted(
        (int(frame), boxes.track_ids[track], *(round(float(c), 3) for c in corners))
        for frame, track, corners in zip(boxes.frames, boxes.tracks, boxes.corners, strict=True)
    )


def classes(boxes):
    return [boxes.class_names[place] for place in boxes.classes]


@pytest.fixture
def read(tmp_path):
    """A function: text of a file, or texts of a folder's files, → Boxes."""

    def reader(format, content, recording=VIDEO, name='tracks.txt', **options):
        path = tmp_path / name
        if isinstance(content, dict):
            path.mkdir(exist_ok=True)
            for file, text in content.items():
                (path / file).write_text(text, encoding='utf-8')
        else:
            path.write_text(content, encoding='utf-8')
        return read_tracks(Path(path), format, recording, TrackOptions(**options))

    return reader


@pytest.mark.parametrize('track', [2**53, 2**53 + 1])
def test_a_number_that_a_float_would_round_is_too_large(track, read):
    """Else two tracks become one."""
    assert read('mot', f'1,{2**53 - 1},1,1,9,9\n', first_frame=1).track_ids == [str(2**53 - 1)]
    with pytest.raises(InputError, match='tracks.txt:1: the id is too large'):
        read('mot', f'1,{track},1,1,9,9\n', first_frame=1)


@pytest.mark.parametrize(
    'format, file, line, more',
    [
        ('ultralytics', f'lobby_{10**19}.txt', '0 .5 .5 .4 .4 7', {}),
        (
            'deepstream',
            f'00_000_{10**19}.txt',
            'person 1 0.0 0 0.0 1 1 9 9 0 0 0 0 0 0 0',
            {'picture': (640, 480)},
        ),
    ],
)
def test_a_frame_number_in_a_name_may_be_too_large(format, file, line, more, read):
    """Such as the time of a recording."""
    with pytest.raises(InputError, match=f'{file}: the frame is too large'):
        read(format, {file: line}, name='labels', **more)


# --- MOT -------------------------------------------------------------------------------------


def test_mot_files_of_every_tool_give_the_same_boxes(read):
    written = {
        'MOTChallenge det and results': '1, 3, 10, 20, 30, 40, 0.9, -1, -1, -1\n',
        'ByteTrack': '1,3,10.0,20.0,30.0,40.0,0.90,-1,-1,-1\n',
        'BoxMOT': '1,3,10,20,30,40,0.9,1,7\n',
        'ground truth': '1,3,10,20,30,40,1,1,0.8\n',
        'six columns': '1,3,10,20,30,40\n',
        'DeepSORT': '1,3,10.00,20.00,30.00,40.00,1,-1,-1,-1\n',
        'numpy.savetxt': ','.join(f'{n:.18e}' for n in (1, 3, 10, 20, 30, 40, 0.9, -1, -1, -1)),
        'byte order mark, CRLF': '\ufeff1,3,10,20,30,40,0.9,-1,-1,-1\r\n\r\n',
    }
    for text in written.values():
        assert rows(read('mot', text, first_frame=1)) == [(0, '3', 10, 20, 40, 60)]


def test_mot_needs_the_base_of_its_frames_said(read):
    """ByteTrack's demo counts a video from 0 and a folder of images from 1, in one format."""
    text = '1,3,10,20,30,40,0.9,-1,-1,-1\n'
    with pytest.raises(InputError, match='--first-frame must give the number of the first frame'):
        read('mot', text)
    assert read('mot', text, first_frame=0).frames.tolist() == [1]
    assert read('mot', text, first_frame=1).frames.tolist() == [0]


def test_a_frame_before_the_first_is_a_wrong_base(read):
    text = '1,3,10,20,30,40\n0,3,10,20,30,40\n'
    with pytest.raises(InputError, match='box in frame 0, before the first frame, 1.*-frame 0'):
        read('mot', text, first_frame=1)


def test_mot_columns_behind_the_confidence_are_a_class_or_a_place(read):
    """BoxMOT and ground truth have a class in column 8, ten columns a place in the world."""
    boxmot = read('mot', '1,3,10,20,30,40,0.9,1,7\n1,4,10,20,30,40,0.9,3,8\n', first_frame=1)
    assert classes(boxmot) == ['1', '3']
    world = read('mot', '1,3,10,20,30,40,0.9,4.5,2.25,0\n', first_frame=1)
    assert classes(world) == [''] and world.confidence.tolist() == [0.9]


def test_mot_confidences(read):
    """0 says ignore, -1 (DeepSORT, Norfair) that there is none."""
    text = '1,1,10,20,30,40,0,1,1\n1,2,10,20,30,40,-1,-1,-1,-1\n1,3,10,20,30,40,.5,-1,-1,-1\n'
    boxes = read('mot', text, first_frame=1)
    assert [row[1] for row in rows(boxes)] == ['2', '3']
    assert math.isnan(boxes.confidence[0]) and boxes.confidence[1] == 0.5
    assert dict(boxes.left_out) == {'marked to be ignored (confidence 0)': 1}


def test_mot_ids_below_zero_are_detections(read):
    text = '1,-1,10,20,30,40,0.9,-1,-1,-1\n'
    assert read('mot', text + '1,2,1,2,3,4\n', first_frame=1).left_out == {'no track id': 1}
    with pytest.raises(InputError, match='none of its 1 boxes has a track id: .* run a tracker'):
        read('mot', text, first_frame=1)


@pytest.mark.parametrize(
    'text, said',
    [
        ('1,3' + ',10' * 11, r'tracks.txt:1: 13 columns are oriented boxes \(BoxMOT\)'),
        ('1 3 10 20 30 40 0.9', 'tracks.txt:1: 1 columns, a MOT file has 6 to 10 separated by com'),
        ('1;3;10;20;30;40', 'has 6 to 10 separated by commas; is it another'),
        ('1;3;10,5;20;30;40', '2 columns, a MOT file has 6 to 10 separated by commas'),
        ('0 .5 .5 .1 .1 3', 'is it another --format'),
        ('1,3,10,20', 'tracks.txt:1: 4 columns, a MOT file has 6 to 10: frame,id,left'),
        ('1,3,10,20,30,40\n1,x,1,2,3,4', "tracks.txt:2: the id must be a number, got 'x'"),
        ('1,3.5,10,20,30,40', "tracks.txt:1: the id must be a whole number, got '3.5'"),
        ('1,3,nan,20,30,40', "tracks.txt:1: the left of the box must be a number, got 'nan'"),
        ('1,3,1,2,3,1e999', "the height of the box is too large, got '1e999'"),
        ('1,3,-1e300,2,3,4', "tracks.txt:1: the left of the box is too large, got '-1e300'"),
        ('1,18446744073709551615,1,2,3,4', "the id is too large, got '18446744073709551615'"),
        ('', 'tracks.txt: contains no box'),
        ('1,3,1,2,3,4,0\n2,3,1,2,0,4', 'no box is left: 1 marked to be ig.*, 1 box without area'),
        ('1,3,1,2,3,4\n1,3,5,6,7,8', 'track 3 has two boxes in frame 1; it may hold several runs'),
    ],
)
def test_what_is_no_mot_file_is_one_line(text, said, read):
    with pytest.raises(InputError, match=said):
        read('mot', text, first_frame=0)


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    (tmp_path / 'video.mp4').write_bytes(b'\0\xff\xfe')
    for name, said in (('video.mp4', 'not UTF-8 text'), ('none', 'No such file')):
        with pytest.raises(InputError, match=f'cannot read .*{name}: .*{said}'):
            read_tracks(tmp_path / name, 'mot', VIDEO, TrackOptions(first_frame=1))


def test_boxes_without_area_are_left_out(read):
    boxes = read('mot', '1,1,1,2,0,4\n1,2,1,2,3,-4\n1,3,1,2,3,4\n', first_frame=1)
    assert len(boxes) == 1 and boxes.left_out == {'box without area': 2}


def test_pixels_that_count_from_one(read):
    """MOTChallenge's own files do; trackers do not."""
    boxes = read('mot', '1,3,1,1,30,40\n', first_frame=1, first_pixel=1)
    assert rows(boxes) == [(0, '3', 0, 0, 30, 40)]


def test_boxes_of_a_scaled_picture(read):
    boxes = read('mot', '1,3,10,20,30,40\n', first_frame=1, picture=(320, 120))
    assert rows(boxes) == [(0, '3', 20, 80, 80, 240)]


def test_a_stride_counts_the_frames_that_were_processed(read):
    text = '0,3,10,20,30,40\n2,3,10,20,30,40\n'
    assert read('mot', text, first_frame=0, stride=5).frames.tolist() == [0, 10]


def test_frames_by_the_numbers_in_the_names_of_images(read):
    """DeepSORT writes those."""
    text = '7,3,10,20,30,40\n10,3,10,20,30,40\n'
    assert read('mot', text, IMAGES, by_name=True).frames.tolist() == [1, 2]
    with pytest.raises(InputError, match='boxes in 1 frame of which there is no image, first 6'):
        read('mot', text + '6,3,1,2,3,4\n', IMAGES, by_name=True)


# --- Ultralytics -----------------------------------------------------------------------------


def ultralytics_line(label, box, confidence=None, track=None):
    """As ``Results.save_txt`` writes it: %g, the confidence on request, the id if known."""
    line = [label, *box, *([] if confidence is None else [confidence])]
    line += [] if track is None else [track]
    return ('%g ' * len(line)).rstrip() % tuple(line) + '\n'


BOX = (0.5, 0.5, 0.25, 0.5)


def test_ultralytics_is_in_fractions_and_counts_from_one(read):
    files = {'lobby_1.txt': ultralytics_line(0, BOX, track=4), 'lobby_12.txt': '0 0 0 .5 .5 4\n'}
    boxes = read('ultralytics', files)
    assert rows(boxes) == [(0, '4', 240, 120, 400, 360), (11, '4', -160, -120, 160, 120)]
    assert classes(boxes) == ['0', '0'] and np.isnan(boxes.confidence).all()


def test_ultralytics_sixth_column_is_an_id_or_a_confidence(read):
    """With save_conf a line without a track has six columns as well."""
    untracked = ultralytics_line(0, BOX, confidence=1.0)
    tracked = ultralytics_line(0, BOX, confidence=0.75, track=4)
    boxes = read('ultralytics', {'lobby_1.txt': untracked, 'lobby_2.txt': tracked}, name='a')
    assert rows(boxes) == [(1, '4', 240, 120, 400, 360)] and boxes.confidence.tolist() == [0.75]
    assert boxes.left_out == {'no track id': 1}

    without = {'lobby_1.txt': '0 .5 .5 .25 .5\n', 'lobby_2.txt': ultralytics_line(0, BOX, track=4)}
    boxes = read('ultralytics', without, name='b')
    assert len(boxes) == 1 and boxes.left_out == {'no track id': 1}

    with pytest.raises(InputError, match='sixth column is a confidence and no line has an id'):
        read('ultralytics', {'lobby_1.txt': ultralytics_line(0, BOX, confidence=0.5)}, name='c')
    with pytest.raises(InputError, match='none of its 1 boxes has a track id'):
        read('ultralytics', {'lobby_1.txt': '0 .5 .5 .25 .5\n'}, name='d')
    with pytest.raises(InputError, match='runs with and without save_conf are mixed'):
        read('ultralytics', {'lobby_1.txt': tracked + '0 .5 .5 .25 .5\n'}, name='e')


def test_ultralytics_with_a_stride_numbers_the_last_of_each_group(read):
    """Its reader grabs ``vid_stride`` frames and decodes the last: number n is frame n * s - 1."""
    files = {f'lobby_{n}.txt': ultralytics_line(0, BOX, track=4) for n in (1, 2, 3)}
    assert sorted(read('ultralytics', files, stride=3).frames.tolist()) == [2, 5, 8]


def test_ultralytics_files_of_images_are_called_as_the_images(read):
    line = ultralytics_line(0, BOX, track=4)
    boxes = read('ultralytics', {'000007.txt': line, '000010.txt': line}, IMAGES)
    assert boxes.frames.tolist() == [1, 2]
    with pytest.raises(InputError, match='has no file of a frame of lobby.mp4; it has'):
        read('ultralytics', {'000007.txt': line})


def test_ultralytics_images_that_would_have_one_file(read):
    images = Recording('img1', 640, 480, ('1.jpg', '1.png', '2.jpg'))
    with pytest.raises(InputError, match=r'labels: 1\.jpg and 1\.png would have one file'):
        read('ultralytics', {'1.txt': '0 .5 .5 .4 .4 7'}, images, name='labels')


def test_ultralytics_files_of_another_video(read):
    line = ultralytics_line(0, BOX, track=4)
    files = {'lobby_2_1.txt': line, 'yard_1.txt': line, 'yard_2.txt': line}
    with pytest.raises(InputError, match='no file .* of lobby.mp4; it has yard_<frame>.txt, lo'):
        read('ultralytics', files)
    other = Recording('lobby_2.mp4', 640, 480)
    assert read('ultralytics', files, other).frames.tolist() == [0]
    assert len(read('ultralytics', files, stream='yard')) == 2


@pytest.mark.parametrize(
    'line, said',
    [
        ('0 .1 .1 .2 .1 .2 .2 .1 .2 4', '10 columns, expected class xc yc w h'),
        ('0 320 240 30 40 4', 'a box in fractions of the picture has no 320'),
        ('0 .5 .5 .1 x 4', "lobby_1.txt:1: the height of the box must be a number, got 'x'"),
    ],
)
def test_what_is_no_line_of_ultralytics(line, said, read):
    with pytest.raises(InputError, match=said):
        read('ultralytics', {'lobby_1.txt': line})


def test_a_file_in_place_of_a_folder(read, tmp_path):
    with pytest.raises(InputError, match='tracks.txt: is a file, expected the folder of'):
        read('ultralytics', 'x')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='empty: contains no .txt file'):
        read('deepstream', {}, name='empty', picture=(1, 1))


# --- supervision -----------------------------------------------------------------------------

SINK = [  # what CSVSink and JSONSink write of a row, with custom data of the user
    {
        'x_min': 10.5, 'y_min': 20, 'x_max': 40, 'y_max': 60, 'class_id': 0,
        'confidence': 0.5, 'tracker_id': 3, 'class_name': 'person', 'frame_index': 7,
    },
    {
        'x_min': 10, 'y_min': 20, 'x_max': 40, 'y_max': 60, 'class_id': 0,
        'confidence': 0.5, 'tracker_id': -1, 'class_name': 'person', 'frame_index': 7,
    },
    {
        'x_min': 10, 'y_min': 20, 'x_max': 40, 'y_max': 60, 'class_id': 2,
        'confidence': '', 'tracker_id': '', 'class_name': 'car', 'frame_index': 8,
    },
]  # fmt: skip


def sink_files(folder, content=SINK):
    with open(folder / 'sink.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, content[0])
        writer.writeheader()
        writer.writerows(content)
    (folder / 'sink.json').write_text(json.dumps(content, indent=4))
    return folder / 'sink.csv', folder / 'sink.json'


def test_supervision_needs_the_column_of_frames_named(tmp_path):
    for path in sink_files(tmp_path):
        options = {'frame_column': 'frame_index', 'first_frame': 0}
        boxes = read_tracks(path, 'supervision', VIDEO, TrackOptions(**options))
        assert rows(boxes) == [(7, '3', 10.5, 20, 40, 60)]
        assert classes(boxes) == ['person'] and boxes.confidence.tolist() == [0.5]
        assert boxes.left_out == {'no track id': 2}
        with pytest.raises(InputError, match='--frame-column must name the column'):
            read_tracks(path, 'supervision', VIDEO, TrackOptions(first_frame=0))
        with pytest.raises(InputError, match='number'):
            options['frame_column'] = 'number'
            read_tracks(path, 'supervision', VIDEO, TrackOptions(**options))
        with pytest.raises(InputError, match='--first-frame must give the number'):
            read_tracks(path, 'supervision', VIDEO, TrackOptions(frame_column='frame_index'))


def test_supervision_without_names_has_numbers_of_classes(tmp_path):
    content = [{k: v for k, v in row.items() if k != 'class_name'} for row in SINK]
    for path in sink_files(tmp_path, content):
        options = TrackOptions(frame_column='frame_index', first_frame=7)
        boxes = read_tracks(path, 'supervision', VIDEO, options)
        assert classes(boxes) == ['0'] and boxes.frames.tolist() == [0]


@pytest.mark.parametrize(
    'text, said',
    [
        ('{}', 'sink.json: is not a list of boxes'),
        ('[1]', 'sink.json: box 1 is not an object'),
        ('[{"x_min": 1}]', 'box 1 has no frame, y_min, x_max, y_max, tracker_id; it has x_min'),
        ('[', 'sink.json: is not JSON'),
    ],
)
def test_what_is_no_json_of_supervision(text, said, read):
    with pytest.raises(InputError, match=said):
        read('supervision', text, name='sink.json', frame_column='frame', first_frame=0)


# --- CVAT ------------------------------------------------------------------------------------


def cvat(boxes, meta='', shape='box'):
    """An export "CVAT for video 1.1" with a track; boxes are (frame, outside, more attributes)."""
    shapes = ''.join(
        f'<{shape} frame="{frame}" keyframe="1" outside="{outside}" occluded="0" xtl="10.00" '
        f'ytl="20.00" xbr="40.00" ybr="60.00" z_order="0" {more}></{shape}>\n'
        for frame, outside, more in boxes
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f'<meta>{meta}</meta>\n'
        f'<track id="0" label="person" source="manual">\n{shapes}</track>\n</annotations>\n'
    )


def test_cvat_counts_from_zero_and_a_box_outside_is_none(read):
    boxes = read('cvat', cvat([(0, 0, ''), (1, 0, ''), (2, 1, ''), (3, 0, 'rotation="12.5"')]))
    assert rows(boxes) == [(0, '0', 10, 20, 40, 60), (1, '0', 10, 20, 40, 60)]
    assert classes(boxes) == ['person'] * 2
    assert boxes.left_out == {'outside of the view (CVAT)': 1, 'box with an angle': 1}


def test_cvat_of_a_video_of_another_size(read):
    meta = '<task><original_size><width>{}</width><height>480</height></original_size></task>'
    assert len(read('cvat', cvat([(0, 0, '')], meta.format(640)))) == 1
    with pytest.raises(InputError, match='belongs to a video of 1280 x 480 pixels, lobby.mp4 has'):
        read('cvat', cvat([(0, 0, '')], meta.format(1280)))
    boxes = read('cvat', cvat([(0, 0, '')], meta.format(1280)), picture=(1280, 480))
    assert rows(boxes) == [(0, '0', 5, 20, 20, 60)]


@pytest.mark.parametrize(
    'text, said',
    [
        ('<annotations><image id="0" name="a.jpg"/></annotations>', 'is "CVAT for images"'),
        ('<annotation><folder/></annotation>', 'begins with <annotation>, expected <annotations>'),
        ('<annotations><track id="0">', r'not valid XML \(no element found'),
        ('1,3,10,20,30,40', 'not valid XML'),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>',
            r'not valid XML \(EntitiesForbidden',
        ),
        (cvat([(0, 0, '')], shape='polygon'), 'no box is left: 1 polygon, no box'),
        (cvat([('x', 0, '')]), "track 0: frame must be a number, got 'x'"),
    ],
)
def test_what_is_no_export_of_cvat_for_video(text, said, read):
    with pytest.raises(InputError, match=said):
        read('cvat', text)


def test_without_defusedxml_a_line_says_what_to_install(read, monkeypatch):
    monkeypatch.setitem(sys.modules, 'defusedxml', None)
    with pytest.raises(InputError, match=r'defusedxml .* pip install "stmn_plugin\[cameras\]"'):
        read('cvat', cvat([(0, 0, '')]))


# --- COCO ------------------------------------------------------------------------------------


def coco(frame_key='frame_index', track_key='track_id', videos=('lobby', 'yard'), **image):
    """Two videos with two images each; a person, a crowd and a detection in the first."""
    return {
        'videos': [{'id': i, 'name': name} for i, name in enumerate(videos, 1)],
        'images': [
            {'id': 10 * video + frame, 'video_id': video, frame_key: frame, **image}
            for video in (1, 2)
            for frame in (0, 1)
        ],
        'annotations': [
            {'id': 1, 'image_id': 10, track_key: 5, 'bbox': [10, 20, 30, 40], 'category_id': 1},
            {'id': 2, 'image_id': 11, track_key: 5, 'bbox': [12, 20, 30, 40], 'category_id': 9},
            {'id': 3, 'image_id': 11, track_key: 6, 'bbox': [0, 0, 9, 9], 'iscrowd': 1},
            {'id': 4, 'image_id': 11, 'bbox': [0, 0, 9, 9], 'category_id': 1},
            {'id': 5, 'image_id': 21, track_key: 5, 'bbox': [1, 1, 1, 1], 'category_id': 1},
        ],
        'categories': [{'id': 1, 'name': 'person'}],
    }


@pytest.mark.parametrize('keys', [{}, {'frame_key': 'frame_id', 'track_key': 'instance_id'}])
@pytest.mark.parametrize('videos', [('lobby', 'yard'), ('data/lobby.mp4', 'data/yard.mp4')])
def test_coco_takes_the_video_by_its_name(keys, videos, read):
    content = json.dumps(coco(videos=videos, **keys))
    boxes = read('coco', content, first_frame=0)
    assert rows(boxes) == [(0, '5', 10, 20, 40, 60), (1, '5', 12, 20, 42, 60)]
    assert classes(boxes) == ['person', '9']
    assert boxes.left_out == {'a crowd, no person (iscrowd)': 1, 'no track id': 1}
    yard = read('coco', content, Recording('yard.mp4', 640, 480), first_frame=0)
    assert rows(yard) == [(1, '5', 1, 1, 2, 2)]


def test_coco_videos_that_end_alike_are_told_by_their_folders_or_ids(read):
    content = coco(videos=('cam1/lobby.mp4', 'cam2/lobby.mp4'))
    for stream in ('', 'lobby.mp4'):
        said = r'lobby\.mp4: cam1/lobby\.mp4 \(id 1\), cam2/lobby\.mp4 \(id 2\); --stream takes'
        with pytest.raises(InputError, match=f'several videos are called {said}'):
            read('coco', json.dumps(content), first_frame=0, stream=stream)
    for stream, count in {'cam1/lobby.mp4': 2, '1': 2, 'cam2/lobby.mp4': 1, '2': 1}.items():
        assert len(read('coco', json.dumps(content), first_frame=0, stream=stream)) == count


@pytest.mark.parametrize('key, one', [('images', 'image'), ('categories', 'category')])
def test_coco_ids_are_given_once(key, one, read):
    """Files put together give them twice, and boxes would go to the wrong frame."""
    content = coco()
    content[key].append(dict(content[key][0]))
    assert len(read('coco', json.dumps(content), first_frame=0)) == 2
    content[key][-1] |= {'frame_index': 7, 'name': 'car'}
    with pytest.raises(InputError, match=f'{one} {len(content[key])} has the id of another, 1'):
        read('coco', json.dumps(content), first_frame=0)


def test_coco_annotations_of_images_that_are_not_listed_are_counted(read):
    content = coco()
    content['annotations'].append({'image_id': '10', 'track_id': 8, 'bbox': [1, 1, 9, 9]})
    boxes = read('coco', json.dumps(content), first_frame=0)
    assert boxes.left_out['of an image that the file does not list'] == 1


def test_coco_needs_the_base_of_its_frames_said(read):
    with pytest.raises(InputError, match='--first-frame must give the number'):
        read('coco', json.dumps(coco()))


def test_coco_of_other_videos(read):
    content = json.dumps(coco(videos=('hall', 'yard')))
    with pytest.raises(InputError, match='has no video lobby.mp4; .* among hall, yard'):
        read('coco', content, first_frame=0)
    assert len(read('coco', content, first_frame=0, stream='hall')) == 2
    with pytest.raises(InputError, match='image 10 has 1280 x 720 pixels, lobby.mp4 has 640 x 480'):
        read('coco', json.dumps(coco(width=1280, height=720)), first_frame=0)


@pytest.mark.parametrize(
    'content, said',
    [
        ([{'image_id': 1, 'bbox': [0, 0, 1, 1]}], 'has no images and annotations'),
        ({'images': [1], 'annotations': []}, 'images must be a list of objects'),
        (coco(frame_key='number'), 'has no frame number: neither frame_index nor frame_id'),
        ({**coco(), 'annotations': [{'image_id': 10, 'track_id': 1}]}, 'annotation 1: bbox must'),
        ({**coco(), 'annotations': [{}]}, 'annotation 1 has no image_id'),
        ({**coco(), 'categories': [{'id': {}}]}, 'category 1 has no id'),
        (
            {
                **coco(),
                'annotations': [
                    {'image_id': 10, 'track_id': 1, 'bbox': [0, 0, 1, 1], 'category_id': []}
                ],
            },
            'annotation 1 has no category_id',
        ),
    ],
)
def test_what_is_no_coco_with_tracks(content, said, read):
    with pytest.raises(InputError, match=said):
        read('coco', json.dumps(content), first_frame=0)


# --- DeepStream ------------------------------------------------------------------------------


def kitti_line(track, label='person', confidence=' 0.750000'):
    """As deepstream-app's write_kitti_track_output prints it."""
    box = '96.000000 54.000000 192.000000 108.000000'
    return f'{label} {track} 0.0 0 0.0 {box} 0.0 0.0 0.0 0.0 0.0 0.0 0.0{confidence}\n'


STREAMMUX = {'picture': (1920, 1080)}


def test_deepstream_is_in_pixels_of_the_multiplexer_and_counts_from_zero(read):
    text = kitti_line(7) + kitti_line(8, 'traffic light') + kitti_line(2**64 - 1)
    boxes = read('deepstream', {'00_000_000003.txt': text}, **STREAMMUX)
    assert rows(boxes) == [(3, '7', 32, 24, 64, 48), (3, '8', 32, 24, 64, 48)]
    assert classes(boxes) == ['person', 'traffic light']
    assert boxes.confidence.tolist() == [0.75] * 2 and boxes.left_out == {'no track id': 1}
    with pytest.raises(InputError, match='--picture-size WIDTHxHEIGHT must give the size of Deep'):
        read('deepstream', {'00_000_000003.txt': text})


def test_deepstream_of_earlier_versions_has_no_confidence(read):
    boxes = read('deepstream', {'00_000_000000.txt': kitti_line(2**63, '2', '')}, **STREAMMUX)
    assert boxes.track_ids == [str(2**63)] and classes(boxes) == ['2']
    assert np.isnan(boxes.confidence).all()


def test_deepstream_detections_are_told_from_tracks(read):
    for end in ('', ' 0.5'):
        text = 'person 0.0 0 0.0 1.00 2.00 3.00 4.00 0.0 0.0 0.0 0.0 0.0 0.0 0.0' + end
        with pytest.raises(InputError, match='txt:1: has no track id; gie-kitti-output-dir writes'):
            read('deepstream', {'00_000_000000.txt': text}, **STREAMMUX)


def test_deepstream_streams_are_chosen(read):
    files = {'00_000_000000.txt': kitti_line(1), '00_001_000000.txt': kitti_line(2)}
    with pytest.raises(InputError, match='--stream NAME must choose one of the streams 00_000, 00'):
        read('deepstream', files, **STREAMMUX)
    for stream in ('00_001', '001', '1'):
        assert read('deepstream', files, stream=stream, **STREAMMUX).track_ids == ['2']
    with pytest.raises(InputError, match=', got 5'):
        read('deepstream', files, stream='5', **STREAMMUX)
    with pytest.raises(
        InputError, match='lobby_1.txt: the name must be <app>_<stream>_<frame>.txt'
    ):
        read('deepstream', {**files, 'lobby_1.txt': ''}, **STREAMMUX)


@pytest.mark.parametrize('line', ['1,3,10,20,30,40', 'person 7 0.0 0 0.0 1 2 3 4'])
def test_what_is_no_line_of_deepstream(line, read):
    with pytest.raises(InputError, match='00_000_000000.txt:1: expected label id 0.0 0 0.0 left'):
        read('deepstream', {'00_000_000000.txt': line}, **STREAMMUX)


# --- numbers ---------------------------------------------------------------------------------

NO_NUMBERS = ['1_0', '\u0661', '\uff11', '1\u0660', '0x1', '--1']


@pytest.mark.parametrize('cell', NO_NUMBERS)
@pytest.mark.parametrize(
    'format, content, cells',
    [
        ('mot', '{},{},{},20,30,40,{},{}', ['1', '3', '10', '0.5', '1']),
        ('ultralytics', '{} {} .5 .1 .1 {} {}', ['0', '.5', '0.5', '4']),
        ('supervision', 'f,x_min,y_min,x_max,y_max,tracker_id,confidence\n{},{},2,3,4,{},{}',
         ['1', '0', '3', '0.5']),
        ('cvat', '<annotations><track id="{}"><box frame="{}" xtl="{}" ytl="2" xbr="3" ybr="4"'
         ' rotation="{}"/></track></annotations>', ['0', '1', '0', '0.0']),
        ('coco', json.dumps(
            {'images': [{'id': 1, 'frame_index': 'A'}],
             'annotations': [
                 {'image_id': 1, 'track_id': 'B', 'score': 'C', 'bbox': ['D', 0, 9, 9]}
             ]}
        ).replace('{', '{{').replace('}', '}}').replace('"A"', '"{}"').replace('"B"', '"{}"')
         .replace('"C"', '"{}"').replace('"D"', '"{}"'), ['1', '5', '0.5', '0']),
        ('deepstream', kitti_line('{}', confidence=' {}').replace('96.000000', '{}'),
         ['7', '96.0', '0.75']),
    ],
)  # fmt: skip
def test_python_writes_numbers_that_no_file_holds(format, content, cells, cell, read):
    """The file is read with each of its numbers, and not with text that Python takes for one."""
    options = {'first_frame': 0, 'frame_column': 'f', 'picture': (640, 480)}
    name = {'ultralytics': 'lobby_0.txt', 'deepstream': '00_000_000000.txt'}.get(format)

    def read_with(values):
        text = content.format(*values)
        return read(format, {name: text} if name else text, **options)

    assert len(read_with(cells)) == 1
    for place in range(len(cells)):
        with pytest.raises(InputError):
            read_with([*cells[:place], cell, *cells[place + 1 :]])


@pytest.mark.parametrize('digit', ['\u0661', '\uff11'])
def test_names_of_files_are_numbered_by_ascii_digits(digit, read):
    line = '0 .5 .5 .1 .1 4'
    with pytest.raises(InputError, match='no file of a frame of lobby.mp4'):
        read('ultralytics', {f'lobby_{digit}.txt': line}, name='a')
    with pytest.raises(InputError, match='the sixth column is a confidence'):
        read('ultralytics', {'lobby_1.txt': line[:-1] + digit}, name='b')
    with pytest.raises(InputError, match='the name must be <app>_<stream>_<frame>.txt'):
        read('deepstream', {f'00_000_{digit}.txt': kitti_line(1)}, name='c', **STREAMMUX)
    images = Recording('frames', 640, 480, (f'{digit}.jpg', '2.jpg'))
    with pytest.raises(InputError, match='of which there is no image, first 1'):
        read('mot', '1,3,10,20,30,40', images, by_name=True)


def test_every_format_is_tested_here():
    text = Path(__file__).read_text()
    assert all(f"'{name}'" in text for name in FORMATS)
