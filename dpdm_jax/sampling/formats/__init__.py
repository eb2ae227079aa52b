"""Files of images as people load them, beside the archive: a module a format.

A new format is a module with the functions of ``Format`` and an entry in ``FORMATS``
(``registry.py``).
"""
