"""``stmn_plugin/cli/one_shot.py`` as a script."""

from stmn_plugin.cli.one_shot import run

if __name__ == '__main__':
    run()
