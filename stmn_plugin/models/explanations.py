"""The names that ``VideoModel.explain`` can return, with the shape and meaning of each.

An architecture returns those that it can compute. Figures, measures and the report page each need
some of these names and are available for models that return them. Other names are ignored.
Letters: B clips, L frames of a clip, S steps of attention, H W positions of a feature map, Y X
positions of an early map, P parts of a person, M spatial items, N temporal items, D channels, G
nodes of a graph.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor


class Explanation(NamedTuple):
    """The shape, origin and meaning of a tensor of ``explain``."""

    shape: str  # one letter per dimension
    part: str  # the part of a model that computes it: 'the model has no <part>'
    meaning: str


EXPLANATIONS: dict[str, Explanation] = {
    'attention': Explanation(
        'BL',
        'temporal attention',
        'weight of each frame in the feature of the clip, sums to 1 over the frames (o-hat)',
    ),
    'step_attention': Explanation(
        'BSL',
        'attention in steps',
        'weight of each frame at each step of a recurrent attention, sums to 1 over the frames',
    ),
    'quality': Explanation(
        'BL', 'quality of frames', 'quality of each frame between 0 and 1, before it is a weight'
    ),
    'part_attention': Explanation(
        'BLP',
        'temporal attention of parts',
        'weight of each frame in a part of the feature, sums to 1 over the frames',
    ),
    'frame_attention': Explanation(
        'BLL',
        'attention between frames',
        'weight of each frame (column) in the update of each frame (row), rows sum to 1',
    ),
    'part_maps': Explanation(
        'BLPHW',
        'spatial attention of parts',
        'weight of each position in a part of a frame, sums to 1 over the positions',
    ),
    'channel_attention': Explanation(
        'BLD',
        'attention of channels',
        'the same for every channel of the feature (D may be 1), sums to 1 over the frames',
    ),
    'temporal_probs': Explanation(
        'BN',
        'temporal memory',
        'matching probabilities of the clip with the temporal items, sum to 1 (A^t)',
    ),
    'temporal_values': Explanation(
        'BNL',
        'temporal memory',
        'what the temporal items store: attention before its softmax over the frames (v^t); the '
        'same for every clip, an expanded view',
    ),
    'spatial_probs': Explanation(
        'BLHWM',
        'spatial memory',
        'matching probabilities of each position with the spatial items, sum to 1 (A^s)',
    ),
    'spatial_values': Explanation(
        'BMD',
        'spatial memory',
        'what the spatial items store (v^s); the same for every clip, an expanded view',
    ),
    'energy_maps': Explanation(
        'BLHW', 'energy maps', 'how the energy of a frame spreads over its positions'
    ),
    'attention_received': Explanation(
        'BLHW',
        'attention between positions',
        'attention that a position receives from the positions of its group, mean 1 in the group',
    ),
    'erased': Explanation(
        'BLHW', 'erased positions', '1 where a position was erased from its frame, else 0'
    ),
    'found_before': Explanation(
        'BLHW',
        'earlier learners',
        'correlation of a position with the features of an earlier frame; 0 without one',
    ),
    'position_shares': Explanation(
        'BLHW',
        'bilinear descriptor',
        'share of each position in the descriptor of its frame, sums to 1, can be negative',
    ),
    'part_norms': Explanation(
        'BLHW', 'maps of body parts', 'length of the part vector of a position'
    ),
    'frame_norms': Explanation(
        'BLHW', 'feature maps of frames', 'length of the features of a position (|f^o|)'
    ),
    'refined_norms': Explanation(
        'BLHW', 'refined feature maps', 'the same after the refinement of the frame (|f^s|)'
    ),
    'change_norms': Explanation(
        'BLHW', 'refined feature maps', 'length of the change by the refinement (|f^s - f^o|)'
    ),
    'update_gates': Explanation(
        'BLHW',
        'recurrent gate',
        'how much of each position comes from its frame instead of those before, from 0 to 1, the '
        'mean over channels',
    ),
    'masks_conv4': Explanation(
        'BLHW', 'masks by co-segmentation', 'mask value of each position after conv4, from 0 to 1'
    ),
    'masks_conv5': Explanation(
        'BLHW', 'masks by co-segmentation', 'mask value of each position after conv5, from 0 to 1'
    ),
    'gates_conv4': Explanation(
        'BD', 'gates of channels', 'gate of each channel after conv4, from 0 to 1'
    ),
    'gates_conv5': Explanation(
        'BD', 'gates of channels', 'gate of each channel after conv5, from 0 to 1'
    ),
    'frame_feature': Explanation(
        'BD', 'feature maps of frames', 'features averaged over positions and frames (GAP of f^o)'
    ),
    'refined_feature': Explanation(
        'BD', 'refined feature maps', 'the same after the refinement (GAP of f^s)'
    ),
    'residual_attention': Explanation(
        'BLYX',
        'residual attention over frames',
        'factor of the first attention at each position of its Y x X map, averaged over the '
        'channels; 1 changes nothing (1/2 + m)',
    ),
    'graph_neighbours': Explanation(
        'BGG',
        'graph of body parts',
        'neighbours (1) of each node (row), else 0; nodes are the parts of all frames in order',
    ),
    'clip_feature': Explanation('BD', 'feature of a clip', 'output of the model in eval mode'),
}


def missing_part(needs: Iterable[str], names: Iterable[str]) -> str:
    """Say which part a model lacks to explain all of ``needs``; '' if it lacks none.

    Args:
        needs: names of tensors that are needed.
        names: names of tensors that the model returns.

    >>> missing_part(['attention', 'spatial_probs'], ['attention'])
    'the model has no spatial memory (spatial_probs)'
    """
    names = set(names)
    for name in needs:
        if name not in names:
            return f'the model has no {EXPLANATIONS[name].part} ({name})'
    return ''


def check_explained(explained: Mapping[str, Tensor], num_clips: int, seq_len: int) -> None:
    """Check the shapes of the tensors of an ``explain`` whose names are known.

    Raises:
        ValueError: the shape of a tensor does not fit its name, or the shapes of two disagree.
    """
    sizes = {'B': num_clips, 'L': seq_len}
    for name in [name for name in EXPLANATIONS if name in explained]:
        letters, shape = EXPLANATIONS[name].shape, tuple(explained[name].shape)
        expected: tuple[int, ...] = ()
        if len(shape) == len(letters):
            expected = tuple(
                size if letter == 'D' else sizes.setdefault(letter, size)  # features differ in size
                for letter, size in zip(letters, shape, strict=True)
            )
        if shape != expected:
            sizes_text = ', '.join(str(sizes.get(letter, letter)) for letter in letters)
            raise ValueError(f'explain: {name} has shape {shape}, not ({sizes_text})')
