"""One module a command; the scripts in ``tools/`` and the installed commands call these."""
