"""Hook of mkdocs: draw the blocks ``mermaid`` of a page as SVG, so that the page loads no script.

GitHub draws the same blocks by itself. They may hold boxes in quotes and arrows, downwards:

    flowchart TD
      clip["clip<br>(B, L, 3, 256, 128)"] --> maps["ResNet<br>(B·L, 2048, 16, 8)"]
      maps --> feature["mean<br>(B, 2048)"]

A box stands in the row below the last of those that lead to it. Boxes of a row stand in the order
in which the block names them.
"""

import re
from html import escape
from typing import Any, NamedTuple

from mkdocs.exceptions import PluginError

BLOCK = re.compile(r'^```mermaid\n(.*?)^```$', re.DOTALL | re.MULTILINE)
BOX = re.compile(r'(\w+)(?:\["([^"]+)"\])?')
SHAPE = re.compile(r'\([^()]*\)')
LINE, LETTER = 18, 7.2  # height of a line of text, width of a letter
GAP, DROP = 28, 34  # between boxes of a row, and between rows


class Figure(NamedTuple):
    """Boxes by their names, each with its lines of text, and arrows from one name to another."""

    boxes: dict[str, list[str]]
    arrows: list[tuple[str, str]]


class Place(NamedTuple):
    """Where a box stands: its middle, its upper edge, its size."""

    x: float
    y: float
    width: float
    height: float


def parse(text: str) -> Figure:
    """Read a block; an error quotes the line that is not understood."""
    first, *lines = [line.strip() for line in text.strip().splitlines()]
    if first != 'flowchart TD':
        raise PluginError(f"a figure starts with 'flowchart TD', got {first!r}")
    figure = Figure({}, [])
    for line in lines:
        found = [BOX.fullmatch(part) for part in line.split(' --> ')]
        names = [one[1] for one in found if one]
        if len(names) < 2 or len(names) < len(found):
            raise PluginError(f'boxes and arrows, as in a["text"] --> b["text"], got {line!r}')
        figure.boxes.update({one[1]: one[2].split('<br>') for one in found if one and one[2]})
        figure.arrows.extend(zip(names, names[1:], strict=False))
    unknown = {name for arrow in figure.arrows for name in arrow} - set(figure.boxes)
    if unknown:
        raise PluginError(f'a figure has no text for {", ".join(sorted(unknown))}')
    return figure


def rows(figure: Figure) -> dict[str, int]:
    """Return the row of each box, 0 on top: the longest way that leads to it."""
    row = dict.fromkeys(figure.boxes, 0)
    for _ in row:  # no way is longer than there are boxes
        before = dict(row)
        for start, end in figure.arrows:
            row[end] = max(row[end], row[start] + 1)
        if row == before:
            return row
    raise PluginError('the arrows of a figure run in a circle')


def layout(figure: Figure) -> tuple[dict[str, Place], dict[tuple[str, str], list[Place]]]:
    """Place all boxes, and for each arrow the gaps through which it passes rows in between."""
    row = rows(figure)
    lines: list[list[str | tuple[str, str]]] = [[] for _ in range(max(row.values()) + 1)]
    for name in figure.boxes:
        lines[row[name]].append(name)
    for start, end in figure.arrows:
        for between in range(row[start] + 1, row[end]):
            # on the side of the box that it comes from
            left = lines[row[start]].index(start) * 2 < len(lines[row[start]])
            lines[between].insert(0 if left else len(lines[between]), (start, end))
    sizes = {
        name: (max(map(len, text)) * LETTER + 24, len(text) * LINE + 16.0)
        for name, text in figure.boxes.items()
    }
    passing = (0.0, 0.0)
    middle = max(sum(sizes.get(one, passing)[0] + GAP for one in line) for line in lines) / 2
    places, gaps, y = {}, {arrow: [] for arrow in figure.arrows}, 2.0
    for line in lines:
        height = max(sizes.get(one, passing)[1] for one in line)
        x = middle - sum(sizes.get(one, passing)[0] + GAP for one in line) / 2
        for one in line:
            width, own = sizes.get(one, (0.0, height))
            place = Place(x + (width + GAP) / 2, y + (height - own) / 2, width, own)
            if isinstance(one, str):
                places[one] = place
            else:
                gaps[one].append(place)
            x += width + GAP
        y += height + DROP
    return places, gaps


def draw(text: str) -> str:
    """Draw a block as SVG in the colour of the page's text; it becomes no wider than the page."""
    figure = parse(text)
    places, gaps = layout(figure)
    parts = []
    for name, (x, y, width, height) in places.items():
        parts.append(
            f'<rect x="{x - width / 2:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" '
            'fill="currentColor" fill-opacity="0.06" stroke="currentColor"/>'
        )
        for number, words in enumerate(figure.boxes[name]):
            font = ' font-family="monospace" font-size="12"' if SHAPE.fullmatch(words) else ''
            parts.append(
                f'<text x="{x:g}" y="{y + 22 + number * LINE:g}"{font}>{escape(words)}</text>'
            )
    for start, end in figure.arrows:
        stops = [places[start], *gaps[start, end], places[end]]
        way = f'M{stops[0].x:g} {stops[0].y + stops[0].height:g}'
        for one, other in zip(stops, stops[1:], strict=False):
            bend = (one.y + one.height + other.y) / 2
            way += f'C{one.x:g} {bend:g} {other.x:g} {bend:g} {other.x:g} {other.y:g}'
            if other is not stops[-1]:
                way += f'v{other.height:g}'
        way += 'm-4 -7l4 7l4 -7'
        parts.append(f'<path d="{way}" fill="none" stroke="currentColor"/>')
    width = max(x + size / 2 for x, _, size, _ in places.values()) + GAP / 2
    height = max(y + size for _, y, _, size in places.values()) + 2
    label = escape('Flow: ' + ', '.join(words[0] for words in figure.boxes.values()))
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" style="max-width:100%;height:auto;display:block;margin:1em auto" '
        'font-family="sans-serif" font-size="13" text-anchor="middle"><g fill="currentColor">'
        f'{"".join(part for part in parts if part.startswith("<text"))}</g>'
        f'{"".join(part for part in parts if not part.startswith("<text"))}</svg>'
    )


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the figures of a page."""
    try:
        return BLOCK.sub(lambda found: f'<div>{draw(found[1])}</div>', markdown)
    except PluginError as error:
        raise PluginError(f'{page.file.src_uri}: {error}') from None
