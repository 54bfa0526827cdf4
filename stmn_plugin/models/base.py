"""What an architecture is to all that trains, tests, explains and exports it.

An architecture is one file with one class, a :class:`VideoModel`. It knows clips and vectors, no
loss weights, no processes, no files. Letters: B clips, L frames, T = B*L frames, H W pixels, V
numbers of a frame, D numbers of a feature.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from stmn_plugin.config.sections import add_section
from stmn_plugin.losses.recipe import Recipe


class VideoModel(nn.Module):
    """A clip-level architecture.

    ``__init__`` takes the number of training identities, the frames L of a clip, an instance of
    :attr:`Config` and whether to start from ImageNet weights.
    """

    Config: ClassVar[type]
    """A frozen dataclass of ``config.setting`` fields: the keys of the section ``cfg.<name>``."""

    frame_once: ClassVar[bool] = False
    """Whether a clip can be put together from vectors of single frames."""

    weighs_frames: ClassVar[bool] = False
    """Whether :meth:`embed` is affine in the mean of the frames' vectors: in an all-frames test
    every frame then counts once, however often clips repeat it."""

    size_in_weights: ClassVar[bool] = False
    """Whether shapes of weights depend on the size of frames: ``__init__`` then takes the keyword
    ``frame_size``, (height, width) in pixels, and keeps it in :attr:`frame_size`."""

    frame_size: tuple[int, int] | None = None
    """Height and width of frames that the model was built for; None: it takes any."""

    takes_any_length: bool = False
    """Whether clips may have another length than the ``seq_len`` that the model was built for."""

    spread_reach: str = 'all'
    """How far the gradient of a memory spread loss goes, set by what trains the model: 'all', or
    with 'heads' not into the trunk that identification shares (``loss.spread.reach``)."""

    spec: Any = None
    """Of a model of ``load_model``: a ``ModelSpec``, what one must know to use it."""

    def __init__(self, num_classes: int, seq_len: int, config: Any, pretrained: bool = True):
        super().__init__()
        self.num_classes = num_classes
        self.seq_len = seq_len
        self.config = config

    @classmethod
    def build(
        cls,
        num_classes: int,
        seq_len: int,
        frame_size: tuple[int, int],
        config: Any,
        pretrained: bool = True,
    ) -> 'VideoModel':
        """An instance of any architecture: one that has no use for a size is given none."""
        size = {'frame_size': frame_size} if cls.size_in_weights else {}
        return cls(num_classes, seq_len, config, pretrained, **size)

    def forward(self, clips: Tensor) -> Any:
        """Normalised clips (B, L, 3, H, W) → features (B, D) in eval mode.

        In training mode a NamedTuple of tensors (or None) whose first dimension grows with the
        batch: on many processes they are gathered before :meth:`losses` sees them. Images
        (B, 3, H, W) are taken as still clips, see :meth:`as_clips`.
        """
        raise NotImplementedError

    def losses(self, outputs: Any, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Loss terms by name, weighted; their sum is trained.

        Args:
            outputs: of :meth:`forward` in training mode, of the whole batch, in float32 at least.
            pids: identities, (B,).
            recipe: the terms that architectures share, weighted as the config says.
        """
        raise NotImplementedError

    def logged(self, outputs: Any) -> dict[str, Tensor]:
        """Scalars by name that are logged with the loss terms and not trained."""
        return {}

    def logits(self, outputs: Any) -> Tensor:
        """Which logits (B, identities) of the outputs the logged accuracy is of."""
        logits: Tensor = outputs.logits
        return logits

    def backbone(self) -> nn.Module:
        """The part that is compiled and, with ``train.sync_bn``, synchronised."""
        raise NotImplementedError

    def memory_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate ``train.memory_lr_mult`` multiplies."""
        return ()

    def parts_of_losses(self) -> Iterable[nn.Module]:
        """Parts that run in :meth:`losses`, not in :meth:`forward`.

        On every process they see the whole batch, so that their batch norms are not synchronised.
        """
        return ()

    def encode_frames(self, frames: Tensor) -> Tensor:
        """With ``frame_once``, in eval mode: (T, 3, H, W) → what clips need of a frame, (T, V)."""
        raise NotImplementedError

    def embed(self, vectors: Tensor) -> Tensor:
        """With ``frame_once``, in eval mode: (B, L, V) → features (B, D)."""
        raise NotImplementedError

    def finish(self, features: Tensor) -> Tensor:
        """Features of tracklets (G, D), the means over their clips → those that are ranked."""
        return features

    # a score of pairs that is no distance of vectors: (Q, D), (G, D) → (Q, G), larger is nearer;
    # given chunks of queries and gallery. It is one of tracklets, or with join_scores of clips
    score_pairs: Callable[[Tensor, Tensor], Tensor] | None = None

    # scores of every clip of q tracklets with every clip of g others, (q, g, n, m) with n and m
    # clips a tracklet → scores of the tracklets (q, g), larger is nearer
    join_scores: Callable[[Tensor], Tensor] | None = None

    def pair_features(self, vectors: Tensor) -> Tensor:
        """With ``frame_once`` and :attr:`join_scores`: what :attr:`score_pairs` takes of clips.

        Of a model of whole clips it takes the features.

        Args:
            vectors: of :meth:`encode_frames`, (B, L, V).

        Returns:
            (B, D), D may depend on L.
        """
        return self.embed(vectors)

    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """What can be shown of clips (B, L, 3, H, W) in eval mode, by name.

        ``explanations.EXPLANATIONS`` has the names that figures, measures and the page of a run
        know, with shape and meaning; each of them is offered to the models that give what it
        needs. Every tensor is (B, ...), one entry a clip; what is the same for all clips, as the
        values of a memory, is an expanded view.
        """
        return {}

    def as_clips(self, clips: Tensor) -> Tensor:
        """Clips as they are; images (B, 3, H, W) as still clips, each image being all L frames.

        Raises:
            ValueError: another shape, or clips of another length or frames of another size than
                the model takes.
        """
        if clips.dim() == 4:
            clips = clips.unsqueeze(1).expand(-1, self.seq_len, -1, -1, -1)
        if clips.dim() != 5 or clips.shape[2] != 3:
            raise ValueError(
                'expected clips of shape (B, L, 3, H, W) or images of shape (B, 3, H, W), '
                f'got {tuple(clips.shape)}'
            )
        # in this order: an exported program may leave the length open
        if not self.takes_any_length and clips.shape[1] != self.seq_len:
            raise ValueError(
                f'expected clips of {self.seq_len} frames (video.seq_len), got {clips.shape[1]}'
            )
        size = tuple(clips.shape[3:])
        if self.frame_size is not None and size != self.frame_size:
            raise ValueError(
                f'expected frames of {self.frame_size[0]}x{self.frame_size[1]} pixels '
                f'(data.height, data.width), got {size[0]}x{size[1]}'
            )
        return clips


def fill_up(clips: Tensor, multiple: int) -> Tensor:
    """Repeat the last frame of clips (B, L, ...) until L is a multiple of a number.

    For architectures that take frames in groups; clips that fit stay as they are.
    """
    missing = -clips.shape[1] % multiple
    if missing == 0:
        return clips
    return torch.cat([clips, clips[:, -1:].expand(-1, missing, *clips.shape[2:])], dim=1)


Model = TypeVar('Model', bound=type[VideoModel])

VIDEO_MODELS: dict[str, type[VideoModel]] = {}
"""Registered architectures by name."""


def register_video_model(name: str) -> Callable[[Model], Model]:
    """Make a :class:`VideoModel` known as ``model.name`` and its keys as the section ``name``.

    Raises:
        ValueError: the name is taken by another class.
        TypeError: the class is no VideoModel, or has no Config.
    """

    def register(model: Model) -> Model:
        if not (isinstance(model, type) and issubclass(model, VideoModel)):
            raise TypeError(f'{model!r} is no VideoModel')
        known = VIDEO_MODELS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            model.__module__,
            model.__qualname__,
        ):
            raise ValueError(f'cannot register {name!r}: the name is taken by {known.__module__}')
        add_section(name, model.Config)
        VIDEO_MODELS[name] = model
        return model

    return register
