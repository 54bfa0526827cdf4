"""``stmn_plugin/cli/cost_curve.py`` as a script."""

from stmn_plugin.cli.cost_curve import main
from stmn_plugin.console import run_tool

if __name__ == '__main__':
    run_tool(main)
