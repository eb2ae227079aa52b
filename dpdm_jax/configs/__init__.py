"""The shipped configs under a name that no other project has.

In the repository they lie in ``configs/`` at its top, and this file points there. A
wheel has them here, with ``configs/__init__.py`` in place of this file.
"""

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a type checker does not follow __path__
    from configs import base as base
    from configs import celeba_32 as celeba_32
    from configs import celeba_32_ldm as celeba_32_ldm
    from configs import celeba_64 as celeba_64
    from configs import celeba_hq_ldm as celeba_hq_ldm
    from configs import cifar10 as cifar10
    from configs import cifar10_finetune as cifar10_finetune
    from configs import digits as digits
    from configs import digits_finetune as digits_finetune
    from configs import digits_public as digits_public
    from configs import digits_text_public as digits_text_public
    from configs import emnist_ldm_public as emnist_ldm_public
    from configs import glyphs_ldm_public as glyphs_ldm_public
    from configs import glyphs_public as glyphs_public
    from configs import imagenet_32 as imagenet_32
    from configs import imagenet_32_ldm_public as imagenet_32_ldm_public
    from configs import imagenet_32_public as imagenet_32_public
    from configs import imagenet_64_ldm_public as imagenet_64_ldm_public
    from configs import mnist as mnist
    from configs import mnist_cpu as mnist_cpu

__path__ = [str(pathlib.Path(__file__).resolve().parents[2] / "configs")]
