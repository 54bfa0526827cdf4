"""``stmn_plugin/cli/index.py`` as a script."""

from stmn_plugin.cli.index import run

if __name__ == '__main__':
    run()
