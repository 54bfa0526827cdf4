"""Batches as loaders give them → finished images on the device of the model."""

import torch
from torch import Tensor

from .augmentation import Augmentation, BatchDraws
from .clips import Normalize


class Prepare:
    """Move images to the device and finish them there: augmented, normalised floats.

    Args:
        device_type: 'cuda' or 'cpu'.
        normalize: of uint8 images; without one all images are finished floats.
        augmentation: applied with the draws that come with a training batch.
    """

    def __init__(
        self,
        device_type: str,
        normalize: Normalize | None = None,
        augmentation: Augmentation | None = None,
    ):
        self.device_type = device_type
        self.normalize = normalize
        self.augmentation = augmentation

    def __call__(self, images: Tensor, draws: BatchDraws | None = None) -> Tensor:
        """(..., 3, H, W), uint8 or finished floats → floats on the device."""
        images = images.to(self.device_type, non_blocking=True)
        if images.dtype != torch.uint8 or self.normalize is None:
            return images
        if draws is not None and self.augmentation is not None:
            images = self.augmentation.apply(images, draws)
        return self.normalize(images)
