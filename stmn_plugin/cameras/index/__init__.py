"""Store features of tracklets to search, filter and delete, in a file or on a server.

``records.py`` defines tracklets and conditions, ``model_key.py`` the identity of the model.
``tracklet_index.py`` is the API, ``store.py`` the interface of a database: ``sqlite_store.py`` with
a file and ``matrix.py``, its vectors as one array, and ``postgres_store.py`` with the connections
of ``postgres_server.py``. ``embedding.py`` fills an index from a tree of tracklets.
"""

from .model_key import ModelKey
from .records import IndexedTracklet, Match, Where
from .tracklet_index import TrackletIndex

__all__ = ['IndexedTracklet', 'Match', 'ModelKey', 'TrackletIndex', 'Where']
