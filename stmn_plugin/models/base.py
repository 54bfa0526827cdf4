"""The interface of every architecture, through which it is trained, tested, explained and exported.

An architecture is one file with one class, a :class:`VideoModel`. It maps clips to features and
knows nothing of loss weights, processes or files. Letters: B clips, L frames, T = B*L frames, H W
pixels, V values per frame, D feature dimensions.
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
    """Whether the feature of a clip can be computed from vectors of its single frames."""

    weighs_frames: ClassVar[bool] = False
    """Whether :meth:`embed` is affine in the mean of the frames' vectors. An all-frames test then
    counts every frame once, however often clips repeat it, except with ``test.all_clips floor``."""

    size_in_weights: ClassVar[bool] = False
    """Whether shapes of weights depend on the frame size. ``__init__`` then takes the keyword
    ``frame_size``, (height, width) in pixels, and stores it in :attr:`frame_size`."""

    frame_size: tuple[int, int] | None = None
    """Height and width of the frames that the model was built for; None: any size."""

    takes_any_length: bool = False
    """Whether clips may differ in length from the ``seq_len`` that the model was built for."""

    spread_reach: str = 'all'
    """How far the gradient of a memory spread loss reaches, set by the trainer: 'all', or 'heads'
    to stop it before the trunk (``loss.spread.reach``)."""

    rescored: int = 0
    """How many of the nearest tracklets of a query a test orders anew by :meth:`rescore`; only
    with :attr:`frame_once`."""

    spec: Any = None
    """The ``ModelSpec`` of a model that ``load_model`` returned."""

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
        """Build the architecture; only one with :attr:`size_in_weights` gets the frame size."""
        size = {'frame_size': frame_size} if cls.size_in_weights else {}
        return cls(num_classes, seq_len, config, pretrained, **size)

    def forward(self, clips: Tensor) -> Any:
        """Map normalised clips (B, L, 3, H, W) to features (B, D) in eval mode.

        In training mode, return a NamedTuple of tensors (or None) whose first dimension grows with
        the batch; with several processes they are gathered before :meth:`losses` gets them. Images
        (B, 3, H, W) become still clips, see :meth:`as_clips`.
        """
        raise NotImplementedError

    def losses(self, outputs: Any, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Return the weighted loss terms by name; training minimises their sum.

        Args:
            outputs: outputs of :meth:`forward` in training mode for the whole batch, in float32 or
                wider.
            pids: identities, (B,).
            recipe: the loss terms that architectures share, with the weights of the config.
        """
        raise NotImplementedError

    def logged(self, outputs: Any) -> dict[str, Tensor]:
        """Return scalars by name that are logged with the loss terms but not trained."""
        return {}

    def logits(self, outputs: Any) -> Tensor:
        """Return the logits (B, identities) from which the logged accuracy is computed."""
        logits: Tensor = outputs.logits
        return logits

    def backbone(self) -> nn.Module:
        """Return the part that is compiled and, with ``train.sync_bn``, synchronised."""
        raise NotImplementedError

    def memory_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters whose learning rate ``train.memory_lr_mult`` multiplies."""
        return ()

    def parts_of_losses(self) -> Iterable[nn.Module]:
        """Return the parts that run in :meth:`losses`, not in :meth:`forward`.

        They process the whole batch on every process, so their batch norms are not synchronised.
        """
        return ()

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Map frames (T, 3, H, W) to vectors (T, V), in eval mode with ``frame_once``."""
        raise NotImplementedError

    def embed(self, vectors: Tensor) -> Tensor:
        """Map the frame vectors of clips (B, L, V) to features (B, D); see encode_frames."""
        raise NotImplementedError

    def finish(self, features: Tensor) -> Tensor:
        """Map tracklet features (G, D), means over clips, to the features that are ranked."""
        return features

    # scores pairs by something other than a distance of vectors: (Q, D), (G, D) → (Q, G), larger is
    # more similar; called with chunks of queries and gallery. It scores tracklets, or, with
    # join_scores, clips
    score_pairs: Callable[[Tensor, Tensor], Tensor] | None = None

    # scores of every clip of q tracklets with every clip of g others, (q, g, n, m) for n and m
    # clips per tracklet → scores of the tracklets (q, g), larger is more similar
    join_scores: Callable[[Tensor], Tensor] | None = None

    def pair_features(self, vectors: Tensor) -> Tensor:
        """Map frame vectors to the clip features that :attr:`score_pairs` takes.

        Called with ``frame_once`` and :attr:`join_scores` or :attr:`rescored`; for a model of
        whole clips :attr:`score_pairs` takes the features.

        Args:
            vectors: vectors of :meth:`encode_frames`, (B, L, V).

        Returns:
            (B, D); D may depend on L.
        """
        return self.embed(vectors)

    def rescore(self, query: Tensor, gallery: Tensor) -> Tensor:
        """Return what is added to the distances of P pairs of tracklets, (P,).

        Args:
            query: mean over the clips of a tracklet of :meth:`pair_features`, (P, D).
            gallery: the same of the other tracklet, (P, D).
        """
        raise NotImplementedError

    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return named tensors that show how clips (B, L, 3, H, W) are processed, in eval mode.

        ``explanations.EXPLANATIONS`` defines the names that figures, measures and the report page
        use, with shape and meaning; each of these is available for the models that return what it
        needs. Every tensor is (B, ...), one entry per clip; a tensor that is the same for all
        clips, such as the values of a memory, is an expanded view.
        """
        return {}

    def as_clips(self, clips: Tensor) -> Tensor:
        """Return clips unchanged; repeat each image (B, 3, H, W) as all L frames of a still clip.

        Raises:
            ValueError: another shape, or clips of a length or frames of a size that the model does
                not take.
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

    Used by architectures that process frames in groups. Clips of a suitable length are unchanged.
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
        TypeError: the class is not a VideoModel, or has no Config.
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
