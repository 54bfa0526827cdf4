"""Complete the recorded config of an earlier run with the keys added since."""

from collections.abc import Mapping
from typing import Any

from .defaults import get_default_config
from .sections import flatten


def recorded_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add keys of later versions at their defaults to a config (full key → value).

    One is not: the first version always trained image models frame by frame.
    """
    settings = {**flatten(get_default_config()), **config}
    has_section = any(key.startswith(f'{settings["model.name"]}.') for key in settings)
    if settings['data.type'] == 'video' and 'video.image_models' not in config and not has_section:
        settings['video.image_models'] = 'frames'
    return settings
