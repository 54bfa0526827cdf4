"""The config that an earlier run has recorded → every key of now."""

from collections.abc import Mapping
from typing import Any

from .defaults import get_default_config
from .sections import flatten


def recorded_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Full key → value, with keys of later versions: they are at their default.

    One is not: the first version trained image models frame by frame, whatever the default is now.
    """
    settings = {**flatten(get_default_config()), **config}
    has_section = any(key.startswith(f'{settings["model.name"]}.') for key in settings)
    if settings['data.type'] == 'video' and 'video.image_models' not in config and not has_section:
        settings['video.image_models'] = 'frames'
    return settings
