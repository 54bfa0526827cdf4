"""Bilinear pooling: outer products of two maps summed over positions, and their count sketch.

T.-Y. Lin, A. RoyChowdhury, S. Maji, "Bilinear CNN Models for Fine-grained Visual Recognition" (ICCV
2015); Y. Gao, O. Beijbom, N. Zhang, T. Darrell, "Compact Bilinear Pooling" (CVPR 2016). Letters: T
frames, K positions, Ca and Cp channels of vectors a and p, d dimensions of a sketch.
"""

import numpy as np
import torch
from torch import Tensor, nn


def bilinear(appearance: Tensor, parts: Tensor) -> Tensor:
    """Compute M = sum over k of a_k p_k^T: (T, Ca, K) and (T, Cp, K) → (T, Ca, Cp)."""
    return appearance @ parts.transpose(1, 2)


class CountSketch(nn.Module):
    """M (T, Ca, Cp) → c (T, d): entry (i, j) is added at (h1[i] + h2[j]) mod d, times s1[i] s2[j].

    The result equals the circular convolution of the sketches of a_k and p_k, summed over
    positions. Hashes are buffers, so checkpoints contain them; each is drawn by its own generator.

    Args:
        rows: Ca.
        columns: Cp.
        dim: d.
        seed: seed of the hashes; 1 gives those of Part-Aligned's released code.
    """

    h1: Tensor  # (Ca,) from 0 to d - 1
    s1: Tensor  # (Ca,) 1 or -1
    h2: Tensor  # (Cp,)
    s2: Tensor  # (Cp,)

    def __init__(self, rows: int, columns: int, dim: int, seed: int = 1):
        super().__init__()
        self.dim = dim
        for number, size in ((1, rows), (2, columns)):
            first = seed + 4 * (number - 1)
            places = np.random.RandomState(first).randint(dim, size=size)
            signs = 2 * np.random.RandomState(first + 2).randint(2, size=size) - 1
            self.register_buffer(f'h{number}', torch.tensor(places, dtype=torch.int64))
            self.register_buffer(f's{number}', torch.tensor(signs, dtype=torch.float32))

    def forward(self, products: Tensor) -> Tensor:
        signed = (products * self._signs()).flatten(1)  # (T, Ca*Cp)
        sketch = signed.new_zeros(signed.shape[0], self.dim)
        return sketch.index_add(1, self._places(), signed)

    def spread(self, sketches: Tensor) -> Tensor:
        """Apply the adjoint A of the sketch, (T, d) → (T, Ca, Cp): <c(M), x> = <M, A x>."""
        signs = self._signs()
        spread: Tensor = sketches[:, self._places()].unflatten(1, signs.shape) * signs
        return spread

    def _places(self) -> Tensor:
        return ((self.h1.unsqueeze(1) + self.h2) % self.dim).flatten()  # (Ca*Cp,)

    def _signs(self) -> Tensor:
        return self.s1.unsqueeze(1) * self.s2  # (Ca, Cp)
