# SPDX-License-Identifier: Apache-2.0
"""Change detection between two dates, seen by one sensor or by two different ones."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from rsvheat.models.decoding import ConvBlock, DecoderNorm
from rsvheat.models.dense import DenseModel
from rsvheat.models.features import Encoder, encode, map_norms
from rsvheat.models.task_model import Output

Difference: TypeAlias = Literal["absolute", "concatenate"]

DATES = ("before", "after")


class ChangeDetectionModel(DenseModel):
    """Siamese change detection: the maps of two dates are compared stage by stage and decoded.

    Images are named ``before`` and ``after``. ``dates`` says which stem of the encoder each goes
    through. Dates of one sensor share a stem and are compared by the absolute difference of their
    maps. Dates of different sensors, an optical image before and a radar image after for example,
    have a stem each and share the stages; since equal ground looks different to them, a learned
    layer compares their concatenated maps:

        ChangeDetectionModel(create_model("rsvheat_tiny", modalities={"optical": 3}), 2)
        ChangeDetectionModel(create_model("rsvheat_tiny", modalities={"optical": 3, "sar": 1}), 2,
                             dates={"before": "optical", "after": "sar"})

    Args:
        encoder: Encoder, of which the parts that its maps do not need are removed.
        num_classes: Number of classes, 2 at least: no change, change, or kinds of change.
        dates: Name of the encoder's stem by date. By default stems named ``before`` and ``after``
            where the encoder has both, else its only stem for both.
        difference: How maps are compared: ``"absolute"``, ``|before - after|``, or
            ``"concatenate"``, a learned layer on both, which tells the order of the dates. By
            default absolute for dates that share a stem and concatenate for others.
        exchange: Whether the two dates swap every other column after the second stage and every
            other channel after later ones, which mixes what both see without any parameter. For
            dates that share a stem, and RS-vHeat and vHeat encoders.
        decoder_norm: Kind of the norms, as for ``rsvheat.models.dense.DenseModel``.
        **options: Further arguments of ``rsvheat.models.dense.DenseModel``: ``decoder``,
            ``channels``, ``auxiliary``, ``dropout``.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), downstream tasks; absolute difference as Daudt et al.
    (arXiv 1810.08462), FC-Siam-diff, and concatenation as their FC-Siam-conc; exchange as Fang et
    al. (arXiv 2209.08290), ChangerEx.
    """

    task: ClassVar[str] = "change_detection"
    output: ClassVar[Output] = "mask"

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int = 2,
        *,
        dates: Mapping[str, str] | None = None,
        difference: Difference | None = None,
        exchange: bool = False,
        decoder_norm: DecoderNorm = "layer",
        **options: Any,
    ) -> None:
        dates = _default_dates(encoder.modalities) if dates is None else dict(dates)
        _check_dates(dates, encoder.modalities)
        unused = [stem for stem in encoder.modalities if stem not in dates.values()]
        if unused:
            # Their parameters would get no gradient, for which DDP waits for ever.
            raise ValueError(
                f"no date goes through the encoder's stems {unused}: build it with modalities="
                f"{ {name: encoder.modalities[name] for name in dates.values()} }"
            )
        shared = dates["before"] == dates["after"]
        if difference is None:
            difference = "absolute" if shared else "concatenate"
        if difference not in get_args(Difference):
            raise ValueError(
                f"difference must be one of {get_args(Difference)}, got {difference!r}"
            )
        if exchange and not shared:
            raise ValueError(
                f"exchange is for dates that share a stem, got dates {dict(dates)}: features of "
                "different sensors are not interchangeable"
            )
        super().__init__(
            encoder,
            num_classes,
            dates=dates,
            difference=difference,
            exchange=exchange,
            decoder_norm=decoder_norm,
            **options,
        )
        self.norms = map_norms(encoder)
        self.dates = dict(dates)
        self.exchange = exchange
        self.comparisons = nn.ModuleList()
        if difference == "concatenate":
            self.comparisons.extend(
                ConvBlock(2 * dim, dim, 1, decoder_norm) for dim in encoder.dims
            )

    @staticmethod
    def stems(bands: Mapping[str, int], dates: Mapping[str, str] | None = None) -> dict[str, int]:
        """Return the encoder's modalities for images of the two dates.

        Args:
            bands: Number of bands by date, as a data set's specification names them.
            dates: Name of the stem by date, as for the model. By default both are ``"optical"``
                where the bands agree; else each date has a stem of its own name.

        Raises:
            ValueError: If a date is missing, or dates of different bands share a stem.
        """
        if set(bands) != set(DATES):
            raise ValueError(f"change detection needs images of {DATES}, got {tuple(bands)}")
        if dates is None:
            if len(set(bands.values())) > 1:
                return {date: bands[date] for date in DATES}
            return {"optical": bands["before"]}
        stems: dict[str, int] = {}
        _check_dates(dates, dates.values())
        for date in DATES:
            if stems.setdefault(dates[date], bands[date]) != bands[date]:
                raise ValueError(
                    f"the dates share the stem {dates[date]!r}, but have {dict(bands)} bands: give "
                    "each a stem of its own"
                )
        return stems

    def maps(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> list[Tensor]:
        """Return the compared maps, (B, C, h, w) at strides 4 to 32.

        Args:
            images: Images ``before`` and ``after``, (B, bands, H, W), normalized.
            index: Samples that the images of each date show; all, since both dates are needed.
            size: Number of samples.

        Raises:
            ValueError: If a date is missing, or the two differ in size or number.
        """
        if set(images) != set(DATES):
            raise ValueError(f"images must hold {DATES}, got {tuple(images)}")
        before, after = (images[date] for date in DATES)
        for date in DATES:
            bands, shape = self.encoder.modalities[self.dates[date]], tuple(images[date].shape)
            if len(shape) != 4 or shape[1] != bands:
                raise ValueError(
                    f"images[{date!r}] must have shape (B, {bands}, H, W), got {shape}"
                )
        if before.shape[0] != after.shape[0] or before.shape[2:] != after.shape[2:]:
            raise ValueError(
                "images of both dates must agree in number and size, got before "
                f"{tuple(before.shape)} and after {tuple(after.shape)}"
            )
        if size not in (None, len(before)):
            raise ValueError(f"both dates of all {size} samples are needed, got {len(before)}")
        if index is not None:
            before, after = (_in_order(images[date], index.get(date), date) for date in DATES)
        stems = [self.dates[date] for date in DATES]
        if stems[0] == stems[1]:
            between = exchange_halves if self.exchange else None
            levels = encode(self.encoder, torch.cat((before, after)), stems[0], between)
            pairs = [tuple(norm(x).chunk(2)) for norm, x in zip(self.norms, levels, strict=True)]
        else:
            both = [
                encode(self.encoder, x, stem)
                for stem, x in zip(stems, (before, after), strict=True)
            ]
            pairs = [(norm(a), norm(b)) for norm, a, b in zip(self.norms, *both, strict=True)]
        if not self.comparisons:
            return [(a - b).abs() for a, b in pairs]
        return [
            compare(torch.cat(pair, dim=1))
            for compare, pair in zip(self.comparisons, pairs, strict=True)
        ]


def exchange_halves(stage: int, x: Tensor) -> Tensor:
    """Swap features between the two halves of a batch, after the second stage and later ones.

    Args:
        stage: Index of the stage, from 0.
        x: Features, (2 B, H, W, C), the first date's before the second's.

    Returns:
        Features of the same shape: every other column swapped for stage 1, every other channel
        for later stages.

    Source: Fang et al. (arXiv 2209.08290), section 3.3: spatial and channel exchange.
    """
    if stage == 0:
        return x
    a, b = x.chunk(2)
    if stage == 1:
        swap = (torch.arange(x.shape[2], device=x.device) % 2 == 0)[:, None]
    else:
        swap = torch.arange(x.shape[3], device=x.device) % 2 == 0
    return torch.cat((torch.where(swap, b, a), torch.where(swap, a, b)))


def _in_order(x: Tensor, rows: Tensor | None, date: str) -> Tensor:
    """Return images in the order of the samples."""
    if rows is None or rows.shape != x.shape[:1]:
        got = None if rows is None else tuple(rows.shape)
        raise ValueError(f"index[{date!r}] must have shape ({len(x)},), got {got}")
    return torch.empty_like(x).index_copy(0, rows, x)


def _default_dates(modalities: Mapping[str, int]) -> dict[str, str]:
    if set(DATES) <= set(modalities):
        return {date: date for date in DATES}
    if len(modalities) == 1:
        return dict.fromkeys(DATES, next(iter(modalities)))
    raise ValueError(
        f"dates must say which of the stems {list(modalities)} each of {list(DATES)} goes through"
    )


def _check_dates(dates: Mapping[str, str], stems: Collection[str]) -> None:
    if set(dates) != set(DATES):
        raise ValueError(f"dates must name the stems of {list(DATES)}, got {dict(dates)}")
    unknown = [stem for stem in dates.values() if stem not in stems]
    if unknown:
        raise ValueError(f"dates names the stem {unknown[0]!r}, the encoder has {list(stems)}")
