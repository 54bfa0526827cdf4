"""The temporal memory and its variants: queries and refined vectors of frames → a clip's vector.

Letters are those of ``memory.py``.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import auto_scale, check_choices, cosine_probs


class TemporalOutput(NamedTuple):
    """The clip's vector, with the probabilities and weights from which it is computed."""

    output: Tensor  # (B, D) f^t, Eq. 7
    probs: Tensor | None  # (B, N) A^t, Eq. 5; None where there is no memory
    attention: Tensor  # (B, L) o-hat^t, sums to 1 over the frames


def attend(frame_vectors: Tensor, attention: Tensor) -> Tensor:
    """Sum the frames with weights (Eq. 7): (B, L, D) and (B, L) → (B, D)."""
    return torch.einsum('bl,bld->bd', attention, frame_vectors)


class TemporalMemory(nn.Module):
    """Temporal memory (Sec. 3.2, Eq. 4-7): a clip's pattern addresses stored attentions.

    Args:
        dim: D.
        num_items: N.
        seq_len: L, the length of the stored attentions.
        scale: similarity scale; None is :func:`auto_scale`.
        key_normalisation: see :func:`cosine_probs`.
        attention_scale: factor of the read-out before its softmax over the frames; Eq. 6 has none.
        value_range: the values start uniformly in [0, value_range), which the paper does not state.
            With 0 training starts from average pooling; until the values have moved, keys and
            queries get no gradient of L_ID.
    """

    def __init__(
        self,
        dim: int,
        num_items: int,
        seq_len: int,
        scale: float | None = None,
        key_normalisation: str = 'item',
        attention_scale: float = 1.0,
        value_range: float = 1.0,
    ):
        super().__init__()
        check_choices(key_normalisation)
        self.key_normalisation = key_normalisation
        self.attention_scale = float(attention_scale)
        self.scale = auto_scale(dim, num_items) if scale is None else float(scale)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.keys = nn.Parameter(torch.randn(num_items, dim))  # k^t
        self.values = nn.Parameter(value_range * torch.rand(num_items, seq_len))  # v^t

    def forward(self, clip_queries: Tensor, frame_vectors: Tensor) -> TemporalOutput:
        """Weight the frames of clips.

        Args:
            clip_queries: GAP(q^t) of every frame, shape (B, L, D).
            frame_vectors: GAP(f^s) of every frame, shape (B, L, D).

        Raises:
            ValueError: the shapes differ, or clips differ in length from the stored attentions.
        """
        _check_clips(clip_queries, frame_vectors, self.values.shape[1])
        probs = self.address(clip_queries)  # (B, N)
        read_out = probs @ self.values  # (B, L), o^t of Eq. 6
        attention = F.softmax(self.attention_scale * read_out, dim=1)  # (B, L)
        return TemporalOutput(attend(frame_vectors, attention), probs, attention)

    def address(self, clip_queries: Tensor) -> Tensor:
        """Compute A^t (Eq. 5) of GAP(q^t) of every frame (B, L, D): (B, N)."""
        pattern = encode_pattern(self.lstm, clip_queries)  # (B, D)
        return cosine_probs(pattern, self.keys, self.scale, self.key_normalisation)


class TemporalMLP(nn.Module):
    """The variant of Sec. 4.2: two layers D x N and N x L regress the attention, no memory.

    It has as many parameters as the memory with the same N; ``num_items=512`` is the paper's
    larger variant.
    """

    def __init__(self, dim: int, num_items: int, seq_len: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.hidden = nn.Linear(dim, num_items, bias=False)
        self.regress = nn.Linear(num_items, seq_len, bias=False)

    def forward(self, clip_queries: Tensor, frame_vectors: Tensor) -> TemporalOutput:
        """As :meth:`TemporalMemory.forward`; ``probs`` is None."""
        _check_clips(clip_queries, frame_vectors, self.regress.out_features)
        pattern = encode_pattern(self.lstm, clip_queries)  # (B, D)
        attention = F.softmax(self.regress(F.relu(self.hidden(pattern))), dim=1)  # (B, L)
        return TemporalOutput(attend(frame_vectors, attention), None, attention)


class TemporalAverage(nn.Module):
    """Temporal average pooling, the baseline of Table 1; takes clips of any length."""

    def forward(self, clip_queries: Tensor | None, frame_vectors: Tensor) -> TemporalOutput:
        """As :meth:`TemporalMemory.forward`; ``clip_queries`` is not used and may be None."""
        num_clips, seq_len, _ = frame_vectors.shape
        attention = frame_vectors.new_full((num_clips, seq_len), 1 / seq_len)
        return TemporalOutput(frame_vectors.mean(dim=1), None, attention)


def encode_pattern(lstm: nn.LSTM, clip_queries: Tensor) -> Tensor:
    """Compute the context q^t of clips (Eq. 4), the last hidden state: (B, L, D) → (B, D)."""
    hidden: Tensor
    # queries are a slice of vectors, whose strides would fix B in an exported program; the last
    # state is taken from all, as torch up to 2.10 traces the other result with a dimension too many
    hidden, _ = lstm(clip_queries.contiguous())  # (B, L, D)
    return hidden[:, -1]


def _check_clips(clip_queries: Tensor, frame_vectors: Tensor, seq_len: int) -> None:
    if frame_vectors.dim() != 3 or clip_queries.shape != frame_vectors.shape:
        raise ValueError(
            'expected clip_queries and frame_vectors of one shape (B, L, D), '
            f'got {tuple(clip_queries.shape)} and {tuple(frame_vectors.shape)}'
        )
    if frame_vectors.shape[1] != seq_len:
        raise ValueError(
            f'expected clips of {seq_len} frames (video.seq_len), got {frame_vectors.shape[1]}'
        )
