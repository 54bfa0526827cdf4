"""The systems that the STMN paper compares with (Table 2), on STMN's encoder.

A file is a system, except for ``ste_nvan.py`` (NVAN and STE-NVAN), ``csa_matching.py`` and
``seeforest_pairs.py`` (how these two compare pairs). Every module in this folder is imported, and
registers its architecture.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
