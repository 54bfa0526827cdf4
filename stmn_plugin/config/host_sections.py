"""torchreid's settings (its ``scripts/default_config.py``, which PyPI does not ship).

Names, types and defaults are the host's, so that any torchreid YAML loads.
"""

from dataclasses import dataclass

from .rules import (
    COUNT,
    DECAY,
    EPOCHS,
    FILE,
    FLAG,
    FOLDER,
    HOST_SAMPLERS,
    INTERVAL,
    NAME,
    NAMES,
    SEED,
    TRANSFORMS,
    WEIGHT,
    ListOf,
    Number,
    OneOf,
    Whole,
)
from .settings import setting


def gpu_is_there() -> bool:
    """Return whether torch sees a GPU."""
    import torch  # slow, and needed for this value only

    return torch.cuda.is_available()


@dataclass(frozen=True)
class General:
    """Keys without a section."""

    use_gpu: bool = setting(gpu_is_there, FLAG, 'compute on a GPU', shown='True with a GPU')


@dataclass(frozen=True)
class Model:
    """The section ``model``."""

    name: str = setting('resnet50', NAME, 'the architecture (--list-archs shows all)')
    pretrained: bool = setting(True, FLAG, 'start from ImageNet weights')
    load_weights: str = setting('', FILE, 'checkpoint whose weights to start from or to test')
    resume: str = setting('', FILE, 'checkpoint to resume training from')


@dataclass(frozen=True)
class Data:
    """The section ``data``."""

    type: str = setting('image', OneOf(('image', 'video')), 'kind of the datasets')
    root: str = setting('reid-data', FOLDER, 'folder that holds the datasets')
    sources: list[str] = setting(['market1501'], NAMES, 'datasets to train on')
    targets: list[str] = setting(['market1501'], NAMES, 'datasets to test on')
    workers: int = setting(4, Whole(0, 256), 'processes that read frames')
    split_id: int = setting(0, Whole(0, 10_000), 'split, for datasets that have several')
    height: int = setting(256, Whole(16, 1_024), 'height of a frame in pixels')
    width: int = setting(128, Whole(8, 1_024), 'width of a frame in pixels')
    combineall: bool = setting(False, FLAG, 'train on the test identities, too')
    transforms: list[str] = setting(
        ['random_flip'], ListOf(OneOf(TRANSFORMS, any_case=True)), 'augmentation'
    )
    # no engine here takes several copies of an image
    k_tfm: int = setting(1, Whole(1, 1), 'image data: augmented copies of an image')
    norm_mean: list[float] = setting(
        [0.485, 0.456, 0.406], ListOf(Number(-255, 255), length=3), 'means of red, green and blue'
    )
    norm_std: list[float] = setting(
        [0.229, 0.224, 0.225],
        ListOf(Number(0.001, 255), length=3),
        'standard deviations of red, green and blue',
    )
    save_dir: str = setting('log', FOLDER, 'run folder')
    load_train_targets: bool = setting(False, FLAG, "image data: load the targets' training split")


@dataclass(frozen=True)
class Market1501:
    """The section ``market1501``."""

    use_500k_distractors: bool = setting(False, FLAG, 'add the distractors to the gallery')


@dataclass(frozen=True)
class CUHK03:
    """The section ``cuhk03``."""

    labeled_images: bool = setting(False, FLAG, 'boxes by hand instead of by a detector')
    classic_split: bool = setting(False, FLAG, 'the classic split instead of the new one')
    use_metric_cuhk03: bool = setting(False, FLAG, "the classic split's metric (not supported)")


@dataclass(frozen=True)
class Sampler:
    """The section ``sampler``."""

    train_sampler: str = setting('RandomSampler', OneOf(HOST_SAMPLERS), 'how batches are drawn')
    train_sampler_t: str = setting(
        'RandomSampler', OneOf(HOST_SAMPLERS), 'image data: how batches of the targets are drawn'
    )
    num_instances: int = setting(4, COUNT, 'K, tracklets (or images) of an identity in a batch')
    num_cams: int = setting(1, COUNT, 'cameras in a batch of RandomDomainSampler')
    num_datasets: int = setting(1, COUNT, 'datasets in a batch of RandomDatasetSampler')


@dataclass(frozen=True)
class Video:
    """The section ``video``."""

    seq_len: int = setting(15, Whole(1, 4_096), 'L, frames in a clip')
    sample_method: str = setting(
        'evenly', OneOf(('evenly', 'random', 'all')), 'how frames of a clip are chosen'
    )
    pooling_method: str = setting(
        'avg',
        OneOf(('avg', 'max')),
        'image models trained frame by frame: how frames become a clip',
    )


@dataclass(frozen=True)
class Train:
    """The section ``train``."""

    optim: str = setting('adam', OneOf(('adam', 'amsgrad', 'sgd', 'rmsprop', 'radam')), 'optimizer')
    lr: float = setting(0.0003, Number(0, 1_000), 'learning rate')
    weight_decay: float = setting(5e-4, Number(0, 1_000), 'weight decay')
    max_epoch: int = setting(60, EPOCHS, 'epochs')
    start_epoch: int = setting(0, EPOCHS, 'where counting of epochs starts')
    batch_size: int = setting(32, COUNT, 'clips (or images) in a batch, P x K')
    fixbase_epoch: int = setting(0, EPOCHS, 'first epochs in which only open_layers train')
    open_layers: list[str] = setting(
        ['classifier'], ListOf(NAME), 'layers that train from the start'
    )
    staged_lr: bool = setting(False, FLAG, 'a lower learning rate outside new_layers')
    new_layers: list[str] = setting(
        ['classifier'], ListOf(NAME), 'layers with the full learning rate'
    )
    base_lr_mult: float = setting(
        0.1, Number(0, 1_000), 'factor of the learning rate of all other layers'
    )
    lr_scheduler: str = setting(
        'single_step', OneOf(('single_step', 'multi_step', 'cosine')), 'how the learning rate falls'
    )
    stepsize: list[int] = setting(
        [20],
        ListOf(INTERVAL, least=1),
        'epochs between two steps of the rate; multi_step: the epoch of each step',
    )
    gamma: float = setting(0.1, Number(0, 1), 'factor of the learning rate at a step')
    print_freq: int = setting(20, INTERVAL, 'batches between two lines of the log')
    seed: int = setting(1, SEED, 'seed of all random choices')


@dataclass(frozen=True)
class SGD:
    """The section ``sgd``."""

    momentum: float = setting(0.9, DECAY, 'momentum')
    dampening: float = setting(0.0, Number(0, 1), 'dampening of the momentum')
    nesterov: bool = setting(False, FLAG, "Nesterov's momentum")


@dataclass(frozen=True)
class RMSprop:
    """The section ``rmsprop``."""

    alpha: float = setting(0.99, DECAY, 'smoothing of the mean of squared gradients')


@dataclass(frozen=True)
class Adam:
    """The section ``adam``."""

    beta1: float = setting(0.9, DECAY, 'decay of the mean of the gradients')
    beta2: float = setting(0.999, DECAY, 'decay of the mean of the squared gradients')


@dataclass(frozen=True)
class Loss:
    """The section ``loss``."""

    name: str = setting('softmax', OneOf(('softmax', 'triplet')), 'the recipe')


@dataclass(frozen=True)
class Softmax:
    """The section ``loss.softmax``."""

    label_smooth: bool = setting(True, FLAG, 'label smoothing 0.1 of the cross-entropy')


@dataclass(frozen=True)
class Triplet:
    """The section ``loss.triplet``."""

    margin: float = setting(0.3, WEIGHT, 'margin of the hinge of loss.name triplet')
    weight_t: float = setting(1.0, WEIGHT, 'weight of the triplet terms')
    weight_x: float = setting(
        0.0, WEIGHT, 'weight of the cross-entropy terms added to the triplet terms'
    )


@dataclass(frozen=True)
class Test:
    """The section ``test``."""

    batch_size: int = setting(100, COUNT, 'clips (or images) in a batch')
    dist_metric: str = setting('euclidean', OneOf(('euclidean', 'cosine')), 'distance of features')
    normalize_feature: bool = setting(False, FLAG, 'features to length 1 before the distance')
    ranks: list[int] = setting([1, 5, 10, 20], ListOf(INTERVAL, least=1), 'ranks of the CMC')
    evaluate: bool = setting(False, FLAG, 'test only')
    # -1 and 0: only at the end
    eval_freq: int = setting(-1, Whole(-1, 1_000_000), 'epochs between evaluations; -1 at the end')
    start_eval: int = setting(0, EPOCHS, 'first epoch to evaluate after')
    rerank: bool = setting(False, FLAG, 'k-reciprocal re-ranking (test only)')
    visrank: bool = setting(False, FLAG, 'write pictures of ranked results (test only)')
    visrank_topk: int = setting(10, Whole(1, 10_000), 'how many results a picture shows')
