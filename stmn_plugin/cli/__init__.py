"""One module a command; the scripts in ``tools/`` and the installed commands call these.

``commands.py`` lists them, ``command_line.py`` parses words, ``track_flags.py`` and
``where_flags.py`` hold flags that several commands have.
"""

from stmn_plugin import ctrl_c  # noqa: F401, first: it holds while a command imports all else
