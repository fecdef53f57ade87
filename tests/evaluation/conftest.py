# SPDX-License-Identifier: Apache-2.0
from training_fixtures import *  # noqa: F403
from training_fixtures import _quiet_and_quick  # noqa: F401
