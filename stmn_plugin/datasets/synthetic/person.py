"""Draw a person (RGBA) from a look, a view and a phase of the walk.

Axes of the body, in units of its height: x to the person's left, y up from the ground, z forward.
``yaw`` turns it about y: 0 faces the camera, 90 walks to the right, 180 shows the back.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

from PIL import Image, ImageChops

from .canvas import Canvas, Point, dim, shading, weave
from .look import Colour, Look

Joint: TypeAlias = tuple[float, float, float]
Joints: TypeAlias = dict[int, tuple[Joint, ...]]
"""By side, +1 left and -1 right; from the body outwards."""

_TILT = 0.20  # the camera looks down: what is nearer is drawn lower
_WIDTH, _HEIGHT = 0.80, 1.16  # canvas in body heights
_GROUND = 1.08  # where y = 0 lies on the canvas, from its top


class PersonPainter:
    """Draw a person at one size.

    Args:
        look: a :class:`~.look.Look`.
        pixels: height of an average person in pixels of the drawing.
        light: -1..1, the side the light comes from.
    """

    def __init__(self, look: Look, pixels: float, light: float = 0.4):
        self.look = look
        self.unit = pixels * look.stature
        self.size = (round(_WIDTH * self.unit), round(_HEIGHT * self.unit))
        self.anchor = (self.size[0] / 2, _GROUND * self.unit)  # between the feet, (x, y)
        # (garment, brightness) -> patterned cloth, None for a plain one
        self._cloth: dict[tuple[str, float], Image.Image | None] = {}
        self._shade = shading(self.size, light)

    def draw(self, yaw: float, phase: float) -> Image.Image:
        """Draw an RGBA image of ``self.size``; ``yaw`` in degrees, ``phase`` in radians."""
        self.sin, self.cos = math.sin(math.radians(yaw)), math.cos(math.radians(yaw))
        self.canvas = Canvas(self.size, self.unit)
        legs, arms = self._joints(phase)
        near = -1 if self.sin > 0 else 1  # the side nearer to the camera
        sideways = abs(self.sin) > 0.45
        shadow = 0.72 if sideways else 0.92  # the far limbs are in the body's shadow
        if self.cos >= 0:
            self._backpack()
            self._hair_behind()
        if sideways:
            self._arm(arms[-near], shadow)
        self._leg(legs[-near], shadow)
        self._leg(legs[near], 1.0)
        self._torso()
        if self.cos < 0:
            self._backpack()
        self._head()
        if self.cos < 0:
            self._hair_behind()
        if not sideways:
            self._arm(arms[-near], 0.94)
        self._arm(arms[near], 0.94)
        self._carried(arms, near)
        alpha = self.canvas.image.getchannel('A')
        shaded = ImageChops.multiply(self.canvas.image.convert('RGB'), self._shade)
        shaded.putalpha(alpha)
        return shaded

    # -- skeleton ---------------------------------------------------------------------------------

    def _joints(self, phase: float) -> tuple[Joints, Joints]:
        """Compute joints (x, y, z) of legs and arms in the walk, by side, +1 left and -1 right."""
        build = self.look.build
        legs: Joints = {}
        arms: Joints = {}
        for side in (1, -1):
            turn = phase if side > 0 else phase + math.pi
            hip = 0.44 * math.sin(turn)
            knee = hip - 0.10 - 0.75 * max(0.0, math.cos(turn)) ** 2
            start = (side * 0.055 * build, 0.50, 0.0)
            middle = _swing(start, hip, 0.24)
            end = _swing(middle, knee, 0.235)
            toe = (end[0] + side * 0.012, end[1] - 0.008, end[2] + 0.075)
            legs[side] = (start, middle, end, toe)
            shoulder = -0.50 * math.sin(turn)
            start = (side * 0.112 * build, 0.782, 0.0)
            middle = _swing(start, shoulder, 0.155)
            middle = (middle[0] + side * 0.022, *middle[1:])
            arms[side] = (start, middle, _swing(middle, shoulder + 0.35, 0.145))
        self.lift = 0.025 - min(leg[2][1] for leg in legs.values())  # the lower foot stands
        return legs, arms

    def _at(self, point: Joint) -> Point:
        """Return the pixel of a body point."""
        x, y, z = point
        depth = z * self.cos - x * self.sin
        right = x * self.cos + z * self.sin
        down = _GROUND - (y + self.lift) + _TILT * depth * min(1.0, 1.2 - y)
        return (self.anchor[0] + right * self.unit, down * self.unit)

    def _half_width(self, across: float, deep: float) -> float:
        return math.hypot(across * self.cos, deep * self.sin)

    # -- parts ------------------------------------------------------------------------------------

    def _leg(self, joints: Sequence[Joint], light: float) -> None:
        look = self.look
        hip, knee, ankle, toe = (self._at(joint) for joint in joints)
        wide = 0.052 * look.build
        cut = 'skirt' if look.upper_cut == 'dress' else look.lower_cut
        skin, cloth = dim(look.skin, light), dim(look.lower, light)
        fabric = self._fabric('lower', light)
        self.canvas.limb(hip, knee, wide, 0.036, skin)
        self.canvas.limb(knee, ankle, 0.033, 0.021, skin)
        self.canvas.limb(ankle, toe, 0.026, 0.020, dim(look.shoes, light))
        if cut == 'trousers':
            self.canvas.limb(hip, knee, wide + 0.006, 0.042, cloth, fabric)
            self.canvas.limb(knee, ankle, 0.042, 0.031, cloth, fabric)
        elif cut == 'shorts':
            hem = _between(hip, knee, 0.85)
            self.canvas.limb(hip, hem, wide + 0.008, 0.050, cloth, fabric)

    def _torso(self) -> None:
        look, build = self.look, self.look.build
        skirt = {'skirt': 0.27, 'long_skirt': 0.10}.get(look.lower_cut)
        if look.upper_cut == 'dress':
            skirt, fabric, colour = 0.25, self._fabric('upper'), look.upper
        else:
            fabric, colour = self._fabric('lower'), look.lower
        hips = self._half_width(0.092 * build, 0.068 * build)
        waist = self._half_width(0.084 * build, 0.060 * build)
        shoulders = self._half_width(0.122 * build, 0.060 * build)
        if skirt is not None:
            flare = hips + 0.020 + 0.09 * (0.5 - skirt)
            self._slab(((0.60, waist), (0.50, hips), (skirt, flare)), colour, fabric)
        else:
            self._slab(((0.56, hips), (0.50, hips + 0.004), (0.45, hips * 0.9)), colour, fabric)
        neck = self._at((0, 0.86, 0.005))
        self.canvas.limb(neck, self._at((0, 0.80, 0)), 0.028, 0.032, dim(look.skin, 0.85))
        hem = {'jacket': 0.45, 'coat': 0.30, 'dress': 0.52}.get(look.upper_cut, 0.485)
        low = hips + (0.012 if look.upper_cut in ('jacket', 'coat') else 0.003)
        if look.upper_cut == 'coat':
            low += 0.02
        outline = ((0.835, 0.045), (0.81, shoulders), (0.74, shoulders * 0.96), (0.62, waist))
        self._slab((*outline, (0.53, low), (hem, low)), look.upper, self._fabric('upper'))
        self._front()

    def _front(self) -> None:
        """Draw what is visible from the front: an open jacket, a logo, straps; foreshortened."""
        look, front = self.look, self.cos
        if front < 0.2:
            return
        middle = 0.055 * self.sin
        if look.upper_cut in ('jacket', 'coat'):
            inner = 0.034 * front
            points = [
                self._on(middle - inner * 0.6, 0.83),
                self._on(middle + inner * 0.6, 0.83),
                self._on(middle + inner, 0.50),
                self._on(middle - inner, 0.50),
            ]
            self.canvas.pen.polygon(points, fill=(*look.accent, 255))
        elif look.upper_pattern == 'logo':
            half = 0.060 * front
            box = [*self._on(middle - half, 0.765), *self._on(middle + half, 0.665)]
            self.canvas.pen.rectangle(box, fill=(*look.accent, 255))
        if look.bag == 'backpack':
            for side in (-1, 1):
                x = middle + side * 0.075 * look.build * front
                self.canvas.limb(
                    self._on(x, 0.82), self._on(x, 0.66), 0.013, 0.013, look.bag_colour
                )

    def _on(self, right: float, y: float) -> Point:
        """Return the pixel of a point in the picture plane, ``right`` of the middle at ``y``."""
        return (self.anchor[0] + right * self.unit, (_GROUND - y - self.lift) * self.unit)

    def _head(self) -> None:
        look, (x, y) = self.look, self._at((0, 0.925, 0.012))
        u, turn = self.unit, self.sin * 0.020
        hair = dim(look.skin, 0.95) if look.hair_cut == 'bald' else look.hair
        self.canvas.ellipse((x - turn * 0.5 * u, y - 0.004 * u), 0.056, 0.071, hair)
        face = (
            max(0.0, (self.cos + 0.75) / 1.75) ** 0.6
        )  # share of the face that is turned to the camera
        if face > 0.15:
            self.canvas.ellipse((x + turn * u, y + 0.012 * u), 0.046 * face, 0.058, look.skin)
        if self.cos > 0.5:
            for side in (-1, 1):
                eye = (x + (turn * 1.5 + side * 0.018 * self.cos) * u, y + 0.008 * u)
                self.canvas.ellipse(eye, 0.006, 0.005, (40, 30, 30))
        if look.hair_cut == 'cap':
            box = (x - 0.060 * u, y - 0.080 * u, x + 0.060 * u, y + 0.050 * u)
            self.canvas.pen.pieslice(box, 180, 360, fill=(*look.accent, 255))
            if self.cos > -0.4:
                self.canvas.ellipse((x + turn * 2.6 * u, y - 0.014 * u), 0.05, 0.012, look.accent)
        elif look.hair_cut == 'bun':
            self.canvas.ellipse((x - turn * 1.6 * u, y - 0.075 * u), 0.026, 0.024, look.hair)

    def _hair_behind(self) -> None:
        """Draw hair below the head: before the torso in front views, after it in back views."""
        look, (x, y) = self.look, self._at((0, 0.925, 0.012))
        u, back = self.unit, self.sin * 0.030
        if look.hair_cut in ('bob', 'long'):
            drop = 0.075 if look.hair_cut == 'bob' else 0.165
            wide = 0.062 * (0.75 + 0.25 * abs(self.cos))
            centre = x - back * u
            box = (centre - wide * u, y - 0.03 * u, centre + wide * u, y + drop * u)
            self.canvas.pen.rounded_rectangle(box, 0.03 * u, fill=(*look.hair, 255))
        elif look.hair_cut == 'ponytail':
            top = (x - back * 1.4 * u, y - 0.02 * u)
            end = (x - back * 2.4 * u, y + 0.15 * u)
            self.canvas.limb(top, end, 0.018, 0.012, look.hair)

    def _arm(self, joints: Sequence[Joint], light: float) -> None:
        look = self.look
        shoulder, elbow, wrist = (self._at(joint) for joint in joints)
        wide, skin = 0.029 * look.build, dim(look.skin, light)
        sleeve, fabric = dim(look.upper, light), self._fabric('upper', light)
        bare = look.upper_cut == 'top'
        long_sleeve = look.upper_cut in ('shirt', 'jacket', 'coat')
        upper_arm = (skin, None) if bare else (sleeve, fabric)
        forearm = (sleeve, fabric) if long_sleeve else (skin, None)
        self.canvas.limb(shoulder, elbow, wide, 0.026, *upper_arm)
        self.canvas.limb(elbow, wrist, 0.026, 0.018, *forearm)
        self.canvas.ellipse(wrist, 0.019, 0.022, skin)

    def _backpack(self) -> None:
        look = self.look
        if look.bag != 'backpack':
            return
        x, _ = self._at((0, 0.7, -0.105))
        wide = self._half_width(0.098, 0.060) * self.unit
        _, top = self._on(0, 0.815)
        _, bottom = self._on(0, 0.575)
        box = (x - wide, top, x + wide, bottom)
        dark = dim(look.bag_colour, 0.6)
        radius = 0.035 * self.unit
        self.canvas.pen.rounded_rectangle(
            box, radius, (*look.bag_colour, 255), (*dark, 255), max(1, round(0.008 * self.unit))
        )
        if self.cos < -0.2:
            pocket = (x - wide * 0.7, (top + 2 * bottom) / 3, x + wide * 0.7, bottom - radius * 0.4)
            self.canvas.pen.rounded_rectangle(pocket, radius / 2, fill=(*dark, 255))

    def _carried(self, arms: Joints, near: int) -> None:
        """Draw a handbag or shoulder bag; on the far side the body hides most of it."""
        look, u = self.look, self.unit
        hidden = abs(self.sin) > 0.45 and look.side != near
        if look.bag == 'handbag' and not hidden:
            x, y = self._at(arms[look.side][2])
            box = (x - 0.052 * u, y + 0.03 * u, x + 0.052 * u, y + 0.125 * u)
            self.canvas.limb((x, y), (x, y + 0.05 * u), 0.008, 0.02, look.bag_colour)
            self.canvas.pen.rounded_rectangle(box, 0.015 * u, fill=(*look.bag_colour, 255))
        elif look.bag == 'shoulder_bag':
            x, y = self._at((look.side * 0.115 * look.build, 0.50, 0))
            if not hidden:
                top = self._at((-look.side * 0.09 * look.build, 0.82, 0))
                self.canvas.limb(top, (x, y), 0.009, 0.009, dim(look.bag_colour, 0.8))
                box = (x - 0.058 * u, y - 0.045 * u, x + 0.058 * u, y + 0.055 * u)
                self.canvas.pen.rounded_rectangle(box, 0.015 * u, fill=(*look.bag_colour, 255))

    def _fabric(self, garment: str, light: float = 1.0) -> Image.Image | None:
        """Return patterned cloth of the 'upper' or 'lower' garment, None if it is plain."""
        key = (garment, light)
        if key not in self._cloth:
            look = self.look
            pattern = look.upper_pattern if garment == 'upper' else look.lower_pattern
            colour = look.upper if garment == 'upper' else look.lower
            colours = dim(colour, light), dim(look.accent, light)
            self._cloth[key] = weave(pattern, *colours, self.unit)
        return self._cloth[key]

    def _slab(self, levels: Sequence[Point], colour: Colour, fabric: Image.Image | None) -> None:
        """Return a symmetric outline from (height, half width) pairs, top to bottom."""
        left = [self._on(-half, y) for y, half in levels]
        right = [self._on(half, y) for y, half in reversed(levels)]
        self.canvas.polygon(left + right, colour, fabric)


def _swing(start: Joint, angle: float, length: float) -> Joint:
    """Return the end of a bone from ``start`` at ``angle`` (radians, positive = forward)."""
    return (start[0], start[1] - length * math.cos(angle), start[2] + length * math.sin(angle))


def _between(a: Point, b: Point, share: float) -> Point:
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]))
