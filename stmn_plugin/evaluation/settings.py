"""Settings of testing: the arguments of torchreid's ``test``, and further ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError


@dataclass
class TestSettings:
    """Settings for which the host's ``test`` has no argument."""

    __test__ = False  # not a test case of pytest, in spite of its name

    protocol: str = 'official'  # one of ``protocols.PROTOCOLS``
    plan: ClipPlan | None = None  # rule of division into clips; None: as in training
    flip: bool = False  # average with the mirrored clip
    batch_size: int = 32  # clips per batch
    features_dir: str = ''  # folder of stored vectors of frames
    amp: str = 'off'  # precision of encoding: off | bf16 | fp16
    fold_bn: bool = True  # fold batch norms of encoders into their convolutions
    compiled: bool = False  # compile the encoders
    verification: bool = False  # also measure true and false positive rates of pairs
    false_positive_rate: float = 1e-3  # of the threshold "likely"


@dataclass(frozen=True)
class TestOptions:
    """Keyword arguments of the host's ``Engine.test``, with its names and defaults."""

    __test__ = False

    dist_metric: str = 'euclidean'
    normalize_feature: bool = False
    visrank: bool = False
    visrank_topk: int = 10
    use_metric_cuhk03: bool = False
    ranks: Sequence[int] = (1, 5, 10, 20)
    rerank: bool = False

    def __post_init__(self) -> None:
        if self.use_metric_cuhk03:
            raise InputError('cuhk03.use_metric_cuhk03 is not supported: use the new split')
