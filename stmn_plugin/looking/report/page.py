"""A run as a whole and the browser of its queries → one HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .browser import Browser
from .curves import HEIGHT, LEFT, RIGHT, WIDTH, Panel, values_by_epoch
from .film_strips import StripSize
from .html_file import WrittenPage, write_html


class Overview(NamedTuple):
    """What the page says of the run as a whole."""

    title: str
    facts: Mapping[str, Any]  # name → value, of the model and its weights
    evaluations: Sequence[Mapping[str, Any]]  # of metrics.json
    panels: Sequence[Panel]
    config: str


def write_report(
    path: str,
    overview: Overview,
    browser: Browser,
    strips: Sequence[bytes],
    size: StripSize,
    embed: bool | None = None,
) -> WrittenPage:
    """Write the page of a run.

    Args:
        path: of the HTML file.
        overview: of the run.
        browser: of its queries and memories.
        strips: a WebP picture for every tracklet of the browser.
        size, embed, and what is raised: see :func:`write_html`.
    """
    names, rows = values_by_epoch(overview.panels)
    values = {
        'run': overview,
        'shown': browser.evaluations,
        'data': browser.data,
        'names': names,
        'rows': rows,
        'plot': {'width': WIDTH, 'height': HEIGHT, 'left': LEFT, 'right': WIDTH - RIGHT},
    }
    return write_html(path, 'report', values, strips, size, embed)
