"""Image models of the host as video models, trained on the mean of a clip or frame by frame."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from stmn_plugin.losses.recipe import Recipe

from .base import VideoModel
from .heads import BNNeck, bias_free_classifier, full_precision, wide
from .image_models import black_frame_feature, build_image_model, check_feature


@dataclass(frozen=True)
class ImageModelConfig:
    """The image model and the size of its frames in pixels."""

    image_model: str  # a name in the host's factory
    height: int = 256
    width: int = 128


class FramePoolingOutput(NamedTuple):
    """Outputs that the losses need."""

    feature: Tensor  # (B, D) mean over the frames, before the BNNeck
    logits: Tensor  # (B, num_classes)


class FramePooling(VideoModel):
    """The paper's baseline with any backbone: features of frames, their mean, BNNeck, classifier.

    The losses are those of the clip, so an image model is trained on the same terms as other
    architectures. All layers of the host's model that compute its feature at test time are used;
    its own classifier has one class and is not trained.

    Args:
        num_classes: training identities.
        seq_len: L of still clips; the model takes clips of any length.
        config: the image model and the size of frames.
        pretrained: start from the ImageNet weights of the host's model.

    Raises:
        InputError: no such model, no weights, or it cannot process frames of this size.
    """

    Config = ImageModelConfig
    frame_once = True
    weighs_frames = True
    takes_any_length = True

    def __init__(
        self, num_classes: int, seq_len: int, config: ImageModelConfig, pretrained: bool = True
    ):
        super().__init__(num_classes, seq_len, config, pretrained)
        name = config.image_model
        self.image_model = build_image_model(name, num_classes=1, pretrained=pretrained)
        self.image_model.eval()
        feature = black_frame_feature(name, self.image_model, config.height, config.width, seq_len)
        self.feature_dim = check_feature(name, feature).shape[1]
        self.bnneck = BNNeck(self.feature_dim)
        self.classifier = bias_free_classifier(self.feature_dim, num_classes)
        self.train()

    def forward(self, clips: Tensor) -> Tensor | FramePoolingOutput:
        """Process normalised clips (B, L, 3, H, W) or images, see :meth:`VideoModel.forward`."""
        if clips.dim() == 4:  # the mean over a still clip is its frame
            vectors = self._features(clips).unsqueeze(1)
        else:
            clips = self.as_clips(clips)
            vectors = self._features(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        if not self.training:
            return self.embed(vectors)
        with full_precision(vectors.device.type):
            feature = vectors.mean(dim=1)
            return FramePoolingOutput(feature, self.classifier(self.bnneck(feature)))

    def losses(
        self, outputs: FramePoolingOutput, pids: Tensor, recipe: Recipe
    ) -> dict[str, Tensor]:
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
        }

    def backbone(self) -> nn.Module:
        return self.image_model

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Compute the image model's features (T, D) of frames (T, 3, H, W)."""
        return self._features(frames)

    def embed(self, vectors: Tensor) -> Tensor:
        """Apply the BNNeck to the mean of frame features (B, L, D): (B, D)."""
        with full_precision(vectors.device.type):
            features: Tensor = self.bnneck(vectors.mean(dim=1))
        return features

    def _features(self, frames: Tensor) -> Tensor:
        # the host's models return logits if their own training flag is set; their layers have
        # separate flags. Set here because the host's engine calls train() in every epoch
        self.image_model.training = False
        return features_of(self.image_model, frames)


class FrameByFrame(VideoModel):
    """An image model that the host trains frame by frame, as a video model for testing.

    Args:
        network: image model of the host that is trained and saved; in eval mode it returns
            features of frames.
        seq_len: L of still clips; the model takes clips of any length.
        pooling: 'avg' or 'max' pooling of the features over the frames of a clip.
    """

    frame_once = True
    takes_any_length = True

    def __init__(self, network: nn.Module, seq_len: int, pooling: str = 'avg'):
        super().__init__(0, seq_len, None)
        self.network = network
        self.pooling = pooling

    @property
    def weighs_frames(self) -> bool:  # type: ignore[override]
        return self.pooling == 'avg'

    def forward(self, clips: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError('this model is trained frame by frame: call its network')
        if clips.dim() == 4:
            return self.encode_frames(clips)
        clips = self.as_clips(clips)
        return self.embed(self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]))

    def backbone(self) -> nn.Module:
        return self.network

    def encode_frames(self, frames: Tensor) -> Tensor:
        return features_of(self.network, frames)

    def embed(self, vectors: Tensor) -> Tensor:
        return vectors.mean(dim=1) if self.pooling == 'avg' else vectors.amax(dim=1)


def features_of(image_model: nn.Module, frames: Tensor) -> Tensor:
    """Compute the features (T, D) of frames (T, 3, H, W), at least in float32."""
    if hasattr(image_model, 'use_gpu'):  # HACNN creates tensors on the device that this flag tells
        image_model.use_gpu = frames.is_cuda  # type: ignore[assignment]
    return wide(image_model(frames))
