"""``stmn_plugin/cli/make_synthetic.py`` as a script."""

from stmn_plugin.cli.make_synthetic import run

if __name__ == '__main__':
    run()
