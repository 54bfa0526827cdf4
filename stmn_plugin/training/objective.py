"""Compute the loss that is minimised, and its terms by name, from outputs and identities.

Precision, processes and steps are the trainer's task (``trainer.py``); an objective gets the
outputs of the whole batch, in float32 at least.
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
from stmn_plugin.models.heads import wide

Outputs: TypeAlias = Tensor | tuple[Tensor, ...] | list[Tensor]


class BatchLoss(NamedTuple):
    """The loss of a batch."""

    total: Tensor  # scalar, minimised
    terms: dict[str, Tensor]  # scalars to log, including the total if there are several terms


class Objective:
    """The function that a :class:`.trainer.Trainer` minimises."""

    def __init__(self, model: nn.Module, triplet_weight: float):
        self.model = model
        self.triplet_weight = triplet_weight  # if positive, a batch needs two identities

    @property
    def ddp_options(self) -> Mapping[str, Any]:
        """Options of torch's DDP; some models have parameters that no output depends on."""
        return {'static_graph': True}

    def inputs(self, images: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """Convert a batch (B, L, 3, H, W) to the model's input and the identity of each output."""
        return images, pids

    def __call__(self, outputs: Any, pids: Tensor) -> BatchLoss:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model in training mode for the whole batch.
            pids: identities of the outputs.

        Raises:
            InputError: the losses cannot be computed from such outputs.
        """
        raise NotImplementedError


class ClipObjective(Objective):
    """The losses of a :class:`VideoModel` on clips, with the recipe of the config."""

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
    """The host's losses of an image model, frame by frame; a frame has its clip's identity.

    Args:
        model: model of the host's factory. In training it returns logits, or logits and features
            for a triplet loss. The losses of lists are averaged, as in the host's deep supervision.
        num_classes: training identities.
        margin: margin of the host's triplet loss.
        weight_t: weight of the triplet loss; None is the host's softmax engine with cross-entropy
            only.
        weight_x: weight of the cross-entropy.
        label_smooth: smooth the labels of the cross-entropy.
        soft_margin: use the batch-hard triplet loss with a soft margin, as in the paper's recipe,
            instead of the host's.
        use_gpu: whether the model is on a GPU.
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
        if self.weight_t == 0 or self.weight_x == 0:  # features or logits are unused
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
                f'model.name: in training the model gives a {type(outputs).__name__}; expected '
                'logits, or logits and features, as a tensor, tuple or list'
            )
        if self.weight_t is None:
            loss = averaged(self.cross_entropy, outputs, pids)
            return BatchLoss(loss, {'loss': loss, 'acc': accuracy(outputs, pids)})
        if isinstance(outputs, Tensor) or len(outputs) != 2:
            found = 'one tensor' if isinstance(outputs, Tensor) else f'{len(outputs)} outputs'
            raise InputError(
                f'model.name: the triplet loss needs logits and features, the model gives {found}'
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
    """Apply a criterion to an output, or average it over several (the host's deep supervision)."""
    if isinstance(outputs, (tuple, list)):
        return torchreid.losses.DeepSupervision(criterion, outputs, pids)
    return criterion(outputs, pids)


def accuracy(outputs: Outputs, pids: Tensor) -> Tensor:
    """Compute the top-1 accuracy in per cent, for the first of several outputs."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return 100 * (logits.argmax(dim=1) == pids).float().mean()


def in_float32(tensor: Tensor) -> Tensor:
    """Convert a floating-point tensor to float32 or keep a wider type; keep other tensors."""
    if not tensor.is_floating_point():
        return tensor
    return wide(tensor)
