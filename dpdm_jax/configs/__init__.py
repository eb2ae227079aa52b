"""The shipped configs under a name that no other project has.

In the repository they lie in ``configs/`` at its top, and this file points there. A
wheel has them here, with ``configs/__init__.py`` in place of this file.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).resolve().parents[2] / "configs")]
