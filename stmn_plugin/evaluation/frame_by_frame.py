"""An image model that was trained frame by frame → a video model for testing."""

from torch import Tensor, nn

from stmn_plugin.models.base import VideoModel


class FrameByFrame(VideoModel):
    """Features of frames, pooled over the clip; the network keeps its own names of weights.

    Args:
        network: of the host: images (T, 3, H, W) → features (T, D) in eval mode.
        seq_len: L.
        pooling: over the frames, 'avg' or 'max'.
    """

    frame_once = True
    takes_any_length = True

    def __init__(self, network: nn.Module, seq_len: int, pooling: str = 'avg'):
        super().__init__(0, seq_len, None)
        self.network = network
        self.pooling = pooling

    @property
    def weighs_frames(self) -> bool:
        return self.pooling == 'avg'

    def backbone(self) -> nn.Module:
        return self.network

    def forward(self, clips: Tensor) -> Tensor:
        clips = self.as_clips(clips)
        return self.embed(self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]))

    def encode_frames(self, frames: Tensor) -> Tensor:
        return self.network(frames)

    def embed(self, vectors: Tensor) -> Tensor:
        return vectors.mean(dim=1) if self.pooling == 'avg' else vectors.amax(dim=1)
