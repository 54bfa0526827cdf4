"""A model and tracklets → features → distances → ranking, with the protocol of every number.

``embedder.py`` makes features of any tracklets, ``evaluator.py`` ranks a target; ``protocols.py``
says what is compared with what, ``ranking.py`` scores it, and ``feature_store.py`` keeps the
vectors of frames, so that other protocols need no second encoding.
"""

import importlib
from typing import Any

_HOMES = {
    'Embedder': '.embedder',
    'Evaluator': '.evaluator',
    'Ranking': '.ranking',
    'evaluate_ranking': '.ranking',
}

__all__ = ['Embedder', 'Evaluator', 'Ranking', 'evaluate_ranking']  # noqa: F822, see below


def __getattr__(name: str) -> Any:
    """Import on first use: torch is slow to import."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
