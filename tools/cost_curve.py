"""``stmn_plugin/cli/cost_curve.py`` as a script."""

from stmn_plugin.cli.cost_curve import run

if __name__ == '__main__':
    run()
