"""This plugin's settings, on top of the host's.

A section of the host that has keys of ours is a subclass of it here; a key of the host that is
named again takes a value of ours, too, with the default left as it is.
"""

from dataclasses import dataclass

from . import host_sections as host
from .rules import (
    COUNT,
    FILE,
    FLAG,
    HOST_SAMPLERS,
    IDENTITY_PASS,
    INTERVAL,
    PRECISION,
    SEED,
    WEIGHT,
    Number,
    OneOf,
    Text,
    Whole,
    WordOr,
)
from .settings import setting


@dataclass(frozen=True)
class Model(host.Model):
    """The section ``model``."""

    resume: str = setting(
        '', FILE, 'checkpoint to resume training from; auto: the newest intact one of data.save_dir'
    )


@dataclass(frozen=True)
class Data(host.Data):
    """The section ``data``."""

    download: bool = setting(False, FLAG, 'let torchreid download a missing dataset, by https only')
    validation_ids: float = setting(
        0.0,
        Number(0, 1_000_000),
        'share (or number) of training identities to hold out and test on',
    )
    validation_seed: int = setting(0, SEED, 'seed of the choice of the held-out identities')
    train_list: str = setting(
        '',
        FILE,
        'JSON of the training tracklets to use, with labels in place of their own '
        '(docs/one-shot.md)',
    )
    bad_frames: str = setting(
        'raise',
        OneOf(('raise', 'skip')),
        'unreadable images: raise stops the run, skip leaves them out',
    )


@dataclass(frozen=True)
class Sampler(host.Sampler):
    """The section ``sampler``."""

    train_sampler: str = setting(
        'RandomSampler',
        OneOf((IDENTITY_PASS, *HOST_SAMPLERS)),
        'how batches are drawn; IdentityPassSampler: P x K, all identities once an epoch',
    )


@dataclass(frozen=True)
class Video(host.Video):
    """The section ``video``."""

    sample_method: str = setting(
        'evenly',
        OneOf(('rrs', 'consecutive', 'every_8th', 'evenly', 'random', 'all')),
        'how frames of a clip are chosen; rrs: restricted random sampling (Sec. 4.1); consecutive: '
        'from a random start, shorter tracklets looped; every_8th: 8 apart from a random start, '
        'random ones of tracklets with fewer than 8 L',
    )
    rrs_chunks: str = setting(
        'balanced',
        OneOf(('balanced', 'ceil')),
        "chunks of rrs: balanced, or ceil as in the authors' code",
    )
    image_models: str = setting(
        'clip',
        OneOf(('clip', 'frames')),
        "image models on video: trained on a clip's mean, or frame by frame (the host's way)",
    )


@dataclass(frozen=True)
class Train(host.Train):
    """The section ``train``."""

    sync_bn: bool = setting(
        False, FLAG, 'many processes: batch norms of the backbone use the batches of all'
    )
    save_freq: int = setting(1, INTERVAL, 'epochs between checkpoints')
    keep_last: int = setting(2, INTERVAL, 'number of newest checkpoints to keep, besides the best')
    accumulate: int = setting(1, COUNT, 'batches whose gradients are averaged into one step')
    clip_grad_norm: float = setting(
        0.0, Number(0, 1_000_000), "limit of the norm of a step's gradients; 0: none"
    )
    memory_lr_mult: float = setting(
        1.0, Number(0, 1_000), "factor of the learning rate of a model's memories, if it has any"
    )
    amp: str = setting('off', PRECISION, 'mixed precision')
    tf32: bool = setting(False, FLAG, 'on a GPU: round the factors of float32 products to TF32')
    channels_last: bool = setting(True, FLAG, 'store maps and convolutions in channels-last order')
    fused: bool = setting(True, FLAG, 'update all weights in one kernel of the optimizer')
    compile: bool = setting(
        False, FLAG, 'compile the encoder by torch.compile, in training and testing'
    )
    checkpoint_activations: bool = setting(
        False, FLAG, 'recompute activations of the encoders of this package: less memory, more time'
    )
    deterministic: bool = setting(
        False, FLAG, 'use deterministic algorithms only, at some cost of speed'
    )
    allow_changed: bool = setting(
        False, FLAG, "resume with another recipe or other training data than the checkpoint's"
    )
    overwrite: bool = setting(False, FLAG, 'remove the run that data.save_dir holds and start anew')


@dataclass(frozen=True)
class Loss(host.Loss):
    """The section ``loss``."""

    name: str = setting(
        'softmax',
        OneOf(('softmax', 'triplet', 'stmn')),
        'the recipe; stmn: cross-entropy and soft-margin triplet with the weights of loss.triplet, '
        'and memory spread (Eq. 8)',
    )


@dataclass(frozen=True)
class Spread:
    """The section ``loss.spread``."""

    weight: float = setting(1.0, WEIGHT, 'weight of L_S (Eq. 9); 0 is "w/o L_S" of Table 1')
    margin: float = setting(0.3, WEIGHT, 'alpha, the margin of L_S')
    reduction: str = setting(
        'mean', OneOf(('sum', 'mean')), "L_S over the items: mean (authors' code) or sum (Eq. 9)"
    )
    reach: str = setting(
        'all',
        OneOf(('all', 'heads')),
        'layers that the gradient of L_S reaches; heads: not the trunk',
    )
    replicas: int = setting(
        1,
        COUNT,
        "parts of a batch whose L_S is averaged: 1 (Eq. 9); 3, as on the authors' three GPUs",
    )


@dataclass(frozen=True)
class Test(host.Test):
    """The section ``test``."""

    frames: str = setting(
        'rrs',
        OneOf(('rrs', 'all')),
        'frames of a tracklet that are tested; rrs: a clip by video.sample_method',
    )
    clips_per_tracklet: int = setting(
        1, Whole(1, 10_000), 'with rrs: the most clips of a tracklet, whose features are averaged'
    )
    all_clips: str = setting(
        'ceil',
        OneOf(('ceil', 'floor', 'consecutive')),
        'clips of test.frames all: ceil(F/L) interleaved ones, so that every frame is in one; '
        "floor(F/L), without the remainder (authors' code); ceil(F/L) of adjacent frames",
    )
    features_dir: str = setting(
        '',
        Text('a folder', may_be_empty=True),
        'with test.evaluate: keep the vectors of all frames here and read them back',
    )
    flip: bool | str = setting(
        False,
        WordOr('all', FLAG),
        "average with the mirrored clip; all: with test.frames all only (authors' code)",
    )
    best: str = setting(
        'mAP',
        OneOf(('mAP', 'rank-1', 'none')),
        'score that chooses the epoch of model-best, on the first target; rank-1:'
        " the last of equal ones (authors' code); none: no model-best",
    )
    amp: str = setting('off', PRECISION, 'precision in which frames are encoded')
    fold_bn: bool = setting(
        True, FLAG, 'fold the batch norms of encoders of this package into their convolutions'
    )
    protocol: str = setting(
        'official',
        OneOf(('official', 'torchreid', 'matlab', 'A', 'B', 'C')),
        'how results are scored (docs/test.md)',
    )
    verification: bool = setting(
        False,
        FLAG,
        'with test.evaluate: rates of pairs, and a threshold (docs/cameras-search.md)',
    )
    false_positive_rate: float = setting(
        1e-3,
        Number(0, 0.1, above=True),
        'test.verification: share of pairs of two persons that "likely" may accept',
    )


@dataclass(frozen=True)
class Synthetic:
    """The section ``synthetic``."""

    preset: str = setting(
        'default',
        OneOf(('default', 'tiny', 'cameras', 'study')),
        'amount of data (see tools/make_synthetic.py)',
    )
    seed: int = setting(0, SEED, 'seed of the synthetic data')
    paint_out: bool = setting(
        False,
        FLAG,
        'paint objects and occluders in one colour: what a perfect spatial memory would see',
    )


@dataclass(frozen=True)
class OneShot:
    """The section ``one_shot``."""

    factor: int = setting(
        10, Whole(1, 100), 'p, per cent of the unlabelled tracklets that each step adds'
    )
    split_seed: int = setting(
        0, SEED, 'seed of the choice of the labelled tracklet of each identity'
    )
    split_file: str = setting('', FILE, 'the split.json of another run, instead of a random split')
    warm_start: bool = setting(
        False,
        FLAG,
        'start each step from the weights of the last one; published: from initial weights',
    )
