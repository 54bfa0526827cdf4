"""Read clips (L, 3, H, W) of tracklets: sample frames, decode, resize, augment and normalise.

All randomness of a clip comes from a generator of (seed, epoch, position in the epoch), so it does
not depend on the number of workers.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from stmn_plugin.errors import InputError

from .augmentation import Augmentation, BatchDraws, Draws
from .frames import read_clip
from .tracklets import Tracklet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ClipRequest(NamedTuple):
    """A batch sampler's key: a tracklet, and the numbers that determine its randomness."""

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    epoch: int
    position: int  # of the clip in the epoch


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips of tracklets.

    Args:
        tracklets: the host's 4-tuples (img_paths, pid, camid, dsetid).
        frame_sampler: number of frames and generator → frame indices.
        transform: frames and generator → clip.
        seed: seed of all randomness.
        skip_bad: skip unreadable frames instead of raising.

    An item is the host's dictionary with ``img`` (L, 3, H, W), ``pid``, ``camid`` and ``dsetid``,
    and with ``bad_frames``, the skipped paths; if the transform leaves augmentation to the device,
    also with its :class:`Draws` as ``augmentation``. The key is a :class:`ClipRequest` in training
    and an index in testing, which is deterministic.
    """

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        frame_sampler: Callable[..., NDArray[np.int64]],
        transform: 'ClipTransform',
        seed: int = 0,
        skip_bad: bool = False,
    ):
        self.tracklets = tracklets
        self.frame_sampler = frame_sampler
        self.transform = transform
        self.seed = seed
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.tracklets)

    def __getitem__(self, key: ClipRequest | int) -> dict[str, Any]:
        if isinstance(key, ClipRequest):
            # + 1: numpy pads seeds with zeros, and (seed, epoch) draws the batches
            index = key.index
            rng = np.random.default_rng((self.seed, key.epoch, key.position + 1))
        else:
            index, rng = key, None
        paths, pid, camid, dsetid = self.tracklets[index]
        if not paths:
            raise InputError(f'tracklet {index} of person {pid}, camera {camid} has no frames')
        chosen = self.frame_sampler(len(paths), rng=rng)
        frames, rows, bad_frames, _ = read_clip(paths, chosen, self.skip_bad)
        draws = None if rng is None else self.transform.augmentation.draw(len(rows), rng)
        item = {
            'img': self.transform([frames[row] for row in rows], draws),
            'pid': int(pid),
            'camid': int(camid),
            'dsetid': int(dsetid),
            'bad_frames': bad_frames,
        }
        if draws is not None and self.transform.leaves_augmentation:
            item['augmentation'] = draws
        return item


def collate_items(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate items into a batch in the host's format; ``bad_frames`` become one list."""
    bad_frames = [path for item in items for path in item.pop('bad_frames')]
    return {**default_collate(items), 'bad_frames': bad_frames}


class ClipTransform:
    """Resize a clip; augment and normalise it unless that is left to the device.

    Args:
        height: height of the output in pixels.
        width: width of the output in pixels.
        names: names of ``data.transforms``, see :class:`Augmentation`; [] only resizes.
        normalize: float conversion, whose mean also fills erased boxes.
        as_uint8: leave the clip uint8, a quarter of the bytes; the caller augments (see
            :attr:`leaves_augmentation`) and normalises.

    Raises:
        InputError: an unknown name.
    """

    def __init__(
        self,
        height: int,
        width: int,
        names: str | Sequence[str],
        normalize: 'Normalize',
        as_uint8: bool = False,
    ):
        self.size = (height, width)
        self.augmentation = Augmentation(names, height, width, normalize.mean)
        self.normalize = normalize
        self.as_uint8 = as_uint8

    @property
    def leaves_augmentation(self) -> bool:
        """Whether the caller must apply the draws, which are returned with the clip."""
        return self.as_uint8 and self.augmentation.batched

    def __call__(self, frames: list[Tensor], draws: Draws | None = None) -> Tensor:
        """Transform the frames of a clip.

        Args:
            frames: uint8 tensors (3, h, w) of any sizes.
            draws: random numbers of ``augmentation``; None skips it.

        Returns:
            Shape (L, 3, H, W), float32, or uint8 with ``as_uint8``.
        """
        if len({frame.shape for frame in frames}) == 1:
            clip = self._resize(torch.stack(frames))
        else:
            clip = torch.stack([self._resize(frame) for frame in frames])
        if draws is not None and not self.leaves_augmentation:
            clip = self.augmentation.apply_to_clip(clip, draws)
        return clip if self.as_uint8 else self.normalize(clip)

    def _resize(self, frames: Tensor) -> Tensor:
        if tuple(frames.shape[-2:]) == self.size:
            return frames
        resized: Tensor = TF.resize(frames, self.size, antialias=True)  # bilinear
        return resized


class Normalize:
    """uint8 (..., 3, H, W) → float32, (x / 255 - mean) / std, on the device of x."""

    def __init__(self, mean: Iterable[float], std: Iterable[float]):
        self.mean = [float(value) for value in mean]
        self.std = [float(value) for value in std]

    def __call__(self, images: Tensor) -> Tensor:
        images = images.float()
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            # Python numbers: copying a tensor of them would stall the GPU
            images[..., channel, :, :].mul_(1 / (255 * std)).sub_(mean / std)
        return images


class Prepare:
    """Move images to the device, and augment and normalise them there.

    Args:
        device_type: 'cuda' or 'cpu'.
        normalize: applied to uint8 images; None if all images are finished floats.
        augmentation: applied with the draws of a training batch.
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
        """Convert images (..., 3, H, W), uint8 or finished floats, to floats on the device."""
        images = images.to(self.device_type, non_blocking=True)
        if images.dtype != torch.uint8 or self.normalize is None:
            return images
        if draws is not None and self.augmentation is not None:
            images = self.augmentation.apply(images, draws)
        return self.normalize(images)
