"""Hook of mkdocs: roles of reStructuredText in docstrings, as :func:`name`, become plain code."""

import re
from typing import Any

ROLE = re.compile(r':(?:attr|class|func|meth|mod):(?=<code>)')


def on_page_content(html: str, **_: Any) -> str:
    """Drop the name of a role in front of its code."""
    return ROLE.sub('', html)
