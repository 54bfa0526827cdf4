"""``stmn_plugin/cli/check_data.py`` as a script."""

from stmn_plugin.cli.check_data import main
from stmn_plugin.console import run_tool

if __name__ == '__main__':
    run_tool(main)
