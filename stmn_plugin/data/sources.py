"""What no run can mean: datasets that make one person two, tracklets that hold nothing."""

import os.path as osp

from stmn_plugin.errors import InputError


def names_once(key, names):
    """Names of datasets as a list, or None; each once, or its people would be two classes each.

    Args:
        key (str): of the config.
        names (str, list or None): as the host takes them.
    """
    names = [names] if isinstance(names, str) else names
    twice = sorted({name for name in names or () if names.count(name) > 1})
    if twice:
        raise InputError(f'{key}: {twice[0]} is there twice')
    return names


def refuse_empty_tracklets(tracklets):
    """InputError for a tracklet without a frame, as a dataset registered elsewhere may have it."""
    for paths, pid, camid, _ in tracklets:
        if not len(paths):
            raise InputError(f'a tracklet of person {pid} at camera {camid} has no frame')


def refuse_shared_frames(sources, tracklets):
    """InputError where two sources hold the same frame: its person would be two classes.

    Args:
        sources (list): names of datasets.
        tracklets (list): the host's 4-tuples of all of them, the fourth item the source's number.
    """
    if len(sources) < 2:
        return
    folders, owners = {}, {}  # folder → where it lies; (real folder, name) → source
    for paths, _, _, source in tracklets:
        for path in paths:
            folder, name = osp.split(path)
            if folder not in folders:
                folders[folder] = osp.realpath(folder)
            first = owners.setdefault((folders[folder], name), source)
            if first != source:
                raise InputError(
                    f'data.sources: {sources[first]} and {sources[source]} both hold {path}'
                )
