"""``stmn_plugin/cli/search.py`` as a script."""

from stmn_plugin.cli.search import run

if __name__ == '__main__':
    run()
