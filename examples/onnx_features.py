"""Feature of a folder of crops by an exported model; needs onnxruntime, numpy and Pillow alone.

python examples/onnx_features.py EXPORTED_FOLDER CROPS feature.npy
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read_frame(path, frame):
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert('RGB')
        image = image.resize((frame['width'], frame['height']), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) / 255
    return ((pixels - np.float32(frame['mean'])) / np.float32(frame['std'])).transpose(2, 0, 1)


def feature(exported, crops):
    manifest = json.loads((Path(exported) / 'manifest.json').read_text(encoding='utf-8'))
    paths = sorted(path for path in Path(crops).iterdir() if path.is_file())
    count, length = len(paths), manifest['clip_length']
    rows = [i * count // length for i in range(length)]
    if manifest['sampling']['chunks'] == 'ceil':
        rows = [min(i * -(-count // length), count - 1) for i in range(length)]
    batch = np.stack([read_frame(paths[i], manifest['frame']) for i in rows])  # (L, 3, H, W)
    for part in manifest['parts']:
        batch = batch[None] if part['name'] == 'clips' else batch  # one clip: (1, L, ...)
        file = Path(exported) / part['file']
        session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
        [batch] = session.run(None, {part['input']['name']: batch})
    return batch[0]  # (D,)


if __name__ == '__main__':
    np.save(sys.argv[3], feature(sys.argv[1], sys.argv[2]))
