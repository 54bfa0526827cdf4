"""``stmn_plugin/cli/convert_authors.py`` as a script."""

from stmn_plugin.cli.convert_authors import run

if __name__ == '__main__':
    run()
