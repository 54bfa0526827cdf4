"""Quantise the network of an ONNX export to int8, calibrated with crops, and measure its cost.

Static quantisation by onnxruntime: weights per channel, activations per tensor, whose ranges are
those of the calibration crops. Only the part that sees pixels is quantised.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stmn_plugin.data.clips import ClipTransform, Normalize
from stmn_plugin.data.frames import IMAGE_SUFFIXES, read_frame
from stmn_plugin.data.tracklets import Target
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import Embedder
from stmn_plugin.labels import natural_key
from stmn_plugin.models.base import VideoModel

from .export_formats import Run, open_onnx

CROPS = 256  # at most: half of them calibrate, the other half measure
BATCH = 16  # crops


class Cost(NamedTuple):
    """Changes of the outputs of a part by int8, on crops that did not calibrate it."""

    mean_cosine: float
    least_cosine: float
    outputs: int  # vectors of frames, or features of clips


def find_crops(folder: Path) -> list[Path]:
    """Find the images in a folder and its subfolders in natural order, but for hidden ones.

    Raises:
        InputError: there is none.
    """
    below = (path.relative_to(folder) for path in folder.rglob('*'))
    images = [
        path
        for path in below
        if path.name.lower().endswith(IMAGE_SUFFIXES)
        and not any(part.startswith('.') for part in path.parts)
    ]
    if not images:
        raise InputError(f'--int8 {folder}: no image in it')
    return [folder / path for path in sorted(images, key=lambda path: natural_key(str(path)))]


def inputs_of(crops: Sequence[Path], model: VideoModel) -> list[Tensor]:
    """Read crops as batches for the part that sees pixels.

    Returns:
        Two or more of normalised frames (16, 3, H, W), or of clips (B, L, 3, H, W) of crops that
        follow each other; crops repeat where there are too few.

    Raises:
        InputError: a crop that cannot be read.
    """
    spec = model.spec
    length = 1 if model.frame_once else spec.seq_len
    size = length * max(BATCH // length, 1)  # crops of a batch
    number = max(min(len(crops), CROPS) // size, 2)
    chosen = [crops[i * len(crops) // (number * size)] for i in range(number * size)]
    transform = ClipTransform(spec.height, spec.width, [], Normalize(spec.norm_mean, spec.norm_std))
    batches = []
    for start in range(0, len(chosen), size):
        frames = transform([read_frame(path) for path in chosen[start : start + size]])
        batches.append(frames if model.frame_once else frames.unflatten(0, (-1, length)))
    return batches


def quantise(file: Path, input: str, batches: Sequence[Tensor]) -> Cost:
    """Replace an ONNX file by one in int8.

    Args:
        file: in float32.
        input: its name.
        batches: of :func:`inputs_of`; every other one calibrates, the rest measure the cost.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # no types there
        def __init__(self) -> None:
            self.rows = ({input: batch.numpy()} for batch in batches[::2])

        def get_next(self) -> Any:
            return next(self.rows, None)

    smaller = file.with_name(f'{file.stem}.int8.onnx')
    quantization.quantize_static(file, smaller, Reader(), per_channel=True)
    before, after = open_onnx(file), open_onnx(smaller)
    cosines = torch.cat([torch.cosine_similarity(before(b), after(b)) for b in batches[1::2]])
    smaller.replace(file)
    return Cost(float(cosines.mean()), float(cosines.min()), len(cosines))


class ExportedModel(VideoModel):
    """Run the ONNX files of a folder in place of their model, for testing."""

    def __init__(self, model: VideoModel, folder: Path, manifest: dict[str, Any]):
        super().__init__(model.num_classes, model.seq_len, None)
        self.spec = model.spec
        self.frame_once = model.frame_once  # type: ignore[misc]  # as the model's class has it
        self.weighs_frames = model.weighs_frames  # type: ignore[misc]  # the same
        self.runs: dict[str, Run] = {
            part['name']: open_onnx(folder / part['file']) for part in manifest['parts']
        }

    def encode_frames(self, frames: Tensor) -> Tensor:
        return self.runs['frames'](frames)

    def embed(self, vectors: Tensor) -> Tensor:
        return self.runs['clips'](vectors)

    def forward(self, clips: Tensor) -> Tensor:
        return self.runs['clips'](clips)

    def finish(self, features: Tensor) -> Tensor:
        return self.runs['finish'](features) if 'finish' in self.runs else features


def labelled_data(root: str) -> Target:
    """Return query and gallery of own tracklets, see ``datasets/tracklets.py``.

    Raises:
        InputError: there are none, or no query has a match.
    """
    from stmn_plugin.datasets.listing import TEST_SPLITS  # imports the host
    from stmn_plugin.datasets.tracklets import find_source, read_own_tracklets

    (_, query, gallery), _ = read_own_tracklets(find_source(root), TEST_SPLITS)
    target = Target(query, gallery)
    if not target.count_matchable():
        raise InputError(f'--labelled {root}: no query has a match in the gallery')
    return target


def mean_ap(model: VideoModel, target: Target) -> float:
    """Compute mAP of one clip a tracklet, by Euclidean distance, with the official protocol."""
    from stmn_plugin.evaluation.evaluator import Evaluator  # imports scipy

    evaluator = Evaluator(model, Embedder(model), {'labelled': target})
    return float(evaluator.evaluate('labelled').ranking.mean_ap)
