"""Programs to which a signal comes at an exact step of training, however fast they run."""

import os

SITE = """
import os, signal, time
from stmn_plugin.training.trainer import Trainer

train_batch = Trainer.train_batch

def signalled(self, data):
    here = self.epoch + 1, self.batch_idx + 1, int(os.environ.get('RANK', 0))
    if here == {step}:
        {send}
        while not self.interruption.requested:
            time.sleep(0.01)
    return train_batch(self, data)

Trainer.train_batch = signalled
"""


def environment(folder, repository, send='', step=(), rank=0):
    """Variables with which Python programs send a signal before a step, and wait for their own.

    Args:
        folder: becomes the place of what makes them do so.
        repository: that of the package.
        send: the statement.
        step: (epoch, batch), both from 1; empty: never.
        rank: of the process that sends it.
    """
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(SITE.format(step=(*step, rank), send=send))
    path = os.pathsep.join([str(folder), str(repository)])
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path}
