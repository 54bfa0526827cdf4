"""``stmn_plugin/cli/demo.py`` as a script."""

from stmn_plugin.cli.demo import run

if __name__ == '__main__':
    run()
