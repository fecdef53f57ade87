# SPDX-License-Identifier: Apache-2.0
"""Attaches to the native ops what lives in Python: autograd, fakes, autocast and FLOP formulas."""

from rsvheat import _library
from rsvheat.ops import _autocast, _autograd, _fake, _flops, boxes

if _library.native_available():
    _fake.register()
    _autograd.register()
    _autocast.register()
    _flops.register()
    boxes.register()
