# SPDX-License-Identifier: Apache-2.0
"""Pictures of heat: what the heat conduction operators of an encoder do to an image.

Functions named after what they compute return arrays and need torch and NumPy; their twins, named
``draw_...``, return figures and need Matplotlib (``pip install 'rsvheat[explain]'``).
"""

from rsvheat._display import display
from rsvheat.explain.fields import (
    HeatSpread,
    TemperatureField,
    heat_spread,
    over_image,
    temperature_fields,
)
from rsvheat.explain.figures import (
    draw_bands,
    draw_diffusivity,
    draw_heat_spread,
    draw_receptive_field,
    draw_spectra,
    draw_temperature,
    plot_bands,
    plot_diffusivity,
    plot_heat_spread,
    plot_receptive_field,
    plot_spectra,
    plot_temperature,
)
from rsvheat.explain.frequencies import (
    Bands,
    Diffusivity,
    Spectrum,
    diffusivity,
    frequencies,
    radial_mean,
    spectra,
    split_bands,
)
from rsvheat.explain.images import Scene, read_scene
from rsvheat.explain.receptive import ReceptiveField, effective_receptive_field
from rsvheat.explain.recording import Conduction, Place, conductions, record
from rsvheat.explain.report import write_report

__all__ = [
    "Bands",
    "Conduction",
    "Diffusivity",
    "HeatSpread",
    "Place",
    "ReceptiveField",
    "Scene",
    "Spectrum",
    "TemperatureField",
    "conductions",
    "diffusivity",
    "display",
    "draw_bands",
    "draw_diffusivity",
    "draw_heat_spread",
    "draw_receptive_field",
    "draw_spectra",
    "draw_temperature",
    "effective_receptive_field",
    "frequencies",
    "heat_spread",
    "over_image",
    "plot_bands",
    "plot_diffusivity",
    "plot_heat_spread",
    "plot_receptive_field",
    "plot_spectra",
    "plot_temperature",
    "radial_mean",
    "read_scene",
    "record",
    "spectra",
    "split_bands",
    "temperature_fields",
    "write_report",
]
