"""All-frames testing: every frame once, clips as the protocol says, the same numbers any way."""

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from references.released import all_frames_clips

import stmn_plugin
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten, get_default_config
from stmn_plugin.config.kwargs import plan_kwargs
from stmn_plugin.data import VideoDataManager
from stmn_plugin.data.clips import IMAGENET_MEAN, IMAGENET_STD, ClipTransform, Normalize
from stmn_plugin.data.frame_samplers import ClipPlan, dealt_clip, interleaved_clip, sample_rrs
from stmn_plugin.data.frames import read_frame
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.feature_store import FeatureFolder, FeatureStore
from stmn_plugin.evaluation.features import clips_of_vectors, mean_over_clips
from stmn_plugin.evaluation.fingerprint import (
    fingerprint,
)
from stmn_plugin.labels import UNKNOWN
from stmn_plugin.models import STMN, FrameByFrame, VideoModel
from stmn_plugin.training.checkpoint import save_checkpoint

LENGTH = 4  # L
as_bytes = ClipTransform(32, 16, [], Normalize(IMAGENET_MEAN, IMAGENET_STD), as_uint8=True)


def test_interleaved_clips_hold_every_frame_as_often_as_any_other():
    """All lengths below 200 frames and 32 a clip; where padding was even, it is as it was."""
    for num_frames, seq_len in itertools.product(range(1, 200), range(1, 32)):
        number = math.ceil(num_frames / seq_len)
        clips = [interleaved_clip(num_frames, seq_len, i).tolist() for i in range(number)]
        padded = [list(range(i, num_frames, number)) for i in range(number)]
        for clip, own in zip(clips, padded, strict=True):
            assert len(clip) == seq_len and clip == sorted(clip)
            assert set(clip) == set(own)  # i, i + n, i + 2n, ...
            own += [own[-1]] * (seq_len - len(own))
        counts = Counter(itertools.chain(*clips))
        assert len(counts) == num_frames
        assert max(counts.values()) - min(counts.values()) <= 1, (num_frames, seq_len)
        before = Counter(itertools.chain(*padded))
        if max(before.values()) - min(before.values()) <= 1:
            assert clips == padded


def test_interleaved_clips_by_hand():
    clips = [interleaved_clip(7, 3, index).tolist() for index in range(3)]
    assert clips == [[0, 3, 6], [1, 4, 4], [2, 5, 5]]
    clips = [interleaved_clip(7, 6, index).tolist() for index in range(2)]
    assert clips == [[0, 2, 2, 4, 6, 6], [1, 1, 3, 3, 5, 5]]
    assert interleaved_clip(2, 4, 0).tolist() == [0, 0, 1, 1]
    assert interleaved_clip(3, 4, 0).tolist() == [0, 1, 2, 2]


def test_consecutive_clips_equal_the_loops():
    """Adjacent frames; the last clip goes round its own frames until there are L."""
    for num_frames, seq_len in itertools.product(range(1, 40), range(1, 9)):
        plan = ClipPlan(seq_len, 'all', all_clips='consecutive')
        expected, rest = [], list(range(num_frames))
        while rest:
            own, rest = rest[:seq_len], rest[seq_len:]
            expected.append([own[i % len(own)] for i in range(seq_len)])
        clips = [plan.clip(num_frames, index) for index in range(plan.count(num_frames))]
        assert [clip.tolist() for clip in clips] == expected
        assert clips[0].dtype == np.int64 and plan.title == 'all (consecutive)'


@pytest.mark.parametrize('name', ['cosam', 'csa', 'gltr', 'm3d', 'mgh', 'stmp', 'tclnet'])
def test_systems_of_adjacent_frames_are_tested_on_them_as_published(name):
    plan = ClipPlan(**plan_kwargs(load_config(f'as_published/{name}_mars')))
    assert plan.title == 'all (consecutive)'
    assert plan.clip(2 * plan.seq_len, 1).tolist() == list(range(plan.seq_len, 2 * plan.seq_len))


@given(num_frames=st.integers(1, 60), seq_len=st.integers(1, 9), most=st.integers(1, 12))
def test_dealt_clips_lie_between_rrs_and_all_frames(num_frames, seq_len, most):
    plan = ClipPlan(seq_len, 'rrs', most)
    count = plan.count(num_frames)
    assert count == min(most, math.ceil(num_frames / seq_len))
    frames = sorted(i for c in range(count) for i in plan.clip(num_frames, c).tolist())
    assert frames == sample_rrs(num_frames, count * seq_len).tolist()
    if count == math.ceil(num_frames / seq_len):
        assert set(frames) == set(range(num_frames))
    assert (
        dealt_clip(num_frames, seq_len, 1, 0).tolist() == sample_rrs(num_frames, seq_len).tolist()
    )


def mars_manager(root, **options):
    stmn_plugin.register()
    with contextlib.redirect_stdout(io.StringIO()):
        return VideoDataManager(
            root=root,
            sources='mars',
            height=32,
            width=16,
            seq_len=LENGTH,
            sample_method='rrs',
            batch_size_train=4,
            workers=0,
            use_gpu=False,
            as_uint8=True,
            **options,
        )


@pytest.fixture(scope='module')
def data(mars_root):
    return mars_manager(mars_root)


class TinyImageModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3 * 32 * 16, 5)

    def forward(self, frames):
        return self.layer(frames.flatten(1)).tanh()


def stmn(temporal_mode='memory', spatial_mode='memory'):
    torch.manual_seed(0)
    config = STMN.Config(
        backbone='resnet18', temporal_mode=temporal_mode, spatial_mode=spatial_mode
    )
    model = STMN(3, LENGTH, config, pretrained=False)
    if model.spatial_memory is not None:
        torch.nn.init.normal_(model.spatial_memory.bn.weight)
    return model.eval()


def embedder(data, model, plan, flip=False, batch_size=3, **options):
    return Embedder(
        model if isinstance(model, VideoModel) else FrameByFrame(model, LENGTH),
        plan,
        flip=flip,
        batch_size=batch_size,
        height=data.height,
        width=data.width,
        skip_bad=data.skip_bad,
        **options,
    )


def extract(data, model, plan, flip=False, batch_size=3, mode='gallery', bad_frames=None):
    embed = embedder(data, model, plan, flip, batch_size)
    features = embed(data.test_dataset['mars'][mode], mode)
    if bad_frames is not None:
        bad_frames.extend(embed.bad_frames)
    return features


@torch.no_grad()
def slow_features(data, clips_of, feature_of_clip, flip=False):
    """Tracklet by tracklet, clip by clip, one read a frame, plain means."""
    features = []
    for paths, _, _, _ in data.test_dataset['mars']['gallery']:
        frames = [as_bytes([read_frame(path)])[0] for path in paths]
        views = []
        for mirrored in (False, True) if flip else (False,):
            for indices in clips_of(len(frames)):
                clip = data.normalize(torch.stack([frames[i] for i in indices]))
                clip = torch.stack([f.flip(-1) for f in clip]) if mirrored else clip
                views.append(feature_of_clip(clip))
        features.append(torch.stack(views).mean(dim=0))
    return torch.stack(features)


def clips_of_all(num_frames):
    count = math.ceil(num_frames / LENGTH)
    clips = [list(range(index, num_frames, count)) for index in range(count)]
    times = {1: [4], 2: [2, 2], 3: [1, 1, 2], 4: [1, 1, 1, 1]}  # LENGTH frames of so many
    return [np.repeat(clip, times[len(clip)]).tolist() for clip in clips]


@pytest.mark.slow
@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize(
    'modes', [('memory', 'memory'), ('mlp', 'none'), ('average', 'memory')], ids='-'.join
)
def test_all_frames_equal_the_slow_way(data, modes, flip):
    model = stmn(*modes)
    expected = slow_features(data, clips_of_all, lambda clip: model(clip[None])[0], flip)
    found = extract(data, model, ClipPlan(LENGTH, 'all'), flip)
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-5)
    assert found.pids.tolist() == [pid for _, pid, _, _ in data.test_dataset['mars']['gallery']]


def test_all_frames_as_the_authors_test_them_equal_the_slow_way(data):
    """Also of a model that otherwise counts every frame once."""
    model, clips_of = TinyImageModel().eval(), lambda count: all_frames_clips(count, LENGTH)
    expected = slow_features(data, clips_of, lambda clip: model(clip).mean(dim=0), flip=True)
    found = extract(data, model, ClipPlan(LENGTH, 'all', all_clips='floor'), flip=True)
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rrs_equals_the_models_own_forward_on_the_hosts_batches(data):
    model = stmn()
    with torch.no_grad():
        expected = torch.cat(
            [model(data.normalize(b['img'])) for b in data.test_loader['mars']['gallery']]
        )
    found = extract(data, model, data.plan)
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-5)


def test_an_image_model_gets_the_mean_over_its_frames(data):
    model = TinyImageModel().eval()
    one_by_one = slow_features(data, lambda n: [[i] for i in range(n)], lambda c: model(c)[0])
    found = extract(data, model, ClipPlan(LENGTH, 'all'))
    torch.testing.assert_close(found.features, one_by_one, rtol=1e-5, atol=1e-6)
    rrs = slow_features(data, lambda n: [sample_rrs(n, LENGTH)], lambda c: model(c).mean(dim=0))
    torch.testing.assert_close(extract(data, model, data.plan).features, rrs, rtol=1e-5, atol=1e-6)
    longest = slow_features(data, lambda n: [sample_rrs(n, LENGTH)], lambda c: model(c).amax(dim=0))
    largest = extract(data, FrameByFrame(model, LENGTH, 'max'), data.plan).features
    torch.testing.assert_close(largest, longest, rtol=1e-5, atol=1e-6)


def test_every_frame_is_encoded_once_in_full_batches_of_bounded_size(data):
    model, sizes = TinyImageModel().eval(), []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    extract(data, model, ClipPlan(LENGTH, 'all'), batch_size=5)
    lengths = [len(paths) for paths, _, _, _ in data.test_dataset['mars']['gallery']]
    assert sum(sizes) == sum(lengths)
    assert max(sizes) <= 5 * LENGTH < max(lengths) * 5
    assert len(sizes) == math.ceil(sum(math.ceil(n / LENGTH) for n in lengths) / 5)
    sizes.clear()
    extract(data, model, ClipPlan(LENGTH, 'all'), flip=True, batch_size=5)
    assert sum(sizes) == 2 * sum(lengths)


def test_batch_size_and_plan_share_one_answer(data):
    model = TinyImageModel().eval()
    plan = ClipPlan(LENGTH, 'all')
    one, many = (extract(data, model, plan, batch_size=b).features for b in (1, 64))
    torch.testing.assert_close(one, many)


def store_for(data, model, folder, mode='gallery', **settings):
    tracklets = data.test_dataset['mars'][mode]
    made_from = fingerprint(model, tracklets, **settings)
    return FeatureStore(str(folder), f'mars-{mode}', made_from, tracklets)


def fill(store, data, model, flip=False, bad_frames=None):
    embed, plan = embedder(data, model, None, flip), ClipPlan(LENGTH, 'in_order')
    tracklets = data.test_dataset['mars']['gallery']
    with torch.no_grad():
        vectors = embed._vectors(embed._inference_model(), tracklets, plan, 'x')
        store.write(vectors, embed.bad_frames, LENGTH)
    if bad_frames is not None:
        bad_frames.extend(embed.bad_frames)


def of_store(store, model, plan, views, tracklets):
    """Features from stored vectors."""
    model = model if isinstance(model, VideoModel) else FrameByFrame(model, LENGTH)
    every_frame = plan.frames == 'all' and model.weighs_frames
    with torch.no_grad():
        clips = clips_of_vectors(store.clips(plan, views, 4), model, every_frame)
        return mean_over_clips(clips, tracklets).features


@pytest.mark.slow
@pytest.mark.parametrize('flip', [False, True])
def test_stored_vectors_give_every_strategy_without_encoding(data, tmp_path, flip):
    model = stmn()
    store = store_for(data, model, tmp_path)
    assert not store.exists()
    fill(store, data, model, flip)
    store.open(1 + flip)
    assert store.vectors.shape == (store.starts[-1], 1 + flip, 2 * 512)
    plans = (ClipPlan(LENGTH, 'all'), data.plan, ClipPlan(LENGTH, 'rrs', 2))
    # what was stored with mirrored frames serves without them, too
    for plan, mirrored in [*((plan, flip) for plan in plans), (data.plan, False)]:
        tracklets = data.test_dataset['mars']['gallery']
        found = of_store(store, model, plan, 1 + mirrored, tracklets)
        expected = extract(data, model, plan, mirrored).features
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_stale_store_is_refused_with_the_reason(data, tmp_path):
    model = TinyImageModel().eval()
    fill(store_for(data, model, tmp_path, size=[32, 16]), data, model)
    store_for(data, model, tmp_path, size=[32, 16]).open()
    for change, part in (
        (lambda: store_for(data, stmn(), tmp_path, size=[32, 16]), 'weights'),
        (lambda: store_for(data, model, tmp_path, size=[64, 32]), 'size'),
        (lambda: store_for(data, model, tmp_path, mode='query', size=[32, 16]), 'frames'),
    ):
        store = change()
        store.path = store.path.replace('query', 'gallery')
        store.record_path = store.record_path.replace('query', 'gallery')
        with pytest.raises(InputError) as caught:
            store.open()
        assert part in str(caught.value) and store.path in str(caught.value)


def test_a_store_without_mirrored_frames_is_refused_where_they_are_needed(data, tmp_path):
    store = store_for(data, TinyImageModel().eval(), tmp_path)
    fill(store, data, TinyImageModel().eval())
    with pytest.raises(InputError, match='gallery.npy was made from other test.flip'):
        store.open(views=2)


@pytest.fixture
def kept(data, tmp_path):
    """A store with its two files."""
    store = store_for(data, TinyImageModel().eval(), tmp_path)
    fill(store, data, TinyImageModel().eval())
    return store, Path(store.path), Path(store.record_path)


def npy(header, data=b''):
    """A file whose header says what NumPy would believe."""
    text = header.encode() + b'\n'
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + data


def test_damaged_and_forged_vectors_are_one_line(kept, monkeypatch):
    store, vectors, _ = kept
    monkeypatch.setattr(np.lib.format, 'read_array', None)  # no header is ever believed
    good = vectors.read_bytes()
    flips = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in (0, 9, 20, 90, 500, -5)]
    forged = [
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b'cos\nsystem\n'),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 1, 5)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 1, 5)}"),
        npy('(' * 3000),
        npy('9' * 5000),
    ]
    forged = [content.ljust(len(good), b'\0') for content in forged] + forged
    for bad in [*flips, *forged, good[:-8], good + b'\0', good[:40], b'']:
        vectors.write_bytes(bad)
        with pytest.raises(InputError, match='gallery.npy is damaged, remove it'):
            store.open()
    vectors.write_bytes(good)

    def fail(*_):
        raise OSError(12, 'Cannot allocate memory')  # of a file that is open: without its name

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r'gallery\.npy: Cannot'):
        patch.setattr(np, 'memmap', fail)
        store.open()
    vectors.unlink()
    with pytest.raises(InputError, match='gallery.npy: No such file'):
        store.open()
    os.mkfifo(vectors)
    with pytest.raises(InputError, match='gallery.npy: is a pipe'):
        store.open()


def test_a_damaged_record_is_one_line(kept):
    store, _, record = kept
    good = record.read_bytes()
    flips = [good[:i] + bytes([good[i] ^ 2]) + good[i + 1 :] for i in range(0, len(good), 7)]
    texts = [
        '',
        '{',
        '[]',
        'null',
        '{"made_from": null, "crc32": 0}',
        '{"made_from": {}}',
        '[' * 10**5,
    ]
    for bad in [*flips, *(text.encode() for text in texts), b'9' * 5000, b'\xff\xfe', good[:-9]]:
        record.write_bytes(bad)
        with pytest.raises(InputError, match='gallery.json is damaged, remove it'):
            store.open()
    record.write_bytes(good)
    store.open()


def test_vectors_of_an_earlier_version_and_a_lost_half(kept):
    store, vectors, record = kept
    record.write_text('{"made_from": {"weights": "x"}, "crc32": 1, "unreadable": []}')
    with pytest.raises(InputError, match="it has no 'sha256', as those of an earlier version"):
        store.open()
    os.unlink(vectors)
    assert not store.exists()  # and is made again


@pytest.mark.parametrize(
    'changes',
    [
        {'unreadable': [10**6]},
        {'unreadable': [-1]},
        {'unreadable': ['1']},
        {'unreadable': 3},
        {'shape': [10**11, 1, 10**5]},
        {'shape': [1]},
        {'shape': None},
        {'shape': [36, 3, 5]},
        {'offset': -1},
        {'offset': 1.5},
        {'crc32': 'x'},
        {'made_from': [1]},
    ],
    ids=str,
)
def test_a_forged_record_with_the_right_sum_is_one_line(kept, changes):
    store, _, record = kept
    content = {**json.loads(record.read_text()), **changes}
    content.pop('sha256')
    text = json.dumps(content, sort_keys=True)
    record.write_text(json.dumps({**content, 'sha256': hashlib.sha256(text.encode()).hexdigest()}))
    with pytest.raises(InputError, match='is damaged, remove it'):
        store.open()


def test_a_full_disk_leaves_no_store(data, tmp_path):
    resource = pytest.importorskip('resource')
    import signal

    model = TinyImageModel().eval()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match='cannot write'):
            fill(store_for(data, model, tmp_path), data, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_the_folder_names_the_key(data, tmp_path):
    model, file = TinyImageModel().eval(), tmp_path / 'file'
    file.write_text('mine')
    for folder in (file, file / 'below'):
        with pytest.raises(InputError, match=r'^test\.features_dir: cannot write .*file'):
            fill(store_for(data, model, folder), data, model)
    assert file.read_text() == 'mine' and os.listdir(tmp_path) == ['file']


@pytest.fixture
def damaged(mars_root, tmp_path):
    """The miniature with one frame of a long tracklet unreadable → manager maker, its path."""
    shutil.copytree(mars_root, tmp_path / 'copy')

    def manager(**options):
        return mars_manager(str(tmp_path / 'copy'), **options)

    gallery = manager().test_dataset['mars']['gallery']
    number = max(range(len(gallery)), key=lambda i: len(gallery[i][0]))
    path = gallery[number][0][1]
    with open(path, 'wb') as file:
        file.write(b'not an image')
    return manager, number, path


def test_a_bad_frame_is_raised_or_left_out_and_listed(damaged, tmp_path):
    manager, number, path = damaged
    model, plan = TinyImageModel().eval(), ClipPlan(LENGTH, 'all')
    with pytest.raises(InputError, match=os.path.basename(path)):
        extract(manager(), model, plan)
    data, bad_frames = manager(skip_bad=True), []
    found = extract(data, model, plan, bad_frames=bad_frames).features[number]
    assert bad_frames == [path]
    paths = [p for p in data.test_dataset['mars']['gallery'][number][0] if p != path]
    with torch.no_grad():
        frames = data.normalize(torch.stack([as_bytes([read_frame(p)])[0] for p in paths]))
        per_frame = model(frames)
    torch.testing.assert_close(found, per_frame.mean(dim=0), rtol=1e-5, atol=1e-6)

    store, bad_frames = store_for(data, model, tmp_path / 'store'), []
    fill(store, data, model, bad_frames=bad_frames)
    store.open()
    assert store.unreadable_paths() == [path]
    tracklets = data.test_dataset['mars']['gallery']
    kept = of_store(store, model, plan, 1, tracklets)
    torch.testing.assert_close(kept[number], found, rtol=1e-5, atol=1e-6)


def test_a_clip_without_a_readable_frame_does_not_count_among_others(damaged):
    manager, number, path = damaged
    data, model = manager(skip_bad=True), TinyImageModel().eval()
    found = extract(data, model, ClipPlan(1, 'all')).features[number]  # a clip is one frame
    paths = [p for p in data.test_dataset['mars']['gallery'][number][0] if p != path]
    with torch.no_grad():
        frames = torch.stack([as_bytes([read_frame(p)])[0] for p in paths])
        expected = model(data.normalize(frames)).mean(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_tracklet_stays_while_one_frame_can_be_read(damaged):
    manager, number, _ = damaged
    data = manager(skip_bad=True)
    paths = data.test_dataset['mars']['gallery'][number][0]
    for path in paths[:-1]:
        with open(path, 'wb') as file:
            file.write(b'')
    model, bad_frames = TinyImageModel().eval(), []
    found = extract(data, model, ClipPlan(LENGTH, 'rrs'), bad_frames=bad_frames).features[number]
    with torch.no_grad():
        expected = model(data.normalize(as_bytes([read_frame(paths[-1])])))[0]
    torch.testing.assert_close(found, expected)
    assert set(bad_frames) == set(paths[:-1])
    with open(paths[-1], 'wb') as file:
        file.write(b'')
    with pytest.raises(InputError, match=f'no readable frame: .*{os.path.dirname(paths[-1])}'):
        extract(data, model, ClipPlan(LENGTH, 'rrs'))


def test_features_that_are_not_finite_are_named(data):
    class Broken(TinyImageModel):
        def forward(self, frames):
            return super().forward(frames) * np.nan

    with pytest.raises(InputError, match='NaN'):
        extract(data, Broken().eval(), data.plan)


# --- the embedder by itself ---


class Differences(VideoModel):
    """Frames meet before the first layer: a clip is no set of vectors of frames."""

    def __init__(self, seq_len=LENGTH):
        super().__init__(2, seq_len, None)
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3 * 32 * 16, 5)

    def backbone(self):
        return self.layer

    def forward(self, clips):
        clips = self.as_clips(clips)
        return self.layer((clips[:, 1:] - clips[:, :-1]).flatten(2)).tanh().mean(dim=1)

    def finish(self, features):
        return 1 + 2 * features


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('frames', ['all', 'rrs'])
def test_a_model_of_whole_clips_sees_them_and_finishes_the_mean(frames, flip, data):
    model, plan = Differences().eval(), ClipPlan(LENGTH, frames)
    clips = clips_of_all if frames == 'all' else lambda n: [sample_rrs(n, LENGTH)]
    mean = slow_features(data, clips, lambda clip: model(clip[None])[0], flip)
    found = extract(data, model, plan, flip).features
    torch.testing.assert_close(found, 1 + 2 * mean, rtol=1e-5, atol=1e-5)


def test_vectors_of_whole_clips_cannot_be_kept(data, tmp_path):
    with pytest.raises(InputError, match=r'test.features_dir: Differences encodes whole clips'):
        embedder(data, Differences(), data.plan, store=FeatureFolder(str(tmp_path)))


@pytest.mark.slow
def test_bare_lists_of_paths_have_features_and_no_labels(data):
    tracklets = data.test_dataset['mars']['gallery']
    embed = embedder(data, stmn(), data.plan)
    known, bare = embed(tracklets), embed([paths for paths, *_ in tracklets])
    assert torch.equal(known.features, bare.features)
    assert set(bare.pids.tolist()) == set(bare.camids.tolist()) == {UNKNOWN}


def test_reading_is_by_the_models_own_spec(data):
    model, tracklets = TinyImageModel().eval(), data.test_dataset['mars']['query']
    model = FrameByFrame(model, LENGTH)
    spec = {'height': 32, 'width': 16, 'norm_mean': [0.1, 0.2, 0.3], 'norm_std': [1, 2, 3]}
    sizes = {'height': 32, 'width': 16, 'mean': [0.1, 0.2, 0.3], 'std': [1, 2, 3]}
    expected = Embedder(model, data.plan, **sizes)(tracklets)
    model.spec = SimpleNamespace(**spec)
    assert torch.equal(Embedder(model, data.plan)(tracklets).features, expected.features)


@pytest.mark.slow
def test_a_store_is_made_once_and_follows_no_other_weights(data, tmp_path):
    model, tracklets = stmn(), data.test_dataset['mars']['gallery']
    embed = embedder(data, model, data.plan, store=FeatureFolder(str(tmp_path), {'a': 1}))
    first = embed(tracklets, 'mars-gallery').features
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    assert torch.equal(embed(tracklets, 'mars-gallery').features, first)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == times
    torch.testing.assert_close(first, extract(data, model, data.plan).features)
    with torch.no_grad():
        model.encoder.trunk[0].weight.mul_(2)
    with pytest.raises(InputError, match='was made from other weights'):
        embed(tracklets, 'mars-gallery')
    again = embedder(data, model, data.plan)
    features = again(tracklets).features
    assert not torch.equal(features, first)  # of the weights of now
    with torch.no_grad():
        model.encoder.trunk[0].weight.div_(2)
    torch.testing.assert_close(again(tracklets).features, first)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['rrs', 'evenly'])
def test_a_checkpoint_and_lists_of_paths_are_all_that_is_needed(method, data, tmp_path):
    model = stmn()
    config = {**flatten(get_default_config()), 'data.height': 32, 'data.width': 16}
    config |= {'model.name': 'stmn', 'data.type': 'video', 'loss.name': 'stmn'}
    config |= {'stmn.backbone': 'resnet18', 'video.seq_len': LENGTH}
    config |= {'video.sample_method': method, 'video.rrs_chunks': 'ceil'}
    state = {'state_dict': model.state_dict(), 'epoch': 1, 'config': config}
    loaded = stmn_plugin.load_model(save_checkpoint(state, str(tmp_path), 1))
    tracklets = data.test_dataset['mars']['gallery']
    found = Embedder(loaded)([paths for paths, *_ in tracklets]).features
    plan = ClipPlan(LENGTH, method, rrs_chunks='ceil')
    torch.testing.assert_close(found, extract(data, model, plan).features)
