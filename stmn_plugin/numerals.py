"""Read numbers in texts of files and in names, and write counts of things.

Tools write numbers in ASCII, without underscores.

``int`` and ``float`` take ``1_0`` for 10, and digits of every script, so that a damaged cell would
be a number.
"""


def counted(count: int, noun: str, plural: str = '') -> str:
    """Format a count with its noun; the plural has an s unless it is given.

    >>> counted(1, 'camera'), counted(0, 'camera'), counted(1200, 'box', 'boxes')
    ('1 camera', '0 cameras', '1,200 boxes')
    """
    return f'{count:,} {noun if count == 1 else plural or noun + "s"}'


def file_size(size: int) -> str:
    """Write the size of a file in bytes for messages.

    >>> file_size(39_490), file_size(999_600), file_size(12_345_678)
    ('39 kB', '1.0 MB', '12.3 MB')
    """
    return f'{size / 1e3:.0f} kB' if size < 999_500 else f'{size / 1e6:.1f} MB'


def is_digits(text: str) -> bool:
    """Return whether a text is a whole number without a sign.

    >>> is_digits('007'), is_digits('٣'), is_digits('1_0'), is_digits('')
    (True, False, False, False)
    """
    return text.isascii() and text.isdecimal()


def real_number(text: str) -> float | None:
    """Convert a text to a number; None if it is none.

    >>> real_number(' 1e3'), real_number('1_0'), real_number('٣')
    (1000.0, None, None)
    """
    if not text.isascii() or '_' in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None
