"""Run a function in several processes that form a group, on a port of their own."""

import contextlib
import io
import multiprocessing
import os
import socket

import torch

from stmn_plugin import distributed


@contextlib.contextmanager
def reserved_port():
    """A port that no other program gets: it is bound, and a process that names it may listen.

    That is so on Linux if both allow it, as torch's store does.
    """
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(('127.0.0.1', 0))
        yield place.getsockname()[1]


def on_processes(function, *args, count=2):
    """What ``function(*args)`` returns on each process of one group, in rank order.

    They are forked: that takes no time, and arguments need not be pickled.
    """
    context = multiprocessing.get_context('fork')
    pipes, processes = [], []
    with reserved_port() as port:
        for rank in range(count):
            reader, writer = context.Pipe(duplex=False)
            words = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': count}
            words.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
            process = context.Process(target=one_process, args=(words, writer, function, args))
            process.start()
            writer.close()
            pipes.append(reader), processes.append(process)
        try:
            return [received(pipe) for pipe in pipes]
        finally:
            for process in processes:
                process.kill()
                process.join()


def received(pipe):
    """None of a process that ended before."""
    with contextlib.suppress(EOFError):
        return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)


def one_process(words, writer, function, args):
    os.environ.update({key: str(value) for key, value in words.items()})
    with distributed.process_group(use_gpu=False):
        result = function(*args)
    file = io.BytesIO()
    torch.save(result, file)
    writer.send_bytes(file.getvalue())
