"""Specify synthetic data: a checked, frozen dataclass and its fingerprint."""

import dataclasses
import hashlib
import json
import numbers
from typing import Any

import numpy as np

from stmn_plugin.errors import InputError

# Part of every fingerprint: raise it whenever the same spec would give other files.
GENERATOR_VERSION = 1

# Purposes of random streams; the numbers are part of the data and must not change.
STREAMS = {
    'train': 0,
    'test': 1,
    'distractor': 2,
    'junk': 3,
    'camera': 4,
    'query': 5,
    'wardrobe': 6,
}

_LIMITS = {  # inclusive
    'train_ids': (1, 9998),
    'test_ids': (1, 9998),
    'cameras': (1, 6),  # the limit of the MARS loader
    'tracklets_per_camera': (1, 9999),
    'min_frames': (1, 999),  # three digits in a file name
    'max_frames': (1, 999),
    'height': (32, 1024),
    'width': (16, 1024),
    'seed': (0, 2**32 - 1),
}
_KNOBS = ('spatial_distractors', 'temporal_distractors', 'clothing_similarity')
_MOST_TEST_TRACKLETS = 59_000  # with the strangers still a 16-bit row number, as in query_IDX.mat
_SIZE_STEP = 8  # keeps the reduced distractor mask aligned with the pixels


@dataclasses.dataclass(frozen=True)
class SyntheticSpec:
    """All settings that determine the bytes of a synthetic dataset.

    Attributes:
        train_ids, test_ids: disjoint persons for training and for testing.
        cameras: 1 to 6. Every person passes every camera.
        tracklets_per_camera: tracklets of each person at each camera. With 1, every test tracklet
            is a query and the host's own protocol (queries not in the gallery) finds no match.
        min_frames, max_frames: inclusive bounds of a tracklet's length.
        height, width: size of a crop in pixels, multiples of 8.
        seed: another seed gives other persons, scenes and tracklets.
        spatial_distractors: 0 empty scenes .. 1 every crop is full of objects.
        temporal_distractors: 0 only clean tracklets .. 1 nine of ten are disturbed.
        clothing_similarity: 0 all clothes differ .. 1 all clothes are nearly equal.

    Raises:
        InputError: a value is out of range; the message names field and value.
    """

    train_ids: int = 32
    test_ids: int = 32
    cameras: int = 4
    tracklets_per_camera: int = 2
    min_frames: int = 12
    max_frames: int = 24
    height: int = 128
    width: int = 64
    seed: int = 0
    spatial_distractors: float = 0.6
    temporal_distractors: float = 0.6
    clothing_similarity: float = 0.2

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise InputError(f'{name} must be a whole number, got {value!r}')
            if not low <= int(value) <= high:
                raise InputError(f'{name} must be within {low}..{high}, got {value}')
            object.__setattr__(self, name, int(value))
        for name in _KNOBS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise InputError(f'{name} must be a number within 0..1, got {value!r}')
            if not 0 <= float(value) <= 1:  # also refuses nan
                raise InputError(f'{name} must be within 0..1, got {value}')
            object.__setattr__(self, name, float(value))  # 1 and 1.0 are one fingerprint
        if self.train_ids + self.test_ids > 9999:
            total = self.train_ids + self.test_ids
            raise InputError(
                f'train_ids + test_ids must be at most 9999 (four digits), got {total}'
            )
        tested = self.test_ids * self.cameras * self.tracklets_per_camera
        if tested > _MOST_TEST_TRACKLETS:
            raise InputError(
                f'test_ids x cameras x tracklets_per_camera must be at most '
                f'{_MOST_TEST_TRACKLETS}, got {self.test_ids} x {self.cameras} x '
                f'{self.tracklets_per_camera}'
            )
        if self.min_frames > self.max_frames:
            raise InputError(
                f'min_frames must not exceed max_frames, got {self.min_frames} > {self.max_frames}'
            )
        for name in ('height', 'width'):
            if getattr(self, name) % _SIZE_STEP:
                raise InputError(
                    f'{name} must be a multiple of {_SIZE_STEP}, got {getattr(self, name)}'
                )
        if not self.height / 4 <= self.width <= self.height:
            raise InputError(
                f'width must be within height/4..height ({self.height}), got {self.width}'
            )

    @property
    def fingerprint(self) -> str:
        """Short name of the data of this spec, for example ``s1-0f3a9c21b7``."""
        digest = hashlib.sha256(f'{GENERATOR_VERSION} {self.to_json()}'.encode()).hexdigest()
        return f's{GENERATOR_VERSION}-{digest[:10]}'

    def to_json(self) -> str:
        """Format all fields as one JSON line with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def rng(self, stream: str, *numbers_: int) -> np.random.Generator:
        """Return a random generator that depends only on the seed, the stream and the numbers.

        Args:
            stream: a key of ``STREAMS``.
            numbers_: non-negative integers, for example identity, camera, tracklet.
        """
        return np.random.default_rng([self.seed, STREAMS[stream], *numbers_])


PRESETS = {
    'default': SyntheticSpec(),
    'tiny': SyntheticSpec(
        train_ids=4, test_ids=4, cameras=2, min_frames=6, max_frames=9, height=64, width=32
    ),
    'cameras': SyntheticSpec(  # persons easy to tell apart, nothing in front of them
        train_ids=96,
        test_ids=8,
        cameras=3,
        min_frames=8,
        max_frames=8,
        height=64,
        width=32,
        spatial_distractors=0.0,
        temporal_distractors=0.0,
        clothing_similarity=0.0,
    ),
    'study': SyntheticSpec(
        train_ids=200,
        test_ids=200,
        cameras=6,
        height=256,
        width=128,
        spatial_distractors=1.0,
        temporal_distractors=0.9,
        clothing_similarity=0.75,
    ),
}
