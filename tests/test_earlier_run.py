"""No file of an earlier run is lost unless the user requests it."""

import os

import pytest
import torch

from stmn_plugin.errors import InputError
from stmn_plugin.training.checkpoint import BEST, UNFINISHED
from stmn_plugin.training.earlier_run import Start, check_no_overwrite, remove_overwritten_files

LEFT = {  # what a run leaves → content
    'model/model.pth.tar-3': {'epoch': 3},
    'model/model.pth.tar-4': {'epoch': 4},
    f'model/{BEST}': {'epoch': 3},
    f'model/{UNFINISHED}': {'epoch': 4},
    'metrics.json': '{"evaluations": []}',
    'metrics.jsonl': '{"epoch": 1}\n',
}
MADE = (
    'config.yaml', 'events.out.tfevents.17.host', 'report.html', 'figures/figure-5.png',
    f'report_files/{"0af1" * 5}.webp', 'visrank_mars/person1_camera2_a_b/query_top000/1.jpg',
    'visrank_mars/person1_camera2_a_b/gallery_top001_TRUE/1.jpg',
    'visrank_market1501/person1_camera2_a_b.jpg',
)  # fmt: skip
OTHERS = (
    'notes.txt', 'train.log-2026-11-26-10-00-00', 'console.log', 'figures/mine.png',
    'report_files/mine.webp', '.lock', 'model/model.pth.tar-3.bak', 'model/mine.pth',
    'old/metrics.json', 'metrics.json.old', 'visrank_mars/notes.txt',
)  # fmt: skip


def fill(folder, names=(*LEFT, *MADE, *OTHERS)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = LEFT.get(name, 'x')
        path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    return str(folder)


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if not path.is_dir()}


def refusal(*args):
    with pytest.raises(InputError) as caught:
        check_no_overwrite(*args)
    assert str(args[0]) in str(caught.value) and '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize('name', LEFT)
def test_any_result_or_checkpoint_is_reason_to_ask(name, tmp_path):
    message = refusal(fill(tmp_path, [name]))
    for part in (name, 'model.resume auto', 'train.overwrite True', 'another folder'):
        assert part in message
    # the same holds for a run that resumes from elsewhere
    refusal(str(tmp_path), Start(3, str(tmp_path.parent / 'other' / 'model.pth.tar-3')))


def test_folders_without_a_run_are_free(tmp_path):
    check_no_overwrite(str(tmp_path / 'missing'))
    folder = fill(tmp_path, [*OTHERS, *MADE])
    (tmp_path / 'model' / 'model.pth.tar-9').mkdir()
    (tmp_path / 'metrics.jsonl').write_text('')
    check_no_overwrite(folder)
    assert remove_overwritten_files(folder) == []
    assert names_in(tmp_path) == {*OTHERS, *MADE, 'metrics.jsonl'}


def test_overwriting_removes_the_run_and_nothing_of_the_users(tmp_path):
    folder = fill(tmp_path)
    outside = tmp_path.parent / 'kept.pth'
    torch.save({'epoch': 5}, outside)
    os.symlink(outside, tmp_path / 'model' / 'model.pth.tar-5')
    removed = remove_overwritten_files(folder)
    assert len(removed) == len(set(removed)) == len(LEFT) + len(MADE) + 1
    assert names_in(tmp_path) == set(OTHERS) and outside.exists()
    assert not (tmp_path / 'visrank_market1501').exists()
    assert [path.name for path in (tmp_path / 'visrank_mars').iterdir()] == ['notes.txt']
    check_no_overwrite(folder)


def test_weights_that_the_new_run_starts_from_are_not_removed(tmp_path):
    folder = fill(tmp_path)
    best = os.path.join(folder, 'model', '..', 'model', BEST)
    with pytest.raises(InputError, match='model.load_weights: train.overwrite would remove'):
        remove_overwritten_files(folder, needed={'model.load_weights': best})
    assert names_in(tmp_path) == {*LEFT, *MADE, *OTHERS}


def test_going_on_from_a_checkpoint_of_the_folder_keeps_what_is_before(tmp_path):
    folder = fill(tmp_path)
    four, three = (str(tmp_path / 'model' / f'model.pth.tar-{n}') for n in (4, 3))
    unfinished = str(tmp_path / 'model' / UNFINISHED)
    check_no_overwrite(folder, Start(4, unfinished))
    assert UNFINISHED in refusal(folder, Start(4, four))
    message = refusal(folder, Start(3, three))
    assert f'beyond {three}' in message and 'model.pth.tar-4' in message and BEST not in message
    linked = tmp_path.parent / 'link-to-three'
    os.symlink(three, linked)
    assert 'beyond' in refusal(folder, Start(3, str(linked)))
    assert 'model.pth.tar-4' in refusal(folder, Start(3))  # train.start_epoch
    torch.save({'epoch': 4}, tmp_path / 'model' / BEST)  # the best is of a later epoch
    removed = remove_overwritten_files(folder, Start(3, three))
    gone = {f'model/{BEST}', 'model/model.pth.tar-4', f'model/{UNFINISHED}'}
    assert {os.path.relpath(path, folder) for path in removed} == gone
    assert names_in(tmp_path) == {*LEFT, *MADE, *OTHERS} - gone


def test_auto_starts_anew_only_where_nothing_was_evaluated(tmp_path):
    start = Start(auto=True)
    folder = fill(tmp_path, ['model/model.pth.tar-3', 'metrics.jsonl', 'metrics.json'])
    check_no_overwrite(folder, start)  # epochs that left no usable checkpoint train again
    evaluation = (
        '{"epoch": 3, "dataset": "mars", "protocol": "official", "frames": "rrs", "flip": false, '
        '"reranked": false, "dist_metric": "cosine", "normalize_feature": false, "mAP": 0.5, '
        '"seconds": {"per_tracklet": 1}, "mINP": 0.5, '
        '"num_query": 2, "num_gallery": 8, "num_query_with_match": 2}'
    )
    (tmp_path / 'metrics.json').write_text(f'{{"evaluations": [{evaluation}]}}')
    assert 'no checkpoint to resume from' in refusal(folder, start)
    check_no_overwrite(folder, Start(3, str(tmp_path / 'model' / 'model.pth.tar-3'), auto=True))
    remove_overwritten_files(folder, start)  # also of checkpoints that are of no use
    assert names_in(tmp_path) == set()
    (tmp_path / 'figures').mkdir()
    assert remove_overwritten_files(folder, start) == [] and (tmp_path / 'figures').is_dir()
