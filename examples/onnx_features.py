"""Feature of a folder of crops: python onnx_features.py EXPORTED CROPS feature.npy"""

import json
import re
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps


def read_frame(path, frame):
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert('RGB')
        image = image.resize((frame['width'], frame['height']), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) / 255
    return ((pixels - np.float32(frame['mean'])) / np.float32(frame['std'])).transpose(2, 0, 1)


def feature(exported, crops):
    manifest = json.loads((exported / 'manifest.json').read_text(encoding='utf-8'))
    paths = sorted(path for path in crops.glob('[!.]*') if path.is_file())  # not hidden
    paths.sort(key=lambda p: re.sub('[0-9]+', lambda n: n[0].zfill(255), p.name))  # 2 before 10
    count, places = len(paths), np.arange(manifest['clip_length'])
    rows = {  # rules of 'frames' in the manifest; the rule 'random' is not among them
        'rrs, balanced': places * count // len(places),
        'rrs, ceil': np.minimum(places * -(-count // len(places)), count - 1),
        'evenly': np.minimum(places * max(count // len(places), 1), count - 1),
        'consecutive': places % count,
        'every_8th': places * next((n for n in (8, 4, 2) if places[-1] * n < count), 1) % count,
    }[manifest['sampling']['rule']]
    batch = np.stack([read_frame(paths[row], manifest['frame']) for row in rows])  # (L, 3, H, W)
    for part in manifest['parts']:
        batch = batch[None] if part['name'] == 'clips' else batch  # one clip: (1, L, ...)
        session = InferenceSession(exported / part['file'], providers=['CPUExecutionProvider'])
        [batch] = session.run(None, {part['input']['name']: batch})
    return batch[0]  # (D,)


if __name__ == '__main__':
    np.save(sys.argv[3], feature(Path(sys.argv[1]), Path(sys.argv[2])))
