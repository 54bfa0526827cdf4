"""Optional packages: imported late, with a message that tells how to install a missing one."""

import importlib.util

from .errors import InputError

EXTRA_OF = {  # in pyproject.toml
    'matplotlib': 'report',
    'jinja2': 'report',
    'av': 'cameras',
    'defusedxml': 'cameras',
    'onnx': 'export',
    'onnxscript': 'export',
    'onnxruntime': 'export',
    'openvino': 'export',
    'huggingface_hub': 'hub',
    'psycopg': 'postgresql',
    'pgvector': 'postgresql',
    'timm': 'timm',
}


def require(*modules: str) -> None:
    """Check that modules can be imported, before work that would end at one of them.

    Raises:
        InputError: one is not installed; says how to install it.
    """
    for name in modules:
        if importlib.util.find_spec(name) is None:
            extra = EXTRA_OF.get(name)  # in quotes that every shell takes, cmd.exe included
            requirement = f'"stmn_plugin[{extra}]"' if extra else name
            raise InputError(f'{name} is not installed: pip install {requirement}')
