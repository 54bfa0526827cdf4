"""How a model is tested: what torchreid's ``test`` takes, and what it has no argument for."""

from collections.abc import Sequence
from dataclasses import dataclass

from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.errors import InputError


@dataclass
class TestSettings:
    """What the host's ``test`` has no argument for."""

    __test__ = False  # no test case, whatever its name makes pytest think

    protocol: str = 'official'  # one of ``protocols.PROTOCOLS``
    plan: ClipPlan | None = None  # frames of a tracklet that are tested; None: as in training
    flip: bool = False  # average with the mirrored clip
    batch_size: int = 32  # clips at a time
    features_dir: str = ''  # where vectors of frames are kept
    amp: str = 'off'  # precision in which frames are encoded: off | bf16 | fp16
    fold_bn: bool = True  # with batch norms of encoders folded into their convolutions
    compiled: bool = False  # the model is
    verification: bool = False  # also how surely a distance tells the same person
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
