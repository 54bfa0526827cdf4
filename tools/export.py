"""``stmn_plugin/cli/export.py`` as a script."""

from stmn_plugin.cli.export import run

if __name__ == '__main__':
    run()
