# SPDX-License-Identifier: Apache-2.0
"""Attaches to the native ops what lives in Python: derivatives, fakes, autocast, vmap, FLOPs."""

from rsvheat import _library
from rsvheat._after_import import after_import
from rsvheat.ops import _autocast, _autograd, _fake, _vmap

if _library.native_available():
    _fake.register()
    _autograd.register()
    _autocast.register()
    _vmap.register()
# The counter imports Triton, which takes longer than this package.
after_import("torch.utils.flop_counter", "rsvheat.ops._flops")
