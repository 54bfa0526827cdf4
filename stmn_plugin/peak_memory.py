"""Measure the peak memory of the process, on the machine and on the GPU."""

import contextlib
import sys

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


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
