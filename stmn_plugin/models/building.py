"""Build the architecture that a config names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stmn_plugin.config.checks import check_ranges
from stmn_plugin.config.defaults import recorded_settings
from stmn_plugin.config.sections import section_from
from stmn_plugin.data.frame_samplers import ClipPlan

from .base import VIDEO_MODELS, VideoModel
from .frame_pooling import FrameByFrame, FramePooling, ImageModelConfig
from .image_models import build_image_model


@dataclass(frozen=True)
class ModelSpec:
    """The settings of a trained model that its users need."""

    arch: str
    height: int  # of a frame, pixels
    width: int
    seq_len: int  # L
    norm_mean: tuple[float, ...]  # of frames with values from 0 to 1
    norm_std: tuple[float, ...]
    sample_method: str  # how the frames of a clip were sampled in training
    rrs_chunks: str
    config: Mapping[str, Any] = field(repr=False)  # full key → value, all settings of the training

    @property
    def plan(self) -> ClipPlan:
        """One clip of each tracklet, by the sampling of the training."""
        return ClipPlan(self.seq_len, self.sample_method, rrs_chunks=self.rrs_chunks)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> 'ModelSpec':
        """Read a config as checkpoints hold it; keys added since then take their defaults.

        Args:
            config: full key → value.

        Raises:
            InputError: a size is out of its range.
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
    """Build the architecture that a config names.

    Args:
        spec: the settings, see :meth:`ModelSpec.from_config`.
        num_classes: training identities.
        pretrained: start from ImageNet weights.
        use_gpu: whether an image model that is trained frame by frame will run on a GPU.

    Returns:
        A registered :class:`VideoModel`; for an image model of the host :class:`FramePooling` or,
        with ``video.image_models frames``, :class:`FrameByFrame` around the host's network.

    Raises:
        InputError: no such architecture, or a setting that it does not accept.
    """
    config, seq_len = spec.config, spec.seq_len
    if spec.arch in VIDEO_MODELS:
        section = section_from(config, spec.arch)
        size = spec.height, spec.width
        return VIDEO_MODELS[spec.arch].build(num_classes, seq_len, size, section, pretrained)
    if config['video.image_models'] == 'clip':
        image = ImageModelConfig(spec.arch, spec.height, spec.width)
        return FramePooling(num_classes, seq_len, image, pretrained)
    # a recipe with a triplet loss needs features and logits of the image model
    loss = 'softmax' if config['loss.name'] == 'softmax' else 'triplet'
    network = build_image_model(spec.arch, num_classes, loss, pretrained, use_gpu)
    return FrameByFrame(network, seq_len, config['video.pooling_method'])
