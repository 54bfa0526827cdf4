"""Every kind of image file is read or refused with its path, and nothing hangs."""

import io
import os
import runpy
import struct
import subprocess
import warnings
import zlib

import numpy as np
import pytest
import torch
import torchreid
from PIL import Image, ImageFile

import stmn_plugin
from stmn_plugin.data import frames
from stmn_plugin.data.frames import (
    FORMATS,
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    OF_THE_MACHINE,
    read_clip,
    read_frame,
)
from stmn_plugin.errors import InputError

# as frames.py does, but pytest forgets it
pytestmark = pytest.mark.filterwarnings(r'ignore:::PIL\.')


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


def refused(path):
    """Why ``read_frame`` refuses a file: one line that names it."""
    with pytest.raises(InputError) as caught:
        read_frame(str(path))
    message = str(caught.value)
    assert message.startswith(f'cannot read frame {path}: ') and '\n' not in message
    return message.partition(f'{path}: ')[2]


@pytest.mark.parametrize('suffix', IMAGE_SUFFIXES)
def test_pixels_equal_pillows(pixels, tmp_path, suffix):
    path = tmp_path / f'frame{suffix}'
    format_name = next(name for name, suffixes in FORMATS.items() if suffix in suffixes)
    Image.fromarray(pixels).save(path, format_name)
    frame = read_frame(str(path))
    assert (frame.dtype, frame.shape) == (torch.uint8, (3, 40, 20))
    assert torch.equal(frame, pillow(path))


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'CMYK', 'YCbCr', 'LAB', 'P', 'PA', 'RGBA'])
def test_other_colour_models_become_rgb(pixels, tmp_path, mode):
    path = tmp_path / ('frame.jpg' if mode in ('L', 'CMYK') else 'frame.tif')
    Image.fromarray(pixels).convert(mode).save(path)
    frame = read_frame(str(path))
    assert frame.shape == (3, 40, 20)
    assert (frame.int() - pillow(path).int()).abs().max() <= 2  # decoders round CMYK differently


@pytest.mark.parametrize('kind', ['png', 'tif', 'tif big-endian', 'pgm'])
def test_16_bits_keep_their_brightness(pixels, tmp_path, kind):
    path = tmp_path / f'frame.{kind.partition(" ")[0]}'
    grey = pixels[:, :, 0].astype('>u2' if 'big' in kind else '<u2') * 256 + 255
    Image.fromarray(grey).save(path)
    for channel in read_frame(str(path)):
        assert torch.equal(channel, torch.from_numpy(pixels[:, :, 0]))


def test_grey_values_without_a_known_range_are_refused(tmp_path):
    path = tmp_path / 'frame.tif'
    for values in (np.float32([[0.2, 0.7]]), np.int32([[3, 70000]])):
        Image.fromarray(values).save(path)
        assert 'without a known range' in refused(path)
    Image.fromarray(np.uint16([[1, 2]])).save(path)
    tag = struct.pack('<HHI', 262, 3, 1)  # PhotometricInterpretation, one SHORT
    data = path.read_bytes()
    assert data.count(tag + struct.pack('<H', 1)) == 1
    path.write_bytes(data.replace(tag + struct.pack('<H', 1), tag + struct.pack('<H', 0)))
    assert 'without a known range' in refused(path)  # white is 0, which Pillow overlooks
    path.write_bytes(
        data.replace(struct.pack('<HHIH', 258, 3, 1, 16), struct.pack('<HHIH', 258, 3, 1, 12))
    )
    assert 'without a known range' in refused(path)  # 12 bits would be nearly black


def as_seen(stored, orientation):
    """Upright pixels by the definition of the tag: where row 0 and column 0 of the file belong."""
    row0, column0 = {
        1: ('top', 'left'),
        2: ('top', 'right'),
        3: ('bottom', 'right'),
        4: ('bottom', 'left'),
        5: ('left', 'top'),
        6: ('right', 'top'),
        7: ('right', 'bottom'),
        8: ('left', 'bottom'),
    }[orientation]
    height, width, _ = stored.shape
    seen = np.zeros((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    for i in range(height):
        for j in range(width):
            distance = {row0: i, column0: j}  # from two sides of the upright picture
            y = distance['top'] if 'top' in distance else seen.shape[0] - 1 - distance['bottom']
            x = distance['left'] if 'left' in distance else seen.shape[1] - 1 - distance['right']
            seen[y, x] = stored[i, j]
    return seen


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_the_exif_orientation_is_applied_once(pixels, tmp_path, suffix, orientation):
    path, exif = tmp_path / f'frame.{suffix}', Image.Exif()
    image = Image.fromarray(pixels[:12, :7])
    image.save(path)
    stored = np.asarray(Image.open(path).convert('RGB'))
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    expected = torch.from_numpy(as_seen(stored, orientation)).permute(2, 0, 1)
    assert torch.equal(read_frame(str(path)), expected)


@pytest.mark.parametrize('suffix', ['gif', 'tif', 'webp', 'png'])
def test_several_pictures_in_a_file_are_refused(pixels, tmp_path, suffix):
    path, image = tmp_path / f'frame.{suffix}', Image.fromarray(pixels)
    image.save(path, save_all=True, append_images=[image.rotate(90)])
    assert 'several pictures' in refused(path)


def test_a_phones_jpeg_with_a_smaller_copy_in_it_is_a_frame(pixels, tmp_path):
    path, image = tmp_path / 'frame.jpg', Image.fromarray(pixels)
    image.save(path, 'MPO', save_all=True, append_images=[image.resize((5, 5))])
    assert torch.equal(read_frame(str(path)), pillow(path))


def png(width, height, pixel_data, *chunks):
    def chunk(name, content):
        checksum = struct.pack('>I', zlib.crc32(name + content))
        return struct.pack('>I', len(content)) + name + content + checksum

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    more = b''.join(chunk(*content) for content in chunks)
    pixel_data = chunk(b'IDAT', pixel_data)
    return b'\x89PNG\r\n\x1a\n' + header + more + pixel_data + chunk(b'IEND', b'')


def tiff_of_one_large_tile(side):
    """A picture of 16 x 16 pixels in a tile of side x side, packed to less than a thousandth."""
    packed = zlib.compress(bytes(side * side), 9)
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, side), (323, side), (324, 8), (325, len(packed))]
    directory = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack('<H', len(tags)) + directory + bytes(4)
    return b'II*\0' + struct.pack('<I', 8 + len(packed)) + packed + directory


def webp_of_size(side):
    """An animation whose header promises a larger canvas than there is."""
    file, image = io.BytesIO(), Image.new('RGB', (16, 16))
    image.save(
        file,
        'WEBP',
        save_all=True,
        append_images=[image.rotate(90), Image.new('RGB', (16, 16), 'red')],
    )
    data = bytearray(file.getvalue())
    place = data.index(b'VP8X') + 12
    data[place : place + 6] = (side - 1).to_bytes(3, 'little') * 2
    return bytes(data)


TOO_LARGE = {
    'png': lambda: png(13000, 13000, b''),
    'beyond the limit of pillow': lambda: png(30000, 30000, b''),
    'long': lambda: png(MAX_PIXELS + 1, 1, b''),
    'ppm': lambda: b'P6 13000 13000 255\n',
    'gif': lambda: (
        struct.pack('<6sHHHB', b'GIF89a', 13000, 13000, 0, 0)
        + struct.pack('<cHHHHBB', b',', 0, 0, 13000, 13000, 0, 8)
    ),
    'bmp': lambda: b'BM' + struct.pack('<IIIIiiHH24x', 54, 0, 54, 40, 13000, 13000, 1, 24),
    'webp': lambda: webp_of_size(13000),
    'tile': lambda: tiff_of_one_large_tile(4224),
}


@pytest.mark.parametrize('name', TOO_LARGE)
def test_a_picture_larger_than_any_frame_is_refused_before_it_is_decoded(
    name, tmp_path, monkeypatch
):
    path = tmp_path / 'frame.jpg'
    path.write_bytes(TOO_LARGE[name]())
    monkeypatch.setattr(Image.Image, 'load', lambda image: pytest.fail('decoded'))
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda image: pytest.fail('decoded'))
    limit = 'exceeds limit' if 'pillow' in name else 'a frame has at most 16,777,216'
    assert limit in refused(path)


def test_a_tile_no_larger_than_a_frame_is_read(tmp_path):
    path = tmp_path / 'frame.tif'
    path.write_bytes(tiff_of_one_large_tile(4096))
    assert read_frame(str(path)).shape == (3, 16, 16)


def test_the_largest_frame_is_read(tmp_path):
    path = tmp_path / 'frame.png'
    Image.new('1', (4096, 4096)).save(path)
    assert read_frame(str(path)).shape == (3, 4096, 4096)


def test_text_that_unpacks_to_more_than_a_picture_is_refused(tmp_path):
    path = tmp_path / 'frame.png'
    bomb = b'comment\0\0' + zlib.compress(bytes(10**8), 9)
    path.write_bytes(png(2, 1, zlib.compress(bytes(7)), (b'zTXt', bomb)))
    refused(path)


def test_no_program_is_started_and_no_other_format_tried(pixels, tmp_path, monkeypatch):
    def start(*args, **kwargs):
        raise AssertionError('a program was started')

    monkeypatch.setattr(subprocess, 'Popen', start)
    monkeypatch.setattr(os, 'system', start)
    image = Image.fromarray(pixels)
    for name in ('EPS', 'ICNS', 'JPEG2000', 'TGA', 'PCX', 'AVIF', 'ICO'):
        path = tmp_path / f'{name}.jpg'
        image.resize((16, 16)).save(path, name)
        assert 'cannot identify image as one of JPEG, PNG' in refused(path)


def test_what_a_decoder_raises_is_one_line(jpeg, monkeypatch):
    for error in (struct.error('unpack'), TypeError(), MemoryError(), KeyError(7), EOFError('end')):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(frames.Image, 'open', fail)
        assert type(error).__name__ in refused(jpeg)


@pytest.mark.parametrize('place', ['open_regular', '_decode'])
def test_the_machines_fault_is_no_bad_frame(place, jpeg, monkeypatch):
    chosen, bad = np.zeros(2, dtype=int), (str(jpeg.with_name('gone.jpg')), str(jpeg))
    clip, *_, bad_frames, stand_in = read_clip(bad, chosen, skip_bad=True)
    assert len(clip) == 1 and bad_frames == [bad[0]] and stand_in
    for error in (*(OSError(n, os.strerror(n)) for n in OF_THE_MACHINE), MemoryError()):

        def fail(*args, error=error):
            raise error

        if place == '_decode' or isinstance(error, OSError):
            monkeypatch.setattr(frames, place, fail)
            for paths in ((str(jpeg),), bad[::-1]):  # also where another frame could stand in
                with pytest.raises(InputError, match=f'cannot read frame {jpeg}: ') as caught:
                    read_clip(paths, chosen, skip_bad=True)
                assert type(caught.value) is InputError


def small_files(pixels):
    image, exif = Image.fromarray(pixels[:24, :16]), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, 'maker'
    exif.get_ifd(0x8769)[0x9003] = '2020'

    def saved(name, mode='RGB', **options):
        file = io.BytesIO()
        image.convert(mode).save(file, name, **options)
        return file.getvalue()

    return {
        'jpeg': saved('JPEG', exif=exif),
        'progressive': saved('JPEG', progressive=True),
        'mpo': saved('MPO', save_all=True, append_images=[image]),
        'png': saved('PNG', exif=exif),
        'palette': saved('PNG', 'P', transparency=bytes([1, 2, 3])),
        'webp': saved('WEBP', exif=exif),
        'lossless webp': saved('WEBP', lossless=True),
        'bmp': saved('BMP'),
        'tiff': saved('TIFF', exif=exif),
        'gif': saved('GIF'),
        'ppm': saved('PPM'),
        'plain ppm': b'P3\n# grey\n4 2\n255\n' + b'1 2 3 ' * 8,
    }


@pytest.mark.parametrize('name', small_files(np.zeros((40, 20, 3), np.uint8)))
def test_damaged_bytes_give_a_frame_or_one_line(name, pixels, tmp_path):
    """The old reader let struct.error, TypeError and others through."""
    data, path = small_files(pixels)[name], tmp_path / 'frame.jpg'
    rng = np.random.default_rng(len(data))
    outcomes = {'frame': 0, 'refused': 0}
    for trial in range(60):
        damaged = bytearray(data)
        reach = len(data) if trial % 2 else min(len(data), 150)  # headers matter most
        for place in rng.integers(0, reach, size=1 + trial % 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(data))] if trial % 6 == 5 else damaged)
        try:
            frame = read_frame(str(path))
            assert frame.dtype == torch.uint8 and frame.shape[0] == 3
            outcomes['frame'] += 1
        except InputError as error:
            assert str(path) in str(error) and '\n' not in str(error)
            outcomes['refused'] += 1
    assert outcomes['refused']


def test_metadata_that_pillow_steps_over_is_no_warning(pixels, tmp_path):
    path = tmp_path / 'frame.jpg'
    exif = b'Exif\0\0II*\0' + struct.pack('<IH', 8, 9) + bytes(5)  # nine entries, half of one
    Image.fromarray(pixels).save(path, exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        read_frame(str(path))
        assert any('Corrupt EXIF' in str(warning.message) for warning in caught)
        caught.clear()
        fresh = runpy.run_path(frames.__file__)  # as a process starts: pytest keeps own filters
        fresh['read_frame'](str(path))
        assert not caught


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
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'loop.jpg').symlink_to('loop.jpg')
    (tmp_path / 'zero.jpg').symlink_to('/dev/zero')
    for name, reason in (
        ('text', 'cannot identify'),
        ('folder', 'is a folder'),
        ('pipe', 'is a pipe'),
        ('loop', 'symbolic links'),
        ('zero', 'is a device'),
        ('missing', 'No such file'),
    ):
        assert reason in refused(tmp_path / f'{name}.jpg')


def test_the_hosts_image_datasets_read_as_we_do_and_never_again_and_again(jpeg, tmp_path):
    stmn_plugin.register()
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'text.jpg').write_text('not an image')
    items = [(str(tmp_path / name), 0, 0) for name in ('frame.jpg', 'pipe.jpg', 'text.jpg')]
    dataset = torchreid.data.ImageDataset(
        items, items, items, mode='query', transform=np.asarray, verbose=False
    )
    assert np.array_equal(dataset[0]['img'], np.asarray(Image.open(jpeg)))
    for index, reason in ((1, 'is a pipe'), (2, 'cannot identify image')):
        with pytest.raises(InputError, match=reason):
            dataset[index]


def test_a_frame_of_one_pixel_owns_its_memory(tmp_path):
    path = tmp_path / 'frame.png'
    Image.new('RGB', (1, 1), (1, 2, 3)).save(path)
    frame = read_frame(str(path))
    frame += 1
    assert frame.flatten().tolist() == [2, 3, 4] and frame.is_contiguous()
