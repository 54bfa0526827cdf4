"""Seed all global random generators with numbers such as (seed, epoch, step).

What draws from them (dropout, the host's samplers and image augmentation) thereby becomes a
function of those numbers: nothing of a generator's state has to outlive a step.
"""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seed the generators of Python, numpy and torch, on every device, with numbers."""
    word = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)
    torch.manual_seed(word)


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the generators for a ``with`` block; afterwards restore those of the CPU."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_everything(*numbers)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextlib.contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Make torch compute the same thing the same way in the block, at some cost of speed.

    An operation that has no such way on the device gives torch's warning
    that names it, rather than an end to runs of the host's many architectures.
    """
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        cudnn.deterministic, cudnn.benchmark = flags
