"""Compute features of images that the host's loaders read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.training.speed import autocast

from .features import TrackletFeatures


class ImageEmbedder:
    """Compute features of the images of the host's loaders.

    Args:
        model: a model on the device; it is set to eval mode.
        loaders: name of a list of images, such as 'market1501-query' → its loader.
        prepare: images → normalised images on the device.
        amp: precision of the model: 'off', 'bf16' or 'fp16'.
        flip: average with the mirrored images.
    """

    def __init__(
        self,
        model: nn.Module,
        loaders: Mapping[str, Iterable[dict[str, Any]]],
        prepare: Callable[[Tensor], Tensor],
        amp: str = 'off',
        flip: bool = False,
    ):
        self.model = model
        self.loaders = loaders
        self.prepare = prepare
        self.amp = amp
        self.flip = flip

    @torch.no_grad()
    def __call__(self, tracklets: Sequence[Tracklet], name: str) -> TrackletFeatures:
        """Compute features of the images of the loader ``name``, in order.

        Raises:
            InputError: a feature is not finite.
        """
        self.model.eval()
        parts, pids, camids = [], [], []
        for batch in tqdm(self.loaders[name], desc=name, unit='batch', leave=False, disable=None):
            parts.append(self._features(self.prepare(batch['img'])).cpu())
            pids.extend(batch['pid'].tolist())
            camids.extend(batch['camid'].tolist())
        features = torch.cat(parts)
        if not torch.isfinite(features).all():
            raise InputError(f'{name}: the model gives features that are NaN or infinite')
        return TrackletFeatures(features, np.array(pids), np.array(camids))

    def _features(self, images: Tensor) -> Tensor:
        with autocast(images.device.type, self.amp):
            features: Tensor = self.model(images).float()
            if self.flip:
                features = (features + self.model(images.flip(-1)).float()) / 2
        return features
