"""Define a person's appearance, from a spec and an identity: build, hair, clothes and bag."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .spec import SyntheticSpec

Colour: TypeAlias = tuple[int, int, int]

HAIR_CUTS = ('short', 'bald', 'bob', 'long', 'ponytail', 'bun', 'cap')
UPPER_CUTS = ('tshirt', 'shirt', 'jacket', 'coat', 'dress', 'top')
LOWER_CUTS = ('trousers', 'shorts', 'skirt', 'long_skirt')
PATTERNS = ('plain', 'stripes', 'pinstripes', 'checks', 'dots', 'logo')
BAGS = ('none', 'backpack', 'handbag', 'shoulder_bag')

_SKIN = ((246, 214, 190), (232, 190, 160), (205, 155, 120), (160, 110, 78), (110, 72, 50))
_HAIR = ((28, 24, 22), (60, 40, 28), (105, 70, 40), (190, 150, 90), (150, 145, 140), (130, 50, 30))
# The clothes of all persons if clothing_similarity is high.
_COMMON_UPPER = ((44, 46, 54), (66, 70, 80), (48, 58, 88))
_COMMON_LOWER = ((36, 38, 48), (58, 66, 92), (60, 58, 58))
# Steps of a 4-D low-discrepancy sequence (powers of the root of x^5 = x + 1): neighbouring
# identities never get similar colours, for any number of persons.
_STEPS = 1.1673039782614187 ** -np.arange(1, 5)


class Look(NamedTuple):
    """One person's appearance; it is the same at every camera. Colours are RGB triples 0..255."""

    build: float  # shoulder and hip width, 1 = average
    stature: float  # height in the crop, 1 = average
    skin: Colour
    hair: Colour
    hair_cut: str
    upper: Colour
    accent: Colour  # second colour of the pattern, inner shirt, cap
    upper_cut: str
    upper_pattern: str
    lower: Colour
    lower_cut: str
    lower_pattern: str
    shoes: Colour
    bag: str
    bag_colour: Colour
    side: int  # +1 or -1: shoulder or hand that carries the bag


def person_look(spec: SyntheticSpec, pid: int) -> Look:
    """Return the look of a listed person (``pid`` >= 1), a function of (spec, pid) only."""
    wardrobe = spec.rng('wardrobe').random(4)
    position = (wardrobe + pid * _STEPS) % 1  # (4,) hue and tone of upper and of lower garment
    return _dress(spec.rng('wardrobe', pid), position, spec.clothing_similarity)


def stranger_look(rng: Generator, similarity: float) -> Look:
    """Return the look of a person without an identity: a passer-by or a gallery distractor."""
    return _dress(rng, rng.random(4), similarity)


def _dress(rng: Generator, position: NDArray[np.float64], similarity: float) -> Look:
    def choose(options: Sequence[str], weights: Sequence[float], common: str) -> str:
        # Both draws happen always, so that the stream does not depend on the outcome.
        picked = options[rng.choice(len(options), p=np.array(weights) / sum(weights))]
        return common if rng.random() < 0.9 * similarity else picked

    def blend(colour: Colour, common: Sequence[Colour]) -> Colour:
        usual = np.array(common[int(rng.integers(len(common)))])
        weight = 0.88 * similarity
        return _rgb((1 - weight) * np.array(colour) + weight * usual)

    upper = blend(_garment_colour(position[0], position[1], rng), _COMMON_UPPER)
    lower = blend(_garment_colour(position[2], position[3], rng), _COMMON_LOWER)
    accent = _contrasting(upper, rng)
    return Look(
        build=float(rng.uniform(0.88, 1.22)),
        stature=float(rng.uniform(0.93, 1.04)),
        skin=_SKIN[rng.choice(len(_SKIN), p=(0.3, 0.25, 0.2, 0.15, 0.1))],
        hair=_HAIR[rng.choice(len(_HAIR), p=(0.35, 0.25, 0.15, 0.12, 0.08, 0.05))],
        hair_cut=choose(HAIR_CUTS, (6, 1, 3, 4, 2, 1, 2), 'short'),
        upper=upper,
        accent=accent,
        upper_cut=choose(UPPER_CUTS, (5, 4, 4, 2, 3, 2), 'shirt'),
        upper_pattern=choose(PATTERNS, (5, 3, 1, 2, 2, 4), 'plain'),
        lower=lower,
        lower_cut=choose(LOWER_CUTS, (7, 4, 2, 1), 'trousers'),
        lower_pattern=choose(PATTERNS[:5], (12, 1, 1, 2, 1), 'plain'),
        shoes=((30, 28, 28), (235, 235, 235), (120, 80, 50), (170, 40, 40))[rng.integers(4)],
        bag=choose(BAGS, (4, 3, 2, 2), 'none'),
        bag_colour=_garment_colour(rng.random(), rng.random(), rng),
        side=int(rng.choice((-1, 1))),
    )


def _garment_colour(hue: float, tone: float, rng: Generator) -> Colour:
    """Draw a colour of clothes: black, white, grey and muted or bright hues."""
    if tone < 0.10:
        return _rgb(np.full(3, rng.uniform(25, 50)))
    if tone < 0.20:
        return _rgb(np.full(3, rng.uniform(215, 240)))
    if tone < 0.28:
        return _rgb(np.full(3, rng.uniform(100, 160)))
    spread = (tone - 0.28) / 0.72
    value = 0.38 + 0.55 * spread
    saturation = 0.45 + 0.5 * ((spread * 3) % 1)
    return _rgb(255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)))


def _contrasting(colour: Colour, rng: Generator) -> Colour:
    """Return a second colour that differs clearly in brightness."""
    bright = np.dot(colour, (0.3, 0.6, 0.1)) > 120
    value = rng.uniform(0.12, 0.35) if bright else rng.uniform(0.85, 1.0)
    saturation = rng.choice((0.05, 0.6))
    return _rgb(255 * np.array(colorsys.hsv_to_rgb(rng.random(), saturation, value)))


def _rgb(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (int(v) for v in np.clip(np.rint(values), 0, 255))
    return red, green, blue
