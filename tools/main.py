"""``stmn_plugin/cli/train.py`` as a script."""

from stmn_plugin.cli.train import run

if __name__ == '__main__':
    run()
