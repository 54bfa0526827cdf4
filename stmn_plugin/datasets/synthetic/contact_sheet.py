"""Draw a sheet of generated data: identities, temporal and spatial distractors."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stmn_plugin.whole_files import whole_file

from .motion import BACKGROUND, PATTERNS
from .truth import load_truth

_TILE = 128  # height of a crop on the sheet, pixels
_GAP, _BAR, _LABEL, _HEADING = 4, 7, 132, 34
_EXAMPLES = {'occluded_start': 4, 'leaves_at_end': 2, 'background': 2}  # strips, else 1
_INK, _PAPER, _FAINT = (30, 30, 34), (250, 250, 248), (214, 214, 210)
_BLUE, _ORANGE = (0, 114, 178), (230, 159, 0)  # of the Okabe-Ito palette, safe for colour-blind


class _Tile(NamedTuple):
    image: Image.Image
    visibility: float | None = None  # drawn as a bar below the image


class _Row(NamedTuple):
    label: str
    tiles: list[_Tile]


def contact_sheet(
    folder: str | Path, path: str | Path, persons: int = 6, strip: int = 12, per_camera: int = 12
) -> Path:
    """Write a PNG with three parts.

    1. Test identities (rows) at every camera, the most visible frame of each tracklet.
    2. Temporal distractors: a film strip per pattern, a bar for the person's visibility.
    3. Spatial distractors: crops of several persons at each camera with the distractor mask tinted,
       then the mean of the camera's crops and of its masks.

    Args:
        folder: as returned by ``generate``.
        path: PNG file to write.
        persons: number of identities.
        strip: frames per film strip.
        per_camera: crops per camera.

    Returns:
        ``path`` as a Path.

    Raises:
        InputError: no synthetic data in ``folder``, or ``path`` cannot be written.
    """
    reader = _Reader(folder)
    parts = [
        ('Identities across cameras (one row per person, all its tracklets)', _identities),
        ('Temporal distractors (film strips; the bar is the visible share of the person)', _strips),
        ('Spatial distractors (masks tinted; last two: mean crop and mean mask)', _scenes),
    ]
    counts = (persons, strip, per_camera)
    sections = [(title, f(reader, n)) for (title, f), n in zip(parts, counts, strict=True)]
    with whole_file(path) as file:
        _compose(sections, reader).save(file, format='PNG')
    return Path(path)


class _Reader:
    """Crops and truth by tracklet name."""

    def __init__(self, folder: str | Path):
        self.truth = load_truth(folder)
        self.mars = Path(folder) / 'mars'
        spec = self.truth.spec
        self.tile_size = (round(_TILE * spec.width / spec.height), _TILE)
        self.is_test = {
            name: name.startswith('00-1') or not 1 <= int(name[:4]) <= spec.train_ids
            for name in self.truth.tracklets
        }

    def crop(self, row: int) -> Image.Image:
        name = self.truth.names[row]
        split = 'bbox_test' if self.is_test[name[:11]] else 'bbox_train'
        with Image.open(self.mars / split / name[:4] / name) as image:
            return image.convert('RGB').resize(self.tile_size, Image.Resampling.LANCZOS)

    def best_row(self, tracklet: str) -> int:
        rows = self.truth.tracklets[tracklet]
        return int(rows.start) + int(np.argmax(self.truth.visibility[rows]))


def _identities(reader: _Reader, persons: int) -> list[_Row]:
    rows, first = [], reader.truth.spec.train_ids + 1
    for pid in range(first, first + min(persons, reader.truth.spec.test_ids)):
        names = [name for name in reader.truth.tracklets if name.startswith(f'{pid:04d}')]
        tiles = [_Tile(reader.crop(reader.best_row(name))) for name in names[:16]]
        rows.append(_Row(f'person {pid:04d}', tiles))
    return rows


def _strips(reader: _Reader, strip: int) -> list[_Row]:
    truth = reader.truth
    rows: list[_Row] = []
    for pattern in PATTERNS:
        names = [name for name, found in truth.patterns.items() if found == pattern]
        count = _EXAMPLES.get(pattern, 1)
        for name in names[:: max(1, len(names) // count)][:count]:
            span = truth.tracklets[name]
            picks = np.linspace(span.start, span.stop - 1, strip).round().astype(int)
            tiles = [_Tile(reader.crop(row), float(truth.visibility[row])) for row in picks]
            rows.append(_Row(f'{pattern}\n{name}', tiles))
    return rows


def _scenes(reader: _Reader, per_camera: int) -> list[_Row]:
    rows = []
    for cam in range(1, reader.truth.spec.cameras + 1):
        patterns = reader.truth.patterns.items()
        names = [name for name, kind in patterns if name[5] == str(cam) and kind != BACKGROUND]
        picks = [reader.best_row(name) for name in names]
        step = max(1, len(picks) // per_camera)
        tiles = [_Tile(_tinted(reader, row)) for row in picks[::step][:per_camera]]
        picks = picks[:200]  # enough for a mean
        mean_crop = np.mean([np.asarray(reader.crop(row)) for row in picks], axis=0)
        mean_mask = reader.truth.masks(picks).mean(axis=0)
        shades = Image.fromarray((255 * mean_mask).astype(np.uint8))
        tiles.append(_Tile(Image.fromarray(mean_crop.astype(np.uint8))))
        tiles.append(_Tile(shades.resize(reader.tile_size).convert('RGB')))
        rows.append(_Row(f'camera {cam}', tiles))
    return rows


def _tinted(reader: _Reader, row: int) -> Image.Image:
    crop = reader.crop(row)
    mask = Image.fromarray(reader.truth.masks(slice(row, row + 1))[0]).convert('L')
    tint = Image.blend(crop, Image.new('RGB', crop.size, _ORANGE), 0.45)
    return Image.composite(tint, crop, mask.resize(crop.size, Image.Resampling.NEAREST))


def _compose(sections: list[tuple[str, list[_Row]]], reader: _Reader) -> Image.Image:
    tile_width, tile_height = reader.tile_size
    row_height = tile_height + _BAR + 2 * _GAP
    longest = max(len(row.tiles) for _, rows in sections for row in rows)
    width = _LABEL + longest * (tile_width + _GAP) + _GAP
    height = sum(_HEADING + len(rows) * row_height for _, rows in sections) + _GAP
    sheet = Image.new('RGB', (width, height), _PAPER)
    pen, y = ImageDraw.Draw(sheet), 0
    title_font, label_font = ImageFont.load_default(16), ImageFont.load_default(12)
    for title, rows in sections:
        pen.text((_GAP, y + 10), title, fill=_INK, font=title_font)
        y += _HEADING
        for row in rows:
            pen.multiline_text((_GAP, y + 8), row.label, fill=_INK, font=label_font, spacing=6)
            for column, tile in enumerate(row.tiles):
                x = _LABEL + column * (tile_width + _GAP)
                sheet.paste(tile.image, (x, y))
                if tile.visibility is not None:
                    bar = y + tile_height + 2
                    full = x + round(tile.visibility * (tile_width - 1))
                    pen.rectangle((x, bar, x + tile_width - 1, bar + _BAR), fill=_FAINT)
                    if full > x:
                        pen.rectangle((x, bar, full, bar + _BAR), fill=_BLUE)
            y += row_height
    return sheet
