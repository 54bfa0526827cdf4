"""One module a command; the scripts in ``tools/`` and the installed commands call these."""

from stmn_plugin import ctrl_c  # noqa: F401, first: it holds while a command imports all else
