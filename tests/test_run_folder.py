"""One process at a time works in a run folder."""

import subprocess
import sys

import pytest

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.training.run_folder import run_folder

HOLD = """
import sys
from stmn_plugin.config import load_config
from stmn_plugin.training.run_folder import run_folder
with run_folder(load_config('', ['data.save_dir', sys.argv[1]])):
    print('ready', flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize('evaluate', ['False', 'True'])
def test_a_folder_in_use_by_a_process_is_refused_until_it_ends(evaluate, tmp_path):
    cfg = load_config('', ['data.save_dir', str(tmp_path), 'test.evaluate', evaluate])
    other = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == 'ready\n'
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(InputError, match=f'works in {tmp_path}'), run_folder(cfg):
            raise AssertionError('two processes in one folder')
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    finally:
        other.kill()  # as kill -9 does: nothing is cleaned up
        other.communicate()
    for _ in range(2):  # one after the other in one process
        with run_folder(cfg):
            print('mine')
