"""Further places to follow a run in, beside its own log: a module a place.

A new place is a module with a function that opens a ``Writer``, and an entry in
``registry.WRITERS``. One of the user's own needs no entry: ``log.writers`` takes
MODULE:NAME.
"""
