"""Translate a config to keyword arguments; code beyond this module does not read configs."""

from typing import Any

from yacs.config import CfgNode


def recipe_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return arguments of :class:`stmn_plugin.losses.recipe.Recipe`, as ``loss.name`` defines them.

    ``softmax`` is the cross-entropy alone, ``triplet`` adds the hinge as the host weighs them, and
    ``stmn`` takes the soft margin instead and the memory spread.
    """
    loss = cfg.loss
    with_triplet, with_spread = loss.name != 'softmax', loss.name == 'stmn'
    return {
        'cross_entropy_weight': loss.triplet.weight_x if with_triplet else 1.0,
        'triplet_weight': loss.triplet.weight_t if with_triplet else 0.0,
        'triplet_margin': loss.triplet.margin if loss.name == 'triplet' else None,
        'label_smoothing': 0.1 if loss.softmax.label_smooth else 0.0,
        'spread_weight': loss.spread.weight if with_spread else 0.0,
        'spread_margin': loss.spread.margin,
        'spread_reduction': loss.spread.reduction,
        'spread_reach': loss.spread.reach,
        'spread_replicas': loss.spread.replicas,
    }


def data_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of a data manager that image and video data share."""
    return {
        'root': cfg.data.root,
        'sources': cfg.data.sources,
        'targets': cfg.data.targets,
        'height': cfg.data.height,
        'width': cfg.data.width,
        'transforms': cfg.data.transforms,
        'norm_mean': cfg.data.norm_mean,
        'norm_std': cfg.data.norm_std,
        'use_gpu': cfg.use_gpu,
        'split_id': cfg.data.split_id,
        'combineall': cfg.data.combineall,
        'batch_size_train': cfg.train.batch_size,
        'batch_size_test': cfg.test.batch_size,
        'workers': cfg.data.workers,
        'num_instances': cfg.sampler.num_instances,
        'num_cams': cfg.sampler.num_cams,
        'num_datasets': cfg.sampler.num_datasets,
        'train_sampler': cfg.sampler.train_sampler,
    }


def videodata_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of :class:`stmn_plugin.data.VideoDataManager`."""
    return {
        **data_kwargs(cfg),
        'seq_len': cfg.video.seq_len,
        'sample_method': cfg.video.sample_method,
        'rrs_chunks': cfg.video.rrs_chunks,
        'skip_bad': cfg.data.bad_frames == 'skip',
        'validation_ids': cfg.data.validation_ids,
        'validation_seed': cfg.data.validation_seed,
        'train_list': cfg.data.train_list,
        'seed': cfg.train.seed,
        'test_only': cfg.test.evaluate,
        'as_uint8': True,
    }


def imagedata_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of the host's ``ImageDataManager``."""
    return {
        **data_kwargs(cfg),
        'k_tfm': cfg.data.k_tfm,
        'load_train_targets': cfg.data.load_train_targets,
        'train_sampler_t': cfg.sampler.train_sampler_t,
        'cuhk03_labeled': cfg.cuhk03.labeled_images,
        'cuhk03_classic_split': cfg.cuhk03.classic_split,
        'market1501_500k': cfg.market1501.use_500k_distractors,
    }


def optimizer_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of the host's ``build_optimizer``."""
    return {
        'optim': cfg.train.optim,
        'lr': cfg.train.lr,
        'weight_decay': cfg.train.weight_decay,
        'momentum': cfg.sgd.momentum,
        'sgd_dampening': cfg.sgd.dampening,
        'sgd_nesterov': cfg.sgd.nesterov,
        'rmsprop_alpha': cfg.rmsprop.alpha,
        'adam_beta1': cfg.adam.beta1,
        'adam_beta2': cfg.adam.beta2,
        'staged_lr': cfg.train.staged_lr,
        'new_layers': cfg.train.new_layers,
        'base_lr_mult': cfg.train.base_lr_mult,
    }


def lr_scheduler_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of the host's ``build_lr_scheduler``."""
    return {
        'lr_scheduler': cfg.train.lr_scheduler,
        'stepsize': cfg.train.stepsize,
        'gamma': cfg.train.gamma,
        'max_epoch': cfg.train.max_epoch,
    }


def synthetic_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return arguments of the dataset ``synthetic`` beyond the host's."""
    return {
        'preset': cfg.synthetic.preset,
        'seed': cfg.synthetic.seed,
        'paint_out': cfg.synthetic.paint_out,
    }


def plan_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return arguments of ``data.frame_samplers.ClipPlan``, which frames are tested."""
    return {
        'seq_len': cfg.video.seq_len,
        'frames': 'all' if cfg.test.frames == 'all' else cfg.video.sample_method,
        'clips_per_tracklet': cfg.test.clips_per_tracklet,
        'rrs_chunks': cfg.video.rrs_chunks,
        'all_clips': cfg.test.all_clips,
    }


def training_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return arguments of ``training.settings.TrainingSettings`` beyond those of ``run``."""
    return {
        'amp': cfg.train.amp,
        'accumulate': cfg.train.accumulate,
        'clip_grad_norm': cfg.train.clip_grad_norm,
        'seed': cfg.train.seed,
        'save_freq': cfg.train.save_freq,
    }


def is_mirrored(flip: bool | str, frames: str) -> bool:
    """Return whether ``test.flip`` averages with the mirrored clips in a test of these frames."""
    return frames == 'all' if flip == 'all' else bool(flip)


def testing_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return arguments of ``evaluation.settings.TestSettings``, without the plan."""
    return {
        'protocol': cfg.test.protocol,
        'flip': is_mirrored(cfg.test.flip, cfg.test.frames),
        'batch_size': cfg.test.batch_size,
        'features_dir': cfg.test.features_dir,
        'amp': cfg.test.amp,
        'fold_bn': cfg.test.fold_bn,
        'compiled': cfg.train.compile,
        'verification': cfg.test.verification,
        'false_positive_rate': cfg.test.false_positive_rate,
    }


def run_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of the engines' ``run``, beyond ``start_epoch``."""
    return {
        'save_dir': cfg.data.save_dir,
        'max_epoch': cfg.train.max_epoch,
        'fixbase_epoch': cfg.train.fixbase_epoch,
        'open_layers': cfg.train.open_layers,
        'start_eval': cfg.test.start_eval,
        'eval_freq': cfg.test.eval_freq,
        'test_only': cfg.test.evaluate,
        'print_freq': cfg.train.print_freq,
        'dist_metric': cfg.test.dist_metric,
        'normalize_feature': cfg.test.normalize_feature,
        'visrank': cfg.test.visrank,
        'visrank_topk': cfg.test.visrank_topk,
        'use_metric_cuhk03': cfg.cuhk03.use_metric_cuhk03,
        'ranks': cfg.test.ranks,
        'rerank': cfg.test.rerank,
    }
