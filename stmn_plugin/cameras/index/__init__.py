"""Features of tracklets that can be searched, filtered and deleted, in a file or on a server.

``records.py`` has what is known of a tracklet and what one can ask for; ``model_key.py`` what an
index remembers of the model. ``tracklet_index.py`` is the API; ``store.py`` says what a database
must do: ``sqlite_store.py`` with a file and ``matrix.py``, its vectors as one array, and
``postgres_store.py`` over the connections of ``postgres_server.py``. ``embedding.py`` fills an
index from a tree of tracklets.
"""

from .model_key import ModelKey
from .records import IndexedTracklet, Match, Where
from .tracklet_index import TrackletIndex

__all__ = ['IndexedTracklet', 'Match', 'ModelKey', 'TrackletIndex', 'Where']
