"""A run folder and a config → the results in it that are those asked for."""

import functools
import os

from stmn_plugin.config.defaults import flatten
from stmn_plugin.data.validation import validation_name
from stmn_plugin.errors import InputError
from stmn_plugin.training.provenance import config_digests, decides_test

from .current_data import current_data
from .run_folders import CONFIG, name_changes, start_changes

LISTS = ('train', 'query', 'gallery')


def standalone_evaluations(run, cfg):
    """The evaluations of the last weights alone that a config for testing asks for.

    Args:
        run (RunFolder): finished.
        cfg (CfgNode): says everything else: recipe, protocol, frames, metric, targets, data.

    Returns:
        list: of plain dictionaries, one per target; [] unless every target was tested.

    Raises:
        InputError: other data than the run's own is asked for and cannot be loaded.
    """
    final = run.final_evaluations(cfg.train.max_epoch)
    asked = config_digests(flatten(cfg))
    fitting = [
        e
        for e in run.metrics['evaluations']
        if final
        and e['epoch'] is None
        and final[0].get('weights') in (None, e.get('weights'))  # older ones have no digest
        and asked.items() <= _made_from(e).items()
    ]
    held_out = cfg.data.validation_ids > 0
    targets = [validation_name(cfg.data.sources)] if held_out else cfg.data.targets
    if not set(targets) <= {e['dataset'] for e in fitting}:
        return []
    data = data_asked_for(run, cfg)
    found = {e['dataset']: e for e in fitting if not _other_lists(e, data, ('query', 'gallery'))}
    return [found[name] for name in dict.fromkeys(targets)] if set(targets) <= set(found) else []


def data_asked_for(run, cfg):
    """Target → digests of its lists now, under the ``data.root`` of a config.

    Where the run's own data is no longer there, its results stand as they are: those of the data
    that it was tested on when it was trained.

    Raises:
        InputError: other data is asked for and cannot be loaded.
    """
    try:
        return current_data(cfg)
    except InputError as error:
        if 'data.root' in start_changes(run, cfg):
            raise
        _say_once(f'Results are shown without a look at the data they are of: {error}')
        return {e['dataset']: _made_from(e) for e in run.final_evaluations(cfg.train.max_epoch)}


@functools.cache
def _say_once(line):
    print(line)


def name_other_data(run, cfg, lists=LISTS):
    """One line when the data under ``data.root`` is not what a finished run saw there, else ''.

    Raises:
        InputError: as :func:`data_asked_for`.
    """
    data = data_asked_for(run, cfg) if run.made_from else {}
    for e in run.final_evaluations(cfg.train.max_epoch):
        other = _other_lists(e, data, lists) if e['dataset'] in data else []
        if other:
            lists = f'{", ".join(other)} of {e["dataset"]}'
            return (
                f'{run.path} saw other data than {cfg.data.root} holds now ({lists}) and is left '
                'alone: give another --output'
            )
    return ''


def name_other_test(run, cfg):
    """One line when a run was tested at its end otherwise than a config asks for, else ''."""
    before, now = run.settings, flatten(cfg)
    keys = [key for key in now if decides_test(key) and before[key] != now[key]]
    return name_changes(run, {key: (before[key], now[key]) for key in keys}) if keys else ''


def _other_lists(evaluation, data, lists):
    """Names of the lists of its target that an evaluation was not made from."""
    made_from, now = _made_from(evaluation), data.get(evaluation['dataset'], {})
    return [kind for kind in lists if made_from.get(kind) != now.get(kind)]


def _made_from(evaluation):
    return evaluation.get('made_from') or {}


def name_edited(run):
    """One line when a finished run's config.yaml is not that of its weights, else ''."""
    if not run.made_from:
        return ''
    config = {'train.lr_scheduler': run.settings['train.lr_scheduler'], **run.config}
    if config_digests(config)['recipe'] == run.made_from['recipe']:
        return ''
    return (
        f'{os.path.join(run.path, CONFIG)} is not the config of the weights: it was changed since'
    )
