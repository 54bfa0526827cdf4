"""Measure accuracy against cost: 1 clip a tracklet to all frames.

Encodes each frame once, prints a table, writes cost_curve.json and cost_curve.png into
data.save_dir.
"""

import functools
import os
import statistics
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stmn_plugin.config import load_config
from stmn_plugin.config.rules import Whole, WordOr
from stmn_plugin.console import run_tool
from stmn_plugin.console_table import console_table
from stmn_plugin.errors import InputError, exit_on_input_error
from stmn_plugin.extras import require
from stmn_plugin.whole_files import remove_file, whole_file, write_json

from .command_line import CONFIG, CommandLine, refuse_words, value_of

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from stmn_plugin.data.frame_samplers import ClipPlan
    from stmn_plugin.data.tracklets import Tracklet
    from stmn_plugin.host.engine import VideoEngine

ALL, PICTURE = 'all', 'cost_curve.png'
SET_BY = {
    'test.evaluate': 'this command',
    'test.frames': '--clips',
    'test.clips_per_tracklet': '--clips',
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = CommandLine(
        description=__doc__.split('\n', 1)[0],
        epilog='Vectors of frames are kept in test.features_dir, by default in '
        'data.save_dir/features: run again to read them.',
    )
    parser.add_config_flag(CONFIG + ', with model.load_weights')
    parser.add_key_flags('data.root')
    parser.add_argument(
        '--clips',
        nargs='+',
        type=value_of(WordOr(ALL, Whole(1, 10_000))),
        default=[1, 2, 4, 8, ALL],
        metavar='N',
        help="numbers of clips of a tracklet, or 'all'",
    )
    return parser.parse_args(argv)


def measure(args: Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return a row of plain values for every number of clips and every target."""
    from stmn_plugin.evaluation.doubts import doubt_label
    from stmn_plugin.host.runner import run_tests

    refuse_words(args.opts, SET_BY)
    words = [*args.opts, 'test.evaluate', 'True']
    base = load_config(args.config_file, words)
    if base.data.type != 'video':
        raise InputError('data.type: a cost curve needs video data')
    if 1 not in base.test.ranks:
        raise InputError(f'test.ranks {base.test.ranks}: a cost curve shows rank-1, add 1')
    folder = base.data.save_dir
    features = base.test.features_dir or os.path.join(folder, 'features')
    rows = []

    def config_of(count: int | str) -> 'CfgNode':
        opts = [*words, 'test.features_dir', features, 'data.save_dir', folder]
        frames, clips = (ALL, 1) if count == ALL else ('rrs', count)
        opts += ['test.frames', frames, 'test.clips_per_tracklet', str(clips)]
        return load_config(args.config_file, opts)

    def add_rows(number: int, engine: 'VideoEngine') -> None:
        plan = engine.settings.plan
        assert plan is not None  # of video data
        evaluator = engine.evaluator()
        unlabelled = [name for name in evaluator.targets if not evaluator.can_score(name)]
        if unlabelled:
            raise InputError(f'data.targets {unlabelled[0]}: has no labels, so it has no scores')
        for result in engine.record.evaluations[-len(engine.test_loader) :]:
            tracklets = [
                tracklet
                for mode in ('query', 'gallery')
                for tracklet in engine.datamanager.test_dataset[result['dataset']][mode]
            ]
            rows.append(
                {
                    'dataset': result['dataset'],
                    'clips': args.clips[number],
                    'frames per tracklet': statistics.fmean(used(plan, t) for t in tracklets),
                    'protocol': result['protocol']
                    + (' + re-ranking' if result['reranked'] else ''),
                    **{key: result[key] for key in ('rank-1', 'mAP')},
                    'doubt': doubt_label(result),
                }
            )
        if number == 0:  # of an earlier call: it would look like the picture of these rows
            remove_file(os.path.join(folder, PICTURE))
        write_json(os.path.join(folder, 'cost_curve.json'), rows)  # the next may fail

    run_tests([config_of(count) for count in args.clips], add_rows)
    return folder, rows


def used(plan: 'ClipPlan', tracklet: 'Tracklet') -> int:
    """Count the distinct frames of a tracklet that a plan encodes: its cost."""
    num_frames = len(tracklet[0])
    clips = [plan.clip(num_frames, index) for index in range(plan.count(num_frames))]
    return len({frame for clip in clips for frame in clip})


def draw(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """Draw mAP and rank-1 against frames per tracklet, a line per dataset."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout='constrained')
    for name in sorted({row['dataset'] for row in rows}):
        own = [row for row in rows if row['dataset'] == name]
        frames = [row['frames per tracklet'] for row in own]
        for key, style in (('rank-1', 'o-'), ('mAP', 's--')):
            axes.plot(frames, [100 * row[key] for row in own], style, label=f'{name} {key}')
    axes.set(xlabel='frames encoded per tracklet', ylabel='%', xscale='log')
    ticks = sorted({round(row['frames per tracklet']) for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(path) as file:
        figure.savefig(file, dpi=150, format='png')
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        require('matplotlib')
        folder, rows = measure(args)
        shown = [{**row, 'rank-1': 100 * row['rank-1'], 'mAP': 100 * row['mAP']} for row in rows]
        draw(rows, os.path.join(folder, PICTURE))
        print(console_table(shown, shared=['dataset', 'protocol']))


run = functools.partial(run_tool, main)  # the installed command
