# SPDX-License-Identifier: Apache-2.0
"""Pictures of heat: the effect of an encoder's heat conduction operators on an image.

Functions named after a quantity return arrays and need torch and NumPy; those named ``draw_...``
compute it and return a figure, those named ``plot_...`` draw computed arrays, and both need
Matplotlib (``pip install 'rsvheat[explain]'``).
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
from rsvheat.explain.heat_report import write_report
from rsvheat.explain.image_window import ImageWindow, read_window
from rsvheat.explain.receptive import ReceptiveField, effective_receptive_field
from rsvheat.explain.recording import Conduction, Place, conductions, record

__all__ = [
    "Bands",
    "Conduction",
    "Diffusivity",
    "HeatSpread",
    "ImageWindow",
    "Place",
    "ReceptiveField",
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
    "read_window",
    "record",
    "spectra",
    "split_bands",
    "temperature_fields",
    "write_report",
]
