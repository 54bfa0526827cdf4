"""Find the tracklets of a person in an index.

A query is one or several tracklets of one person: of the index (--tracklet, --person), folders of
crops (--crops), or tracks of a video (--video). CHECKPOINT, the model that the index was made with,
is needed for queries that are not in the index, and for attention on the page; another one is
refused for any query.
"""

import argparse
import contextlib
import datetime
import functools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stmn_plugin.config.rules import Number, Whole
from stmn_plugin.console import run_tool
from stmn_plugin.errors import InputError, exit_on_input_error, printable
from stmn_plugin.extras import require
from stmn_plugin.numerals import counted, file_size
from stmn_plugin.whole_files import check_writable, write_json, write_text

from .command_line import CommandLine, value_of
from .track_flags import FORMAT_NAMES, add_fps_flag, add_track_flags, track_options
from .where_flags import add_camera_and_time_flags, check_cameras

if TYPE_CHECKING:
    from stmn_plugin.cameras.answers import Answer
    from stmn_plugin.cameras.asking import Asked
    from stmn_plugin.cameras.index import TrackletIndex
    from stmn_plugin.evaluation.embedder import Embedder
    from stmn_plugin.evaluation.thresholds import Thresholds

HEIGHT = 96  # pixels of a frame on the page
NO_THRESHOLD = (
    'No threshold was measured with this model and these frames, so distances only rank; '
    'test.verification True measures one.'
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: %(prog)s --index people.db --tracklet gallery/unknown/lobby/lobby-17 '
        '--not-camera lobby --from 2026-03-01T08:00:00+01:00 --html answer.html',
    )
    parser.add_argument(
        'checkpoint',
        nargs='?',
        metavar='CHECKPOINT',
        help='checkpoint of the model that the index was made with',
    )
    parser.add_argument(
        '--index',
        required=True,
        metavar='INDEX',
        help='index made by tools/embed.py: a file or a URL',
    )
    asked = parser.add_argument_group('query; all that it names are one person')
    asked.add_argument(
        '--tracklet',
        nargs='+',
        default=[],
        metavar='NAME',
        help='tracklets of the index: folders in their tree, or numbers',
    )
    asked.add_argument('--person', metavar='NAME', help='all tracklets of this name')
    asked.add_argument(
        '--crops', nargs='+', type=Path, default=[], metavar='FOLDER', help='folders of crops'
    )
    asked.add_argument(
        '--video', type=Path, metavar='VIDEO', help='video with tracks to search for'
    )
    asked.add_argument(
        '--track', nargs='+', default=[], metavar='ID', help='ids of tracks in the video'
    )
    asked.add_argument('--tracks', type=Path, metavar='FILE', help="tracker's file or folder")
    asked.add_argument('--format', choices=FORMAT_NAMES, help='format of the tracks')
    add_fps_flag(asked)
    of_video = ['--track', '--tracks', '--format', '--fps', *add_track_flags(parser)]
    parser.goes_with(of_video, '--video')
    parser.add_argument(
        '--queries',
        type=Path,
        metavar='CSV',
        help='batch of queries: columns query and one of tracklet, person, crops; '
        'equal queries are one person',
    )
    where = parser.add_argument_group('searched tracklets')
    add_camera_and_time_flags(where)
    shown = parser.add_argument_group('output')
    shown.add_argument(
        '--top',
        type=value_of(Whole(1, 10_000)),
        default=10,
        metavar='K',
        help='results of a query (default: 10)',
    )
    shown.add_argument(
        '--max-distance',
        type=value_of(Number(0, 1e9)),
        metavar='D',
        help='largest distance of a result',
    )
    shown.add_argument(
        '--fuse',
        choices=('mean', 'nearest'),
        default='mean',
        help='how the distances to several tracklets of a query become one (default: mean)',
    )
    shown.add_argument(
        '--rerank',
        type=value_of(Whole(2, 10_000)),
        default=0,
        metavar='N',
        help='re-rank the N nearest by k-reciprocal encoding',
    )
    for name in ('csv', 'json', 'html'):
        help = f'write the results as {name.upper()}'
        shown.add_argument(f'--{name}', type=Path, metavar='FILE', help=help)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug), contextlib.ExitStack() as stack:
        check_args(args)
        from stmn_plugin.cameras.answers import Answer, answer_table, answers_csv, answers_json
        from stmn_plugin.cameras.asking import make_queries
        from stmn_plugin.cameras.index import TrackletIndex, Where
        from stmn_plugin.cameras.index.thresholds import index_thresholds
        from stmn_plugin.cameras.searching import SearchOptions, search

        index = stack.enter_context(TrackletIndex.open(args.index))
        asked = list(ask(args, index, stack))
        embedder = embedder_of(args.checkpoint, index) if args.checkpoint else None
        queries = make_queries(index, asked, embedder)
        options = SearchOptions(
            args.top,
            Where(args.camera, args.not_camera, args.since, args.until),
            args.max_distance,
            args.fuse,
            args.rerank,
        )
        thresholds = index_thresholds(index)
        begin = time.perf_counter()
        found = search(index, queries, options, thresholds)
        seconds = time.perf_counter() - begin
        answers = [Answer(*pair) for pair in zip(queries, found, strict=True)]
        moment = args.since or args.until
        zone = moment.tzinfo if moment else datetime.timezone.utc
        words = options_line(args, index, max(len(query.rows) for query in queries))
        if args.csv:
            write_text(args.csv, answers_csv(answers, zone))
        if args.json:
            write_json(args.json, answers_json(answers, index.model, thresholds, words, zone))
        if args.html:
            write_page(args.html, answers, index, thresholds, words, zone, embedder)
        print(*(answer_table(answer, zone) for answer in answers), sep='\n\n')
        print(f'\n{printable(words)}; {seconds:.2f} s')
        print(printable(thresholds.meaning if thresholds else NO_THRESHOLD))


def check_args(args: argparse.Namespace) -> None:
    """Raise InputError for flags that exclude each other and for files that cannot be written."""
    one = [args.tracklet, args.person, args.crops, args.video]
    if bool(args.queries) == any(map(bool, one)):
        raise InputError(
            'give a query, --tracklet, --person, --crops or --video, or a batch, --queries'
        )
    of_video = {'--track': args.track, '--tracks': args.tracks, '--format': args.format}
    missing = [name for name, value in of_video.items() if not value]
    if args.video and missing:
        raise InputError(f'--video: needs {missing[0]}, too')
    if args.video and not args.checkpoint:
        raise InputError('--video: CHECKPOINT must name the model that the index was made with')
    both = sorted(set(args.camera) & set(args.not_camera))
    if both:
        raise InputError(f'--camera {both[0]} is in --not-camera, too')
    if args.since and args.until and args.since > args.until:
        raise InputError('--from is after --to')
    outputs = [path for path in (args.csv, args.json, args.html) if path]
    files = [
        os.path.realpath(path)
        for path in outputs
        if os.path.isfile(path) or not os.path.exists(path)
    ]
    if len(set(files)) < len(files):
        raise InputError('--csv, --json and --html: two name the same file')
    for path in outputs:
        check_writable(path, args.index, args.queries, args.checkpoint, args.tracks, args.video)
    if args.html:
        require('jinja2')


def ask(
    args: argparse.Namespace, index: 'TrackletIndex', stack: contextlib.ExitStack
) -> Iterator['Asked']:
    """Return the queries of the flags; crops of a video are in a folder that the stack removes."""
    from stmn_plugin.cameras.asking import (
        Asked,
        ask_crops,
        ask_person,
        ask_tracklet,
        ask_video,
        read_queries,
    )
    from stmn_plugin.cameras.making import CroppingJob

    check_cameras(index, '--camera', args.camera)
    check_cameras(index, '--not-camera', args.not_camera)
    if args.queries:
        yield from read_queries(index, args.queries)
        return
    rows = [ask_tracklet(index, name) for name in args.tracklet]
    names = [row.tracklet for row in rows]  # also of one given by its number
    if args.person:
        rows += ask_person(index, args.person)
        names.append(args.person)
    for folder in args.crops:
        rows.append(ask_crops(index, folder))
        names.append(str(folder))
    if args.video:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        options = track_options(args)
        job = CroppingJob(
            args.video, args.tracks, args.format, 'query', Path(folder), None, args.fps, options
        )
        rows += ask_video(job, args.track)
        names.append(f'{args.video.name}, track {" ".join(args.track)}')
    yield Asked(', '.join(names), list(dict.fromkeys(rows)))


def embedder_of(checkpoint: str, index: 'TrackletIndex') -> 'Embedder':
    """Compute features with the index's model.

    Raises:
        InputError: the checkpoint holds another one.
    """
    from stmn_plugin.cameras.index import ModelKey
    from stmn_plugin.device import usable_gpu
    from stmn_plugin.models.loading import load_model

    device = 'cuda' if usable_gpu(True) else 'cpu'
    model = load_model(checkpoint, device)
    made_with = index.model
    chosen = ('frames', 'clips_per_tracklet', 'all_clips', 'flip')
    key = ModelKey.of(model, **{name: getattr(made_with, name) for name in chosen})
    if key != made_with:
        raise InputError(
            f'{checkpoint}: the index was made with another model: {made_with.differences(key)}'
        )
    return made_with.embedder(model, device)


def options_line(args: argparse.Namespace, index: 'TrackletIndex', most: int) -> str:
    """Describe which tracklets were searched, and how, without folders and user names.

    Args:
        args: the flags.
        index: that was searched.
        most: tracklets of a query.
    """
    parts = [f'{counted(len(index), "tracklet")} in {Path(index.name).name}']
    for names, word in ((args.camera, 'cameras'), (args.not_camera, 'not cameras')):
        if names:
            parts.append(f'{word} {", ".join(names)}')
    for moment, word in ((args.since, 'from'), (args.until, 'to')):
        if moment:
            parts.append(f'{word} {moment.isoformat(sep=" ")}')
    parts.append(f'{index.model.metric} distance')
    if args.max_distance is not None:
        parts.append(f'at most {args.max_distance:g}')
    if most > 1:
        which = 'mean distance' if args.fuse == 'mean' else 'smallest distance'
        parts.append(f'of several tracklets of a query the {which}')
    if args.rerank:
        parts.append(f'the nearest {args.rerank} re-ranked by k-reciprocal encoding')
    return 'Searched: ' + ', '.join(parts)


def write_page(
    path: Path,
    answers: Sequence['Answer'],
    index: 'TrackletIndex',
    thresholds: 'Thresholds | None',
    words: str,
    zone: datetime.tzinfo | None,
    embedder: 'Embedder | None',
) -> None:
    """Write the HTML page, and print its path."""
    from stmn_plugin.cameras.answer_page import draw_answers
    from stmn_plugin.looking.report.search_page import SearchFacts, write_search_page

    model = index.model
    pictures = draw_answers(answers, model, HEIGHT, zone, embedder)
    names = [answer.query.name for answer in answers]
    facts = SearchFacts(
        title=names[0] if len(names) == 1 else f'{len(names)} queries',
        asked=words,
        meaning=thresholds.meaning if thresholds else NO_THRESHOLD,
        facts={
            'architecture': model.arch,
            'weights': f'SHA-256 {model.weights[:16]}...',
            'frames': f'{model.frames}, {model.seq_len} a clip, {model.width} x {model.height}',
            'feature': f'{model.dim:,} numbers, {model.metric} distance',
            'made': datetime.datetime.now(zone).isoformat(sep=' ', timespec='seconds'),
        },
    )
    written = write_search_page(str(path), facts, *pictures)
    where = f', its pictures in {printable(written.folder)}' if written.folder else ''
    print(f'Wrote {printable(written.path)}, {file_size(written.size)}{where}')


run = functools.partial(run_tool, main)  # the installed command
