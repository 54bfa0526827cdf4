"""Rank a target by features of its tracklets, and describe the ranking completely."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from stmn_plugin.data.tracklets import Target, Tracklet
from stmn_plugin.device import peak_memory
from stmn_plugin.distributed import broadcast
from stmn_plugin.errors import InputError

from .features import TrackletFeatures
from .fingerprint import weights_digest
from .pair_scores import joined_rows, refuse_pair_scores, rescored_rows, scored_rows
from .protocols import (
    PROTOCOLS,
    Evaluation,
    Protocol,
    Stopwatch,
    apply_protocol,
    distances_in_rows,
)
from .ranking import QueryScores, score_queries, summarize
from .searched import count_searched, is_collapsed
from .settings import TestOptions, TestSettings
from .verification import PairCollector

Embed = Callable[[Sequence[Tracklet], str], TrackletFeatures | None]


class Searched(NamedTuple):
    """Features of a target; if the protocol adds the queries to the gallery, they come last."""

    query: TrackletFeatures
    gallery: TrackletFeatures


class Evaluator:
    """Evaluate a model on targets.

    Args:
        model: the model that computes the features.
        embed: tracklets and a name → features in the main process, None in others, such as an
            :class:`.embedder.Embedder`.
        targets: targets by name.
        settings: protocol and frames, as in the embedder.
        options: metric and re-ranking.
        digests_of: name of a target → digests of config and data, for the evaluation.

    Raises:
        InputError: options for distances of vectors with a model that scores or rescores pairs
            itself. The metric is not such an option; a model that scores pairs ignores it, see
            :attr:`dist_metric`.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: Embed,
        targets: Mapping[str, Target],
        settings: TestSettings | None = None,
        options: TestOptions | None = None,
        digests_of: Callable[[str], dict[str, str]] | None = None,
    ):
        self.model = model
        self.embed = embed
        self.targets = targets
        self.settings = settings or TestSettings()
        self.options = options or TestOptions()
        self.digests_of = digests_of
        if self.options.rerank:
            refuse_pair_scores(model, 'test.rerank')
        if self.options.normalize_feature:
            refuse_pair_scores(model, 'test.normalize_feature')
        for key, given in (
            ('test.rerank', self.options.rerank),
            ('test.verification', self.settings.verification),
        ):
            if given and self.rescored:
                raise InputError(
                    f'{key}: {type(model).__name__} orders the nearest {self.rescored} of each '
                    'query anew, their distances are no longer those of the features'
                )

    @property
    def protocol(self) -> Protocol:
        """The protocol of the ranking."""
        return PROTOCOLS[self.settings.protocol]

    @property
    def scores_pairs(self) -> bool:
        """Whether the model scores pairs itself."""
        return getattr(self.model, 'score_pairs', None) is not None

    @property
    def dist_metric(self) -> str:
        """Metric of the ranking; 'score_pairs' if the model scores pairs itself."""
        if self.scores_pairs:
            return 'score_pairs'
        again = f', nearest {self.rescored} rescored' if self.rescored else ''
        return self.options.dist_metric + again

    @property
    def rescored(self) -> int:
        """How many of the nearest of each query the model orders anew."""
        return int(getattr(self.model, 'rescored', 0))

    def can_score(self, name: str) -> bool:
        """Return whether a target has labels by which queries can be scored."""
        target = self.targets[name]
        return target.is_labelled or target.count_matchable() > 0

    def evaluate(self, name: str, epoch: int | None = None) -> Evaluation:
        """Encode a target and rank its queries; all processes return the main one's evaluation.

        Args:
            name: name of the target.
            epoch: finished epochs, for the evaluation.

        Raises:
            InputError: features are not finite, frames are unreadable, or no query has a match.
        """
        watch = Stopwatch()
        return self.rank(name, self.features(name), watch(), epoch)

    def rank(
        self, name: str, searched: Searched | None, extraction: float, epoch: int | None = None
    ) -> Evaluation:
        """Evaluate the features of a target, whose extraction took ``extraction`` seconds."""
        watch, evaluation = Stopwatch(), None
        if searched is not None:
            count = len(self.targets[name].query) + len(self.targets[name].gallery)
            seconds = {'extraction': extraction, 'per_tracklet': round(extraction / count, 6)}
            pairs = PairCollector(*_labels(searched)) if self.settings.verification else None
            scores = self.score(searched, pairs)
            seconds['ranking'] = watch()
            evaluation = self.describe(name, scores, searched, seconds, epoch, pairs)
        result: Evaluation = broadcast(evaluation)
        return result

    def features(self, name: str) -> Searched | None:
        """Compute features of a target's queries and of the gallery that the protocol searches."""
        target = self.targets[name]
        query = self.embed(target.query, f'{name}-query')
        gallery = self.embed(target.gallery, f'{name}-gallery')
        if query is None or gallery is None:
            return None
        if self.options.normalize_feature:
            query, gallery = query.normalized(), gallery.normalized()
        needs = target.gallery_needs_queries
        return Searched(query, apply_protocol(query, gallery, self.protocol, needs))

    def tracklets(self, name: str) -> tuple[list[Tracklet], list[Tracklet]]:
        """Return a target's queries and searched tracklets, in the order of :meth:`features`."""
        target = self.targets[name]
        queries, gallery = list(target.query), list(target.gallery)
        adds = self.protocol.queries_searched and target.gallery_needs_queries
        return queries, gallery + queries if adds else gallery

    def distances(self, searched: Searched) -> Iterator[Tensor]:
        """Yield distances in chunks of queries (q, G), never the whole matrix."""
        query, gallery = searched
        model: Any = self.model
        if not self.scores_pairs and not self.rescored:
            rows: Iterator[Tensor] = distances_in_rows(query, gallery, self.options)
            return rows
        device = next(model.parameters()).device.type
        if self.rescored:
            assert query.clips is not None and gallery.clips is not None  # means of tracklets
            compared = query.clips.features, gallery.clips.features
            rows = distances_in_rows(query, gallery, self.options)
            return rescored_rows(rows, *compared, model.rescore, self.rescored, device)
        if query.clips is not None and gallery.clips is not None:
            joined = model.score_pairs, model.join_scores, device
            return joined_rows(query.clips, gallery.clips, *joined)
        return scored_rows(query.features, gallery.features, model.score_pairs, device)

    def score(self, searched: Searched, pairs: PairCollector | None = None) -> QueryScores:
        """Score every query; the collector gets all distances."""
        rows, precision = self.distances(searched), self.protocol.average_precision
        if pairs is not None:
            rows = pairs.through(rows)
        scores: QueryScores = score_queries(rows, *_labels(searched), precision)
        return scores

    def describe(
        self,
        name: str,
        scores: QueryScores,
        searched: Searched,
        seconds: dict[str, float],
        epoch: int | None = None,
        pairs: PairCollector | None = None,
    ) -> Evaluation:
        """Build the evaluation from the scores of a target and the collected pairs, if any."""
        (query, gallery), settings, options = searched, self.settings, self.options
        queries, tracklets = self.tracklets(name)
        num_searched = count_searched(queries, tracklets)
        return Evaluation(
            dataset=name,
            ranking=summarize(scores, len(gallery.pids), self.protocol.unmatched),
            protocol=settings.protocol,
            queries_searched=num_searched == len(queries),
            average_precision=self.protocol.average_precision,
            unmatched=self.protocol.unmatched,
            num_query_searched=num_searched,
            num_query_tied=int(scores.tied.sum()),
            collapsed=is_collapsed(
                [query.features, gallery.features],
                'euclidean' if self.scores_pairs else options.dist_metric,
            ),
            frames=settings.plan.title if settings.plan else 'image',
            flip=settings.flip,
            amp=settings.amp,
            dist_metric=self.dist_metric,
            reranked=options.rerank,
            num_query=len(query.pids),
            num_gallery=len(gallery.pids),
            feature_dim=query.features.shape[1],
            seconds=seconds,
            normalize_feature=options.normalize_feature,
            weights=weights_digest(self.model),
            peak_memory=peak_memory(),
            epoch=epoch,
            made_from=self.digests_of(name) if self.digests_of else None,
            verification=pairs.result().as_dict(settings.false_positive_rate) if pairs else None,
        )


def _labels(searched: Searched) -> tuple[Any, Any, Any, Any]:
    query, gallery = searched
    return query.pids, gallery.pids, query.camids, gallery.camids
