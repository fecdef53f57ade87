# SPDX-License-Identifier: Apache-2.0
"""Groups of parameters for an optimizer: weight decay, and learning rates by depth.

timm's protocol: a module's ``no_weight_decay()`` names parameters that do not decay, and its
``group_matcher()`` gives patterns that order parameters by depth.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Return the trainable parameters of a model in groups for an optimizer.

    Args:
        model: Encoder, or network that contains encoders.
        lr: Learning rate of the last layers; None leaves ``lr`` out of the groups, for schedules
            that read ``lr_scale``.
        weight_decay: Weight decay of parameters of two dimensions or more that no module's
            ``no_weight_decay()`` names; 0 for all others.
        layer_decay: Factor on the learning rate for each layer between a parameter and the
            output, above 0 and at most 1. Below 1 the model needs a ``group_matcher()``;
            parameters that it does not match, such as a decoder's, get the whole rate.

    Returns:
        Groups with ``params``, ``weight_decay``, ``lr_scale`` and, if given, ``lr``, the smallest
        learning rate first.

    Raises:
        ValueError: If ``layer_decay`` is out of range, or the model has no ``group_matcher()``.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}")
    # timm takes longer to import than torch: not for those who do not train.
    from timm.optim import (  # type: ignore[attr-defined]
        param_groups_layer_decay,
        param_groups_weight_decay,
    )

    exempt = without_decay(model)
    groups: list[dict[str, Any]]
    if layer_decay == 1:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
        groups.sort(key=lambda group: -group["weight_decay"])
    elif not hasattr(model, "group_matcher"):
        raise ValueError(
            f"layer_decay must be 1 for {type(model).__name__}, which has no group_matcher(), got "
            f"{layer_decay}"
        )
    else:
        groups = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
        )
        groups.sort(key=lambda group: (group["lr_scale"], group["weight_decay"]))
    for group in groups:
        group.setdefault("lr_scale", 1.0)
        if lr is not None:
            group["lr"] = lr * group["lr_scale"]
    return [group for group in groups if group["params"]]


def without_decay(model: nn.Module) -> set[str]:
    """Return the names that ``no_weight_decay()`` of a model and of its parts give.

    Args:
        model: Encoder, or network that contains encoders.
    """
    found = set()
    for prefix, module in model.named_modules():
        names = getattr(module, "no_weight_decay", None)
        if callable(names):
            found |= {f"{prefix}.{name}" if prefix else name for name in names()}
    return found


def nested_matcher(matcher: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the patterns of a part of a network as patterns of the network.

    Args:
        matcher: Value of the part's ``group_matcher()``: patterns that begin with ``^``.
        name: Attribute of the network under which it has the part.
    """

    def nested(pattern: Any) -> Any:
        if isinstance(pattern, str):
            return f"^{re.escape(name)}\\." + pattern.removeprefix("^")
        if isinstance(pattern, tuple):
            return (nested(pattern[0]), *pattern[1:])
        return pattern and [nested(one) for one in pattern]

    return {group: nested(pattern) for group, pattern in matcher.items()}
