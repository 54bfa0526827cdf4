"""The device of this process, why a requested GPU is not available, and the peak memory."""

import contextlib
import sys

import torch

from .distributed import world_size

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def usable_gpu(use_gpu: bool) -> bool:
    """Return whether a GPU is requested (``use_gpu``) and available."""
    return use_gpu and torch.cuda.is_available()


def device_name(use_gpu: bool) -> str:
    """Return the name of the device, with the number of processes if there are several."""
    count = f'{world_size()} x ' if world_size() > 1 else ''
    if use_gpu:
        return count + torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f'{count}CPU, {threads} thread{"s"[: threads != 1]}'


def device_line(use_gpu: bool) -> str:
    """Return ``device_name``, with the reason if a requested GPU is not available."""
    line = f'Device: {device_name(usable_gpu(use_gpu))}'
    if use_gpu and not usable_gpu(use_gpu):
        line += f' (use_gpu True cannot be: {gpu_problem()})'
    return line


def gpu_problem() -> str:
    """Return why torch has no GPU here: a build without CUDA, no driver or no device."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        return str(error).split('. ')[0].splitlines()[0]
    return 'torch.cuda.is_available() is False'


def peak_memory() -> dict[str, int]:
    """Bytes: ``resident`` of this process without its workers, ``gpu`` by tensors, 0 without one.

    Linux's own count of this program is preferred: ``getrusage`` also counts what the process
    held before it became this program, as a copy of its parent.
    """
    resident = 0
    if resource is not None:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resident *= 1 if sys.platform == 'darwin' else 1024
    with contextlib.suppress(OSError), open('/proc/self/status', encoding='ascii') as file:
        own = (int(line.split()[1]) << 10 for line in file if line.startswith('VmHWM'))
        resident = next(own, resident)
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {'resident': resident, 'gpu': gpu}
