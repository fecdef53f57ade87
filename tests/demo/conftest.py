# SPDX-License-Identifier: Apache-2.0
"""The demo's tests need what the demo needs."""

import pytest

pytest.importorskip("lightning")
pytest.importorskip("torchmetrics")
pytest.importorskip("PIL")
pytest.importorskip("rasterio")
pytest.importorskip("matplotlib")
