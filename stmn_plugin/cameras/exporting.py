"""Export a trained model to files that run without this package, and compare each with the model.

A ``frame_once`` model becomes two files, frames → vectors and clips of vectors → features; any
other one becomes one file, clips → features. Batch norms of encoders are folded. The number of rows
is open in every file; the length of clips and the size of frames are where model and format allow.
"""

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stmn_plugin import __version__
from stmn_plugin.errors import InputError
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.folding import FoldedEncoders
from stmn_plugin.whole_files import whole_folder, write_errors

from .export_formats import FORMATS
from .quantising import ExportedModel, find_crops, inputs_of, labelled_data, mean_ap, quantise

TOLERANCE = 1e-4  # of the largest number of the model's own output
MANIFEST = 'manifest.json'
ROWS = (1, 5, 2)  # of the three batches that are compared; the traced one has 3
SAMPLING = {  # the i-th frame of the clip of a tracklet of F frames, i from 0 to L - 1
    'rrs, balanced': 'floor(i * F / L)',
    'rrs, ceil': 'min(i * ceil(F / L), F - 1)',
    'evenly': 'min(i * max(floor(F / L), 1), F - 1)',
    'consecutive': 'i mod F',
    'every_8th': 'i * (8 if F > 8 * (L - 1) else 4 if F > 4 * (L - 1) else 2 if F > 2 * (L - 1) '
    'else 1) mod F',
    'random': 'sort(numpy.random.default_rng(0).choice(F, L, replace=F < L))[i]',
}
ALL_FRAMES = {  # test.all_clips → number n of clips of all frames, and frame i of clip c
    'ceil': ('ceil(F / L)', 'c + n * floor(((i + 1) * ceil((F - c) / n) - 1) / L)'),
    'floor': (
        'max(floor(F / L), 1)',
        'c + n * i if c + n * i < F else max(F - 2 + (c + n * i - F) mod 2, 0)',
    ),
    'consecutive': ('ceil(F / L)', 'c * L + i mod min(L, F - c * L)'),
}
TEST_KEYS = (
    'frames',
    'all_clips',
    'clips_per_tracklet',
    'flip',
    'dist_metric',
    'normalize_feature',
)
LENGTHS = (1, 3, 7)  # of their clips, where the length is open


@dataclass(frozen=True)
class Part:
    """A stage of the model that becomes a file, and the batch that it is traced with."""

    name: str
    input: str
    output: str
    module: nn.Module
    example: Tensor
    length: int | None = None  # the dimension of a clip's frames, if it may be open
    size: bool = False  # whether the last two dimensions, pixels, may be open

    def openings(self) -> list[tuple[int, ...]]:
        """Return dimensions that may be of any length, the most open choice first."""
        length = () if self.length is None else (self.length,)
        size = (self.example.dim() - 2, self.example.dim() - 1) if self.size else ()
        return list(dict.fromkeys([(0, *length, *size), (0, *length), (0, *size), (0,)]))

    def other_batches(self, opening: tuple[int, ...]) -> list[Tensor]:
        """Return three batches for comparison, with different shapes where these are dynamic."""
        height, width = self.example.shape[-2:]
        # sizes that no stride divides are among them
        sizes = ((height * 3 // 2 + 1, width), (height, width), (height - 3, width * 2 + 5))
        batches = []
        for number, rows in enumerate(ROWS):
            shape = list(self.example.shape)
            shape[0] = rows
            if self.length in opening:
                shape[self.length] = LENGTHS[number]
            if self.size and len(shape) - 1 in opening:
                shape[-2:] = sizes[number]
            generator = torch.Generator().manual_seed(number)
            batches.append(torch.randn(shape, generator=generator))
        return batches


class Stage(nn.Module):
    """A method of a model as a module of its own."""

    def __init__(self, model: VideoModel, method: str):
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, batch: Tensor) -> Tensor:
        result: Tensor = getattr(self.model, self.method)(batch)
        return result


@torch.no_grad()
def parts_of(model: VideoModel) -> list[Part]:
    """Return the parts of a model of ``load_model``, in the order in which they run."""
    spec, rows = model.spec, 3
    frame = (3, spec.height, spec.width)
    generator = torch.Generator().manual_seed(9)
    frames = torch.randn(rows, *frame, generator=generator)
    length = 1 if model.takes_any_length else None
    any_size = model.frame_size is None
    if model.frame_once:
        vectors = model.encode_frames(frames)
        clips = vectors.unsqueeze(1).repeat(1, spec.seq_len, 1)
        clips = clips + torch.randn(clips.shape, generator=generator)
        encode, embed = Stage(model, 'encode_frames'), Stage(model, 'embed')
        parts = [
            Part('frames', 'frames', 'vectors', encode, frames, size=any_size),
            Part('clips', 'vectors', 'features', embed, clips, length),
        ]
        features = model.embed(clips)
    else:
        clips = torch.randn(rows, spec.seq_len, *frame, generator=generator)
        whole = Stage(model, 'forward')
        parts = [Part('clips', 'clips', 'features', whole, clips, length, any_size)]
        features = model(clips)
    if type(model).finish is not VideoModel.finish:
        parts.append(Part('finish', 'means', 'features', Stage(model, 'finish'), features))
    return parts


def export_model(
    model: VideoModel, kind: str, folder: Path, crops: Path | None = None, labelled: str = ''
) -> dict[str, Any]:
    """Write the files of a model and ``manifest.json`` into a new folder, whole or not at all.

    Args:
        model: of ``load_model``, on the CPU.
        kind: a key of FORMATS.
        folder: empty, or missing.
        crops: with the format onnx: images below it calibrate the first part in int8.
        labelled: own tracklets with query and gallery, on which the mAP of int8 is measured.

    Returns:
        The manifest.

    Raises:
        InputError: the folder holds something or cannot be written; the exporter does not know an
            operation of the model, or the file gives something else than the model; no crop, or no
            labelled data; ``labelled`` and a model that ranks by a score of pairs.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'--output {folder} already exists: name a new folder')
    model = model.eval().requires_grad_(False)
    batches = [] if crops is None else inputs_of(find_crops(crops), model)
    target = labelled_data(labelled) if labelled else None
    if target is not None and model.score_pairs is not None:
        raise InputError(f'--labelled: {model.spec.arch} ranks by a score that is not exported')
    with write_errors(folder), whole_folder(folder) as temporary:
        parts = [export_part(part, model, kind, temporary) for part in parts_of(model)]
        manifest = {**description(model), 'format': kind, 'parts': parts}
        if batches:
            with silent_exporters():
                cost = quantise(temporary / parts[0]['file'], parts[0]['input']['name'], batches)
            parts[0]['int8'] = cost._asdict()
            parts[0]['sha256'] = digests(temporary, parts[0]['sha256'])
        if target is not None:
            exported = ExportedModel(model, temporary, manifest)
            manifest['mAP'] = {'model': mean_ap(model, target), 'int8': mean_ap(exported, target)}
        text = json.dumps(manifest, indent=2) + '\n'
        (temporary / MANIFEST).write_text(text, encoding='utf-8')
    return manifest


def export_part(part: Part, model: VideoModel, kind: str, folder: Path) -> dict[str, Any]:
    """Write a part with as many open dimensions as it can have; returns its entry in the manifest.

    Raises:
        InputError: not even the number of rows can be open, or the file differs from the model.
    """
    written = FORMATS[kind]
    for opening in part.openings():
        batches = part.other_batches(opening)
        try:
            expected = [part.module(batch) for batch in batches]
        except InputError as error:  # a model of stripes, say, takes not every size
            failure = str(error)
            continue
        try:
            with silent_exporters():
                program = traced(part, model, opening)
                names = written.write(program, folder, part.name, part.input, part.output)
                run = written.open(folder / names[0])
                found = [run(batch) for batch in batches]
        except OSError:
            raise
        except Exception as error:  # of many types: tracer, exporter, engine
            failure = ' '.join(str(error).split())[:300] or type(error).__name__
            continue
        differences = [difference(*pair) for pair in zip(found, expected, strict=True)]
        if max(differences) > TOLERANCE:
            failure = f'differs from the model by {max(differences):.1e}, {TOLERANCE:.0e} allowed'
            continue
        shape = [None if at in opening else size for at, size in enumerate(part.example.shape)]
        return {
            'name': part.name,
            'file': names[0],
            'input': {'name': part.input, 'shape': shape},
            'output': {'name': part.output, 'size': expected[0].shape[-1]},
            'largest_difference': max(differences),
            'sha256': digests(folder, names),
        }
    raise InputError(f'--format {kind}: {model.spec.arch}, part {part.name}: {failure}')


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files by name."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def traced(part: Part, model: VideoModel, opening: tuple[int, ...]) -> ExportedProgram:
    """Export the program of a part, with batch norms folded.

    Raises:
        ValueError: a dimension would be fixed to the length it was traced with.
    """
    with torch.no_grad(), FoldedEncoders(model).in_model():
        program = torch.export.export(
            part.module,
            (part.example,),
            dynamic_shapes=({at: Dim.AUTO for at in opening},),
            strict=False,  # the default since torch 2.9
        )
    [name] = program.graph_signature.user_inputs
    [shape] = [n.meta['val'].shape for n in program.graph.nodes if n.name == name]
    fixed = [at for at in opening if isinstance(shape[at], int)]
    if fixed:
        raise ValueError(f'dimensions {fixed} of {part.input} are fixed')
    return program


@contextlib.contextmanager
def silent_exporters() -> Iterator[None]:
    """Silence warnings and logs of exporters in the block; they raise what they cannot do."""
    above = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(above)


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, as a share of the largest number of the second.

    Infinite for another shape, or numbers that are not finite.
    """
    if one.shape != other.shape or not one.isfinite().all():
        return float('inf')
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def all_frames(model: VideoModel) -> dict[str, str]:
    """Return number and frames of the clips whose mean is the feature with ``test.frames all``."""
    kind = model.spec.config['test.all_clips']
    if model.weighs_frames and kind != 'floor':  # of distinct frames: the same as one clip of all
        return {'clips': '1', 'frames': 'i for i from 0 to F - 1'}
    clips, frames = ALL_FRAMES[kind]
    return {'clips': clips, 'frames': f'{frames} for c from 0 to n - 1, i from 0 to L - 1'}


def description(model: VideoModel) -> dict[str, Any]:
    """Return the settings needed to run the files: the manifest without the parts."""
    spec = model.spec
    rule = spec.sample_method
    rule = f'rrs, {spec.rrs_chunks}' if rule == 'rrs' else rule
    return {
        'stmn_plugin': __version__,
        'arch': spec.arch,
        'frame': {
            'height': spec.height,
            'width': spec.width,
            'colours': 'RGB',
            'resize': 'bilinear with antialiasing',
            'mean': list(spec.norm_mean),
            'std': list(spec.norm_std),
            'normalisation': '(x / 255 - mean) / std, channels first',
        },
        'clip_length': spec.seq_len,
        'sampling': {
            'rule': rule,
            'frames': f'{SAMPLING[rule]} for i from 0 to L - 1',
            'all': all_frames(model),
        },
        'tested_with': {key: spec.config[f'test.{key}'] for key in TEST_KEYS},
        'ranked_by': 'distance of features'
        if model.score_pairs is None
        else 'a score of pairs of tracklets, which is not in these files',
    }
