"""The settings of STMN, including those that reproduce the authors' released code.

docs/released-code.md lists the latter; ``configs/stmn_mars_released.yaml`` sets all of them.
"""

from dataclasses import dataclass

from stmn_plugin.config.rules import AUTO, FLAG, ITEMS, Number, OneOf, WordOr
from stmn_plugin.config.settings import setting

from ..encoder import EncoderConfig
from .memory import ADDRESSINGS, KEY_NORMALISATIONS


@dataclass(frozen=True)
class STMNConfig(EncoderConfig):
    """The section ``stmn``."""

    spatial_mode: str = setting(
        'memory', OneOf(('memory', 'none')), 'spatial memory, or none (Table 1)'
    )
    spatial_items: int = setting(10, ITEMS, 'M, items of the spatial memory')
    spatial_bn_scale: float = setting(
        0.0,
        Number(-100, 100),
        "initial scale of Eq. 3's BN; torch's own is 1",
        in_vectors=False,
    )
    temporal_mode: str = setting(
        'memory',
        OneOf(('memory', 'mlp', 'average')),
        'temporal memory, the MLP of Sec. 4.2, or the average (baseline)',
    )
    temporal_items: int = setting(
        5, ITEMS, 'N, items of the temporal memory; hidden size of the mlp'
    )
    similarity_scale: str | float = setting(
        AUTO,
        WordOr(AUTO, Number(0, 1_000_000, above=True)),
        'factor of the cosine similarities; auto: sqrt(D / items); 1.0: Eq. 1 to the letter',
    )
    attention_scale: float = setting(
        1.0,
        Number(0, 1_000_000, above=True),
        'factor of the temporal read-out before its softmax over the frames; 1.0 is the paper',
    )
    temporal_value_range: float = setting(
        1.0,
        Number(0, 1_000_000),
        'stored attentions start uniformly in [0, this); 0: from average pooling',
        in_vectors=False,
    )
    key_normalisation: str = setting(
        'item',
        OneOf(KEY_NORMALISATIONS),
        "what has length 1: each item's key (cosine, Eq. 1), or each channel over"
        " the items (authors' code, with similarity_scale 1)",
    )
    addressing: str = setting(
        'position',
        OneOf(ADDRESSINGS),
        'query of the spatial memory: the D channels of a position (Eq. 1), or D '
        'consecutive numbers of the map, D/K channels at all K positions '
        "(authors' code)",
    )
    stem_relu: bool = setting(
        True,
        FLAG,
        "ReLU between the encoder's first BN and max pooling (ResNet); False: authors' code",
    )
    frame_bnneck: str = setting(
        'clip',
        OneOf(('clip', 'frame')),
        "BNNeck of deep supervision on a clip's mean (Sec. 3.3), or on every "
        "frame, whose logits are averaged (authors' code)",
        in_vectors=False,
    )
