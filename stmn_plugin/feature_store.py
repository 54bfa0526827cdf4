"""Vectors of frames ↔ files: another protocol, metric or clip strategy encodes nothing again.

``<name>.npy`` holds the vectors of every frame, tracklet after tracklet, (F, views, V) float32;
``<name>.json``, written last, says what they were made from and how their bytes sum up.
"""

import hashlib
import json
import os
import zlib

import numpy as np
import torch

from .data.frames import readable_clip
from .errors import InputError
from .features import ClipVectors
from .whole_files import whole_file, write_json

BLOCK = 1 << 24  # bytes per read of the check


def weights_digest(model):
    """SHA-256 of a model's weights and buffers, the same with and without DataParallel."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.removeprefix('module.').encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(model, tracklets, **settings):
    """What vectors depend on, by name, so that a mismatch can be named.

    Args:
        model (nn.Module): its weights and buffers.
        tracklets (list): the host's 4-tuples; names, sizes and times of their files count, the
            folder they lie in does not.
        **settings: anything else, plain values.
    """
    frames = hashlib.sha256()
    for paths, _, _, _ in tracklets:
        for path in paths:
            try:
                stat = os.stat(path)
                frames.update(
                    f'{os.path.basename(path)} {stat.st_size} {stat.st_mtime_ns}'.encode()
                )
            except OSError:
                frames.update(f'{os.path.basename(path)} missing'.encode())
        frames.update(b'end of tracklet')
    return {'weights': weights_digest(model), 'frames': frames.hexdigest(), **settings}


class FeatureStore:
    """The stored vectors of one list of tracklets.

    Args:
        folder (str): ``test.features_dir``.
        name (str): of the files, e.g. ``mars-query``.
        made_from (dict): :func:`fingerprint` of the model and data at hand.
        tracklets (list): the host's 4-tuples.
    """

    def __init__(self, folder, name, made_from, tracklets):
        self.path = os.path.join(os.path.expanduser(folder), f'{name}.npy')
        self.record_path = os.path.join(os.path.expanduser(folder), f'{name}.json')
        self.made_from = made_from
        lengths = [len(paths) for paths, _, _, _ in tracklets]
        self.starts = np.cumsum([0, *lengths])  # (G + 1,) rows of each tracklet
        self.tracklets = tracklets

    def exists(self):
        return os.path.exists(self.record_path)

    def write(self, batches, bad_frames, seq_len):
        """Keep the vectors of all frames.

        Args:
            batches (iterable): ClipVectors of the plan 'consecutive', in order.
            bad_frames (list): paths that ``batches`` leaves out, filled while they are taken.
            seq_len (int): L of the plan.

        Raises:
            InputError: the disk is full or the folder cannot be written; nothing remains.
        """
        crc, shape = 0, None
        with whole_file(self.path) as file:
            for vectors in self._in_order(batches, seq_len):
                if shape is None:
                    shape = (int(self.starts[-1]), *vectors.shape[1:])
                    header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
                    np.lib.format.write_array_header_1_0(file, header)
                data = np.ascontiguousarray(vectors, dtype='<f4').tobytes()
                crc = zlib.crc32(data, crc)
                file.write(data)
        bad, frames = set(bad_frames), (path for paths, *_ in self.tracklets for path in paths)
        record = {
            'made_from': self.made_from,
            'crc32': crc,
            'unreadable': [row for row, path in enumerate(frames) if path in bad] if bad else [],
        }
        write_json(self.record_path, record)

    def _in_order(self, batches, seq_len):
        """Vectors (n, views, V) of frame after frame, without the repeats that fill last clips."""
        lengths = (
            min(seq_len, len(paths) - start)
            for paths, _, _, _ in self.tracklets
            for start in range(0, len(paths), seq_len)
        )
        for vectors, rows, *_ in batches:
            wanted = torch.cat([row[: next(lengths)] for row in rows])
            yield vectors[:, wanted.to(vectors.device)].transpose(0, 1).float().cpu().numpy()

    def open(self):
        """Map the vectors into memory, after checking where they come from and every byte.

        Raises:
            InputError: stale (says what differs) or damaged.
        """
        try:
            with open(self.record_path, encoding='utf-8') as file:
                record = json.load(file)
            made_from, crc = dict(record['made_from']), record['crc32']
            unreadable = np.array(record['unreadable'], dtype=np.int64)
            vectors = np.load(self.path, mmap_mode='r')
        except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
            raise InputError(f'{self.path} is damaged, remove it: {error}') from error
        differing = [key for key in self.made_from if made_from.get(key) != self.made_from[key]]
        if differing:
            raise InputError(
                f'{self.path} was made from other {", ".join(differing)}: remove it or give '
                'another test.features_dir'
            )
        if len(vectors) != self.starts[-1] or _crc32(vectors) != crc:
            raise InputError(f'{self.path} is damaged, remove it: its bytes are not those written')
        self.vectors = vectors
        self.readable = np.ones(len(vectors), dtype=bool)
        self.readable[unreadable] = False

    def unreadable_paths(self):
        """Paths of the frames that could not be read when the vectors were made."""
        if self.readable.all():
            return []
        frames = (path for paths, _, _, _ in self.tracklets for path in paths)
        return [path for path, readable in zip(frames, self.readable, strict=True) if not readable]

    def clips(self, plan, views, batch_size):
        """ClipVectors of any plan, as :func:`stmn_plugin.features.encode_clips` gives them.

        Args:
            plan (ClipPlan): how tracklets are cut.
            views (int): 1, or 2 with the mirrored frames.
            batch_size (int): clips at a time.
        """
        batch = []
        for tracklet, (paths, _, _, _) in enumerate(self.tracklets):
            for index in range(plan.count(len(paths))):
                batch.append((tracklet, plan.clip(len(paths), index)))
                if len(batch) == batch_size:
                    yield self._read(batch, views)
                    batch = []
        if batch:
            yield self._read(batch, views)

    def _read(self, batch, views):
        frames, stand_ins = [], []
        for tracklet, chosen in batch:
            start, end = self.starts[tracklet : tracklet + 2]
            indices, stand_in = readable_clip(chosen, self.readable[start:end])
            frames.append(start + indices)
            stand_ins.append(stand_in)
        wanted, rows = np.unique(np.stack(frames), return_inverse=True)
        vectors = torch.from_numpy(self.vectors[wanted, :views])  # (T, views, V), a copy
        return ClipVectors(
            vectors.transpose(0, 1),
            torch.from_numpy(rows.reshape(len(batch), -1)),
            torch.tensor([tracklet for tracklet, _ in batch]),
            torch.tensor(stand_ins),
        )


def _crc32(vectors):
    crc, flat = 0, vectors.reshape(-1)
    step = BLOCK // flat.itemsize
    for start in range(0, len(flat), step):
        crc = zlib.crc32(np.ascontiguousarray(flat[start : start + step]), crc)
    return crc
