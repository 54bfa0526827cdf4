"""``stmn_plugin/cli/compare.py`` as a script."""

from stmn_plugin.cli.compare import run

if __name__ == '__main__':
    run()
