"""Video models that a test file defines: known while its tests run, and to no other test."""

from contextlib import contextmanager

from stmn_plugin.config.sections import SECTIONS
from stmn_plugin.host.registration import model_registry
from stmn_plugin.models.base import VIDEO_MODELS, register_video_model


@contextmanager
def registered(**models):
    """Register ``name=class``, and forget them at the end: other tests list what there is."""
    for name, model in models.items():
        register_video_model(name)(model)
    try:
        yield
    finally:
        for name in models:
            for table in (VIDEO_MODELS, SECTIONS, model_registry()):
                table.pop(name, None)
