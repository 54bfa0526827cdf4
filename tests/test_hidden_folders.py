"""Pages and figures are shared: they do not say where things lie on a machine."""

import pytest

from stmn_plugin.looking.hidden_folders import without_folders


@pytest.mark.parametrize(
    'path, shown',
    [
        ('/home/anna/reid-data', '.../reid-data'),
        ('~/reid-data/', '.../reid-data'),
        ('~anna', '~anna'),  # no user of this name
        ('../../anna/x.pth', '.../x.pth'),
        ('log/../../anna/x.pth', '.../x.pth'),
        ('log/stmn', 'log/stmn'),
        ('', ''),
        ('auto', 'auto'),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_a_path_out_of_the_working_folder_is_its_last_part(path, shown):
    assert without_folders(path) == shown
    assert without_folders({'data': [path, {'root': path}]}) == {'data': [shown, {'root': shown}]}
