"""TensorBoard's files may fail: a run continues without them."""

import os

import pytest

from stmn_plugin.training.progress import Curves


@pytest.mark.parametrize('size', [0, 3000])
def test_a_full_disk_costs_the_curves_and_nothing_else(size, tmp_path, capsys, messages):
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        curves = Curves(str(tmp_path))
        for step in range(500):
            curves.add_scalar('loss', 0.5, step)
        curves.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (
        messages()
        == 'Warning: TensorBoard cannot be written (File too large): continuing without it\n'
    )
    assert 'Traceback' not in capsys.readouterr().err


def test_a_folder_that_is_no_utf_8_gets_none(tmp_path, messages):
    curves = Curves(os.path.join(tmp_path, 'run\udcff'))
    curves.add_scalar('loss', 0.5, 1)
    curves.close()
    assert 'continuing without it' in messages()
