"""The network of the authors' released code in plain torch: the oracle of its converter.

Written from docs/released-code.md around torchvision's residual blocks, with the names that a
checkpoint of theirs has; none of the package's code. Rows of the spatial memory are cut from each
frame's numbers one by one.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F


def tree(**children):
    """A module that only holds others, or parameters."""
    module = nn.Module()
    for name, child in children.items():
        setattr(module, name, child)
    return module


class ReleasedNetwork(nn.Module):
    """Clips (B, L, 3, height, width) → in eval mode features, in training mode all of the losses.

    Args:
        resnet: of torchvision.
        num_classes, spatial_items, temporal_items, seq_len: sizes.
    """

    def __init__(self, resnet, num_classes, spatial_items, temporal_items, seq_len):
        super().__init__()
        dim = resnet.fc.in_features
        for module in resnet.layer4.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        stages = {name: getattr(resnet, name) for name in ('conv1', 'bn1', *LAYERS)}
        heads = {f'layer4_{name}': copy.deepcopy(resnet.layer4) for name in ('val', *KEYS)}
        self.features = tree(backbone=tree(**stages, **heads))
        self.smem = tree(
            key=nn.Parameter(torch.zeros(spatial_items, dim)),
            val=nn.Parameter(torch.zeros(spatial_items, dim)),
            bn=nn.BatchNorm1d(dim),
        )
        self.tmem = tree(
            key=nn.Parameter(torch.zeros(temporal_items, dim)),
            val=nn.Parameter(torch.zeros(temporal_items, seq_len)),
            lstm=nn.LSTM(dim, dim, 1),
        )
        self.bn_s, self.bn_t = nn.BatchNorm1d(dim), nn.BatchNorm1d(dim)
        self.cls_s = nn.Linear(dim, num_classes, bias=False)
        self.cls_t = nn.Linear(dim, num_classes, bias=False)

    def forward(self, clips):
        count, length = clips.shape[:2]
        net = self.features.backbone
        maps = F.max_pool2d(net.bn1(net.conv1(clips.flatten(0, 1))), 3, stride=2, padding=1)
        for name in LAYERS:
            maps = getattr(net, name)(maps)
        queries = without_last_relu(net.layer4_key_s, maps)
        patterns = without_last_relu(net.layer4_key_t, maps).mean(dim=(2, 3))
        val_s, spatial = self.refined(net.layer4_val(maps), queries)
        steps = patterns.view(count, length, -1).transpose(0, 1)
        temporal = matching(self.tmem.lstm(steps)[0][-1], self.tmem.key)
        weights = (temporal @ self.tmem.val).softmax(dim=1)
        by_clip = val_s.view(count, length, -1)
        val_t = sum(weights[:, i, None] * by_clip[:, i] for i in range(length))
        normalised = self.bn_t(val_t)
        if not self.training:
            return normalised
        logits = self.cls_s(self.bn_s(val_s)).view(count, length, -1).mean(dim=1)
        return {
            'frame_feature': by_clip.mean(dim=1),
            'frame_logits': logits,
            'clip_feature': val_t,
            'clip_logits': self.cls_t(normalised),
            'spatial_probs': spatial,
            'temporal_probs': temporal,
        }

    def refined(self, features, queries):
        """GAP of the refined maps (T, D), and the probabilities of all rows."""
        dim = features.shape[1]
        rows = [numbers.view(-1, dim) for numbers in queries.flatten(1)]  # K rows of a frame
        probs = matching(torch.cat(rows), self.smem.key)
        taken = self.smem.bn(probs @ self.smem.val).split([len(own) for own in rows])
        maps = [own.flatten().view(features.shape[1:]) for own in taken]
        return (features - torch.stack(maps)).mean(dim=(2, 3)), probs


LAYERS = ('layer1', 'layer2', 'layer3')
KEYS = ('key_s', 'key_t')


def matching(rows, keys):
    """Softmax of the products of rows of length 1 with keys whose channels have length 1."""
    keys = keys / keys.square().sum(dim=0).sqrt()
    return (rows / rows.square().sum(dim=1, keepdim=True).sqrt() @ keys.T).softmax(dim=1)


def without_last_relu(blocks, maps):
    *first, last = blocks
    for block in first:
        maps = block(maps)
    shortcut = maps if last.downsample is None else last.downsample(maps)
    maps = last.bn2(last.conv2(last.bn1(last.conv1(maps)).relu()))
    if hasattr(last, 'conv3'):
        maps = last.bn3(last.conv3(maps.relu()))
    return maps + shortcut


def randomise(network, seed=0):
    """Weights and statistics of a network that has been trained, as far as a test can tell."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if 'running_var' in name:
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.dim() == 1 and name.endswith('weight'):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() == 4:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif name.split('.')[-2] in ('smem', 'tmem', 'cls_s', 'cls_t'):
                tensor.normal_(generator=generator)
            else:
                tensor.normal_(0, 0.1, generator=generator)
        network.bn_s.bias.zero_()
        network.bn_t.bias.zero_()
    return network
