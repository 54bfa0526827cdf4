"""Outputs of a model and identities → the loss that is differentiated and its terms by name.

Around an objective stand precision, processes and steps (``trainer.py``); it sees the outputs of
the whole batch, in float32 at least.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
import torchreid
from torch import Tensor, nn

from stmn_plugin.errors import InputError
from stmn_plugin.losses import BatchHardTripletLoss
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.encoder import wide

Outputs: TypeAlias = Tensor | tuple[Tensor, ...] | list[Tensor]


class BatchLoss(NamedTuple):
    total: Tensor  # scalar, what is differentiated
    terms: dict[str, Tensor]  # scalars to log, the total among them where there are several


class Objective:
    """What a :class:`.trainer.Trainer` minimises."""

    def __init__(self, model: nn.Module, triplet_weight: float):
        self.model = model
        self.triplet_weight = triplet_weight  # of a positive one a batch needs two identities

    @property
    def ddp_options(self) -> Mapping[str, Any]:
        """Of torch's DDP; some models hold parameters that no output needs."""
        return {'static_graph': True}

    def inputs(self, images: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """What the model takes of a batch (B, L, 3, H, W), and the identity of each output row."""
        return images, pids

    def __call__(self, outputs: Any, pids: Tensor) -> BatchLoss:
        """
        Args:
            outputs: of the model in training mode, of the whole batch.
            pids: their identities.

        Raises:
            InputError: outputs that the losses cannot be made of.
        """
        raise NotImplementedError


class ClipObjective(Objective):
    """The losses of a :class:`VideoModel` on its clips, under the recipe of the config."""

    model: VideoModel

    def __init__(self, model: VideoModel, recipe: Recipe):
        super().__init__(model, recipe.triplet_weight)
        self.recipe = recipe
        model.spread_reach = recipe.spread_reach if recipe.spread_weight else 'all'

    def __call__(self, outputs: Any, pids: Tensor) -> BatchLoss:
        losses = self.model.losses(outputs, pids, self.recipe)
        total = torch.as_tensor(sum(losses.values()))
        with torch.no_grad():
            watched = self.model.logged(outputs)
        acc = accuracy(self.model.logits(outputs), pids)
        return BatchLoss(total, {'loss': total, **losses, **watched, 'acc': acc})


class FrameObjective(Objective):
    """The host's losses of an image model, frame by frame: every frame has its clip's identity.

    Args:
        model: of the host's factory; in training it gives logits, with a triplet loss logits and
            features. A list of either is averaged, as the host's deep supervision does.
        num_classes: training identities.
        margin: of the host's triplet loss.
        weight_t, weight_x: of triplet and cross-entropy; ``weight_t=None`` is the host's softmax
            engine, cross-entropy alone.
        label_smooth: of the cross-entropy.
        soft_margin: batch-hard triplet with a soft margin, of the paper's recipe, not the host's.
        use_gpu: where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        margin: float = 0.3,
        weight_t: float | None = 1.0,
        weight_x: float = 1.0,
        label_smooth: bool = True,
        soft_margin: bool = False,
        use_gpu: bool = False,
    ):
        super().__init__(model, weight_t or 0.0)
        self.weight_t = weight_t
        self.weight_x = weight_x
        self.cross_entropy = torchreid.losses.CrossEntropyLoss(
            num_classes=num_classes, use_gpu=use_gpu, label_smooth=label_smooth
        )
        hinge = torchreid.losses.TripletLoss(margin=margin)
        self.triplet = BatchHardTripletLoss() if soft_margin else hinge

    @property
    def ddp_options(self) -> Mapping[str, Any]:
        if self.weight_t == 0 or self.weight_x == 0:  # no loss needs the features, or the logits
            return {'find_unused_parameters': True}
        return {'static_graph': True}

    def inputs(self, images: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        if images.dim() == 5:
            pids = pids.repeat_interleave(images.shape[1])
            images = images.flatten(0, 1)  # (B*L, 3, H, W)
        return images, pids

    def __call__(self, outputs: Any, pids: Tensor) -> BatchLoss:
        if not isinstance(outputs, (Tensor, tuple, list)):
            raise InputError(
                f'model.name: in training the model gives a {type(outputs).__name__}; logits, '
                'or logits and features, are wanted as a tensor, tuple or list'
            )
        if self.weight_t is None:
            loss = averaged(self.cross_entropy, outputs, pids)
            return BatchLoss(loss, {'loss': loss, 'acc': accuracy(outputs, pids)})
        if isinstance(outputs, Tensor) or len(outputs) != 2:
            found = 'one tensor' if isinstance(outputs, Tensor) else f'{len(outputs)} outputs'
            raise InputError(
                f'model.name: the triplet loss wants logits and features, the model gives {found}'
            )
        logits, features = outputs
        total: Any = 0
        terms: dict[str, Tensor] = {}
        if self.weight_t > 0:
            terms['loss_t'] = averaged(self.triplet, features, pids)
            total = total + self.weight_t * terms['loss_t']
        if self.weight_x > 0:
            terms['loss_x'] = averaged(self.cross_entropy, logits, pids)
            total = total + self.weight_x * terms['loss_x']
            terms['acc'] = accuracy(logits, pids)
        return BatchLoss(total, terms)


def averaged(criterion: Any, outputs: Outputs, pids: Tensor) -> Any:
    """A criterion of one output, or its mean over several (the host's deep supervision)."""
    if isinstance(outputs, (tuple, list)):
        return torchreid.losses.DeepSupervision(criterion, outputs, pids)
    return criterion(outputs, pids)


def accuracy(outputs: Outputs, pids: Tensor) -> Tensor:
    """Per cent of the largest logits that are the right ones; of the first of several outputs."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return 100 * (logits.argmax(dim=1) == pids).float().mean()


def in_float32(tensor: Tensor) -> Tensor:
    """At least; numbers that are no fractions stay what they are."""
    if not tensor.is_floating_point():
        return tensor
    return wide(tensor)
