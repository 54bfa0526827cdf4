"""``stmn_plugin/cli/make_tracklets.py`` as a script."""

from stmn_plugin.cli.make_tracklets import run

if __name__ == '__main__':
    run()
