"""Features of tracklets, distances and ranking; every number is reported with its protocol.

``embedder.py`` computes features of tracklets, ``evaluator.py`` ranks a target; ``protocols.py``
defines what is compared, ``ranking.py`` computes the scores, and ``feature_store.py`` stores the
vectors of frames, so that other protocols need no second encoding. ``search.py`` finds the nearest
tracklets; ``verification.py`` measures single pairs, ``thresholds.py`` keeps the result.
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
