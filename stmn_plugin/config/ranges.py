"""Every key → what it takes. A key without a row here cannot be set, and a test names it."""

from .rules import Flag, ListOf, Number, OneOf, Text, Whole, WordOr

AUTO = 'auto'
TRANSFORMS = ('random_flip', 'random_crop', 'random_patch', 'color_jitter', 'random_erase')
HOST_SAMPLERS = (
    'RandomIdentitySampler',
    'SequentialSampler',
    'RandomSampler',
    'RandomDomainSampler',
    'RandomDatasetSampler',
)
IDENTITY_PASS = 'IdentityPassSampler'  # ours: P x K, an epoch is one pass over the identities

FLAG = Flag()
COUNT = Whole(1, 65_536)
ITEMS = Whole(1, 4_096)  # the statistics of a memory are items x items
EPOCHS = Whole(0, 1_000_000)
INTERVAL = Whole(1, 1_000_000)
SEED = Whole(0, 2**32 - 1)
WEIGHT = Number(0, 1_000)
DECAY = Number(0, 1, below=True)
PRECISION = OneOf(('off', 'bf16', 'fp16'))
NAME = Text('a name')
NAMES = ListOf(NAME, least=1)
FOLDER = Text('a folder')
FILE = Text('a file', may_be_empty=True)

RANGES = {
    'use_gpu': FLAG,
    'model.name': NAME,
    'model.pretrained': FLAG,
    'model.load_weights': FILE,
    'model.resume': FILE,
    'data.type': OneOf(('image', 'video')),
    'data.root': FOLDER,
    'data.sources': NAMES,
    'data.targets': NAMES,
    'data.workers': Whole(0, 256),
    'data.split_id': Whole(0, 10_000),
    'data.height': Whole(16, 1_024),
    'data.width': Whole(8, 1_024),
    'data.combineall': FLAG,
    'data.transforms': ListOf(OneOf(TRANSFORMS, any_case=True)),  # as the host
    'data.k_tfm': Whole(1, 1),  # no engine here takes several copies of an image
    'data.norm_mean': ListOf(Number(-255, 255), length=3),
    'data.norm_std': ListOf(Number(0.001, 255), length=3),
    'data.save_dir': FOLDER,
    'data.load_train_targets': FLAG,
    'data.download': FLAG,
    'data.validation_ids': Number(0, 1_000_000),
    'data.validation_seed': SEED,
    'data.bad_frames': OneOf(('raise', 'skip')),
    'market1501.use_500k_distractors': FLAG,
    'cuhk03.labeled_images': FLAG,
    'cuhk03.classic_split': FLAG,
    'cuhk03.use_metric_cuhk03': FLAG,
    'sampler.train_sampler': OneOf((IDENTITY_PASS, *HOST_SAMPLERS)),
    'sampler.train_sampler_t': OneOf(HOST_SAMPLERS),
    'sampler.num_instances': COUNT,
    'sampler.num_cams': COUNT,
    'sampler.num_datasets': COUNT,
    'video.seq_len': Whole(1, 4_096),
    'video.sample_method': OneOf(('rrs', 'evenly', 'random', 'all')),
    'video.pooling_method': OneOf(('avg', 'max')),
    'video.rrs_chunks': OneOf(('balanced', 'ceil')),
    'stmn.backbone': OneOf(('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')),
    'stmn.backbone_weights': Text('a file or link', may_be_empty=True),
    'stmn.backbone_sha256': Text('64 hexadecimal digits', True, r'[0-9a-fA-F]{64}'),
    'stmn.spatial_mode': OneOf(('memory', 'none')),
    'stmn.spatial_items': ITEMS,
    'stmn.spatial_bn_scale': Number(-100, 100),
    'stmn.temporal_mode': OneOf(('memory', 'mlp', 'average')),
    'stmn.temporal_items': ITEMS,
    'stmn.similarity_scale': WordOr(AUTO, Number(0, 1_000_000, above=True)),
    'train.optim': OneOf(('adam', 'amsgrad', 'sgd', 'rmsprop', 'radam')),
    'train.lr': Number(0, 1_000),
    'train.weight_decay': Number(0, 1_000),
    'train.max_epoch': EPOCHS,
    'train.start_epoch': EPOCHS,
    'train.batch_size': COUNT,
    'train.fixbase_epoch': EPOCHS,
    'train.open_layers': ListOf(NAME),
    'train.staged_lr': FLAG,
    'train.new_layers': ListOf(NAME),
    'train.base_lr_mult': Number(0, 1_000),
    'train.lr_scheduler': OneOf(('single_step', 'multi_step', 'cosine')),
    'train.stepsize': ListOf(INTERVAL, least=1),
    'train.gamma': Number(0, 1),
    'train.print_freq': INTERVAL,
    'train.seed': SEED,
    'train.sync_bn': FLAG,
    'train.save_freq': INTERVAL,
    'train.keep_last': INTERVAL,
    'train.accumulate': COUNT,
    'train.clip_grad_norm': Number(0, 1_000_000),
    'train.amp': PRECISION,
    'train.tf32': FLAG,
    'train.channels_last': FLAG,
    'train.fused': FLAG,
    'train.compile': FLAG,
    'train.checkpoint_activations': FLAG,
    'train.deterministic': FLAG,
    'train.allow_changed': FLAG,
    'train.overwrite': FLAG,
    'sgd.momentum': DECAY,
    'sgd.dampening': Number(0, 1),
    'sgd.nesterov': FLAG,
    'rmsprop.alpha': DECAY,
    'adam.beta1': DECAY,
    'adam.beta2': DECAY,
    'loss.name': OneOf(('softmax', 'triplet', 'stmn')),
    'loss.softmax.label_smooth': FLAG,
    'loss.triplet.margin': WEIGHT,
    'loss.triplet.weight_t': WEIGHT,
    'loss.triplet.weight_x': WEIGHT,
    'loss.spread.weight': WEIGHT,
    'loss.spread.margin': WEIGHT,
    'loss.spread.reduction': OneOf(('sum', 'mean')),
    'test.batch_size': COUNT,
    'test.dist_metric': OneOf(('euclidean', 'cosine')),
    'test.normalize_feature': FLAG,
    'test.ranks': ListOf(INTERVAL, least=1),
    'test.evaluate': FLAG,
    'test.eval_freq': Whole(-1, 1_000_000),  # -1 and 0: only at the end
    'test.start_eval': EPOCHS,
    'test.rerank': FLAG,
    'test.visrank': FLAG,
    'test.visrank_topk': Whole(1, 10_000),
    'test.frames': OneOf(('rrs', 'all')),
    'test.clips_per_tracklet': Whole(1, 10_000),
    'test.features_dir': Text('a folder', may_be_empty=True),
    'test.flip': FLAG,
    'test.amp': PRECISION,
    'test.fold_bn': FLAG,
    'test.protocol': OneOf(('official', 'torchreid', 'matlab', 'A', 'B', 'C')),
    'synthetic.preset': OneOf(('default', 'tiny', 'study')),
    'synthetic.seed': SEED,
}
