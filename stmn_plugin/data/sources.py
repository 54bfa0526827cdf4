"""What no run can mean: datasets that make one person two, tracklets that hold nothing."""

import os.path as osp
from collections.abc import Iterable, Sequence

from stmn_plugin.errors import InputError

from .tracklets import Tracklet


def names_once(key: str, names: str | list[str] | None) -> list[str] | None:
    """Names of datasets as a list, or None; each once, or its people would be two classes each.

    Args:
        key: of the config.
        names: as the host takes them.
    """
    if names is None:
        return None
    names = [names] if isinstance(names, str) else names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f'{key}: {twice[0]} is there twice')
    return names


def refuse_empty_tracklets(tracklets: Iterable[Tracklet]) -> None:
    """InputError for a tracklet without a frame, as a dataset registered elsewhere may have it."""
    for paths, pid, camid, _ in tracklets:
        if not len(paths):
            raise InputError(f'a tracklet of person {pid} at camera {camid} has no frame')


def refuse_shared_frames(sources: Sequence[str], tracklets: Iterable[Tracklet]) -> None:
    """InputError where two sources hold the same frame: its person would be two classes.

    Args:
        sources: names of datasets.
        tracklets: the host's 4-tuples of all of them, the fourth item the source's number.
    """
    if len(sources) < 2:
        return
    folders: dict[str, str] = {}  # folder → where it lies
    owners: dict[tuple[str, str], int] = {}  # (real folder, name) → source
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
