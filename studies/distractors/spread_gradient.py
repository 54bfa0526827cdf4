"""Where does the gradient of the spread loss do its harm? Two looks at one configuration.

python studies/distractors/spread_gradient.py norms --steps 40 data.root /data
python studies/distractors/spread_gradient.py train --reach heads data.root /data

`norms` prints, step by step, the norm of the gradient that the identification loss and each spread
loss give each part of the model. `train` is a whole run in which the spread loss teaches a part
only: all of the model (as always), all but the trunk (heads) or the keys alone (keys).
"""

import argparse
import itertools
import json
import os

import torch

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.config import load_config
from stmn_plugin.errors import exit_on_input_error
from stmn_plugin.host.runner import prepare, run
from stmn_plugin.training.trainer import Trainer

CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'config.yaml')
PARTS = ('trunk', 'frame_head', 'spatial_head', 'temporal_head', 'lstm', 'keys')
SPREAD = ('spread_spatial', 'spread_temporal')
REACH = {
    'all': lambda name: True,
    'heads': lambda name: 'trunk' not in name,
    'keys': lambda name: 'keys' in name,
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('look', choices=('norms', 'train'))
    parser.add_argument('--steps', type=FROM_ONE, default=40, help='of norms')
    parser.add_argument('--reach', choices=REACH, default='all', help='of train')
    parser.add_argument('opts', nargs='*', metavar='KEY VALUE', help='config keys')
    return parser.parse_intermixed_args()


def norms(cfg, steps):
    """A line of JSON a step: terms of the loss, norms of their gradients by part."""
    engine = prepare(cfg)
    model, trainer = engine.model.train(), engine.trainer
    epochs = (batch for _ in itertools.count() for batch in engine.train_loader)
    for step, batch in enumerate(itertools.islice(epochs, steps)):
        total, terms = trainer.loss_of(batch)
        spread = {name: terms[name] for name in SPREAD}
        losses = {'identification': total - sum(spread.values()), **spread}
        gradients = {
            name: norms_by_part(model, loss) for name, loss in losses.items() if loss.item() > 0
        }
        print(json.dumps({'step': step, **scalars(losses), 'gradients': gradients}), flush=True)
        engine.optimizer.zero_grad()
        total.backward()
        engine.optimizer.step()


def norms_by_part(model, loss):
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    squares = dict.fromkeys(PARTS, 0.0)
    for name, gradient in zip(names, gradients, strict=True):
        for part in PARTS:
            if part in name.split('.') and gradient is not None:
                squares[part] += gradient.double().square().sum().item()
    return {part: round(square**0.5, 4) for part, square in squares.items()}


def scalars(losses):
    return {name: round(loss.item(), 4) for name, loss in losses.items()}


def backward_with_reach(reach):
    """Loss → gradients in which those of the spread losses reach some parameters only."""

    def train_batch(self, data):
        self.group = 1
        self.optimizer.zero_grad()
        total, terms = self.loss_of(data)
        spread = sum(terms[name] for name in SPREAD)
        (total - spread).backward(retain_graph=True)
        reached = [p for name, p in self.model.named_parameters() if REACH[reach](name)]
        gradients = torch.autograd.grad(spread, reached, allow_unused=True)
        for parameter, gradient in zip(reached, gradients, strict=True):
            if gradient is not None:
                known = parameter.grad
                parameter.grad = gradient if known is None else known + gradient
        self.accumulated += 1
        self.update_weights()
        return {name: term.item() for name, term in terms.items()}

    return train_batch


def main():
    args = parse_args()
    with exit_on_input_error(debug=False):
        cfg = load_config(CONFIG, args.opts)
        if args.look == 'norms':
            norms(cfg, args.steps)
        else:
            Trainer.train_batch = backward_with_reach(args.reach)
            run(cfg)


if __name__ == '__main__':
    main()
