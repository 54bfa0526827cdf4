"""What could the memories gain, and which share of it does a row have?

python studies/distractors/ceilings.py --rows Baseline '+ TM' '+ SM' --oracle masks visibility \
    --output log/studies/distractors --json ceilings.json

Runs in `--output` are those of tools/compare.py with the same config, rows and seeds: what is
finished is used, what is not is trained. The average precisions of a run are kept in its folder.
`--oracle masks` trains the first row once more, on frames whose known distractors are painted out
(synthetic.paint_out), and tests it on such: what a perfect spatial memory could gain. `--oracle
visibility` trains nothing: a frame of the first row counts as the square of the person's true
visibility in it, its features being as they are: what a perfect temporal memory could gain. Every
other row is compared with the first, query by query and seed by seed; the table has its difference
and its share of the ceilings of its memories, of every ceiling if its title names none. `--keep`
keeps the average precisions in one file, from which `--read` computes the same table:

python studies/distractors/ceilings.py --read studies/distractors/precisions.npz
"""

import argparse
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from tabulate import tabulate

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.cli.compare import child
from stmn_plugin.comparing.run_plan import TESTING, as_words, plan_runs
from stmn_plugin.comparing.run_queue import complete_runs
from stmn_plugin.comparing.variants import Variant, named_variants
from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError, exit_on_input_error
from stmn_plugin.looking.explained_run import open_on_target
from stmn_plugin.looking.frame_weights import (
    EQUAL,
    OWN,
    WEIGHTINGS,
    rank_weighted,
    read_clip_frames,
)
from stmn_plugin.looking.measures.ceilings import share_of_ceiling
from stmn_plugin.plugins import import_file
from stmn_plugin.whole_files import whole_file, write_json

HERE = os.path.dirname(os.path.abspath(__file__))
ORACLES = {'masks': 'SM', 'visibility': 'TM'}  # each is the ceiling of a memory, as titles name it
VISIBILITY = 'visibility^2'
PRECISIONS = 'precisions.npz'  # in the folder of a run
PAINTED = ', distractors painted out'  # behind the title of a row


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--config-file', default=os.path.join(HERE, 'rows.yaml'))
    parser.add_argument('--variants', default=os.path.join(HERE, 'rows_variants.yaml'))
    parser.add_argument('--import', dest='imported', metavar='FILE.py', help='code of the rows')
    parser.add_argument('--rows', nargs='+', metavar='TITLE', help='the baseline first (all)')
    parser.add_argument('--oracle', nargs='+', choices=ORACLES, default=ORACLES)
    parser.add_argument('--seeds', type=FROM_ONE, default=3, metavar='N')
    parser.add_argument('--output', default=os.path.join('log', 'studies', 'distractors'))
    parser.add_argument('--json', metavar='FILE', help='means and measures')
    parser.add_argument('--keep', metavar='FILE', help='average precision of every query, .npz')
    parser.add_argument('--read', nargs='+', metavar='FILE', help='kept files, instead of runs')
    parser.add_argument('opts', nargs='*', metavar='KEY VALUE', help='config keys')
    return parser.parse_intermixed_args(argv)


def chosen_rows(file, titles):
    """Variants by title, the baseline first."""
    rows = {variant.title: variant for variant in named_variants(file)}
    unknown = [title for title in titles or () if title not in rows]
    if unknown:
        raise InputError(f'--rows {unknown[0]!r}: {file} has {", ".join(rows)}')
    return [rows[title] for title in titles or rows]


def painted(row):
    """The same row on frames without their known distractors."""
    changes = {**row.changes, 'synthetic.paint_out': True}
    return Variant(row.title + PAINTED, f'{row.name}-painted', changes)


def precisions_of(run, weightings):
    """Average precision of every query (Q,) by weighting, and the person of each query (Q,).

    They are read from the folder of the run if they were computed with the same checkpoint.
    """
    weights = run.record.checkpoint(run.cfg.train.max_epoch)
    status = os.stat(weights)
    stamp = np.array([status.st_size, status.st_mtime_ns])
    path = Path(run.folder, PRECISIONS)
    if path.exists():
        with np.load(path) as stored:
            known = {name: stored[name] for name in stored.files}
        if np.array_equal(known['stamp'], stamp) and not {*weightings} - {*known}:
            return {name: known[name] for name in weightings}, known['persons']
    words = [*run.words, *as_words({**TESTING, 'model.load_weights': weights})]
    opened = open_on_target(load_config(run.config_file, words), run.title)
    scores = rank_weighted(opened, read_clip_frames(opened), weightings)
    persons = np.array([opened.tracklets.all[row][1] for row in opened.tracklets.query])
    precisions = {name: own.aps for name, own in scores.items()}
    with whole_file(path) as file:
        np.savez_compressed(file, **precisions, persons=persons, stamp=stamp)
    return precisions, persons


def measure(args, execute):
    """Title → weighting → average precisions (S, Q), and the person of each query."""
    rows = chosen_rows(args.variants, args.rows)
    wanted = [*rows, painted(rows[0])] if 'masks' in args.oracle else rows
    planned = plan_runs(wanted, args.seeds, args.config_file, args.opts, args.output)
    found = {}
    for run, outcome in zip(planned, complete_runs(planned, execute, strategies=()), strict=True):
        if outcome.error:
            raise InputError(f'{outcome.title}, {outcome.name}: {outcome.error}')
        weightings = WEIGHTINGS if 'visibility' in args.oracle else (OWN,)
        precisions, persons = precisions_of(run, weightings)
        for name, own in precisions.items():
            found.setdefault(run.title, {}).setdefault(name, []).append(own)
        print(f'{run.title}, seed {run.seed}:', shown(precisions), flush=True)
    return {
        title: {name: np.stack(own) for name, own in by_weighting.items()}
        for title, by_weighting in found.items()
    }, persons


def shown(precisions):
    return ', '.join(f'{name} {100 * np.nanmean(own):.1f}' for name, own in precisions.items())


def keep(path, found, persons):
    """Write what :func:`measure` returns, with 'title: weighting' as the name of an array."""
    arrays = {
        f'{title}: {name}': own.astype(np.float32)
        for title, one in found.items()
        for name, own in one.items()
    }
    with whole_file(Path(path)) as file:
        np.savez_compressed(file, **arrays, persons=persons)


def read_kept(paths, titles):
    """What :func:`measure` returned, of several files; with ``titles``, of these rows only."""
    found, persons = {}, None
    for path in paths:
        try:
            with np.load(path) as stored:
                arrays = {name: stored[name] for name in stored.files}
            own = arrays.pop('persons')
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f'{path}: not a file of --keep ({error})') from error
        if persons is not None and not np.array_equal(persons, own):
            raise InputError(f'{path}: the queries are not those of {paths[0]}')
        persons = own
        for name, precisions in arrays.items():
            title, weighting = name.rsplit(': ', 1)
            found.setdefault(title, {})[weighting] = precisions.astype(np.float64)
    titles = titles or [title for title in found if not title.endswith(PAINTED)]
    if unknown := [title for title in titles if title not in found]:
        raise InputError(f'--rows {unknown[0]!r}: {", ".join(paths)} have {", ".join(found)}')
    painted_too = [title for title in found if title == titles[0] + PAINTED]
    return {title: found[title] for title in [*titles, *painted_too]}, persons


def compare(found, persons, oracles):
    """The measure of every row against every ceiling: title → oracle → Measure.

    A row is compared on the seeds that it, the first one and the oracle have.
    """
    baseline, *others = (title for title in found if not title.endswith(PAINTED))
    own = found[baseline][OWN]
    ceilings = {}
    if 'masks' in oracles and baseline + PAINTED in found:
        ceilings['masks'] = found[baseline + PAINTED][OWN]
    if 'visibility' in oracles:
        ceilings['visibility'] = found[baseline][VISIBILITY]
    measures = {}
    for title in others:
        row, measures[title] = found[title][OWN], {}
        for oracle, ceiling in ceilings.items():
            seeds = min(map(len, (row, own, ceiling)))
            measures[title][oracle] = share_of_ceiling(
                row[:seeds], own[:seeds], ceiling[:seeds], persons
            )
    return measures


def table(found, measures):
    """Markdown, in percent: mAP of every seed, by weighting, and the measures."""

    def of_seeds(own):
        return ', '.join(f'{100 * mean:.1f}' for mean in np.nanmean(own, axis=1))

    def interval(estimate):
        value, low, high = (100 * part for part in estimate)
        return f'{value:.1f} [{low:.1f}, {high:.1f}]'

    lines = []
    for title, one in found.items():
        line = {'row': title, 'mAP of each seed': of_seeds(one[OWN])}
        for name, header in ((EQUAL, 'equal weights'), (VISIBILITY, 'true visibility')):
            line[header] = of_seeds(one[name]) if name in one else ''
        every = measures.get(title, {})
        own = {name: one for name, one in every.items() if ORACLES[name] in title} or every
        most = max((one.counts['seeds'] for one in own.values()), default=0)
        judged = [one for one in own.values() if one.counts['seeds'] == most]
        line['difference'] = interval(judged[0].values['difference']) if judged else ''
        for oracle in ORACLES:
            share = interval(own[oracle].values['share']) if oracle in own else ''
            line[f'share of {oracle}'] = share
        line['verdict'] = '; '.join(dict.fromkeys(one.verdict.split(' (')[0] for one in judged))
        lines.append(line)
    return tabulate(lines, headers='keys', tablefmt='pipe', disable_numparse=True)


def main(argv=None, execute=child):
    args = parse_args(argv)
    with exit_on_input_error(debug=False):
        if args.imported:
            import_file(args.imported)
        found, persons = read_kept(args.read, args.rows) if args.read else measure(args, execute)
        if args.keep:
            keep(args.keep, found, persons)
        measures = compare(found, persons, args.oracle)
        if args.json:
            means = {
                title: {name: np.nanmean(own, axis=1).tolist() for name, own in one.items()}
                for title, one in found.items()
            }
            shares = {
                title: {oracle: measure.as_dict() for oracle, measure in one.items()}
                for title, one in measures.items()
            }
            write_json(args.json, {'mAP': means, 'shares': shares, 'words': sys.argv[1:]})
        print(table(found, measures))


if __name__ == '__main__':
    main()
