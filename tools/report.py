"""``stmn_plugin/cli/report.py`` as a script."""

from stmn_plugin.cli.report import run

if __name__ == '__main__':
    run()
