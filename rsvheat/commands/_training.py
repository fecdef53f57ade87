# SPDX-License-Identifier: Apache-2.0
"""Command lines that train: Lightning's, around one data module, any task and a run's folder."""

import copy
import inspect
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from rsvheat import cli
from rsvheat._files import complete_file
from rsvheat.commands._parser import flag, one_line, texts
from rsvheat.commands._recipes import with_recipes
from rsvheat.data.datamodule import DataModule
from rsvheat.tasks import SupervisedTask
from rsvheat.training import Run
from rsvheat.training.console import quieten, say


class _Parser(LightningArgumentParser):
    error = one_line


class TrainingCLI(LightningCLI):
    """Builds data, task, trainer and the run whose folder they fill.

    Args:
        name: Name of the command's module.
        arguments: Arguments from the command line.
        task: Class of the tasks that the command trains; it is the default unless it is abstract.
        defaults: Values of options that differ from the classes' own, by option.
        trainer: Values of the Trainer's options that differ from Lightning's.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        task: Any,
        *,
        defaults: dict[str, Any],
        trainer: dict[str, Any],
    ) -> None:
        if not cli.debugging:
            quieten()
        self._defaults = defaults
        if not inspect.isabstract(task):
            self._defaults = {"model": {"class_path": f"rsvheat.tasks.{task.__name__}"}, **defaults}
        about = texts(name)
        about["epilog"] += (
            " | The options of the task and of the data set's reader depend on the class: "
            "--model.help and --data.dataset.help list them, also with another class's name."
        )
        super().__init__(
            task,
            DataModule,
            save_config_callback=None,
            trainer_defaults={"gradient_clip_val": 1.0, "log_every_n_steps": 10, **trainer},
            parser_kwargs=about,
            parser_class=_Parser,
            args=with_recipes(flag(arguments, "--resume", text=True)),
            subclass_mode_model=True,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            metavar="SEED",
            help="Seed of weights, order of samples, augmentation, masks and splits.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's options, links and defaults."""
        parser.add_class_arguments(Run, None, instantiate=False)
        parser.set_defaults(self._defaults)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the run and the trainer."""
        options = {name: self.config_init[name] for name in inspect.signature(Run).parameters}
        if options["monitor"] is None:
            options |= {"monitor": self.model.monitor, "mode": self.model.mode}
        self.run = Run(**options)
        arguments = self.run.trainer_arguments()
        given = self.config_init["trainer"]
        for name in ("callbacks", "plugins", "logger"):
            value = given[name]
            if value is False:
                arguments.pop(name)
            elif value not in (None, True):
                value = value if isinstance(value, list) else [value]
                arguments[name] = [*value, *arguments[name]]
        return super().instantiate_trainer(**arguments)

    def fit(self) -> int:
        """Train, score what was trained, and say how it ended.

        Returns:
            Exit code.

        Raises:
            ValueError: If the checkpoint to resume from is of another network.
        """
        self._save_config()
        code = self.run.fit(self.trainer, self.model, self.datamodule)
        if code == 0 and isinstance(self.model, SupervisedTask):
            self._score()
        return code

    def _score(self) -> None:
        """Score the best checkpoint on the test samples or, without any, those for validation."""
        best = self.run.best.best_model_path if self.run.best else ""
        best = best or str(self.run.last.path)
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.trainer.world_size > 1:
            # Processes repeat samples so that each has as many.
            say(f"rsvheat evaluate --checkpoint {best} scores it, on one device")
            return
        self.trainer.test(self.model, self.datamodule, ckpt_path=best, verbose=False)
        if self.model.scores is None:
            say(f"there are no samples to score {best} on")
            return
        images = "test" if "test" in self.datamodule.datasets else "val"
        files = self.model.save_test(self.run.folder, about={"checkpoint": best, "images": images})
        print(f"{self.model.scores} ({files[0]})")

    @rank_zero_only
    def _save_config(self) -> None:
        """Keep the configuration beside what comes of it, for ``--config``."""
        config = copy.deepcopy(self.config)
        config.resume = False
        with complete_file(self.run.folder / "config.yaml") as temporary:
            temporary.write_text(self.parser.dump(config, skip_unset=False))
