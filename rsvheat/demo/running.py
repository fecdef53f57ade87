# SPDX-License-Identifier: Apache-2.0
"""Runs the steps of a demo: skips complete ones and resumes the one that was stopped."""

from collections.abc import Callable
from typing import Any

from rsvheat._files import remove_unfinished
from rsvheat.demo.demo_report import summary, write_report
from rsvheat.demo.state import State
from rsvheat.demo.steps import Demo, draw_map, finetune, pretrain, probe, scratch, segment
from rsvheat.models import CheckpointError
from rsvheat.training.console import say
from rsvheat.training.run_checkpoints import check_folder

_STEPS: dict[str, tuple[str, Callable[[Demo], dict[str, Any]]]] = {
    "pretrain": ("Pretrain on optical and radar images, without labels", pretrain),
    "finetune": ("Fine-tune on labeled images", finetune),
    "scratch": ("Train the same from scratch, to compare", scratch),
    "probe": ("Look at frozen features: nearest neighbors and a linear probe", probe),
    "map": ("Map a scene that was not trained on", draw_map),
    "segment": ("Segment aerial images, and map a tile that was not trained on", segment),
}


def run_steps(state: State, demo: Demo) -> None:
    """Run the steps that are not complete, and write the report.

    Raises:
        CheckpointError: If a checkpoint of a step is damaged.
        CheckpointWriteError: If there is no room for checkpoints.
    """
    count, results = len(_STEPS) + 1, {}
    for number, (name, (title, step)) in enumerate(_STEPS.items(), 1):
        result = state.result(name)
        if result is None:
            say(f"[{number}/{count}] {title} ({_told(demo.estimate(name))} or so)")
            folder = demo.folder / name
            check_folder(folder)
            remove_unfinished(folder)
            try:
                result = step(demo)
            except CheckpointError as error:
                # None of them was downloaded.
                what = str(error).removesuffix(". Download it again")
                raise CheckpointError(
                    f"{what}; without that file its step is done again"
                ) from error
            state.complete(name, result)
        else:
            say(f"[{number}/{count}] {title}: complete")
        results[name] = result
    say(f"[{count}/{count}] Write the report")
    write_report(demo, results, state.report)
    print(summary(results))
    print(f"report: {state.report}")


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
