"""A config → its architecture: the one place where a name becomes a network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stmn_plugin.config.checks import check_ranges
from stmn_plugin.config.recorded import recorded_settings
from stmn_plugin.config.sections import section_from

from .base import VIDEO_MODELS, VideoModel
from .frame_pooling import FrameByFrame, FramePooling, ImageModelConfig
from .image_models import build_image_model


@dataclass(frozen=True)
class ModelSpec:
    """What one must know of a trained model to use it."""

    arch: str
    height: int  # of a frame, pixels
    width: int
    seq_len: int  # L
    norm_mean: tuple[float, ...]  # of frames with values from 0 to 1
    norm_std: tuple[float, ...]
    sample_method: str  # how frames of a clip were chosen in training
    rrs_chunks: str
    config: Mapping[str, Any] = field(repr=False)  # full key → value of all of the training

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> 'ModelSpec':
        """Of full keys with values, as checkpoints hold them; later keys are at their default.

        Raises:
            InputError: a size that no config can hold.
        """
        config = recorded_settings(config)
        sizes = ('data.height', 'data.width', 'video.seq_len')
        check_ranges({key: config[key] for key in sizes})
        return cls(
            arch=config['model.name'],
            height=config['data.height'],
            width=config['data.width'],
            seq_len=config['video.seq_len'],
            norm_mean=tuple(config['data.norm_mean']),
            norm_std=tuple(config['data.norm_std']),
            sample_method=config['video.sample_method'],
            rrs_chunks=config['video.rrs_chunks'],
            config=config,
        )


def build_video_model(
    spec: ModelSpec, num_classes: int, pretrained: bool = True, use_gpu: bool = False
) -> VideoModel:
    """The architecture that a config names.

    Args:
        spec: of the config.
        num_classes: training identities.
        pretrained: start from ImageNet weights.
        use_gpu: an image model that is trained frame by frame will run there.

    Returns:
        A registered :class:`VideoModel`; for an image model of the host :class:`FramePooling` or,
        with ``video.image_models frames``, :class:`FrameByFrame` around what the host trains.

    Raises:
        InputError: no such architecture, or whatever it says of its settings.
    """
    config, seq_len = spec.config, spec.seq_len
    if spec.arch in VIDEO_MODELS:
        section = section_from(config, spec.arch)
        size = spec.height, spec.width
        return VIDEO_MODELS[spec.arch].build(num_classes, seq_len, size, section, pretrained)
    if config['video.image_models'] == 'clip':
        image = ImageModelConfig(spec.arch, spec.height, spec.width)
        return FramePooling(num_classes, seq_len, image, pretrained)
    # of an image model a recipe with a triplet wants features and logits
    loss = 'softmax' if config['loss.name'] == 'softmax' else 'triplet'
    network = build_image_model(spec.arch, num_classes, loss, pretrained, use_gpu)
    return FrameByFrame(network, seq_len, config['video.pooling_method'])
