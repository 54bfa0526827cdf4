"""Every key there is, with its default: the host's, then ours on top.

The host's keys keep their names, types and defaults, so that any torchreid YAML loads.
"""

from yacs.config import CfgNode

from stmn_plugin.plugins import load_plugins

from .ranges import AUTO
from .sections import SECTIONS
from .settings import settings_of


def host_config():
    """torchreid's default config (its ``scripts/default_config.py``, which PyPI does not ship)."""
    import torch  # slow, and needed for this value only

    cfg = CfgNode()
    cfg.use_gpu = torch.cuda.is_available()

    cfg.model = CfgNode()
    cfg.model.name = 'resnet50'  # any name of the model factory (--list-archs)
    cfg.model.pretrained = True  # start from ImageNet weights
    cfg.model.load_weights = ''  # checkpoint whose weights to start from or to test
    cfg.model.resume = ''  # checkpoint to go on from; auto is the newest of data.save_dir

    cfg.data = CfgNode()
    cfg.data.type = 'image'  # image | video
    cfg.data.root = 'reid-data'  # folder that holds the datasets
    cfg.data.sources = ['market1501']  # trained on
    cfg.data.targets = ['market1501']  # tested on
    cfg.data.workers = 4  # processes that read frames
    cfg.data.split_id = 0  # split, for datasets that have several
    cfg.data.height = 256  # of a frame, pixels
    cfg.data.width = 128  # of a frame, pixels
    cfg.data.combineall = False  # train on the test identities too
    cfg.data.transforms = ['random_flip']  # augmentation
    cfg.data.k_tfm = 1  # image data: augmented copies of an image
    cfg.data.norm_mean = [0.485, 0.456, 0.406]  # ImageNet
    cfg.data.norm_std = [0.229, 0.224, 0.225]  # ImageNet
    cfg.data.save_dir = 'log'  # run folder
    cfg.data.load_train_targets = False  # image data: load the targets' training split

    cfg.market1501 = CfgNode()
    cfg.market1501.use_500k_distractors = False

    cfg.cuhk03 = CfgNode()
    cfg.cuhk03.labeled_images = False
    cfg.cuhk03.classic_split = False
    cfg.cuhk03.use_metric_cuhk03 = False

    cfg.sampler = CfgNode()
    cfg.sampler.train_sampler = 'RandomSampler'  # IdentityPassSampler (ours) or one of the host's
    cfg.sampler.train_sampler_t = 'RandomSampler'  # image data: for the targets
    cfg.sampler.num_instances = 4  # K, tracklets per identity in a batch
    cfg.sampler.num_cams = 1  # of RandomDomainSampler
    cfg.sampler.num_datasets = 1  # of RandomDatasetSampler

    cfg.video = CfgNode()
    cfg.video.seq_len = 15  # L, frames in a clip
    cfg.video.sample_method = 'evenly'  # frame sampler: rrs (ours) | evenly | random | all
    cfg.video.pooling_method = 'avg'  # image models on video: avg | max over the frames

    cfg.train = CfgNode()
    cfg.train.optim = 'adam'
    cfg.train.lr = 0.0003
    cfg.train.weight_decay = 5e-4
    cfg.train.max_epoch = 60
    cfg.train.start_epoch = 0
    cfg.train.batch_size = 32  # clips (or images), P x K
    cfg.train.fixbase_epoch = 0  # first epochs in which only open_layers train
    cfg.train.open_layers = ['classifier']
    cfg.train.staged_lr = False  # another learning rate for new_layers
    cfg.train.new_layers = ['classifier']
    cfg.train.base_lr_mult = 0.1
    cfg.train.lr_scheduler = 'single_step'  # single_step | multi_step | cosine
    cfg.train.stepsize = [20]
    cfg.train.gamma = 0.1
    cfg.train.print_freq = 20  # batches between two lines of the log
    cfg.train.seed = 1

    cfg.sgd = CfgNode()
    cfg.sgd.momentum = 0.9
    cfg.sgd.dampening = 0.0
    cfg.sgd.nesterov = False
    cfg.rmsprop = CfgNode()
    cfg.rmsprop.alpha = 0.99
    cfg.adam = CfgNode()
    cfg.adam.beta1 = 0.9
    cfg.adam.beta2 = 0.999

    cfg.loss = CfgNode()
    cfg.loss.name = 'softmax'  # softmax | triplet | stmn (ours)
    cfg.loss.softmax = CfgNode()
    cfg.loss.softmax.label_smooth = True
    cfg.loss.triplet = CfgNode()
    cfg.loss.triplet.margin = 0.3  # of the host's hinge; loss.name stmn uses the soft margin
    cfg.loss.triplet.weight_t = 1.0  # of the triplet terms
    cfg.loss.triplet.weight_x = 0.0  # of the cross-entropy terms beside them

    cfg.test = CfgNode()
    cfg.test.batch_size = 100  # clips (or images)
    cfg.test.dist_metric = 'euclidean'  # euclidean | cosine
    cfg.test.normalize_feature = False  # to length 1 before the distance
    cfg.test.ranks = [1, 5, 10, 20]
    cfg.test.evaluate = False  # test only
    cfg.test.eval_freq = -1  # epochs between evaluations; -1 is only at the end
    cfg.test.start_eval = 0  # first epoch to evaluate after
    cfg.test.rerank = False  # k-reciprocal re-ranking (test only)
    cfg.test.visrank = False  # write pictures of ranked results (test only)
    cfg.test.visrank_topk = 10
    cfg.register_deprecated_key('test.visactmap')  # in the host's older YAML files; does nothing
    return cfg


def add_stmn_config(cfg):
    """Add this plugin's keys to a torchreid config, in place."""
    cfg.stmn = CfgNode()
    cfg.stmn.backbone = 'resnet50'  # resnet18 | 34 | 50 | 101 | 152 of torchvision
    cfg.stmn.backbone_weights = ''  # file or link instead of torchvision's ImageNet weights
    cfg.stmn.backbone_sha256 = ''  # checked when given
    cfg.stmn.spatial_mode = 'memory'  # memory | none (Table 1)
    cfg.stmn.spatial_items = 10  # M
    cfg.stmn.spatial_bn_scale = 0.0  # scale of Eq. 3's BN at the start; torch's own is 1
    cfg.stmn.temporal_mode = 'memory'  # memory | mlp (Sec. 4.2) | average (baseline)
    cfg.stmn.temporal_items = 5  # N; hidden size of the mlp
    cfg.stmn.similarity_scale = AUTO  # auto = sqrt(D / items), or a number; 1.0 is Eq. 1 literally

    cfg.loss.spread = CfgNode()
    cfg.loss.spread.weight = 1.0  # of L_S; 0.0 is "w/o L_S" of Table 1
    cfg.loss.spread.margin = 0.3  # alpha
    cfg.loss.spread.reduction = 'mean'  # over items: mean (authors' code) | sum (Eq. 9 literally)

    cfg.video.rrs_chunks = 'balanced'  # balanced | ceil (authors' code)

    cfg.train.sync_bn = False  # many processes: backbone's BN over the batches of all of them
    cfg.train.save_freq = 1  # epochs between checkpoints
    cfg.train.keep_last = 2  # checkpoints that stay, besides the best
    cfg.train.accumulate = 1  # batches whose gradients make a step
    cfg.train.clip_grad_norm = 0.0  # limit of the norm of a step's gradients; 0 is none
    cfg.train.amp = 'off'  # off | bf16 | fp16: mixed precision
    cfg.train.tf32 = False  # on a GPU: float32 factors rounded to TF32
    cfg.train.channels_last = True  # memory layout of maps and convolutions
    cfg.train.fused = True  # optimizer steps of torch that update all weights in one kernel
    cfg.train.compile = False  # torch.compile of the encoder, in training and testing
    cfg.train.checkpoint_activations = False  # less memory for more time (stmn)
    cfg.train.deterministic = False  # the same computation every time, at some cost of speed
    cfg.train.allow_changed = False  # go on from another recipe or training data
    cfg.train.overwrite = False  # remove the run that data.save_dir holds and start anew

    cfg.data.download = False  # let torchreid fetch a dataset that is not there, by https only
    cfg.data.validation_ids = 0.0  # share (or number) of training ids to hold out and test on
    cfg.data.validation_seed = 0  # which of them
    cfg.data.bad_frames = 'raise'  # raise | skip: unreadable images stop the run or are left out

    cfg.test.frames = 'rrs'  # rrs | all: frames of a tracklet that are tested
    cfg.test.clips_per_tracklet = 1  # with rrs: up to that many clips, their features averaged
    cfg.test.features_dir = ''  # keep the vectors of all frames here, and read them back
    cfg.test.flip = False  # average with the mirrored clip
    cfg.test.amp = 'off'  # off | bf16 | fp16: precision in which frames are encoded
    cfg.test.fold_bn = True  # fold the batch norms of stmn's encoder into its convolutions
    cfg.test.protocol = 'official'  # official | torchreid | matlab | A | B | C, see README

    cfg.synthetic = CfgNode()
    cfg.synthetic.preset = 'default'  # default | tiny | study, see tools/make_synthetic.py
    cfg.synthetic.seed = 0
    return cfg


def get_default_config():
    """The host's defaults, ours, and those of every registered architecture."""
    load_plugins()
    cfg = add_stmn_config(host_config())
    for name, section in SECTIONS.items():
        cfg[name] = CfgNode({one.name: one.default for one in settings_of(section)})
    return cfg


def flatten(tree, prefix=''):
    """{'train': {'lr': 1}} → {'train.lr': 1}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f'{prefix}{key}.'))
        else:
            flat[f'{prefix}{key}'] = value
    return flat
