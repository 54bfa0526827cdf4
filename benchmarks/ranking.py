"""Measure time and peak memory of ranking, re-ranking and search, with the floor of each.

    python benchmarks/ranking.py                  MARS size, torchreid's Python ranking and ours
    python benchmarks/ranking.py --host-rerank    and torchreid's re-ranking, half a minute per run
    python benchmarks/ranking.py --million        1,000 queries, a gallery of 1,000,000 in float16
    python benchmarks/ranking.py --million --mapped    the same in float32, in a file of 8.2 GB

Features are drawn: a centre for every identity, and noise. The floor is the time this machine needs
for the multiply-adds at the rate of a large matrix product, or for reading the bytes once at the
rate of a large sum, whichever is longer; both rates are measured first. Peak memory is the resident
set of the whole process during a step (Linux), inputs included. Steps take turns, so that a busy
machine slows all of them equally; medians are printed.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
from typing import NamedTuple

import measuring
import numpy as np
import torch
from tabulate import tabulate

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.evaluation.distances import pairwise_distances
from stmn_plugin.evaluation.ranking import evaluate_ranking, rank_features
from stmn_plugin.evaluation.reranking import rerank
from stmn_plugin.evaluation.search import faiss, top_k

DIM, NUM_PIDS, CAMERAS = 2048, 620, 6
NUM_QUERY, NUM_GALLERY = 1980, 9330
MILLION, MILLION_QUERIES = 1_000_000, 1000
NOISE = 4.0  # of a centre's own deviation: mAP is neither 0 nor 1
DISTRACTOR_PID = 0
LEVELS = 1000  # different distances, where they are tied
BLOCK = 16384  # gallery vectors drawn at a time


class Step(NamedTuple):
    name: str
    run: object  # callable without arguments
    multiply_adds: int = 0
    read: int = 0  # bytes
    host: str = ''  # name of the equivalent step of torchreid


def measure(steps, repeats):
    """Run every step ``repeats`` times, in turns, and print the table."""
    multiply_rate, read_rate = measuring.matrix_rate() / 2, measuring.read_rate()
    seconds, peaks = {step.name: [] for step in steps}, {}
    for _ in range(repeats):
        for step in steps:
            measuring.reset_peak()
            seconds[step.name].append(measuring.seconds_of(step.run))
            peaks[step.name] = max(measuring.peak_gib(), peaks.get(step.name, 0))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    floors = (max(x.multiply_adds / multiply_rate, x.read / read_rate) for x in steps)
    rows = [
        {
            'step': step.name,
            'seconds': f'{median[step.name]:.2f}',
            'torchreid / this': f'{median[step.host] / median[step.name]:.1f}' if step.host else '',
            'peak GiB': f'{peaks[step.name]:.2f}',
            '1e9 multiply-adds': f'{step.multiply_adds / 1e9:,.0f}',
            'MiB read': f'{step.read / 2**20:,.0f}',
            'floor seconds': f'{floor:.2f}',
        }
        for step, floor in zip(steps, floors, strict=True)
    ]
    print(tabulate(rows, headers='keys', disable_numparse=True))
    print(
        f'median of {repeats}; {multiply_rate / 1e9:.0f}e9 multiply-adds/s, '
        f'{read_rate / 1e9:.1f}e9 bytes/s, {torch.get_num_threads()} threads, '
        f'torch {torch.__version__}, numpy {np.__version__}'
    )


def draw_labels(num_query, num_gallery, num_distractors=0):
    """Return pids and camids for ``evaluate_ranking``; the distractors come last."""
    rng = np.random.default_rng(0)
    query_pids, gallery_pids = (rng.integers(1, NUM_PIDS + 1, n) for n in (num_query, num_gallery))
    gallery_pids[num_gallery - num_distractors :] = DISTRACTOR_PID
    query_camids, gallery_camids = (rng.integers(0, CAMERAS, n) for n in (num_query, num_gallery))
    return query_pids, gallery_pids, query_camids, gallery_camids


def draw_features(pids, draw, out=None):
    """Yield blocks of features (len(pids), D) of a NumPy type; distractors have no centre."""
    centres = torch.randn(NUM_PIDS + 1, DIM, generator=torch.Generator().manual_seed(0))
    centres[DISTRACTOR_PID] = 0
    out = np.empty((len(pids), DIM), dtype=np.float32) if out is None else out
    for start in range(0, len(pids), BLOCK):
        some = torch.from_numpy(pids[start : start + BLOCK])
        noise = torch.randn(len(some), DIM, generator=draw)
        out[start : start + BLOCK] = (
            noise.mul_(NOISE)
            .add_(centres[some])
            .to(torch.float16 if out.dtype == np.float16 else torch.float32)
        )
    return out


def mars_steps(metric, with_host_rerank):
    """Compare our steps with torchreid's on random features of the size of MARS."""
    import torchreid  # after stmn_plugin, which silences the advice to compile its ranking

    case = draw_labels(NUM_QUERY, NUM_GALLERY)
    draw = torch.Generator().manual_seed(1)
    query, gallery = (torch.from_numpy(draw_features(pids, draw)) for pids in case[:2])
    host_distance = torchreid.metrics.compute_distance_matrix
    distances = host_distance(query, gallery, metric).numpy()
    tied = np.floor(LEVELS * distances / distances.max())
    pairs, vectors = NUM_QUERY * NUM_GALLERY, NUM_QUERY + NUM_GALLERY
    products, features = pairs * DIM, 4 * vectors * DIM
    # re-ranking: all pairs for the neighbours, then queries and gallery for the final distances
    rerank_products = (vectors**2 + pairs) * DIM

    def host_rank():
        return torchreid.metrics.evaluate_rank(distances, *case, use_cython=False)

    def host_both():
        matrix = host_distance(query, gallery, metric).numpy()
        return torchreid.metrics.evaluate_rank(matrix, *case, use_cython=False)

    def host_rerank():  # of square roots, because it squares
        roots = (
            host_distance(a, b, metric).clamp_min_(0).sqrt_().numpy()
            for a, b in ((query, gallery), (query, query), (gallery, gallery))
        )
        return torchreid.utils.re_ranking(*roots)

    def our_rerank():
        return torch.cat(list(rerank(query, gallery, metric))).numpy()

    ours, reranked = evaluate_ranking(distances, *case), evaluate_ranking(our_rerank(), *case)
    cmc, mean_ap = host_rank()
    print(f'rank-1 {ours.rank(1):.4f}, mAP {ours.mean_ap:.6f}; torchreid {cmc[0]:.4f}, ', end='')
    print(f'{mean_ap:.6f}; re-ranked {reranked.rank(1):.4f}, {reranked.mean_ap:.6f}')
    host = 'torchreid: '
    steps = [
        Step(host + 'distances', lambda: host_distance(query, gallery, metric), products, features),
        Step(host + 'ranking (Python)', host_rank, 0, distances.nbytes),
        Step(host + 'distances + ranking', host_both, products, features),
        Step(
            'distances',
            lambda: pairwise_distances(query, gallery, metric),
            products,
            features,
            host + 'distances',
        ),
        Step(
            'ranking',
            lambda: evaluate_ranking(distances, *case),
            0,
            distances.nbytes,
            host + 'ranking (Python)',
        ),
        Step(
            'ranking, every distance tied',
            lambda: evaluate_ranking(tied, *case),
            0,
            distances.nbytes,
        ),
        Step(
            'distances + ranking',
            lambda: rank_features(query, gallery, *case, metric),
            products,
            features,
            host + 'distances + ranking',
        ),
        *(
            Step(
                f'top 50, {backend}',
                lambda backend=backend: top_k(query, gallery, 50, metric, backend),
                products,
                features,
            )
            for backend in (['torch'] if faiss is None else ['torch', 'faiss'])
        ),
        Step(
            're-ranking',
            our_rerank,
            rerank_products,
            features,
            host + 're-ranking' if with_host_rerank else '',
        ),
    ]
    if with_host_rerank:
        difference = np.abs(our_rerank() - host_rerank()).max()
        print(f're-ranked distances differ from torchreid by at most {difference:.1e}')
        steps.append(Step(host + 're-ranking', host_rerank, rerank_products, features))
    return steps


def million_step(metric, mapped, distractors, folder):
    """Rank a million tracklets: float16 in memory, or float32 in a file."""
    case = draw_labels(MILLION_QUERIES, MILLION, distractors)
    shape, path = (MILLION, DIM), os.path.join(folder, 'gallery')
    draw = torch.Generator().manual_seed(1)
    query = torch.from_numpy(draw_features(case[0], draw))
    if mapped:
        draw_features(case[1], draw, np.memmap(path, np.float32, 'w+', shape=shape)).flush()
        gallery = np.memmap(path, np.float32, 'r', shape=shape)
    else:
        gallery = torch.from_numpy(draw_features(case[1], draw, np.empty(shape, np.float16)))

    def run():
        ranking = rank_features(query, gallery, *case, metric)
        print(f'rank-1 {ranking.rank(1):.4f}, mAP {ranking.mean_ap:.6f}')

    name = f'{"float32 in a file" if mapped else "float16"}, {MILLION - distractors:,} of known pid'
    return Step(name, run, MILLION_QUERIES * MILLION * DIM, (4 if mapped else 2) * MILLION * DIM)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--metric', default='cosine', choices=['cosine', 'euclidean'])
    parser.add_argument('--repeats', type=FROM_ONE, help='3 by default, 1 of a million')
    parser.add_argument('--host-rerank', action='store_true')
    parser.add_argument('--million', action='store_true')
    parser.add_argument('--mapped', action='store_true', help='with --million')
    parser.add_argument('--distractors', type=FROM_ONE, default=MILLION - NUM_GALLERY)
    parser.add_argument('--folder', help='for the file of --mapped; a temporary one by default')
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if args.million:
            folder = args.folder or stack.enter_context(tempfile.TemporaryDirectory())
            steps = [million_step(args.metric, args.mapped, args.distractors, folder)]
        else:
            steps = mars_steps(args.metric, args.host_rerank)
        measure(steps, args.repeats or (1 if args.million else 3))


if __name__ == '__main__':
    main()
