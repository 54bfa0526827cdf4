"""The host's engines with our run and their losses; ``VideoSTMNEngine`` trains video models."""

import torch
import torchreid

from stmn_plugin.distributed import gather, world_size
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.testing import RunSettings
from stmn_plugin.losses import BatchHardTripletLoss, Recipe
from stmn_plugin.models.sync_batch_norm import synchronize_outside_backbone
from stmn_plugin.nested import map_tensors

from .running import RunMixin

__all__ = [
    'ImageSoftmaxEngine',
    'ImageTripletEngine',
    'RunSettings',
    'VideoSTMNEngine',
    'VideoSoftmaxEngine',
    'VideoTripletEngine',
]


class VideoSTMNEngine(RunMixin, torchreid.engine.VideoTripletEngine):
    """Trains a video model: one clip, one forward, the losses of the whole batch.

    Args:
        datamanager (VideoDataManager): loaders of clips.
        model (VideoModel): on its device.
        optimizer (Optimizer), scheduler (LRScheduler, optional): the host's or torch's.
        use_gpu (bool): when there is one.
        **recipe_options: of :class:`stmn_plugin.losses.Recipe`.
    """

    ddp_options = {}

    def __init__(
        self, datamanager, model, optimizer, scheduler=None, use_gpu=True, **recipe_options
    ):
        check_clip_length(datamanager, model)
        super().__init__(datamanager, model, optimizer, scheduler=scheduler, use_gpu=use_gpu)
        self.recipe = Recipe(**recipe_options)
        if world_size() > 1:
            synchronize_outside_backbone(model)

    def losses(self, data):
        clips, pids = self.parse_data_for_train(data)
        with self.autocast():
            outputs = self.model(clips)
        outputs = map_tensors(in_float32, outputs)
        self.check_identities(pids, self.recipe.triplet_weight)
        # in a step self.model is a function that gives the outputs for the whole batch
        network = self.model if self.replica is None else self.replica.module
        terms = network.losses(outputs, pids, self.recipe)
        total = sum(terms.values())
        return total, {'loss': total, **terms, 'acc': accuracy(network.logits(outputs), pids)}

    def parse_data_for_train(self, data):
        self.bad_frames.extend(data.get('bad_frames', ()))
        pids = data['pid'].to('cuda' if self.use_gpu else 'cpu')
        return self.prepare(data['img'], data.get('augmentation')), gather(pids)

    def extract_features(self, input):
        return self.model(input)


class HostMixin(RunMixin):
    """What the engines of the host's image models share."""

    def parse_data_for_train(self, data):
        self.bad_frames.extend(data.get('bad_frames', ()))
        images = self.prepare(data['img'], data.get('augmentation'))
        images, pids = super().parse_data_for_train({**data, 'img': images})
        return images, gather(pids.to(images.device))

    def _forward(self, data):
        """Outputs of an image model of the host, in float32, and the identities."""
        images, pids = self.parse_data_for_train(data)
        with self.autocast():
            outputs = self.model(images)
        outputs = map_tensors(in_float32, outputs)
        if not isinstance(outputs, (torch.Tensor, tuple, list)):
            raise InputError(
                f'model.name: in training the model gives a {type(outputs).__name__}; logits, '
                'or logits and features, are wanted as a tensor, tuple or list'
            )
        return outputs, pids


class SoftmaxMixin(HostMixin):
    """The losses of the host's softmax engines."""

    def losses(self, data):
        outputs, pids = self._forward(data)
        loss = self.compute_loss(self.criterion, outputs, pids)
        return loss, {'loss': loss, 'acc': accuracy(outputs, pids)}


class TripletMixin(HostMixin):
    """The losses of the host's triplet engines."""

    def losses(self, data):
        outputs, pids = self._forward(data)
        if isinstance(outputs, torch.Tensor) or len(outputs) != 2:
            found = 'one tensor' if isinstance(outputs, torch.Tensor) else f'{len(outputs)} outputs'
            raise InputError(
                f'model.name: the triplet loss wants logits and features, the model gives {found}'
            )
        outputs, features = outputs
        self.check_identities(pids, self.weight_t)
        total, named = 0, {}
        if self.weight_t > 0:
            named['loss_t'] = self.compute_loss(self.criterion_t, features, pids)
            total = total + self.weight_t * named['loss_t']
        if self.weight_x > 0:
            named['loss_x'] = self.compute_loss(self.criterion_x, outputs, pids)
            total = total + self.weight_x * named['loss_x']
            named['acc'] = accuracy(outputs, pids)
        return total, named


class VideoTripletEngine(TripletMixin, torchreid.engine.VideoTripletEngine):
    """The host's engine for image models on video; ``soft_margin`` gives it STMN's triplet loss."""

    def __init__(
        self,
        datamanager,
        model,
        optimizer,
        margin=0.3,
        weight_t=1,
        weight_x=1,
        scheduler=None,
        use_gpu=True,
        label_smooth=True,
        pooling_method='avg',
        *,
        soft_margin=False,
    ):
        super().__init__(
            datamanager,
            model,
            optimizer,
            margin,
            weight_t,
            weight_x,
            scheduler,
            use_gpu,
            label_smooth,
            pooling_method,
        )
        if soft_margin:
            self.criterion_t = BatchHardTripletLoss()
        if self.weight_t == 0 or self.weight_x == 0:  # no loss needs the features, or the logits
            self.ddp_options = {'find_unused_parameters': True}


class VideoSoftmaxEngine(SoftmaxMixin, torchreid.engine.VideoSoftmaxEngine):
    """The host's engine."""


class ImageTripletEngine(TripletMixin, torchreid.engine.ImageTripletEngine):
    """The host's engine."""


class ImageSoftmaxEngine(SoftmaxMixin, torchreid.engine.ImageSoftmaxEngine):
    """The host's engine."""


def check_clip_length(datamanager, model):
    """InputError unless the clips of a data manager have the length that a model was built for."""
    served = getattr(getattr(datamanager, 'plan', None), 'seq_len', None)
    taken = getattr(model, 'seq_len', served)
    if served not in (None, taken) and not model.takes_any_length:
        raise InputError(
            f'video.seq_len: the model takes clips of {taken} frames and the data manager serves '
            f'{served}; register(seq_len={served}) builds it for those'
        )


def accuracy(outputs, pids):
    """Per cent of the largest logits that are the right ones; of the first of several outputs."""
    logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return 100 * (logits.argmax(dim=1) == pids).float().mean()


def in_float32(tensor):
    """At least; numbers that are no fractions stay what they are."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
