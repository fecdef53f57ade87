# SPDX-License-Identifier: Apache-2.0
"""Attaches to the native ops what lives in Python: derivatives, fakes, autocast, vmap, FLOPs."""

from rsvheat import _library
from rsvheat.ops import _autocast, _autograd, _fake, _flops, _vmap

if _library.native_available():
    _fake.register()
    _autograd.register()
    _autocast.register()
    _flops.register()
    _vmap.register()
