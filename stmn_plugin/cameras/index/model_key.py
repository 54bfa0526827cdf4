"""Identify a model and its test settings, which decide whether features can be compared."""

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.plain_values import is_like

if TYPE_CHECKING:  # networks are slow to import, and a search among stored features needs none
    from stmn_plugin.evaluation.embedder import Embedder
    from stmn_plugin.models.base import VideoModel


@dataclass(frozen=True)
class ModelKey:
    """Everything that features depend on; features of different keys are never compared.

    Attributes:
        weights: SHA-256 of the model's weights and buffers.
        arch: name of the architecture.
        height, width: of a frame, pixels.
        seq_len: frames L of a clip.
        dim: numbers D of a feature.
        metric: 'cosine' or 'euclidean' (squared), what the model was tested with.
        normalized: features have length 1.
        frames, clips_per_tracklet, rrs_chunks, all_clips: the ``ClipPlan``.
        flip: averaged with the mirrored clips.
    """

    weights: str
    arch: str
    height: int
    width: int
    seq_len: int
    dim: int
    metric: str = 'cosine'
    normalized: bool = False
    frames: str = 'rrs'
    clips_per_tracklet: int = 1
    rrs_chunks: str = 'balanced'
    flip: bool = False
    all_clips: str = 'ceil'  # counts with frames 'all' only

    @classmethod
    def of(cls, model: 'VideoModel', **changes: Any) -> 'ModelKey':
        """Return the key of a model of ``load_model`` with the test settings of its run.

        Args:
            model: with its ``spec``.
            **changes: attributes to replace, such as ``frames='all'``.

        Raises:
            InputError: the model scores pairs itself, so there is no distance of features.
        """
        from stmn_plugin.config.kwargs import is_mirrored
        from stmn_plugin.evaluation.fingerprint import digest_of
        from stmn_plugin.evaluation.pair_scores import refuse_pair_scores

        spec = model.spec
        refuse_pair_scores(model, spec.arch)
        config = spec.config
        frames = 'all' if config['test.frames'] == 'all' else spec.sample_method
        frames = changes.get('frames', frames)
        key: dict[str, Any] = {
            'weights': digest_of(model),
            'arch': spec.arch,
            'height': spec.height,
            'width': spec.width,
            'seq_len': spec.seq_len,
            'dim': _dim(model, spec.height, spec.width),
            'metric': config['test.dist_metric'],
            'normalized': config['test.normalize_feature'],
            'frames': frames,
            'clips_per_tracklet': config['test.clips_per_tracklet'],
            'rrs_chunks': spec.rrs_chunks,
            'flip': is_mirrored(config['test.flip'], frames),
        }
        if frames == 'all':
            key['all_clips'] = config['test.all_clips']
        return cls(**key | changes)

    @property
    def has_unit_features(self) -> bool:
        """Whether features are kept with length 1: nothing else counts for the distance."""
        return self.normalized or self.metric == 'cosine'

    @property
    def plan(self) -> ClipPlan:
        """The rule by which tracklets are divided into clips."""
        return ClipPlan(
            self.seq_len, self.frames, self.clips_per_tracklet, self.rrs_chunks, self.all_clips
        )

    def embedder(self, model: 'VideoModel', device: str = 'cpu', **options: Any) -> 'Embedder':
        """Return the embedder of this key; ``options`` do not change features."""
        from stmn_plugin.evaluation.embedder import Embedder

        return Embedder(
            model,
            self.plan,
            device,
            flip=self.flip,
            height=self.height,
            width=self.width,
            **options,
        )

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> 'ModelKey':
        """Parse a text of :meth:`as_text`; raise ValueError or TypeError for anything else."""
        key = cls(**json.loads(text))
        for name, like in vars(cls('', '', 0, 0, 0, 0)).items():
            if not is_like(getattr(key, name), like):
                raise ValueError(f'{name} is {getattr(key, name)!r:.60}')
        return key

    def differences(self, other: 'ModelKey') -> str:
        """Describe what differs, for a message, this one's value first."""
        pairs = [(x.name, getattr(self, x.name), getattr(other, x.name)) for x in fields(self)]
        return ', '.join(
            f'{name} {str(one)[:16]} and not {str(two)[:16]}'
            for name, one, two in pairs
            if one != two
        )


def _dim(model: 'VideoModel', height: int, width: int) -> int:
    import torch

    device = next(model.parameters()).device
    clip = torch.zeros(1, model.seq_len, 3, height, width, device=device)
    with torch.no_grad():
        return int(model.eval().finish(model(clip)).shape[1])
