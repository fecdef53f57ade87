# SPDX-License-Identifier: Apache-2.0
"""Plug-ins for other libraries: one module each, which imports its library when it is imported."""
