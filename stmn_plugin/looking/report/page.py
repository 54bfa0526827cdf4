"""The page of a run: the whole run with its curves, and the browser of its queries."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.ticker import MaxNLocator

from stmn_plugin.evaluation.doubts import doubt_labels

from .browser import Browser
from .film_strips import StripSize
from .html_file import WrittenPage, write_html

WIDTH, HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 36  # margins around the plot
STEPS = [1, 2, 2.5, 5, 10]


class Curve(NamedTuple):
    """A curve in the coordinates of an SVG."""

    name: str
    values: dict[int, float]  # by epoch
    points: list[tuple[float, float, str]]  # x, y, text of the tooltip
    line: str  # 'x,y x,y ...'


class Panel(NamedTuple):
    """A panel of curves with its axes."""

    title: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]  # x, text
    y_ticks: list[tuple[float, str]]  # y, text


def training_panels(lines: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Draw the panels of a run: losses, their terms, evaluations, accuracy, learning rate.

    Args:
        lines: lines of ``metric_files.read_epoch_lines``.

    Returns:
        The panels that are not empty.
    """
    terms: dict[str, dict[int, float]] = {}  # name → {epoch: value}
    results: dict[tuple[str, str], dict[int, float]] = {}  # (dataset, measure) → the same
    for line in lines:
        for name, value in line.get('losses', {}).items():
            terms.setdefault(name, {})[line['epoch']] = value
        for result in line.get('evaluations', []):
            for measure in ('mAP', 'rank-1'):
                if measure in result:
                    own = results.setdefault((result['dataset'], measure), {})
                    own[line['epoch']] = 100 * result[measure]
    datasets = {dataset for dataset, _ in results}

    def name_of(dataset: str, measure: str) -> str:
        doubts = doubt_labels(
            (
                (line['epoch'], result)
                for line in lines
                for result in line.get('evaluations', [])
                if result['dataset'] == dataset
            ),
            'epoch',
        )
        name = measure if len(datasets) == 1 else f'{dataset} {measure}'
        return f'{name}, {doubts}' if doubts else name

    groups = [
        (
            'Evaluation, %',
            {name_of(*key): values for key, values in results.items()},
        ),
        ('Loss', {name: terms.pop(name) for name in ('loss',) if name in terms}),
        ('Training accuracy, %', {name: terms.pop(name) for name in ('acc',) if name in terms}),
        ('Terms of the loss', {name.replace('_', ' '): terms[name] for name in terms}),
        ('Learning rate', {'lr': {x['epoch']: x['lr'] for x in lines if 'lr' in x}}),
    ]
    return [
        draw_panel(title, {name: values for name, values in group.items() if values})
        for title, group in groups
        if any(group.values())
    ]


def draw_panel(title: str, group: Mapping[str, Mapping[int, float]]) -> Panel:
    """Draw a panel with the y axis from 0, or from below the lowest value if that is negative.

    Args:
        title: title with the unit.
        group: name → {epoch: value}, none empty.
    """
    epochs = [epoch for values in group.values() for epoch in values]
    first, last = min(epochs), max(*epochs, min(epochs) + 1)
    of_all = [value for values in group.values() for value in values.values()]
    lowest, top = min(0, *of_all), max(0, *of_all)
    ticks = MaxNLocator(4, steps=STEPS).tick_values(lowest, top if top > lowest else 1)
    y_values = [float(tick) for tick in ticks if tick >= 0 or lowest < 0]
    x_values = MaxNLocator(5, steps=STEPS, integer=True).tick_values(first, last)

    def x(epoch: float) -> float:
        return round(LEFT + (epoch - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        share = (value - y_values[0]) / (y_values[-1] - y_values[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    curves = []
    for name, values in group.items():
        values = dict(sorted(values.items()))
        points = [(x(e), y(v), f'{name}, epoch {e}: {v:.4g}') for e, v in values.items()]
        curves.append(Curve(name, values, points, ' '.join(f'{px},{py}' for px, py, _ in points)))
    return Panel(
        title,
        curves,
        [(x(tick), f'{tick:g}') for tick in x_values if first <= tick <= last],
        [(y(tick), f'{tick:g}') for tick in y_values],
    )


def values_by_epoch(
    panels: Sequence[Panel],
) -> tuple[list[str], list[tuple[int, list[float | None]]]]:
    """Return the values as a table: names, and rows of an epoch with its values or None."""
    curves = [curve for panel in panels for curve in panel.curves]
    epochs = sorted({epoch for curve in curves for epoch in curve.values})
    rows = [(epoch, [curve.values.get(epoch) for curve in curves]) for epoch in epochs]
    return [curve.name for curve in curves], rows


class Overview(NamedTuple):
    """The part of the page about the whole run."""

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
        size: size of a frame in them.
        embed: see :func:`write_html`, which also documents the errors.
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
