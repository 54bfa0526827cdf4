"""Write a template, values and pictures as one HTML file that loads nothing from a network.

Pictures are in the file, or in a folder next to it if they are large. They are named by their
content and written first; the page is written last and replaces an older one atomically. At any
moment there is a complete page with all its pictures.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stmn_plugin.evaluation.doubts import doubt_label
from stmn_plugin.evaluation.protocols import conditions, rank_names
from stmn_plugin.whole_files import write_bytes

from .film_strips import StripSize

EMBED_LIMIT = 30_000_000  # bytes of the pictures in a page
PICTURE = re.compile(r'[0-9a-f]{20}\.webp')
TEMPLATES = 'templates'


class WrittenPage(NamedTuple):
    """A page that has been written."""

    path: str
    folder: str  # of the pictures; '' if they are in the page
    size: int  # bytes of the page


def write_html(
    path: str,
    name: str,
    values: Mapping[str, Any],
    strips: Sequence[bytes],
    size: StripSize,
    embed: bool | None = None,
) -> WrittenPage:
    """Write a page, and its folder of pictures if it needs one.

    Args:
        path: of the HTML file.
        name: of the template, its script and its style sheet.
        values: for the template, which gets ``pictures``, ``script``, ``style`` and ``policy``
            in addition.
        strips: WebP pictures, numbered by the values.
        size: of a frame in them.
        embed: embed the pictures in the page; None does so if it stays small.

    Raises:
        InputError: a file cannot be written; an older page is unchanged.
    """
    if embed is None:
        embed = sum(map(len, strips)) * 4 / 3 < EMBED_LIMIT
    folder = os.path.splitext(path)[0] + '_files'
    if embed:
        start, ends = 'data:image/webp;base64,', [base64.b64encode(x).decode() for x in strips]
    else:
        start = urllib.parse.quote(os.fsencode(os.path.basename(folder))) + '/'
        ends = _write_pictures(folder, strips)
    pictures = {'start': start, 'ends': ends, 'height': size.height, 'width': size.width}
    # a name may be no UTF-8
    page = _render(name, values, pictures, embed).encode('utf-8', 'backslashreplace')
    write_bytes(path, page)
    _remove_pictures(folder, set() if embed else set(ends))
    return WrittenPage(path, '' if embed else folder, len(page))


def _render(
    name: str, values: Mapping[str, Any], pictures: Mapping[str, Any], embedded: bool
) -> str:
    """Render the page; all external values are escaped by the template."""
    environment = Environment(
        loader=PackageLoader(__package__, TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies['json.dumps_function'] = _dump
    environment.filters |= {one.__name__: one for one in (conditions, doubt_label, rank_names)}
    script, style = _own(f'{name}.js'), _own('common.css') + _own(f'{name}.css')
    return environment.get_template(f'{name}.html').render(
        **values,
        pictures=pictures,
        script=script,
        style=style,
        policy='; '.join(
            [
                "default-src 'none'",
                f"script-src '{_digest(script)}'",
                f"style-src '{_digest(style)}'",
                'img-src data:' if embedded else "img-src data: file: 'self'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
    )


def _dump(values: Any, **_: Any) -> str:
    return json.dumps(values, separators=(',', ':'), allow_nan=False)


def _own(name: str) -> Markup:
    """Read a file of this package, which needs no escaping."""
    return Markup(resources.files(__package__).joinpath(TEMPLATES, name).read_text('utf-8'))


def _digest(text: str) -> str:
    """Return the digest that allows a script or style in the content security policy."""
    return 'sha256-' + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write_pictures(folder: str, strips: Sequence[bytes]) -> list[str]:
    """Write the pictures and return their names."""
    names = [_name_of(strip) for strip in strips]
    for name, strip in dict(zip(names, strips, strict=True)).items():
        path = os.path.join(folder, name)
        if not _is_picture(path):
            write_bytes(path, strip)
    return names


def _name_of(picture: bytes) -> str:
    return f'{hashlib.sha256(picture).hexdigest()[:20]}.webp'


def _is_picture(path: str) -> bool:
    """Return whether a page wrote this file, whose name is a digest of its content."""
    if not PICTURE.fullmatch(os.path.basename(path)) or not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        return _name_of(file.read()) == os.path.basename(path)


def _remove_pictures(folder: str, needed: set[str]) -> None:
    """Remove pictures of older pages, and the folder if it is then empty."""
    with contextlib.suppress(OSError):  # other files, and those that cannot be removed, stay
        for name in set(os.listdir(folder)) - needed:
            if _is_picture(os.path.join(folder, name)):
                os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
