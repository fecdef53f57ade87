# SPDX-License-Identifier: Apache-2.0
"""Train a classifier, from scratch or from a pretrained encoder, and score it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

    from rsvheat.commands._training import TrainingCLI

EXAMPLE = (
    "rsvheat finetune --config finetune_eurosat --data.root images "
    "--model.checkpoint runs/mine/last.ckpt --output runs/classes"
)


def run(arguments: list[str]) -> int:
    """Run the command."""
    from lightning.pytorch import LightningDataModule

    from rsvheat.commands._training import TrainingCLI
    from rsvheat.tasks import create_classification_task

    def ready(data: Any) -> Any:
        data.prepare_data()
        data.setup("fit")
        return data

    def link(parser: "LightningArgumentParser") -> None:
        parser.set_defaults({"data": {"class_path": "rsvheat.data.ImageFolderDataModule"}})
        parser.link_arguments("seed_everything", "data.init_args.seed")
        for target, source in {
            "classes": lambda data: ready(data).classes,
            "modality": lambda data: data.modality,
            "bands": lambda data: data.modalities[data.modality],
            "img_size": lambda data: ready(data).datasets["train"].crop.size,
        }.items():
            parser.link_arguments("data", f"model.{target}", source, apply_on="instantiate")

    command = TrainingCLI(
        __name__,
        create_classification_task,
        LightningDataModule,
        arguments,
        run={"output": "runs/finetune", "monitor": "val/accuracy", "mode": "max"},
        trainer={"max_epochs": 50, "gradient_clip_val": 1.0, "log_every_n_steps": 10},
        link=link,
        subclass_mode_data=True,
    )
    return command.fit() or _score(command)


def _score(command: "TrainingCLI") -> int:
    """Score the best checkpoint on the test images or, without any, those for validation."""
    from rsvheat.training.console import say

    best = command.run.best.best_model_path if command.run.best else ""
    best = best or str(command.run.last.path)
    if command.trainer.world_size > 1:
        # Processes repeat images so that each has as many.
        say(f"rsvheat evaluate --checkpoint {best} scores it, on one device")
        return 0
    command.trainer.test(command.model, command.datamodule, ckpt_path=best, verbose=False)
    scores = command.model.scores
    if scores is None:
        say(f"there are no images to score {best} on")
        return 0
    images = "test" if "test" in command.datamodule.datasets else "val"
    about = {"checkpoint": best, "images": images}
    files = scores.save(command.run.folder, about=about)
    print(f"overall accuracy {scores.accuracy:.4f}, mean F1 {scores.mean_f1:.4f} ({files[0]})")
    return 0
