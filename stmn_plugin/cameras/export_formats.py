"""Write a traced program in a format, and open the file as a function that runs it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.export import ExportedProgram

Run: TypeAlias = Callable[[Tensor], Tensor]


class ExportFormat(NamedTuple):
    """Functions that write a part of a model and read it back."""

    write: Callable[[ExportedProgram, Path, str, str, str], list[str]]
    """Program, folder, name of the part, of its input and output → names of the files."""
    open: Callable[[Path], Run]
    """The first of the files → what it computes."""


def write_onnx(
    program: ExportedProgram, folder: Path, part: str, input: str, output: str
) -> list[str]:
    """Write ``PART.onnx``, with its weights inside."""
    torch.onnx.export(
        program,
        (),
        folder / f'{part}.onnx',
        input_names=[input],
        output_names=[output],
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return [f'{part}.onnx']


def open_onnx(path: Path) -> Run:
    """Open an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is raised, too
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


def write_torch(
    program: ExportedProgram, folder: Path, part: str, input: str, output: str
) -> list[str]:
    """Write ``PART.pt2``, which ``torch.export.load`` reads."""
    torch.export.save(program, folder / f'{part}.pt2')
    return [f'{part}.pt2']


def open_torch(path: Path) -> Run:
    """Open a file of torch.export."""
    module = torch.export.load(path).module()
    return lambda batch: module(batch)


def write_openvino(
    program: ExportedProgram, folder: Path, part: str, input: str, output: str
) -> list[str]:
    """Write ``PART.xml`` and ``PART.bin``, by way of ONNX."""
    import openvino

    [name] = write_onnx(program, folder, part, input, output)
    try:
        model = openvino.convert_model(folder / name)
    finally:
        (folder / name).unlink()
    openvino.save_model(model, folder / f'{part}.xml', compress_to_fp16=False)
    return [f'{part}.xml', f'{part}.bin']


def open_openvino(path: Path) -> Run:
    """Compile in a thread that ends at once.

    OpenVINO gives the thread that compiles a stack for signal handlers and frees it with the model.
    Unless models are closed in reverse order, the thread keeps a freed one, and the next signal
    (a child's end, Ctrl-C) kills the process without a message.
    """
    import openvino

    hints = {
        'INFERENCE_PRECISION_HINT': 'f32',  # else rounded where the processor can
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    with ThreadPoolExecutor(1) as thread:
        compiled = thread.submit(openvino.Core().compile_model, path, 'CPU', hints).result()
    return lambda batch: torch.from_numpy(compiled(batch.numpy())[0].copy())


FORMATS = {
    'onnx': ExportFormat(write_onnx, open_onnx),
    'torch': ExportFormat(write_torch, open_torch),
    'openvino': ExportFormat(write_openvino, open_openvino),
}
