"""What a message may hold: nothing that could forge a line or that a console cannot write."""

import pytest
from torch.utils.data import DataLoader, Dataset

from stmn_plugin.errors import InputError, exit_on_input_error, printable, resource_errors

FORGED = 'a\nerror: b\r\x1b[2J\x7f\x85\u2028\u202e\ufeff\ud800\udcff.jpg'
SHOWN = r'a\nerror: b\r\x1b[2J\x7f\x85\u2028\u202e\ufeff\ud800\xff.jpg'


def test_a_name_is_one_line_that_any_encoding_can_write():
    assert printable(FORGED) == SHOWN
    assert printable(SHOWN) == SHOWN  # escaped once, not twice
    assert printable('/daten/Übung 1/人.jpg') == '/daten/Übung 1/人.jpg'


class Refusing(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError(f'cannot read frame {FORGED}: it is\ncut')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_name_in_an_error_forges_no_line_of_it(workers, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_input_error():
        list(DataLoader(Refusing(), num_workers=workers))
    assert ended.value.code == 2
    assert capsys.readouterr().err == f'error: cannot read frame {SHOWN}: it is\\ncut\n'


def test_debugging_shows_where_a_worker_raised():
    with pytest.raises(InputError) as caught, exit_on_input_error(debug=True):
        list(DataLoader(Refusing(), num_workers=1))
    assert 'in __getitem__' in ''.join(caught.value.__notes__)


def test_memory_that_numpy_lacks_names_the_batch_size():
    expected = pytest.raises(InputError, match='test.batch_size needs more memory.*9 TiB')
    with expected, resource_errors('test.batch_size'):
        raise MemoryError('Unable to allocate 9 TiB')
    for reason in ('CUDA error: out of memory', 'std::bad_alloc', 'CUBLAS_STATUS_ALLOC_FAILED'):
        expected = pytest.raises(InputError, match=f'test.batch_size needs more .*{reason}')
        with expected, resource_errors('test.batch_size'):
            raise RuntimeError(reason)
    with pytest.raises(RecursionError), resource_errors('test.batch_size'):
        raise RecursionError  # a bug
