"""One run or two, looked at → Figures 5 to 10 of the paper with their captions.

Each function takes the subject, the one it is compared with (or None) and the options, and returns
a ``Drawn``; it raises ``NotDrawn`` with the reason for a figure that the model cannot have.
"""

import os
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.evaluation import PROTOCOLS, TestOptions, apply_protocol, rank_tracklets
from stmn_plugin.ranking import JUNK_PID
from stmn_plugin.search import pairwise_distances

from .clip_truth import clip_truth, find_truth
from .clip_views import view_clips
from .figures import (
    attention_strips,
    item_frames,
    item_strips,
    probability_maps,
    refinement_maps,
    retrieval,
)
from .pictures import picture

TOP_FRAMES = 5
TOP_CLIPS = 3
TOP_FOUND = 10
MASK_GRID = (32, 16)  # of the outlines of masks
SHOWN_DIFFERENCES = 99  # percent of the positions; the others have the last colour
TEMPORAL_NAMES = {'memory': 'temporal memory', 'mlp': 'MLP', 'average': 'average pooling'}


class NotDrawn(Exception):
    """A figure that this model cannot have; the message says why."""


class Options(NamedTuple):
    items: int = 0  # that many are shown, drawn by the seed; 0 is all
    seed: int = 0


class Drawn(NamedTuple):
    figure: object
    caption: str


def figure_5(subject, against, options):
    """Matching probabilities of both memories, of random places and clips of the gallery."""
    subjects = [subject] if against is None else [against, subject]
    if all(_no_memory(s) for s in subjects):
        raise NotDrawn('no run has a memory')
    subjects = [s for s in subjects if not _no_memory(s)]
    probes, places = subject.choice.probes, subject.choice.places
    maps = []
    for run in subjects:
        views = [run.gathered.kept[row] for row in probes]
        spatial = temporal = None
        if views[0].spatial_probs is not None:
            spatial = np.stack([at_place(v, p) for v, p in zip(views, places, strict=True)])
        if views[0].temporal_probs is not None:
            temporal = np.stack([view.temporal_probs for view in views])
        maps.append(probability_maps.ProbabilityMaps(_spread_in_words(run), spatial, temporal))
    caption = (
        f'Figure 5. Matching probabilities of {len(probes)} queries (rows) with the items of each '
        'memory (columns): spatial queries of random positions in random frames of the gallery, '
        'temporal queries of the clips that those lie in, the same for all runs; drawn with seed '
        f'{options.seed}. {_from(*subjects)}'
    )
    return Drawn(probability_maps.draw(maps, caption), caption)


def figure_6(subject, against, options):
    """The frames that address each spatial item most, from different tracklets."""
    spatial = subject.gathered.spatial
    if spatial is None:
        raise NotDrawn('the model has no spatial memory')
    items = []
    for item in shown_items(spatial.best_probs.shape[1], options):
        frames = []
        for row in highest(spatial.best_probs[:, item], TOP_FRAMES):
            frame, *place = spatial.best_places[row, item].tolist()
            pixels = _picture(subject, row, frame)
            frames.append(
                item_frames.TopFrame(pixels, tuple(place), float(spatial.best_probs[row, item]))
            )
        items.append((item + 1, frames))
    caption = (
        f'Figure 6. For each spatial item the {len(items[0][1])} frames that address it most, from '
        'different tracklets, with the matching probability; the box marks the position of the '
        f'{subject.grid[0]} x {subject.grid[1]} feature map, which sees more of the frame than the '
        f'box. {_from(subject)}'
    )
    return Drawn(item_frames.draw(items, subject.grid, caption), caption)


def figure_7(subject, against, options):
    """Where the refinement changes the length of features."""
    if subject.gathered.spatial is None:
        raise NotDrawn('the model has no spatial memory')
    clips, masks = [], None
    for row in subject.choice.shown:
        view = subject.gathered.kept[row]
        if subject.truth is not None:
            masks = _truth_of(subject, [row], [view.frames], MASK_GRID).distractor_share[0]
        clips.append(
            refinement_maps.RefinedClip(
                _title(subject, row),
                _strip(subject, row, view.frames),
                view.refined_norms - view.frame_norms,
                masks,
            )
        )
    shown = np.concatenate([np.abs(clip.norm_changes).ravel() for clip in clips])
    limit = float(np.percentile(shown, SHOWN_DIFFERENCES)) or 1.0
    mean_norm = np.mean([subject.gathered.kept[row].frame_norms for row in subject.choice.shown])
    outlined = '' if masks is None else ' Black: border of the true distractor mask, smoothed.'
    caption = (
        'Figure 7. Difference of magnitude |fˢ| − |fᵒ| after and before the refinement, bilinear, '
        'over the grey frame: purple where features get shorter (suppressed), orange where they '
        f'get longer. The colours end at {limit / mean_norm:.1%} of the mean |fᵒ|.{outlined} '
        f'{len(clips)} tracklets {subject.choice.words}. {_from(subject)}'
    )
    return Drawn(refinement_maps.draw(clips, limit, caption), caption)


def figure_8(subject, against, options):
    """Retrieval with the temporal average of pooled fᵒ, and of pooled fˢ."""
    if subject.gathered.spatial is None:
        raise NotDrawn('the model has no spatial memory')
    if not subject.choice.queries:
        raise NotDrawn('none of the tracklets is a query')
    protocol = PROTOCOLS[subject.engine.settings.protocol]
    needs = subject.engine.datamanager.gallery_needs_queries[subject.dataset]
    metric = subject.cfg.test.dist_metric
    rows = subject.collection.gallery
    if protocol.queries_searched and needs:
        rows = np.concatenate([rows, subject.collection.query])
    found, scores = {}, {}
    for kind in ('frame', 'refined'):
        query, gallery = subject.features(kind)
        searched = apply_protocol(query, gallery, protocol, needs)
        scores[kind] = rank_tracklets(query, searched, protocol, TestOptions(dist_metric=metric))
        for row in subject.choice.queries:
            place = subject.collection.query.tolist().index(row)
            distances = pairwise_distances(
                query.features[place : place + 1], searched.features, metric
            )[0].numpy()
            pid, camid = query.pids[place], query.camids[place]
            order = search_order(distances, searched.pids, searched.camids, pid, camid)
            found[row, kind] = [
                retrieval.Found(_picture(subject, rows[i], 0), searched.pids[i] == pid)
                for i in order[:TOP_FOUND]
            ]
    searches = [
        retrieval.Search(
            _title(subject, row),
            _picture(subject, row, 0),
            [('fᵒ', found[row, 'frame']), ('fˢ', found[row, 'refined'])],
        )
        for row in subject.choice.queries
    ]
    caption = (
        f'Figure 8. The {TOP_FOUND} nearest tracklets by the features before (fᵒ) and after (fˢ) '
        'the refinement, both averaged over positions and frames, first frames shown: blue and ✓ '
        "the query's person, orange and ✗ somebody else. Protocol "
        f'{subject.engine.settings.protocol}, distance {metric}, queries {subject.choice.words}. '
        f'Over all queries mAP {scores["frame"].mean_ap:.1%} with fᵒ, '
        f'{scores["refined"].mean_ap:.1%} with fˢ. {_from(subject)}'
    )
    return Drawn(retrieval.draw(searches, caption), caption)


def figure_9(subject, against, options):
    """The clips that address each temporal item most, and the attention that the item stores."""
    gathered = subject.gathered
    if gathered.temporal_probs is None:
        raise NotDrawn('the model has no temporal memory')
    stored = softmax(subject.engine.model.temporal_memory.values.detach().cpu().numpy(), axis=1)
    items = []
    for item in shown_items(len(stored), options):
        strips = []
        for clip in highest(gathered.temporal_probs[:, item], TOP_CLIPS):
            frames = gathered.clip_frames[clip]
            pictures = _strip(subject, gathered.clip_tracklets[clip], frames)
            strips.append((pictures, float(gathered.temporal_probs[clip, item])))
        items.append(item_strips.Item(item + 1, stored[item], strips))
    caption = (
        f'Figure 9. For each temporal item the {len(items[0].strips)} clips that address it most, '
        'with the matching probability, above the attention that the item stores, softmax(v_n); '
        f'dashed: average pooling, 1/{stored.shape[1]}. {_from(subject)}'
    )
    return Drawn(item_strips.draw(items, caption), caption)


def figure_10(subject, against, options):
    """Temporal attention of clips, in order and reversed, of one run or two."""
    if subject.cfg.stmn.temporal_mode == 'average':
        raise NotDrawn('the model averages over time, it has no temporal attention')
    runs, left_out = [subject], ''
    if against is not None and against.cfg.stmn.temporal_mode != 'average':
        if against.cfg.video.seq_len == subject.cfg.video.seq_len:
            runs.append(against)
        else:
            left_out = f' {against.name} is left out: its clips have another length.'
    orders = {'in order': slice(None), 'reversed': slice(None, None, -1)}
    rows = [[] for _ in subject.choice.shown]
    for name, order in orders.items():
        frames = [subject.gathered.kept[row].frames[order] for row in subject.choice.shown]
        attentions = [reordered_attention(run, subject.choice.shown, frames) for run in runs]
        known = [None] * len(frames)
        if subject.truth is not None:
            known = _truth_of(subject, subject.choice.shown, frames, subject.grid).visibility
        for place, row in enumerate(subject.choice.shown):
            strip = attention_strips.Strip(
                _strip(subject, row, frames[place]), [a[place] for a in attentions], known[place]
            )
            rows[place].append((name, strip))
    rows = [
        attention_strips.AttentionRow(_title(subject, row), strips)
        for row, strips in zip(subject.choice.shown, rows, strict=True)
    ]
    names = [f'{TEMPORAL_NAMES[run.cfg.stmn.temporal_mode]}, {run.name}' for run in runs]
    seen = ' Seen: the true visible share of the person.' if subject.truth is not None else ''
    caption = (
        'Figure 10. Temporal attention of clips (left) and of the same frames in reversed order '
        f'(right); dashed: average pooling.{seen} {len(rows)} tracklets {subject.choice.words}. '
        f'{_from(*runs)}{left_out}'
    )
    return Drawn(attention_strips.draw(rows, names, caption), caption)


FIGURES = {
    5: figure_5,
    6: figure_6,
    7: figure_7,
    8: figure_8,
    9: figure_9,
    10: figure_10,
}


def at_place(view, place):
    """Spatial probabilities (M,) of a place in 0..1 of the frames, rows and columns of a clip."""
    shape = view.spatial_probs.shape[:-1]
    return view.spatial_probs[tuple(int(p * size) for p, size in zip(place, shape, strict=True))]


def highest(probs, count):
    """Rows of the highest of (T,), the highest first; the earlier of two that are equal."""
    return np.argsort(-probs, kind='stable')[:count].tolist()


def shown_items(num_items, options):
    """Items that are shown, ascending."""
    if not 0 < options.items < num_items:
        return list(range(num_items))
    rng = np.random.default_rng(options.seed)
    return sorted(rng.choice(num_items, size=options.items, replace=False).tolist())


def search_order(distances, pids, camids, pid, camid):
    """Searched tracklets as every protocol counts them, the nearest first.

    Left out are junk and what the query's own camera saw of its person; distractors stay.
    """
    counts = (pids != JUNK_PID) & ~((pids == pid) & (camids == camid))
    order = np.argsort(distances, kind='stable')
    return order[counts[order]]


def reordered_attention(subject, rows, frames):
    """Attention (n, L) of clips made of given frames of tracklets, in the order given."""
    tracklets = []
    for row, chosen in zip(rows, frames, strict=True):
        paths, *rest = subject.collection.tracklets[row]
        tracklets.append((tuple(paths[i] for i in chosen), *rest))
    plan = ClipPlan(len(frames[0]), 'consecutive')  # all frames in order, here one clip
    return np.stack([view.attention for view in view_clips(subject.engine, tracklets, plan)])


def _truth_of(subject, rows, frames, grid):
    tracklets = subject.collection.tracklets
    return clip_truth(find_truth(tracklets), tracklets, rows, frames, grid)


def _picture(subject, row, frame):
    paths = subject.collection.tracklets[row][0]
    return picture(paths[frame], subject.engine.datamanager.skip_bad)


def _strip(subject, row, frames):
    return [_picture(subject, row, frame) for frame in frames]


def _title(subject, row):
    """A tracklet's name as its first frame has it; the folder's where frames have mere numbers."""
    path = subject.collection.tracklets[row][0][0]
    stem = os.path.splitext(os.path.basename(path))[0]
    name = stem.split('F')[0]
    return name if name and not name.isdigit() else os.path.basename(os.path.dirname(path))


def _no_memory(subject):
    return subject.gathered.spatial is None and subject.gathered.temporal_probs is None


def _spread_in_words(subject):
    kind = 'with' if subject.cfg.loss.spread.weight > 0 else 'without'
    return f'{kind} spread loss: {subject.name}'


def _from(*subjects):
    """The end of every caption."""
    models = '; '.join(f'{subject.name} ({subject.weights})' for subject in subjects)
    return f'Model: {models}. Data: {subjects[0].data_in_words}.'
