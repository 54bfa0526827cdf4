"""Train and test a model: python tools/main.py --config-file configs/stmn_mars.yaml

The flags are those of torchreid's own scripts/main.py, and -a, --list-archs and --debug.
"""

import argparse

from stmn_plugin.config import load_config, split_words
from stmn_plugin.console import run_tool
from stmn_plugin.errors import exit_on_input_error

LISTS = {'sources': 'data.sources', 'targets': 'data.targets', 'transforms': 'data.transforms'}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description='Train and evaluate a video (or image) person re-ID model with torchreid.',
        epilog='example: python tools/main.py --config-file configs/stmn_synthetic.yaml '
        '-a resnet18 data.save_dir log/resnet18 train.max_epoch 4',
    )
    parser.add_argument('--config-file', default='', metavar='FILE', help='YAML config')
    parser.add_argument('-a', '--arch', metavar='NAME', help='model.name: stmn or any of the host')
    parser.add_argument('--root', metavar='FOLDER', help='data.root: where the datasets are')
    parser.add_argument('-s', '--sources', nargs='+', metavar='NAME', help='train on these')
    parser.add_argument('-t', '--targets', nargs='+', metavar='NAME', help='test on these')
    parser.add_argument('--transforms', nargs='+', metavar='NAME', help='augmentation')
    parser.add_argument('--list-archs', action='store_true', help='list the architectures and stop')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    parser.add_argument('opts', nargs=argparse.REMAINDER, metavar='KEY VALUE', help='config keys')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if args.list_archs:
        from stmn_plugin.registration import model_registry, register

        register()
        print('\n'.join(sorted(model_registry())))
        return
    with exit_on_input_error(args.debug):
        overrides, opts = {}, list(args.opts)
        if args.arch:
            overrides['model.name'] = args.arch
        if args.root:
            overrides['data.root'] = args.root
        for flag, key in LISTS.items():
            if getattr(args, flag):
                # the flag takes words up to the next flag: hand back the KEY VALUE pairs among them
                overrides[key], pairs = split_words(getattr(args, flag))
                opts = pairs + opts
        cfg = load_config(args.config_file, opts, overrides)
        from stmn_plugin.runner import run  # after the config: a typo need not wait for it

        run(cfg)


if __name__ == '__main__':
    run_tool(main)
