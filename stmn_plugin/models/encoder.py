"""The encoder: frames → f^o, q^s and GAP(q^t) (Sec. 3.2), a trunk with a last stage per output.

The trunk is a convolutional network up to conv4 (a ResNet's ``layer3``). Each head starts from the
ImageNet weights of conv5 (``layer4``) with stride 1, so that 256x128 frames give 16x8 positions.
Other architectures use f^o alone, or run the stages themselves with modules of their own between
them. ``backbones.py`` splits each network into its stages.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stmn_plugin.config.rules import Text, WordOr
from stmn_plugin.config.sections import SHARED
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError

from .backbone_weights import load_backbone_weights
from .backbones import BACKBONES, Query, Stages, build_network
from .heads import global_average
from .map_shapes import SMALL_FRAME, shapes_through
from .timm_networks import TIMM, build_timm_network

BACKBONE = Text(
    'a network of docs/encoders.md, such as resnet50, mobilenet_v2 or timm:resnet50d',
    pattern='|'.join((*BACKBONES, rf'{TIMM}[\w.-]+')),
)

BLOCK_VERSIONS = 64  # compiled per channels, stride, map size, number of frames and mode


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of an encoder; the base of the config of architectures that have one."""

    backbone: str = setting('resnet50', BACKBONE, 'the convolutional network of the encoder')
    backbone_weights: str = setting(
        '',
        Text('a file or link', may_be_empty=True),
        "weights in place of torchvision's ImageNet weights: of that network, or "
        "a checkpoint's encoder",
        in_vectors=False,
    )
    backbone_sha256: str = setting(
        '',
        Text('64 hexadecimal digits', True, r'[0-9a-fA-F]{64}'),
        'SHA-256 that the file of backbone_weights must have',
        in_vectors=False,
    )


@dataclass(frozen=True)
class SharedEncoderConfig(EncoderConfig):
    """Settings of the encoder of an architecture compared with STMN, by default STMN's encoder."""

    backbone: str = setting(
        SHARED,
        WordOr(SHARED, BACKBONE),
        'network of the encoder; shared: stmn.backbone with stmn.backbone_weights',
    )
    backbone_weights: str = setting(
        '',
        Text('a file or link', may_be_empty=True),
        'weights of a backbone that is not shared, as stmn.backbone_weights',
        in_vectors=False,
    )


class FrameMaps(NamedTuple):
    """Outputs of an :class:`Encoder`; one whose head does not exist is None."""

    frame_features: Tensor  # (T, D, H, W) f^o, behind the network's last activation
    spatial_queries: Tensor | None  # (T, D, H, W) q^s
    temporal_queries: Tensor | None  # (T, D) GAP(q^t), all that Eq. 4 needs of q^t
    trunk: Tensor | None = None  # (T, C, H, W) of conv4, in training


class Encoder(nn.Module):
    """A convolutional network with one frame head and up to two query heads.

    With ``checkpoint_activations`` set, training stores only the maps between a few blocks and
    recomputes the others in the backward pass: the same gradients and statistics, less memory,
    more time.

    Args:
        backbone: one of BACKBONES, or ``timm:`` and a name of timm.
        spatial: build a head for q^s.
        temporal: build a head for q^t.
        pretrained: start from ImageNet weights, torchvision's own or ``weights``.
        weights: a file or link with the network's weights instead of torchvision's.
        sha256: expected digest of ``weights``.
        section: section of the config, for errors.
        stem_relu: keep the ResNet's ReLU between its first BN and the max pooling; the authors'
            released code has none.

    Raises:
        InputError: an unknown backbone, or weights that cannot be loaded or do not fit.
    """

    def __init__(
        self,
        backbone: str,
        spatial: bool = True,
        temporal: bool = True,
        pretrained: bool = True,
        weights: str = '',
        sha256: str = '',
        section: str = 'stmn',
        stem_relu: bool = True,
    ):
        super().__init__()
        if backbone.startswith(TIMM):
            network = build_timm_network(backbone, f'{section}.backbone')
        elif backbone in BACKBONES:
            network = build_network(backbone)
        else:
            known = ', '.join(BACKBONES)
            raise InputError(
                f'{section}.backbone: {backbone!r} is not one of {known}, or {TIMM}NAME'
            )
        if pretrained:
            load_backbone_weights(network, weights, sha256, section)
        self.name = backbone
        self.trunk, self.frame_head = network.trunk, network.last_stage
        if not stem_relu:
            if not isinstance(self.trunk[2], nn.ReLU):
                raise InputError(
                    f'{section}.stem_relu False: the stem of {backbone} has no ReLU as that of a '
                    'ResNet has'
                )
            self.trunk[2] = nn.Identity()
        query_head = network.family.query_head
        self.spatial_head = query_head(self.frame_head) if spatial else None
        self.temporal_head = query_head(self.frame_head) if temporal else None
        self.channels = {
            stage: tuple(shape[0] for shape in shapes)
            for stage, shapes in self.block_shapes(SMALL_FRAME).items()
        }
        self.dim = self.channels['conv5'][-1]  # D
        self.checkpoint_activations = False
        self._query = network.family.query

    @property
    def stem(self) -> nn.Sequential:
        """The layers before conv2: frames (T, 3, height, width) → maps of a half or a quarter."""
        return self.trunk[:-3]

    @property
    def conv2(self) -> nn.Sequential:
        """The first stage, a ResNet's ``layer1``: blocks on maps of a quarter of the frame."""
        return cast(nn.Sequential, self.trunk[-3])

    @property
    def conv3(self) -> nn.Sequential:
        """``layer2``, maps of an eighth of the frame's size."""
        return cast(nn.Sequential, self.trunk[-2])

    @property
    def conv4(self) -> nn.Sequential:
        """``layer3``, maps of a sixteenth."""
        return cast(nn.Sequential, self.trunk[-1])

    @property
    def conv5(self) -> nn.Sequential:
        """``layer4`` with stride 1: the head that gives f^o."""
        return self.frame_head

    def forward(self, frames: Tensor) -> FrameMaps:
        """Encode normalised frames (T, 3, height, width)."""
        maps = self.run(self._trunk_parts(), frames)  # conv4, (T, 1024, H, W) of a ResNet-50
        frame_features = self.run(self.frame_head, maps)
        return FrameMaps(frame_features, *self.queries(maps), maps if self.training else None)

    def queries(self, maps: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Map the output of conv4 to q^s and GAP(q^t), as :meth:`forward` does."""
        return (
            self._run_query_head(self.spatial_head, maps, query_block),
            self._run_query_head(self.temporal_head, maps, pooled_query_block),
        )

    def _trunk_parts(self) -> Iterator[nn.Module]:
        """Split the trunk into parts whose activations take about the same memory."""
        yield nn.Sequential(self.stem, self.conv2[0])
        yield from self.conv2[1:]
        for blocks, size in ((self.conv3, 2), (self.conv4, 3)):  # of half the height and width each
            for start in range(0, len(blocks), size):
                yield blocks[start : start + size]

    def _run_query_head(
        self,
        head: nn.Sequential | None,
        maps: Tensor,
        last_block: Callable[[Query, nn.Module, Tensor], Tensor],
    ) -> Tensor | None:
        if head is None:
            return None
        *blocks, last = head
        return self.run([*blocks, functools.partial(last_block, self._query, last)], maps)

    def block_shapes(self, frame_size: tuple[int, int]) -> dict[str, list[tuple[int, ...]]]:
        """Return the shapes (C, H, W) of the maps after each block, by the name of the stage.

        Args:
            frame_size: height and width of frames in pixels.
        """
        stages = Stages(list(self.stem), *map(list, (*self.trunk[-3:], self.frame_head)))
        shapes = shapes_through([block for stage in stages for block in stage], (3, *frame_size))
        rest = iter(shapes)
        return {
            name: [next(rest) for _ in blocks]
            for name, blocks in zip(Stages._fields, stages, strict=True)
        }

    def map_size(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Return H and W of the maps of conv4 and conv5 for frames (height, width) in pixels."""
        _, height, width = self.block_shapes(frame_size)['conv4'][-1]
        return height, width

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the encoder as :meth:`torch.nn.Module.compile` does, and each block separately.

        Architectures that run the stages themselves never call the encoder, so the blocks are
        compiled for them. A call of the encoder remains one graph.
        """
        super().compile(*args, **kwargs)
        for block in (*self.conv2, *self.conv3, *self.conv4, *self.conv5):
            block.compile(*args, **kwargs)
        # all blocks are versions of one function; by default torch compiles 8, then runs eagerly
        config: Any = torch._dynamo.config
        limit = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
        setattr(config, limit, max(getattr(config, limit), BLOCK_VERSIONS))

    def run(self, layers: Iterable[Callable[[Tensor], Tensor]], maps: Tensor) -> Tensor:
        """Run layers in order, such as those of a stage, with checkpoints if they are set."""
        for layer in layers:
            if self.checkpoint_activations and self.training:
                maps = checkpoint(
                    layer, maps, use_reentrant=False, context_fn=self._recomputation_contexts
                )
            else:
                maps = layer(maps)
        return maps

    def _recomputation_contexts(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of the first computation and of the second, which BN must ignore."""
        return contextlib.nullcontext(), still_statistics(self)


def shared_encoder(config: SharedEncoderConfig, section: str, pretrained: bool) -> Encoder:
    """Build the encoder of an architecture with a single head, f^o.

    Args:
        config: its settings. Loading a config replaces the backbone ``shared`` by that of STMN; a
            config that was not loaded gets STMN's default.
        section: section of the config, for errors.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: weights that cannot be loaded or do not fit.
    """
    backbone = EncoderConfig().backbone if config.backbone == SHARED else config.backbone
    return Encoder(
        backbone,
        spatial=False,
        temporal=False,
        pretrained=pretrained,
        weights=config.backbone_weights,
        sha256=config.backbone_sha256,
        section=section,
    )


def checkpoint_activations(model: nn.Module, name: str) -> None:
    """Set ``checkpoint_activations`` of every Encoder in a model.

    Args:
        model: any network.
        name: name of its architecture, for the error.

    Raises:
        InputError: the model has no Encoder.
    """
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    if not encoders:
        raise InputError(
            f'train.checkpoint_activations: {name} cannot, it has no Encoder as stmn has'
        )
    for encoder in encoders:
        encoder.checkpoint_activations = True


@contextlib.contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of a module's BNs unchanged in a ``with`` block."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()  # a copy to discard
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def query_block(query: Query, block: nn.Module, maps: Tensor) -> Tensor:
    """Run the last block without its last activation, so that queries can be negative."""
    return query(block, maps, False)


def pooled_query_block(query: Query, block: nn.Module, maps: Tensor) -> Tensor:
    """Average the output of :func:`query_block` over the positions (GAP): (T, D).

    After the block's last but one activation all layers are linear in eval mode, where BN is fixed,
    so the last convolution, if it is a 1x1, runs on the pooled map.
    """
    return global_average(query(block, maps, not block.training))
