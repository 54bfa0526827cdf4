"""Any image model of the host on clips: trained on the mean over the frames, or frame by frame."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from stmn_plugin.losses.recipe import Recipe

from .base import VideoModel
from .encoder import full_precision, wide
from .heads import BNNeck, bias_free_classifier
from .image_models import black_frame_feature, build_image_model, check_feature


@dataclass(frozen=True)
class ImageModelConfig:
    """Which image model, and the frames that it is to take."""

    image_model: str  # a name of the host's factory
    height: int = 256
    width: int = 128


class FramePoolingOutput(NamedTuple):
    feature: Tensor  # (B, D) mean over the frames, before the BNNeck
    logits: Tensor  # (B, num_classes)


class FramePooling(VideoModel):
    """The paper's baseline with any backbone: features of frames, their mean, BNNeck, classifier.

    The losses are those of the clip, so that an image model is trained on the same terms as other
    architectures. Of the host's model everything is used that makes its feature at test time; its
    own classifier is there, with one class, and is not trained.

    Args:
        num_classes: training identities.
        seq_len: L of still clips; clips of any length are taken.
        config: the image model and the size of frames.
        pretrained: start from the ImageNet weights of the host's model.

    Raises:
        InputError: no such model, no weights, or it cannot take such frames.
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
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
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
        """(T, 3, H, W) → the image model's features (T, D)."""
        return self._features(frames)

    def embed(self, vectors: Tensor) -> Tensor:
        """(B, L, D) → the BNNeck of their mean, (B, D)."""
        with full_precision(vectors.device.type):
            features: Tensor = self.bnneck(vectors.mean(dim=1))
        return features

    def _features(self, frames: Tensor) -> Tensor:
        # the host's models give logits while the flag of the model itself is set; its layers have
        # flags of their own. Set here, as the host's engine calls train() at every epoch
        self.image_model.training = False
        return features_of(self.image_model, frames)


class FrameByFrame(VideoModel):
    """An image model that the host trains frame by frame, as a video model for testing.

    Args:
        network: of the host; in eval mode it gives features of frames. What is trained and saved.
        seq_len: L of still clips; clips of any length are taken.
        pooling: 'avg' or 'max', of the features over the frames of a clip.
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
            raise RuntimeError('it is trained frame by frame: call its network')
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
    """Features (T, D), at least in float32."""
    if hasattr(image_model, 'use_gpu'):  # HACNN makes tensors where it was told that it will run
        image_model.use_gpu = frames.is_cuda  # type: ignore[assignment]
    return wide(image_model(frames))
