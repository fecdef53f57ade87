# SPDX-License-Identifier: Apache-2.0
"""Training loops of the benchmarks."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from image_sets import Batches, Labelled, seeded
from operator_tables import BenchmarkError
from scoring import accuracy
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import rsvheat
from rsvheat._files import complete_file
from rsvheat.augmentation import RandomView
from rsvheat.data import label_subset
from rsvheat.models import RSVHeatPretraining, parameter_groups
from rsvheat.training.optimization import Optimization, warmup_cosine

LR, BATCH = 1.5e-3, 128
# Images in a step and steps of fine-tuning, by the part of the labels.
SCHEDULES = {0.01: (32, 200), 0.1: (64, 300)}
# Of 1e-3 and 3e-3, by `tune`: better for both starts with 10 %, and much the same with 1 %.
RATES = {0.01: 1e-3, 0.1: 1e-3}


def optimizer_of(groups: list[dict[str, Any]], settings: Optimization) -> torch.optim.Optimizer:
    assert settings.lr is not None
    return torch.optim.AdamW(groups, settings.lr, settings.betas)


def train(
    model: nn.Module,
    groups: list[dict[str, Any]],
    settings: Optimization,
    steps: int,
    loss_of: Callable[[], Tensor],
    after_step: Callable[[], None] | None = None,
    progress: "Progress | None" = None,
) -> None:
    """Train for some steps, in bfloat16, with the schedule and the clipping of the tasks."""
    optimizer = optimizer_of(groups, settings)
    warmup = int(settings.warmup * steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, steps, warmup, settings.floor)
    )
    kept = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    begin = progress.restore(kept) if progress else 0
    model.train()
    for step in range(begin, steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if after_step is not None:
            after_step()
        if progress:
            progress.keep(kept, step + 1)


class Progress:
    """A file from which a training that was stopped goes on with the same bits.

    Args:
        path: The file.
        about: What is trained and how. A file about another training is an error.
        every: Number of steps after which it is written again.
        generator: Source of randomness besides torch's own.
    """

    def __init__(self, path: Path, about: str, every: int, generator: torch.Generator) -> None:
        self.path, self.about, self.every, self.generator = path, about, every, generator
        self.state = torch.load(path, weights_only=True) if path.exists() else {}
        if self.state and self.state["about"] != about:
            raise BenchmarkError(f"{path} is of {self.state['about']}, not of {about}: remove it")
        self.history: list[dict[str, Any]] = self.state.get("history", [])

    @property
    def step(self) -> int:
        """Steps that have been done."""
        return int(self.state.get("step", 0))

    def restore(self, kept: Mapping[str, Any]) -> int:
        """Bring objects to the state of the file; return the steps that have been done."""
        if self.state:
            for name, one in kept.items():
                one.load_state_dict(self.state[name])
            self.generator.set_state(self.state["generator"])
            torch.random.set_rng_state(self.state["random"])
        return self.step

    def keep(self, kept: Mapping[str, Any], step: int) -> None:
        """Write the file if it is time."""
        if step % self.every == 0:
            state = {name: one.state_dict() for name, one in kept.items()}
            done = {"about": self.about, "step": step, "history": self.history}
            random = {"generator": self.generator.get_state(), "random": torch.get_rng_state()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with complete_file(self.path) as temporary:
                torch.save({**state, **done, **random}, temporary)


def train_epochs(
    model: nn.Module,
    groups: list[dict[str, Any]],
    terms_of: Callable[[], tuple[Tensor, Mapping[str, Any]]],
    epochs: int,
    steps: int,
    name: str,
    lr: float,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train for ``epochs`` of ``steps``; return the means of each epoch, which are printed, too.

    Each call of ``terms_of`` returns the loss of a step, and by name what is told of it.
    """
    history: list[dict[str, Any]] = progress.history if progress else []
    done = progress.step if progress else 0
    sums: dict[str, float] = {}
    begin = time.process_time() - (history[-1]["cpu_seconds"] if history else 0.0)

    def loss_of() -> Tensor:
        nonlocal done, sums
        loss, told = terms_of()
        for key, value in told.items():
            sums[key] = sums.get(key, 0.0) + float(value) / steps
        done += 1
        if done % steps == 0:
            seconds = time.process_time() - begin
            history.append({"epoch": done // steps, **sums, "cpu_seconds": seconds})
            line = ", ".join(f"{key} {value:.3f}" for key, value in sums.items())
            print(f"{name}: epoch {done // steps} of {epochs}, {line}, {seconds:.0f} s", flush=True)
            sums = {}
        return loss

    train(model, groups, Optimization(lr=lr), epochs * steps, loss_of, progress=progress)
    return history


def pretrain(
    model: RSVHeatPretraining,
    batches: Batches,
    epochs: int,
    steps: int,
    seed: int,
    name: str,
    lr: float = LR,
    kept: Path | None = None,
    about: str = "",
) -> list[dict[str, Any]]:
    """Pretrain for ``epochs`` of ``steps``; return the means of each epoch.

    With ``kept``, a file written after each epoch, a run that was stopped goes on, if it was
    ``about`` the same.
    """
    generator = seeded(seed, 1)
    progress = Progress(kept, about, steps, generator) if kept else None
    for _ in range(progress.step if progress else 0):
        next(batches)

    def terms_of() -> tuple[Tensor, Mapping[str, Any]]:
        images, index = next(batches)
        output = model(images, index, generator)
        return output.loss, {**output.losses, **output.statistics}

    groups = parameter_groups(model, weight_decay=Optimization().weight_decay)
    return train_epochs(model, groups, terms_of, epochs, steps, name, lr, progress)


def finetune(
    data: Labelled, weights: Mapping[str, Tensor] | None, seed: int, part: float, lr: float
) -> float:
    """Return the accuracy after training on a part of the labels, from weights or from scratch.

    The schedule is the same either way: steps, views and the rate, which is that of the whole
    network.
    """
    batch, steps = SCHEDULES[part]
    torch.manual_seed(seed)
    model = rsvheat.create_model(
        "rsvheat_nano", img_size=64, modalities={"optical": 3}, num_classes=len(data.classes)
    )
    if weights is not None:
        model.load_state_dict({**model.state_dict(), **weights})
    rows = data.train[torch.from_numpy(label_subset(data.labels[data.train].numpy(), part, seed))]
    generator, view = seeded(seed, 2), RandomView(scale=(0.5, 1.0))

    def loss_of() -> Tensor:
        chosen = rows[torch.randperm(len(rows), generator=generator)[:batch]]
        logits = model(view(data.images[chosen], generator))
        return cross_entropy(logits.float(), data.labels[chosen], label_smoothing=0.1)

    settings = Optimization(lr=lr, betas=(0.9, 0.999))
    groups = model.get_parameter_groups(weight_decay=settings.weight_decay)
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]
    train(model, groups, settings, steps, loss_of)
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        predicted = torch.cat([model(data.images[i]).argmax(1) for i in data.test.split(256)])
    return accuracy(predicted, data.labels[data.test])
