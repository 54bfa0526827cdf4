"""Evaluation protocols, and the record of a ranking with everything needed to compare it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from stmn_plugin.console_table import console_table
from stmn_plugin.labels import natural_key

from .distances import distance_rows
from .doubts import doubt_label
from .features import TrackletFeatures, join_tracklets
from .ranking import Ranking, evaluate_ranking
from .reranking import rerank
from .settings import TestOptions

__all__ = [
    'Evaluation',
    'Ranking',
    'TrackletFeatures',
    'apply_protocol',
    'evaluate_ranking',
    'results_table',
]


TIED_SHARE = 0.01  # of the queries; a few ties are accidental


class Protocol(NamedTuple):
    """Rules of an evaluation, besides data and features."""

    queries_searched: bool  # the query tracklets are part of the gallery
    average_precision: str = 'rectangle'  # or trapezoid, see ``evaluate_ranking``
    unmatched: str = 'skip'  # a query without a match is skipped, or counts as 0 ('zero')


PROTOCOLS = {
    'official': Protocol(queries_searched=True),  # what most video papers report
    'torchreid': Protocol(queries_searched=False),  # the host's
    'matlab': Protocol(True, 'trapezoid'),  # MARS' evaluation code
    'A': Protocol(True, 'trapezoid', 'zero'),  # LS-VID, its authors'
    'B': Protocol(True),  # LS-VID
    'C': Protocol(False),  # LS-VID
}


@dataclass(frozen=True)
class Evaluation:
    """A ranking and everything needed to compare it with another."""

    dataset: str
    ranking: Ranking
    protocol: str  # one of PROTOCOLS
    queries_searched: bool  # the searched tracklets contain all query tracklets
    average_precision: str
    unmatched: str
    frames: str  # frames of a tracklet that are used
    flip: bool
    dist_metric: str
    reranked: bool
    num_query: int
    num_gallery: int
    feature_dim: int
    seconds: dict[str, float]  # 'extraction', 'per_tracklet' of it, 'ranking'
    normalize_feature: bool = False
    weights: str = ''  # digest of the tested weights
    peak_memory: dict[str, int] | None = None  # of the process so far, see ``peak_memory``
    amp: str = 'off'  # precision in which frames were encoded
    num_query_searched: int = 0  # query tracklets among the searched ones
    num_query_tied: int = 0  # queries whose score the gallery's order decides
    collapsed: bool = False  # all features are equal
    epoch: int | None = None  # finished epochs; None for a test only
    made_from: dict[str, str] | None = None  # digests of config and data, see ``provenance``
    verification: dict[str, Any] | None = None  # of ``verification.Verification``

    @property
    def doubt(self) -> str:
        """Why the score does not measure the model, as a sentence, or ''."""
        if self.collapsed:
            return (
                f'The features of all tracklets of {self.dataset} are equal: the model collapsed.'
            )
        if self.num_query_tied > TIED_SHARE * self.ranking.num_valid:
            return (
                f'The order of the gallery decides the score of {self.num_query_tied} of '
                f'{self.ranking.num_valid} queries of {self.dataset}: a match is exactly as far as '
                'another person.'
            )
        return ''

    def as_dict(self, ranks: Iterable[int]) -> dict[str, Any]:
        """Return plain values for ``metrics.json``; rates are fractions."""
        values = {key: value for key, value in vars(self).items() if key != 'ranking'}
        if self.verification is None:
            del values['verification']
        values['num_query_with_match'] = self.ranking.num_valid
        values['doubt'] = self.doubt
        values['mAP'] = round(self.ranking.mean_ap, 6)
        values['mINP'] = round(self.ranking.mean_inp, 6)
        values.update({f'rank-{r}': round(self.ranking.rank(r), 6) for r in ranks})
        return values


def apply_protocol(
    query: TrackletFeatures,
    gallery: TrackletFeatures,
    protocol: Protocol,
    gallery_needs_queries: bool,
) -> TrackletFeatures:
    """Return the gallery that the protocol searches.

    Args:
        query: queries of a dataset.
        gallery: gallery of the dataset, as the host splits it.
        protocol: the protocol, which may search the queries.
        gallery_needs_queries: whether the dataset's official gallery holds the query tracklets and
            ``gallery`` does not.
    """
    if not protocol.queries_searched or not gallery_needs_queries:
        return gallery
    return join_tracklets([gallery, query])


def distances_in_rows(
    query: TrackletFeatures, gallery: TrackletFeatures, options: TestOptions
) -> Iterator[Tensor]:
    """Yield distances in chunks of queries (q, G), never the whole matrix."""
    measure = rerank if options.rerank else distance_rows
    return measure(query.features, gallery.features, options.dist_metric)


class Conditions(NamedTuple):
    """Texts that say how an evaluation was made; numbers compare where they are the same."""

    protocol: str
    frames: str
    distance: str


def conditions(evaluation: Mapping[str, Any]) -> Conditions:
    """Describe protocol, frames and distance of an evaluation of ``metrics.json``.

    >>> tested = {'protocol': 'official', 'reranked': False, 'frames': 'rrs', 'flip': True}
    >>> tuple(conditions({**tested, 'dist_metric': 'cosine', 'normalize_feature': True}))
    ('official', 'rrs + flip', 'cosine, normalised')
    """
    return Conditions(
        evaluation['protocol'] + (' + re-ranking' if evaluation['reranked'] else ''),
        evaluation['frames']
        + (' + flip' if evaluation['flip'] else '')
        + ('' if evaluation.get('amp', 'off') == 'off' else f', {evaluation["amp"]}'),
        evaluation['dist_metric'] + (', normalised' if evaluation['normalize_feature'] else ''),
    )


def rank_names(evaluations: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return 'rank-1' and so on in order; ``test.ranks`` may differ between evaluations."""
    return sorted(
        {key for e in evaluations for key in e if key.startswith('rank-')}, key=natural_key
    )


def results_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Format evaluations of ``metrics.json``, a row per dataset, in percent.

    Every number is shown with its conditions.
    """
    ranks = rank_names(evaluations)
    rows = [
        {
            'dataset': e['dataset'],
            **conditions(e)._asdict(),
            'queries': f'{e["num_query_with_match"]}/{e["num_query"]}',
            'gallery': e['num_gallery'],
            **{name: 100 * e[name] if name in e else None for name in ranks},
            'mAP': 100 * e['mAP'],
            'mINP': 100 * e['mINP'],
            'doubt': doubt_label(e),
        }
        for e in evaluations
    ]
    return console_table(rows, shared=Conditions._fields)


def host_lines(ranking: Ranking, ranks: Iterable[int]) -> str:
    """Format results in the lines that scripts for torchreid parse."""
    lines = [f'mAP: {ranking.mean_ap:.1%}', 'CMC curve']
    return '\n'.join(lines + [f'Rank-{r:<3}: {ranking.rank(r):.1%}' for r in ranks])


class Stopwatch:
    """Seconds since its creation or last reading."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        now = time.perf_counter()
        elapsed, self.start = now - self.start, now
        return round(elapsed, 3)
