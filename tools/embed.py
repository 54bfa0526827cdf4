"""``stmn_plugin/cli/embed.py`` as a script."""

from stmn_plugin.cli.embed import run

if __name__ == '__main__':
    run()
