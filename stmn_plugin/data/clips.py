"""Tracklet → clip (L, 3, H, W): frames are chosen, read, resized and augmented as one clip.

Everything random about a clip is drawn from a generator of (seed, epoch, position in the epoch),
so it does not depend on the number of workers.
"""

import math
import random
from typing import NamedTuple

import numpy as np
import torch
import torchreid
import torchvision.transforms.v2.functional as TF
from torch.utils.data import Dataset, default_collate

from stmn_plugin.config import check_transforms
from stmn_plugin.errors import InputError

from .frames import read_clip


class ClipRequest(NamedTuple):
    """What a batch sampler asks for: a tracklet, and what its randomness depends on."""

    index: int
    epoch: int
    position: int  # of the clip in the epoch


class ClipDataset(Dataset):
    """Clips of tracklets.

    Args:
        tracklets (list): the host's 4-tuples (img_paths, pid, camid, dsetid).
        frame_sampler (callable): number of frames and generator → frame indices.
        transform (ClipTransform): frames and generator → clip.
        seed (int): of all randomness.
        skip_bad (bool): leave unreadable frames out instead of raising.

    An item is the host's dictionary ``img`` (L, 3, H, W), ``pid``, ``camid``, ``dsetid``, and
    ``bad_frames``, the paths left out. The key is a :class:`ClipRequest` (training) or a plain
    index (testing: nothing is random).
    """

    def __init__(self, tracklets, frame_sampler, transform, seed=0, skip_bad=False):
        self.tracklets = tracklets
        self.frame_sampler = frame_sampler
        self.transform = transform
        self.seed = seed
        self.skip_bad = skip_bad

    def __len__(self):
        return len(self.tracklets)

    def __getitem__(self, key):
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
        clip = self.transform([frames[row] for row in rows], rng)
        return {
            'img': clip,
            'pid': int(pid),
            'camid': int(camid),
            'dsetid': int(dsetid),
            'bad_frames': bad_frames,
        }


def collate_items(items):
    """Items → a batch as the host's loaders make it; ``bad_frames`` become one list."""
    bad_frames = [path for item in items for path in item.pop('bad_frames')]
    return {**default_collate(items), 'bad_frames': bad_frames}


class ClipTransform:
    """Resize and augment a clip; normalise it unless that is left to the device.

    The names are the host's. Where the host decides anew for every frame, a clip is flipped,
    shifted and recoloured as a whole, so that motion stays motion; erasing and patches are per
    frame, as occlusions are. Erased pixels take the mean colour (0 after normalising).

    Args:
        height, width (int): of the output, in pixels.
        names (list): of ``data.transforms``, case as you like; [] only resizes.
        normalize (Normalize): float conversion and its mean, which also fills erased boxes.
        as_uint8 (bool): leave the clip uint8, a quarter of the bytes; the caller normalises.

    Raises:
        InputError: unknown name.
    """

    def __init__(self, height, width, names, normalize, as_uint8=False):
        self.size = (height, width)
        self.names = check_transforms(names)
        self.normalize = normalize
        self.as_uint8 = as_uint8
        self.fill = torch.tensor(normalize.mean).mul(255).round().to(torch.uint8).view(3, 1, 1)
        self.patches = (
            torchreid.data.transforms.RandomPatch() if 'random_patch' in self.names else None
        )

    def __call__(self, frames, rng=None):
        """
        Args:
            frames (list): uint8 tensors (3, h, w), sizes may differ.
            rng (numpy.random.Generator, optional): None leaves out all augmentation.

        Returns:
            torch.Tensor: shape (L, 3, H, W), float32, or uint8 with ``as_uint8``.
        """
        if len({frame.shape for frame in frames}) == 1:
            clip = self._resize(torch.stack(frames))
        else:
            clip = torch.stack([self._resize(frame) for frame in frames])
        if rng is not None:
            clip = self._augment(clip, rng)
        return clip if self.as_uint8 else self.normalize(clip)

    def _resize(self, frames):
        if tuple(frames.shape[-2:]) == self.size:
            return frames
        return TF.resize(frames, self.size, antialias=True)  # bilinear

    def _augment(self, clip, rng):
        """One step per name; a step that is not asked for draws nothing."""
        if 'random_flip' in self.names and rng.random() < 0.5:
            clip = clip.flip(-1)
        if 'random_crop' in self.names and rng.random() < 0.5:
            clip = self._shift(clip, rng)
        if self.patches is not None:
            clip = self._paste_patches(clip, rng)
        if 'color_jitter' in self.names:
            clip = TF.adjust_brightness(clip, rng.uniform(0.8, 1.2))
            clip = TF.adjust_contrast(clip, rng.uniform(0.85, 1.15))
        if 'random_erase' in self.names:
            clip = clip.clone()
            for frame in clip:
                if rng.random() < 0.5 and (box := erasing_box(*self.size, rng)) is not None:
                    top, left, height, width = box
                    frame[:, top : top + height, left : left + width] = self.fill
        return clip

    def _shift(self, clip, rng):
        """The host's random crop: enlarge by an eighth, cut the size out anywhere."""
        height, width = self.size
        tall, wide = round(height * 1.125), round(width * 1.125)
        top, left = rng.integers(tall - height + 1), rng.integers(wide - width + 1)
        clip = TF.resize(clip, (tall, wide), antialias=True)
        return clip[..., top : top + height, left : left + width]

    def _paste_patches(self, clip, rng):
        """The host's own RandomPatch on each frame. Its pool of patches is filled by the clips this
        worker has seen, so this one augmentation does depend on the number of workers."""
        state = random.getstate()
        random.seed(int(rng.integers(2**63)))
        try:
            frames = [self.patches(TF.to_pil_image(frame)) for frame in clip]
        finally:
            random.setstate(state)
        return torch.stack([TF.pil_to_tensor(frame) for frame in frames])


class Normalize:
    """uint8 (..., 3, H, W) → float32, (x / 255 - mean) / std, on whatever device x is."""

    def __init__(self, mean, std):
        self.mean = [float(value) for value in mean]
        self.std = [float(value) for value in std]

    def __call__(self, images):
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=images.device)
        shift = torch.tensor(
            [m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device
        )
        return images.float().mul_(scale.view(3, 1, 1)).sub_(shift.view(3, 1, 1))


def erasing_box(height, width, rng, attempts=100):
    """A random box (top, left, height, width) of 2 to 40 % of the area and aspect 0.3 to 1/0.3
    (random erasing, Zhong et al. 2017); None when none fits in ``attempts`` draws."""
    for _ in range(attempts):
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            return (
                int(rng.integers(height - tall + 1)),
                int(rng.integers(width - wide + 1)),
                tall,
                wide,
            )
    return None
