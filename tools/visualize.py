"""``stmn_plugin/cli/visualize.py`` as a script."""

from stmn_plugin.cli.visualize import run

if __name__ == '__main__':
    run()
