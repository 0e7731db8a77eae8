"""The Kubernetes API as a source of objects and a place to write them.

What belongs here: the client's configuration and credentials (``credentials_driver``, the only importer of the
``kubernetes`` package), HTTP to an API server on trio (``transport_driver``, ``client_driver``), reading of its answers
(``object_codec``, ``stream_codec``), the list and watch of one kind (``list_watch_machine``, ``list_watch_driver``),
and all kinds together as a source with the face of ``resources.folder_source`` (``source_driver``).

What does not: what objects mean, and who may ask for what. Operator and node agent both stand on it, which is why it is
here and not in one of them.

The ``kubernetes`` package finds and reads configuration, runs exec plugins and refreshes tokens; its transport is not
used. A watch of it is a blocked thread that nothing can cancel, and one for each kind makes two dozen; here a watch is
a task on trio, which ends at once when it is cancelled, and the answer's bytes go to msgspec without being made into
the package's models first.
"""
