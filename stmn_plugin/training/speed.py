"""Speed up training and testing: precision, memory layout, compilation, folding.

By default everything is off or exact. ``train.amp`` and ``train.tf32`` change the precision; the
other options change only the order of computation.
"""

import contextlib
import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stmn_plugin.errors import InputError
from stmn_plugin.models import VideoModel
from stmn_plugin.models.encoder import Encoder
from stmn_plugin.models.folding import FoldedEncoders
from stmn_plugin.models.heads import wide

logger = logging.getLogger(__name__)

M_MMAP_THRESHOLD = -3  # of malloc.h
AMP_DTYPES = {'off': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def autocast(device_type: str, amp: str) -> AbstractContextManager[object]:
    """Return a context of mixed precision.

    Args:
        device_type: 'cuda' or 'cpu'.
        amp: a key of AMP_DTYPES.
    """
    if amp == 'off':
        return contextlib.nullcontext()
    return torch.autocast(device_type, AMP_DTYPES[amp])


@contextlib.contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Set in a ``with`` block whether a GPU rounds factors of products and convolutions to TF32.

    torch's own default is to do so in convolutions only.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    set_tf32(enabled)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


def set_tf32(enabled: bool) -> None:
    """Set what :func:`tf32` sets, for the life of the process."""
    torch.set_float32_matmul_precision('high' if enabled else 'highest')
    torch.backends.cudnn.allow_tf32 = enabled


def use_channels_last(model: nn.Module) -> None:
    """Convert weights of 2D convolutions to ``channels_last``; torch's ``to`` rejects 3D ones."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def same_shapes() -> Iterator[None]:
    """Let cuDNN choose its fastest algorithms in a ``with`` block with batches of one shape."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = not cudnn.deterministic
    try:
        yield
    finally:
        cudnn.benchmark = before


def with_fused_steps(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer with fused steps (one kernel for all weights) if torch has them.

    SGD with a dampened momentum keeps its own steps, whose first one is not dampened.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.SGD):
        return optimizer  # the host's RAdam, and RMSprop, have none
    if any(group.get('momentum') and group['dampening'] for group in optimizer.param_groups):
        return optimizer
    for group in optimizer.param_groups:
        group.update(fused=True, foreach=False)
    kind: Callable[..., Optimizer] = type(optimizer)
    fused = kind(optimizer.param_groups, fused=True)
    if kind is torch.optim.SGD:
        fused.register_step_pre_hook(_start_momentum)
    return fused


def _start_momentum(optimizer: Optimizer, *_: object) -> None:
    """Give weights without a momentum one of zeros.

    torch's kernel fails where only some weights have one, as after ``train.fixbase_epoch``. Where
    none has, it takes uninitialised memory for it if the first step is skipped for an overflow.
    """
    for group in optimizer.param_groups:
        for weight in group['params'] if group['momentum'] else ():
            if weight.grad is not None and 'momentum_buffer' not in optimizer.state[weight]:
                optimizer.state[weight]['momentum_buffer'] = torch.zeros_like(weight)


def compile_in_place(model: nn.Module) -> None:
    """Compile the backbone of a video model, or all of another model; names of weights stay.

    A part that torch.compile cannot compile (no C++ compiler, no Triton, an unknown operation)
    runs in eager mode, with a warning.
    """
    part = model.backbone() if isinstance(model, VideoModel) else model
    # a backbone of several networks is never called as a whole
    encoders: list[nn.Module] = [m for m in part.modules() if isinstance(m, Encoder)]
    for network in encoders or [part]:
        network.compile(backend=_inductor_or_eager)


def _inductor_or_eager(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    from torch._dynamo import lookup_backend  # slow to import, and needed here only
    from torch._functorch import config

    # also compile the backward pass now, not when it first runs
    early = 'force_non_lazy_backward_lowering'
    try:
        with config.patch({early: True}) if hasattr(config, early) else contextlib.nullcontext():
            return lookup_backend('inductor')(graph, inputs)
    except Exception as error:  # of many types; an error of the graph itself appears in eager mode
        reason = ' '.join(str(error).split())[:200]
        kind = type(error).__name__
        logger.warning(f'train.compile: not compiled, running in eager mode: {kind}: {reason}')
        return graph.forward


def return_freed_memory() -> None:
    """Make glibc return the memory of large freed tensors to the system at once.

    By default it keeps blocks of up to 32 MiB, which for maps of many sizes is a sixth of the
    memory of a step on a CPU. Smaller blocks are kept because allocating them again is slow. Other
    C libraries do not need this and ignore it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 20 << 20)


def check_amp(amp: str, key: str, use_gpu: bool) -> None:
    """Raise InputError if the device cannot compute in that precision."""
    if use_gpu and amp == 'bf16' and not torch.cuda.is_bf16_supported():
        raise InputError(f'{key} bf16: this GPU has no bfloat16, use fp16')


class InferenceModel:
    """A video model that encodes frames or clips for testing.

    Args:
        model: a model in eval mode.
        device_type: type of its device, 'cuda' or 'cpu'.
        amp: a key of AMP_DTYPES.
        fold: fold the batch norms of every :class:`Encoder` in it; those of other networks are not
            folded, because it is unknown which convolution they follow.
        compiled: compile the folded encoders; other backbones are not compiled here.
    """

    def __init__(
        self,
        model: VideoModel,
        device_type: str,
        amp: str = 'off',
        fold: bool = True,
        compiled: bool = False,
    ):
        self.model = model
        self.device_type = device_type
        self.amp = amp
        is_network = isinstance(model, nn.Module)  # else frames of an image model, pooled
        self.folded = FoldedEncoders(model) if fold and is_network else None
        if self.folded is not None and compiled:
            self.folded.compile(_inductor_or_eager)

    def refresh(self) -> None:
        """Update the folded encoders from the model's current weights."""
        if self.folded is not None:
            self.folded.refold()

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode frames (T, 3, H, W) to (T, V), at least in float32; needs ``frame_once``."""
        return self._run(self.model.encode_frames, frames)

    def encode_clips(self, clips: Tensor) -> Tensor:
        """Encode clips (B, L, 3, H, W) to features (B, D), at least in float32."""
        return self._run(self.model, clips)

    def _run(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        folded = contextlib.nullcontext() if self.folded is None else self.folded.in_model()
        with folded, autocast(self.device_type, self.amp):
            vectors = function(images)
        return wide(vectors)
