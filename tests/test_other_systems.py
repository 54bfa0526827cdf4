"""Windows has no fcntl and no resource, and starts processes anew, as macOS does."""

import os
import subprocess
import sys

import pytest

BLOCKED = """
import importlib, multiprocessing, pkgutil, sys

sys.modules.update(fcntl=None, resource=None)  # importing them raises ImportError

if __name__ == '__main__':
    multiprocessing.set_start_method('spawn')
    import filelock  # which then locks in another way
    import stmn_plugin
    from stmn_plugin.cli import train

    for module in pkgutil.walk_packages(stmn_plugin.__path__, 'stmn_plugin.'):
        importlib.import_module(module.name)
    train.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_an_epoch_without_fcntl_and_resource_on_spawned_workers(
    small_run, mars_root, repository, tmp_path
):
    script = tmp_path / 'blocked.py'
    script.write_text(BLOCKED)
    config = str(repository / 'configs' / 'stmn_mars.yaml')
    words = ['--config-file', config, '--root', mars_root, *small_run, 'data.workers', '1']
    done = subprocess.run(
        [sys.executable, str(script), *words],
        cwd=repository,
        env={**os.environ, 'PYTHONPATH': str(repository), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'metrics.json').exists()
    assert (tmp_path / 'run' / 'model' / 'model.pth.tar-1').exists()
