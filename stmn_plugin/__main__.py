"""``python -m stmn_plugin``: the commands, see ``cli/commands.py``. Runs by its path, too."""

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # by its path: modules of this folder hide others
    here = Path(__file__).resolve().parent
    sys.path = [str(here.parent), *(entry for entry in sys.path if entry != str(here))]
__spec__ = None  # processes that are spawned then import this file, and with it ctrl_c

from stmn_plugin.cli.commands import main  # noqa: E402
from stmn_plugin.console import run_tool  # noqa: E402
from stmn_plugin.parent_process import end_with_parent  # noqa: E402

if __name__ == '__main__':
    end_with_parent()
    run_tool(main)
