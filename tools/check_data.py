"""``stmn_plugin/cli/check_data.py`` as a script."""

from stmn_plugin.cli.check_data import run

if __name__ == '__main__':
    run()
