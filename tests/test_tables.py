"""MATLAB tables against scipy's reading of them; damaged and harmful files are one line each."""

import io
import os
import struct
import zlib

import h5py
import miniatures
import numpy as np
import pytest
import scipy.io

from stmn_plugin.datasets import hdf5
from stmn_plugin.datasets.tables import (
    SIZE_LIMIT,
    read_matrix,
    read_query_rows,
    read_table,
    starts_within_another,
)
from stmn_plugin.errors import InputError

NUMBER_TYPES = ('i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8', '>i2', '>f8')
TABLE = np.array([[1, 2, 1, 6], [3, 9, -1, 1], [10, 10, 2, 3]])


def mat_bytes(compress=False, **variables):
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compress)
    return file.getvalue()


def message_of(path, name='info', columns=4):
    with pytest.raises(InputError) as caught:
        read_table(str(path), name, columns)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
    return message


@pytest.mark.parametrize('compress', [False, True])
@pytest.mark.parametrize('dtype', NUMBER_TYPES)
def test_every_number_type_is_read_as_scipy_reads_it(tmp_path, dtype, compress):
    table = (TABLE + 1).astype(dtype)  # nothing negative
    other = {'text': 'abc', 'cell': np.array([[1, 'a']], dtype=object), 'z': 1j * np.ones((2, 2))}
    path = tmp_path / 'a.mat'
    path.write_bytes(mat_bytes(compress, **other, info=table, query=table[:, :1]))
    theirs = scipy.io.loadmat(path)
    ours = read_table(str(path), 'info')
    assert ours.dtype == np.int64 and np.array_equal(ours, theirs['info'])
    assert np.array_equal(read_table(str(path), 'query', columns=None), theirs['query'][:, 0])
    assert 'text is no matrix of real numbers' in message_of(path, 'text')
    assert 'cell is no matrix of real numbers' in message_of(path, 'cell')
    assert 'z is no matrix of real numbers' in message_of(path, 'z')
    assert "has no variable 'nothing'" in message_of(path, 'nothing')


def test_a_file_of_a_big_endian_machine():
    """Written by hand from the description of the format: head, then an element in elements."""

    def element(kind, data):
        return struct.pack('>II', kind, len(data)) + data + bytes(-len(data) % 8)

    body = element(6, struct.pack('>II', 6, 0))  # class double
    body += element(5, struct.pack('>ii', 2, 3)) + struct.pack('>HH4s', 1, 1, b'x\0\0\0')
    body += element(3, struct.pack('>6h', 1, 4, 2, 5, 3, 6))  # column by column
    data = bytes(124) + struct.pack('>HH', 0x0100, 0x4D49) + element(14, body)
    assert read_matrix(data, 'x').tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize('compress', [False, True])
def test_no_flipped_bit_does_harm(tmp_path, compress):
    """A table with possible numbers, or one line; with a checksum never other numbers."""
    data = mat_bytes(compress, info=TABLE.astype(np.int32))
    path, rng, refused = tmp_path / 'a.mat', np.random.default_rng(0), 0
    for bit in rng.permutation(8 * len(data))[:400].tolist():
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            table = read_table(str(path), 'info')
        except InputError as error:
            refused += 1
            assert str(error).startswith(f'{path}: ')
            continue
        assert table.shape[1] == 4 and table.min() >= -1
        if compress:
            assert np.array_equal(table, TABLE)
    assert refused > 50


def test_a_file_cut_off_anywhere(tmp_path):
    for compress in (False, True):
        data = mat_bytes(compress, info=TABLE.astype(np.int16))
        for size in range(0, len(data) - 8, 7):
            (tmp_path / 'a.mat').write_bytes(data[:size])
            message_of(tmp_path / 'a.mat')


def test_sizes_that_are_claimed_cost_nothing(tmp_path):
    path = tmp_path / 'a.mat'
    data = bytearray(mat_bytes(info=TABLE.astype(np.int32)))
    shape = data.index(struct.pack('<ii', 3, 4))
    data[shape : shape + 8] = struct.pack('<ii', 2**31 - 1, 2**31 - 1)
    path.write_bytes(data)
    assert 'of shape [2147483647, 2147483647] has 12 values' in message_of(path)
    pack = zlib.compressobj()
    bomb = b''.join([pack.compress(bytes(2**20)) for _ in range(80)]) + pack.flush()  # 80 MiB
    path.write_bytes(data[:128] + struct.pack('<II', 15, len(bomb)) + bomb)
    assert 'far larger than a table' in message_of(path)
    with open(path, 'wb') as file:
        file.truncate(SIZE_LIMIT * 1000)
    assert 'far more than a table' in message_of(path)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe.mat')
    (tmp_path / 'folder.mat').mkdir()
    (tmp_path / 'device.mat').symlink_to('/dev/zero')
    for name in ('pipe', 'folder', 'device'):
        assert 'no regular file' in message_of(tmp_path / f'{name}.mat')
    assert 'No such file' in message_of(tmp_path / 'none.mat')


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 0.5, -2, 2**31, 1e300])
@pytest.mark.parametrize('write', ['v5', 'v7.3'])
def test_impossible_numbers(tmp_path, value, write):
    table = TABLE.astype(np.float64)
    table[1, 3] = value
    if write == 'v5':
        (tmp_path / 'a.mat').write_bytes(mat_bytes(info=table))
    elif value == 0.5:  # a process each
        with h5py.File(tmp_path / 'a.mat', 'w') as file:
            file['info'] = table.T
    else:
        return
    assert 'in row 2, column 4, expected whole numbers' in message_of(tmp_path / 'a.mat')


def test_a_query_is_named_once(tmp_path):
    path = tmp_path / 'a.mat'
    path.write_bytes(mat_bytes(query=np.array([[3, 1, 3]])))
    with pytest.raises(InputError, match='query names row 3 twice'):
        read_query_rows(str(path), 'query', 5)


def test_ranges_that_overlap():
    rng = np.random.default_rng(0)
    for _ in range(200):
        start = rng.integers(1, 30, 6)
        end = start + rng.integers(0, 6, 6)
        expected = []
        for i in range(6):
            earlier = [
                j for j in range(6) if (start[j], j) < (start[i], i)
            ]  # one that begins there or before, in a row before if at the same place
            expected.append(any(start[i] <= end[j] for j in earlier))
        assert starts_within_another(start, end).tolist() == expected


# --- HDF5 ----------------------------------------------------------------------------------------
def harmful(file, folder):
    """Variables of an HDF5 file that must not be read."""
    with h5py.File(folder / 'secret.h5', 'w') as other:
        other['info'] = TABLE.T
    (folder / 'secret.bin').write_bytes(bytes(96))
    file['linked'] = h5py.ExternalLink(str(folder / 'secret.h5'), '/info')
    file['loop'] = h5py.SoftLink('/loop')
    file['group/table'] = TABLE.T
    layout = h5py.VirtualLayout((4, 3), np.int64)
    layout[:] = h5py.VirtualSource(str(folder / 'secret.h5'), 'info', (4, 3))
    file.create_virtual_dataset('virtual', layout)
    elsewhere = [(str(folder / 'secret.bin'), 0, 96)]
    file.create_dataset('outside', (4, 3), np.int64, external=elsewhere)
    file.create_dataset('huge', (4, 2**50), np.int64, chunks=(4, 1024))
    file.create_dataset(
        'huge_chunk', (4, 3), 'f8', maxshape=(None, None), chunks=(2**14, 2**14), compression=9
    )
    file['text'] = np.array([[b'abc', b'def']])
    file.create_dataset('references', (4, 3), h5py.ref_dtype)
    file.create_dataset('any_length', (4, 3), h5py.vlen_dtype(np.int64))
    file.create_dataset('compound', (4, 3), np.dtype([('a', 'i4')]))
    file['cube'] = np.zeros((4, 3, 2))
    file['number'] = 3
    return [*file, 'nothing']


def test_harmful_datasets_are_not_read(tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        names = harmful(file, tmp_path)
        assert len(names) == 14
    with h5py.File(tmp_path / 'a.h5') as file:
        for name in names:
            with pytest.raises(hdf5.UnreadableTable, match=name):
                hdf5.checked(file, name, 'iuf', 2, SIZE_LIMIT)
    for name, reason in (
        ('linked', 'linked is no dataset within the file'),
        ('huge', 'huge has shape (4, 1125899906842624), far'),
    ):
        assert reason in message_of(tmp_path / 'a.h5', name)


def test_the_end_of_the_reader_is_one_line(tmp_path, monkeypatch):
    """Whatever a damaged file does to the process that reads it."""
    path = tmp_path / 'a.mat'
    miniatures.write_lsvid_test(path, TABLE, [1])
    assert np.array_equal(read_table(str(path), 'info_test'), TABLE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 'no readable MATLAB file' in message_of(path, 'info_test')
    reader = tmp_path / 'reader.py'
    monkeypatch.setattr(hdf5, '__file__', str(reader))
    reader.write_text('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)')
    assert 'with code -11' in message_of(path, 'info_test')
    reader.write_text('import signal; signal.pause()')  # for ever
    monkeypatch.setattr(hdf5, 'SECONDS', 0.5)
    assert 'took more than 0.5 s' in message_of(path, 'info_test')
