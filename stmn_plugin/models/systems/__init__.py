"""The systems that the STMN paper compares with (Table 2), one file each, on STMN's encoder.

Every module in this folder is imported, and registers its architecture.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
