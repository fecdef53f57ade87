# SPDX-License-Identifier: Apache-2.0
"""The encoder as a backbone for OpenMMLab: importing this module registers it with mmengine.

Registered once, in mmengine's root registry, it resolves in mmsegmentation, mmdetection, mmrotate:

    custom_imports = dict(imports=["rsvheat.integrations.mm"])
    model = dict(backbone=dict(type="RSVHeat", arch="rsvheat_base", img_size=512, ...), ...)

``type="rsvheat.integrations.mm.RSVHeat"`` needs no ``custom_imports``. Complete models are in
``rsvheat.integrations.mm_configs``.

mmengine 0.10.7 cannot read its own checkpoints under torch 2.6 and later, to test or to resume:
beside weights they hold its log buffers, and torch reads plain weights only. Importing this module
also tells torch, by ``torch.serialization.add_safe_globals``, that these buffers are safe.
"""

import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn

from rsvheat import models

_INIT_KEYS = ("type", "checkpoint", "prefix", "stems", "inflate_stems")


@MODELS.register_module()
class RSVHeat(BaseModule):  # type: ignore[misc]
    """An RS-vHeat or vHeat encoder that returns feature maps of several stages.

    Images may have any height and width, different ones at each call, without padding.

    Args:
        arch: Name of the variant, as for ``rsvheat.create_model``.
        img_size: Side in pixels, or (height, width), of the images that the frequency tables are
            made for: the size of training crops. Checkpoints for another one are resampled.
        in_chans: Number of bands of the images.
        out_indices: Stages whose features are returned, in the stages' order. Later stages are not
            built.
        frozen_stages: Number of stages that are frozen with their output norms and the stem; 0
            freezes the stem alone, -1 nothing. Frozen parts stay in evaluation mode.
        drop_path_rate: Largest rate of stochastic depth.
        with_cp: Whether each block's activations are recomputed in the backward pass instead of
            kept.
        freq_resize: Resampling of the tables to other sizes, as for
            ``rsvheat.models.RSVHeat``.
        output_norms: Whether every stage's features are normed, as heads for dense tasks expect.
        init_cfg: None, or ``dict(type="Pretrained", checkpoint=path)``, where further keys
            ``prefix``, ``stems`` and ``inflate_stems`` are arguments of
            ``rsvheat.load_checkpoint``, which reads the file.
        modality: Name of the stem: ``"sar"`` to start from a published checkpoint's SAR stem.
        gsd: Ground sampling distance of all images in meters per pixel, for
            ``freq_embed="implicit"``.
        **encoder: Further arguments of ``rsvheat.models.RSVHeat``, such as ``freq_embed``.

    Raises:
        ValueError: If an argument is not as above.
    """

    is_init: bool  # a property of mmengine's base class

    def __init__(
        self,
        arch: str = "rsvheat_base",
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        freq_resize: str = "frequency",
        output_norms: bool = True,
        init_cfg: Mapping[str, Any] | None = None,
        *,
        modality: str = "optical",
        gsd: float | None = None,
        **encoder: Any,
    ) -> None:
        super().__init__(init_cfg)
        _check_init_cfg(init_cfg)
        self.gsd = gsd
        self._build = partial(
            models.create_model,
            arch,
            img_size=img_size,
            modalities={modality: in_chans},
            num_classes=0,
            freq_resize=freq_resize,
            output_norms=output_norms,
            drop_path=drop_path_rate,
            **encoder,
        )
        self.encoder = self._build()
        if not -1 <= frozen_stages <= len(self.encoder.stages):
            raise ValueError(
                f"frozen_stages must be -1 to {len(self.encoder.stages)}, got {frozen_stages}"
            )
        self.frozen_stages = frozen_stages
        # Without what no output needs: a parameter without a gradient stops DDP.
        self.out_indices = self.encoder.prune_intermediate_layers(out_indices, prune_norm=True)
        if self.encoder.output_norms is not None:
            for i in range(len(self.encoder.output_norms)):
                if i not in self.out_indices:
                    self.encoder.output_norms[i] = nn.Identity()
        self.encoder.set_grad_checkpointing(with_cp)
        for module in self._frozen():
            module.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg`` and log the report of what was loaded.

        Raises:
            FileNotFoundError: If there is no such file.
            rsvheat.models.CheckpointError: If the file does not fit, as
                ``rsvheat.load_checkpoint`` says.
            ValueError: If the file lacks weights that ``frozen_stages`` freezes.
        """
        if self.init_cfg is None or self.is_init:
            super().init_weights()
            return
        options = {k: v for k, v in self.init_cfg.items() if k not in ("type", "checkpoint")}
        # Into a whole encoder, because files hold the stages that this one may be built without.
        whole = self._build()
        report = models.load_checkpoint(whole, self.init_cfg["checkpoint"], **options)
        frozen = {id(p) for module in self._frozen() for p in module.parameters()}
        untrained = [
            name
            for name, parameter in self.encoder.named_parameters()
            if id(parameter) in frozen
            and name in report.missing
            and not name.startswith("output_norms.")
        ]
        if untrained:
            raise ValueError(
                f"frozen_stages={self.frozen_stages} would freeze {len(untrained)} parameters as "
                f"initialized, because {report.source} lacks them: {', '.join(untrained[:5])}"
            )
        weights = whole.state_dict()
        self.encoder.load_state_dict({name: weights[name] for name in self.encoder.state_dict()})
        print_log(f"init_cfg: {report}", logger="current")
        self.is_init = True

    def train(self, mode: bool = True) -> "RSVHeat":
        """Set the mode of all but what is frozen, which stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of images.

        Args:
            x: (B, in_chans, H, W), any H and W.

        Returns:
            (B, C, ceil(H / stride), ceil(W / stride)) for every stage of ``out_indices``; strides
            are 4, 8, 16 and 32.
        """
        maps = self.encoder.forward_intermediates(
            x, self.out_indices, intermediates_only=True, gsd=self.gsd
        )
        return tuple(cast(list[Tensor], maps))

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stages = slice(self.frozen_stages)
        norms = self.encoder.output_norms
        return [
            self.encoder.stems,
            *self.encoder.stages[stages],
            *([] if norms is None else norms[stages]),
        ]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RSVHeatOptimWrapperConstructor(DefaultOptimWrapperConstructor):  # type: ignore[misc]
    """Layer-wise decay of the encoder's learning rate; no weight decay of embeddings and norms.

    In a config: ``optim_wrapper = dict(optimizer=..., constructor="RSVHeatOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay=0.9))``. The encoder's parameters are grouped by
    ``rsvheat.models.RSVHeat.get_parameter_groups``; all others by mmengine's rules, and
    mmengine's keys of ``paramwise_cfg`` apply to those others only.

    Args:
        optim_wrapper_cfg: Configuration for mmengine's constructor; ``optimizer`` must give ``lr``
            and ``weight_decay``.
        paramwise_cfg: Configuration with mmengine's keys, and ``layer_decay``: factor on the
            learning rate for each block between a parameter and the encoder's end, 1 by default.

    Raises:
        ValueError: If the optimizer's learning rate or weight decay is missing.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, {"layer_decay": 1.0, **(paramwise_cfg or {})})
        if self.base_lr is None or self.base_wd is None:
            raise ValueError(
                "optimizer must give lr and weight_decay for layer-wise decay, got "
                f"{self.optimizer_cfg}"
            )

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, *args: Any, **kwargs: Any
    ) -> None:
        """Append the groups of ``module``'s parameters to ``params``."""
        if not isinstance(module, models.RSVHeat):
            super().add_params(params, module, *args, **kwargs)
            return
        layer_decay = self.paramwise_cfg["layer_decay"]
        for group in module.get_parameter_groups(self.base_lr, self.base_wd, layer_decay):
            del group["param_names"]  # torch wants names in all groups or in none
            params.append(group)


def _statistic(owner: type, name: str) -> Any:
    """Stand in for ``getattr`` in checkpoints: log buffers name their methods by it."""
    if owner is not HistoryBuffer or name not in ("current", "max", "mean", "min"):
        raise pickle.UnpicklingError(f"getattr({owner!r}, {name!r}) is not read from checkpoints")
    return getattr(owner, name)


def _allow_log_buffers() -> None:
    """Let torch read the log buffers that mmengine saves beside weights, made of NumPy arrays."""
    number = np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, (_statistic, "builtins.getattr")]
    allowed += {type(np.dtype(code)) for code in number}
    for core in ("numpy._core", "numpy.core"):  # NumPy 2, NumPy 1
        allowed.append((np.empty(0).__reduce__()[0], f"{core}.multiarray._reconstruct"))
        allowed.append((np.float64(0).__reduce__()[0], f"{core}.multiarray.scalar"))
    torch.serialization.add_safe_globals(allowed)


_allow_log_buffers()


def _check_init_cfg(init_cfg: Mapping[str, Any] | None) -> None:
    if init_cfg is None:
        return
    wanted = (
        "init_cfg must be None or dict(type='Pretrained', checkpoint=path), optionally with "
        "prefix, stems and inflate_stems of rsvheat.load_checkpoint"
    )
    if (
        not isinstance(init_cfg, Mapping)
        or init_cfg.get("type") not in ("Pretrained", PretrainedInit)
        or "checkpoint" not in init_cfg
        or not set(init_cfg) <= set(_INIT_KEYS)
    ):
        raise ValueError(f"{wanted}; got {init_cfg!r}")
    if "://" in str(init_cfg["checkpoint"]):
        raise ValueError(
            f"{wanted}, where path is a file on this machine: download "
            f"{init_cfg['checkpoint']} first"
        )
