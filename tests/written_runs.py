"""Run folders as training leaves them, written without any training."""

import json

from stmn_plugin.comparing.run_plan import TESTING, as_words, plan_runs
from stmn_plugin.comparing.stored_run import read_run
from stmn_plugin.comparing.variants import Variant
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.training.provenance import config_digests

VIDEO = ['data.type', 'video', 'data.sources', "['mars']", 'data.targets', "['mars']"]
VIDEO += ['train.max_epoch', '3', 'video.sample_method', 'rrs']


def evaluation(**changes):
    values = {
        'dataset': 'mars',
        'protocol': 'official',
        'frames': 'rrs',
        'flip': False,
        'dist_metric': 'euclidean',
        'normalize_feature': False,
        'reranked': False,
        'weights': 'w',
        'epoch': None,
        'seconds': {'extraction': 10.0, 'per_tracklet': 0.5, 'ranking': 0.1},
        'peak_memory': {'resident': 3 << 30, 'gpu': 0},
        'rank-1': 0.5,
        'rank-5': 0.6,
        'rank-10': 0.7,
        'mAP': 0.4,
        'mINP': 0.1,
        'num_query': 20,
        'num_gallery': 80,
        'num_query_with_match': 18,
    }
    return {**values, **changes}


DATA = {'train': 'of train', 'query': 'of query', 'gallery': 'of gallery'}


def made_from(words, data=DATA):
    """As an evaluation records it."""
    return {**config_digests(flatten(load_config('', words))), **data}


def alone(words=(), base=VIDEO, data=DATA, **changes):
    """The evaluation of a run's last weights alone, by KEY VALUE words on its own config."""
    frames = changes.get('frames', 'rrs')
    words = [*base, *as_words({**TESTING, 'test.frames': frames}), *words]
    return evaluation(made_from=made_from(words, data), **changes)


def write_run(folder, words=(), epochs=3, evaluations=None, base=VIDEO, data=DATA):
    """A run folder as training leaves it after so many of its epochs."""
    (folder / 'model').mkdir(parents=True)
    cfg = load_config('', [*base, *words])
    (folder / 'config.yaml').write_text(cfg.dump())
    if epochs:
        (folder / 'model' / f'model.pth.tar-{epochs}').write_bytes(b'not looked at')
    lines = [{'epoch': e, 'losses': {}, 'seconds': 2.5} for e in range(1, epochs + 1)]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    evaluations = [evaluation(epoch=epochs)] if evaluations is None else evaluations
    for e in evaluations:
        e.setdefault('made_from', made_from([*base, *words], data))
    content = {'parameters': 1_500_000, 'gflops_per_frame': 0.25, 'feature_dim': 512, 'seq_len': 4}
    (folder / 'metrics.json').write_text(json.dumps({**content, 'evaluations': evaluations}))
    return read_run(str(folder))


def finished_run(folder, words=(), data=DATA, epochs=3, base=VIDEO, **scores):
    """A finished run that was tested with both strategies."""
    evaluations = [
        evaluation(epoch=epochs),
        *(alone(words, base, data, frames=frames, **scores) for frames in ('rrs', 'all')),
    ]
    return write_run(folder, words, epochs, evaluations, base, data)


def never(words, log, watch):
    raise AssertionError(f'nothing was left to do, but {words} was to run')


AS_IT_IS = Variant('As it is', 'as_it_is', {})


def planned(words, output, variant=AS_IT_IS):
    """The first run of a variant."""
    return plan_runs([variant], 1, '', [*VIDEO, *words], str(output))[0]
