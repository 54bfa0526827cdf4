"""A model whose weights depend on the size of frames gets it from whatever builds the model."""

from dataclasses import dataclass

import pytest
import torch
import torchreid
import toy_models
from torch import nn

import stmn_plugin
from stmn_plugin.config import flatten, load_config
from stmn_plugin.config.rules import Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.models import ModelSpec, VideoModel, build_video_model
from stmn_plugin.models.encoder import Encoder


class ToySized(VideoModel):
    """One weight for every pixel."""

    size_in_weights = True

    @dataclass(frozen=True)
    class Config:
        sized_channels: int = setting(2, Whole(1, 8), 'numbers of a feature')

    def __init__(self, num_classes, seq_len, config, pretrained=True, frame_size=(256, 128)):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.frame_size = frame_size
        self.rows = nn.Linear(frame_size[0] * frame_size[1], config.sized_channels)

    def forward(self, clips):
        return self.rows(self.as_clips(clips).mean(dim=(1, 2)).flatten(1))

    def backbone(self):
        return self.rows


@pytest.fixture(autouse=True)
def registered():
    with toy_models.registered(toy_sized=ToySized):
        yield


WORDS = 'model.name toy_sized data.type video data.height 24 data.width 16 video.seq_len 2'


def test_a_config_and_a_checkpoint_say_the_size(tmp_path):
    config = flatten(load_config('', WORDS.split()))
    model = build_video_model(ModelSpec.from_config(config), 7, pretrained=False).eval()
    assert model.frame_size == (24, 16) and model.rows.weight.shape == (2, 384)
    path = tmp_path / 'model.pth.tar-1'
    torch.save({'state_dict': model.state_dict(), 'epoch': 1, 'config': config}, path)
    clips = torch.randn(3, 2, 3, 24, 16)
    assert torch.equal(stmn_plugin.load_model(path)(clips), model(clips))


def test_the_hosts_factory_builds_for_the_size_of_the_config_or_of_the_call():
    stmn_plugin.register(load_config('', WORDS.split()))
    assert torchreid.models.build_model('toy_sized', 7).frame_size == (24, 16)
    stmn_plugin.register(height=32, width=20, backbone='resnet18')
    assert torchreid.models.build_model('toy_sized', 7).frame_size == (32, 20)
    stmn = torchreid.models.build_model('stmn', 7, pretrained=False)  # its weights fit any
    assert stmn.frame_size is None


def test_frames_of_another_size_are_refused(mars_root):
    model = ToySized(7, 2, ToySized.Config(), frame_size=(24, 16))
    assert model(torch.zeros(3, 3, 24, 16)).shape == (3, 2)  # images, too
    for shape in ((3, 2, 3, 16, 24), (3, 3, 24, 8)):
        with pytest.raises(ValueError, match=r'frames of 24x16 pixels \(data.height, data.width\)'):
            model(torch.zeros(shape))
    data = {
        height: torchreid.data.VideoDataManager(
            root=mars_root,
            sources='mars',
            seq_len=2,
            height=height,
            width=16,
            workers=0,
            use_gpu=False,
        )
        for height in (24, 48)
    }
    torchreid.engine.VideoSTMNEngine(data[24], model, None, use_gpu=False)
    with pytest.raises(
        InputError, match=r'of 24x16 pixels .* 48x16; register\(height=48, width=16\)'
    ):
        torchreid.engine.VideoSTMNEngine(data[48], model, None, use_gpu=False)


@pytest.mark.parametrize('size', [(256, 128), (64, 32), (33, 17), (8, 6)])
def test_the_size_of_maps_is_that_of_the_encoders(size):
    with torch.device('meta'):
        encoder = Encoder('resnet18', False, False, False)
        maps = encoder(torch.empty(2, 3, *size)).frame_features
    assert tuple(maps.shape[2:]) == encoder.map_size(size)
