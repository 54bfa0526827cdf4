"""Time the spatial memory, forward and backward: the straightforward form and ours.

    python benchmarks/memory_block.py

Both get the same float32 maps of 256x128 frames (16x8 positions, D=2048, M=10) in channels_last, as
the encoder gives them. The floor is the time this machine needs to read q^s and f^o once and, with
the backward pass, to read q^s again and to write both gradients. Candidates take turns; medians are
printed. A first check in float64 confirms that both give the same numbers.
"""

import copy
import statistics

import measuring
import torch
from measuring import StraightforwardSpatialMemory

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.models import SpatialMemory

DIM, ITEMS, HEIGHT, WIDTH = 2048, 10, 16, 8
REFERENCE, OURS = 'straightforward', 'ours'
FORMATS = {'straightforward, ms': '.1f', 'ours, ms': '.1f', 'ratio': '.2f', 'least': '.2f'}
FORMATS |= {'most': '.2f', 'MiB moved, least': '.0f', 'floor, ms': '.1f'}


def main():
    parser = measuring.parser_of(__doc__, repeats=15)
    parser.add_argument('--frames', type=FROM_ONE, default=192 if torch.cuda.is_available() else 24)
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    ours = SpatialMemory(DIM, ITEMS).to(device)
    torch.nn.init.normal_(ours.bn.weight)
    plain = copy.deepcopy(ours)
    plain.__class__ = StraightforwardSpatialMemory
    maps = torch.randn(2, args.frames, DIM, HEIGHT, WIDTH, device=device)
    features, queries = (m.contiguous(memory_format=torch.channels_last) for m in maps)
    weights = torch.randn(args.frames, DIM, device=device)

    def forward(memory):
        with torch.no_grad():
            return memory(features, queries).output

    def both(memory, maps=(features, queries), weights=weights):
        inputs = [m.detach().requires_grad_() for m in maps]
        out = memory(*inputs)
        loss = (out.output * weights).sum() + out.probs.square().sum()
        return torch.autograd.grad(loss, [*inputs, *memory.parameters()])

    few = [m[:2].double() for m in (features, queries)], weights[:2].double()
    gradients = [both(copy.deepcopy(memory).double(), *few) for memory in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-9 * other.norm()
    print(measuring.machine_line(device, 256 if args.small else None))
    size = 4 * args.frames * DIM * HEIGHT * WIDTH
    rows, rate = [], measuring.read_rate(device)
    for title, run, moved in (('forward', forward, 2 * size), ('and backward', both, 5 * size)):
        candidates = {
            name: (lambda m=m, run=run: run(m)) for name, m in ((REFERENCE, plain), (OURS, ours))
        }
        seconds = measuring.in_turns(candidates, args.repeats, 2, args.seconds / 2)
        gain = measuring.speed_ups(seconds, REFERENCE)[OURS]
        rows.append(
            {
                'spatial memory': title,
                'straightforward, ms': 1e3 * statistics.median(seconds[REFERENCE]),
                'ours, ms': 1e3 * statistics.median(seconds[OURS]),
                'ratio': gain[0],
                'least': gain[1],
                'most': gain[2],
                'MiB moved, least': moved / 2**20,
                'floor, ms': 1e3 * moved / rate,
            }
        )
    measuring.show(rows, FORMATS, args, benchmark='memory_block', frames=args.frames)
    print(f'{args.frames} frames; medians of {args.repeats}')


if __name__ == '__main__':
    main()
