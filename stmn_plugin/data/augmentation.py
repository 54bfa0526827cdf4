"""Augment clips: draw a few random numbers per clip in the worker, change pixels on the device.

The numbers are drawn with the generator of (seed, epoch, position); the pixels are changed in whole
batches, where that is fast. Letters: B clips, L frames, H W pixels.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from stmn_plugin.config import check_transforms


class Draws(NamedTuple):
    """The random numbers of a clip; the default of each value changes nothing."""

    boxes: NDArray[np.int64]  # (L, 4) top, left, height, width of the erased box; 0: none
    flip: bool = False
    offset: tuple[int, int] = (-1, -1)  # top, left of the crop in the enlarged clip; -1: no crop
    patch_seed: int = 0
    brightness: float = 1.0
    contrast: float = 1.0


class BatchDraws(Protocol):
    """:class:`Draws` of the clips of a batch, collated."""

    boxes: Tensor  # (B, L, 4)
    flip: Tensor  # (B,) bool
    offset: Sequence[Tensor]  # two (B,)
    patch_seed: Tensor  # (B,)
    brightness: Tensor  # (B,)
    contrast: Tensor  # (B,)


class Augmentation:
    """The host's training transforms, on clips.

    The host draws for every frame; here a clip is flipped, shifted and recoloured as a whole, which
    preserves motion. Erasing and patches are drawn per frame, as occlusions vary. Erased pixels get
    the mean colour (0 after normalisation).

    Args:
        names: names of ``data.transforms``, case-insensitive.
        height: height of the clips in pixels.
        width: width of the clips in pixels.
        mean: colour of erased boxes, three numbers from 0 to 1.

    Raises:
        InputError: an unknown name.
    """

    def __init__(self, names: str | Sequence[str], height: int, width: int, mean: Iterable[float]):
        self.names = check_transforms(names)
        self.height, self.width = height, width
        self.fill = [min(max(round(255 * value), 0), 255) for value in mean]
        self.patches = None
        if 'random_patch' in self.names:
            import torchreid  # slow to import, and no test needs it

            # its pool of patches is filled by the clips that this process reads
            self.patches = torchreid.data.transforms.RandomPatch()

    @property
    def batched(self) -> bool:
        """Whether there are transforms and all of them can run on the device."""
        return bool(self.names) and self.patches is None

    def draw(self, num_frames: int, rng: np.random.Generator) -> Draws:
        """Draw for one clip of ``num_frames`` frames from a ``numpy.random.Generator``."""
        draws = Draws(boxes=np.zeros((num_frames, 4), int))
        if 'random_flip' in self.names:
            draws = draws._replace(flip=rng.random() < 0.5)
        if 'random_crop' in self.names and rng.random() < 0.5:
            tall, wide = enlarged(self.height, self.width)
            top, left = rng.integers(tall - self.height + 1), rng.integers(wide - self.width + 1)
            draws = draws._replace(offset=(int(top), int(left)))
        if self.patches is not None:
            draws = draws._replace(patch_seed=int(rng.integers(2**63)))
        if 'color_jitter' in self.names:
            brightness, contrast = rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.15)
            draws = draws._replace(brightness=brightness, contrast=contrast)
        if 'random_erase' in self.names:
            for box in draws.boxes:
                if rng.random() < 0.5:
                    box[:] = erasing_box(self.height, self.width, rng) or 0
        return draws

    def apply(self, clips: Tensor, draws: BatchDraws) -> Tensor:
        """Augment a batch of clips without synchronising a GPU with the CPU.

        Args:
            clips: uint8, shape (B, L, 3, H, W), on any device; not changed.
            draws: random numbers of the clips, on the CPU.

        Returns:
            Clips of the same shape and type; the same tensor if there are no transforms.

        Raises:
            ValueError: ``clips`` is not a batch of uint8 clips.
        """
        if clips.dim() != 5 or clips.dtype != torch.uint8:
            raise ValueError(
                'expected uint8 clips of shape (B, L, 3, H, W), '
                f'got {clips.dtype} {tuple(clips.shape)}'
            )
        if 'random_flip' in self.names:
            clips = flip_clips(clips, draws.flip)
        if 'random_crop' in self.names:
            clips = shift_clips(clips, draws.offset)
        if self.patches is not None:
            clips = paste_patches(clips, draws.patch_seed, self.patches)
        if 'color_jitter' in self.names:
            clips = recolour_clips(clips, draws.brightness, draws.contrast)
        if 'random_erase' in self.names:
            clips = erase_boxes(clips, draws.boxes, self.fill)
        return clips

    def apply_to_clip(self, clip: Tensor, draws: Draws) -> Tensor:
        """Augment one clip (L, 3, H, W) with its uncollated draws."""
        return self.apply(clip[None], default_collate([draws]))[0]


def flip_clips(clips: Tensor, flip: Tensor) -> Tensor:
    """Mirror the clips (B, L, 3, H, W) for which ``flip`` (B,) is true."""
    flip = flip.to(clips.device, non_blocking=True).view(-1, 1, 1, 1, 1)
    return choose(byte_mask(flip), clips.flip(-1), clips)


def enlarged(height: int, width: int) -> tuple[int, int]:
    """Return the size to which the host's random crop enlarges a frame before cropping."""
    return round(height * 1.125), round(width * 1.125)


def shift_clips(clips: Tensor, offset: Sequence[Tensor]) -> Tensor:
    """Enlarge clips by an eighth and crop at ``offset``, two (B,) on the CPU; -1: unchanged."""
    height, width = clips.shape[-2:]
    size = enlarged(height, width)
    shifted = clips.clone()
    for clip, top, left in zip(shifted, *(axis.tolist() for axis in offset), strict=True):
        if top >= 0:
            # bilinear; torchvision rounds twice on a CPU, up to one grey level off a GPU
            large = TF.resize(clip, size, antialias=True)
            clip.copy_(large[..., top : top + height, left : left + width])
    return shifted


def paste_patches(
    clips: Tensor, seeds: Tensor, patches: Callable[[Image.Image], Image.Image]
) -> Tensor:
    """Apply the host's RandomPatch to each frame, seeding its generator for each clip."""
    state, pasted = random.getstate(), []
    try:
        for clip, seed in zip(clips, seeds.tolist(), strict=True):
            random.seed(seed)
            frames = [TF.pil_to_tensor(patches(TF.to_pil_image(frame))) for frame in clip]
            pasted.append(torch.stack(frames))
    finally:
        random.setstate(state)
    return torch.stack(pasted)


def recolour_clips(clips: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, then contrast, of clips (B, L, 3, H, W) by factors (B,).

    Brightness scales grey levels, contrast their distance to the mean luma of the frame; values are
    rounded to bytes in between, as in the host's transform.
    """
    brightness, contrast = (
        factor.to(clips.device, non_blocking=True).float().view(-1, 1, 1, 1, 1)
        for factor in (brightness, contrast)
    )
    clips = clips.float().mul_(brightness).clamp_(0, 255).to(torch.uint8)
    luma = TF.rgb_to_grayscale(clips)  # (B, L, 1, H, W), uint8
    # the sum of bytes is exact in float64, independent of the batch and the device
    mean = luma.mean(dim=(2, 3, 4), keepdim=True, dtype=torch.float64).float()
    clips = clips.float().mul_(contrast).add_(mean * (1 - contrast))
    return clips.clamp_(0, 255).to(torch.uint8)


def erase_boxes(clips: Tensor, boxes: Tensor, fill: Iterable[int]) -> Tensor:
    """Paint a box (top, left, height, width) of each frame, ``boxes`` (B, L, 4), in a colour."""
    height, width = clips.shape[-2:]
    boxes = boxes.to(clips.device, non_blocking=True)
    top, left, tall, wide = boxes.unsqueeze(-1).unbind(2)  # (B, L, 1) each
    y = torch.arange(height, device=clips.device)
    x = torch.arange(width, device=clips.device)
    rows = byte_mask((top <= y) & (y < top + tall))  # (B, L, H)
    columns = byte_mask((left <= x) & (x < left + wide))  # (B, L, W)
    inside = rows.unsqueeze(-1) & columns.unsqueeze(-2)  # (B, L, H, W)
    # created on the device: a tensor of Python numbers would be copied to the GPU
    colour = torch.stack([clips.new_full((1, 1), value) for value in fill])  # (3, 1, 1)
    return choose(inside.unsqueeze(2), colour, clips)


def byte_mask(condition: Tensor) -> Tensor:
    """Return 255 where a condition is true, 0 elsewhere."""
    return condition.to(torch.uint8).mul_(255)


def choose(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Select like ``torch.where``, which is many times slower for bytes on a CPU."""
    return (yes ^ no).bitwise_and_(mask).bitwise_xor_(no)


def erasing_box(
    height: int, width: int, rng: np.random.Generator, attempts: int = 100
) -> tuple[int, int, int, int] | None:
    """Draw a box (top, left, height, width) for random erasing (Zhong et al. 2017).

    Its area is 2 to 40 % of the frame, its aspect 0.3 to 1/0.3; None if no box fits in ``attempts``
    draws.
    """
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
