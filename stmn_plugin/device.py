"""The wish for a GPU → the device of this process, by name, and why it is another than wished."""

import torch

from .distributed import world_size


def usable_gpu(wanted: bool) -> bool:
    """Whether a GPU is asked for (``use_gpu``) and there."""
    return wanted and torch.cuda.is_available()


def device_name(use_gpu: bool) -> str:
    """What a process computes on, for people; with the number of processes, if there are many."""
    count = f'{world_size()} x ' if world_size() > 1 else ''
    if use_gpu:
        return count + torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f'{count}CPU, {threads} thread{"s"[: threads != 1]}'


def device_line(wanted: bool) -> str:
    """``device_name``, with the reason when ``use_gpu`` is asked for in vain."""
    line = f'Device: {device_name(usable_gpu(wanted))}'
    if wanted and not usable_gpu(wanted):
        line += f' (use_gpu True cannot be: {gpu_problem()})'
    return line


def gpu_problem() -> str:
    """Why torch has no GPU here: its build is without CUDA, there is no driver or no device."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        return str(error).split('. ')[0].splitlines()[0]
    return 'torch.cuda.is_available() is False'
