"""Every kind of image file is read or refused with its path, and nothing hangs."""

import numpy as np
import pytest
import torch
from PIL import Image

from stmn_plugin.data.frames import read_frame
from stmn_plugin.errors import InputError

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def pixels():
    ramp = np.linspace(0, 255, 40 * 20 * 3).reshape(40, 20, 3)
    return np.clip(ramp + np.random.default_rng(0).normal(0, 9, ramp.shape), 0, 255).astype('uint8')


@pytest.fixture
def jpeg(pixels, tmp_path):
    path = tmp_path / 'frame.jpg'
    Image.fromarray(pixels).save(path, quality=95)
    return path


def pillow(path):
    return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'bmp', 'webp', 'tif'])
def test_pixels_equal_pillows(pixels, tmp_path, suffix):
    path = tmp_path / f'frame.{suffix}'
    Image.fromarray(pixels).save(path)
    frame = read_frame(str(path))
    assert (frame.dtype, frame.shape) == (torch.uint8, (3, 40, 20))
    assert torch.equal(frame, pillow(path))


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'P', 'RGBA'])
def test_other_colour_models_become_rgb(pixels, tmp_path, mode):
    path = tmp_path / ('frame.jpg' if mode in ('L', 'CMYK') else 'frame.png')
    Image.fromarray(pixels).convert(mode).save(path)
    frame = read_frame(str(path))
    assert frame.shape == (3, 40, 20)
    assert (frame.int() - pillow(path).int()).abs().max() <= 2  # decoders round CMYK differently


def test_16_bits_keep_their_brightness(pixels, tmp_path):
    path = tmp_path / 'frame.png'
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 256).save(path)
    assert torch.equal(read_frame(str(path))[0], torch.from_numpy(pixels[:, :, 0]))


def test_the_exif_orientation_is_applied(pixels, tmp_path):
    path, exif = tmp_path / 'frame.jpg', Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    Image.fromarray(pixels).save(path, exif=exif)
    assert torch.equal(read_frame(str(path)), pillow(path).rot90(-1, (1, 2)))


@pytest.mark.parametrize('kept', [0, 2, 0.5, -50, -2])
def test_a_truncated_file_is_refused_with_its_path(jpeg, kept):
    data = jpeg.read_bytes()
    jpeg.write_bytes(data[: int(kept * len(data))] if isinstance(kept, float) else data[:kept])
    with pytest.raises(InputError) as caught:
        read_frame(str(jpeg))
    assert str(jpeg) in str(caught.value) and '\n' not in str(caught.value)


def test_text_folders_and_missing_files_are_refused_with_their_path(tmp_path):
    (tmp_path / 'text.jpg').write_text('not an image')
    (tmp_path / 'folder.jpg').mkdir()
    for name in ('text.jpg', 'folder.jpg', 'missing.jpg'):
        with pytest.raises(InputError) as caught:
            read_frame(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value) and '\n' not in str(caught.value)
