"""Names and rules that several settings share."""

from .rules import Flag, ListOf, Number, OneOf, Text, Whole

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
