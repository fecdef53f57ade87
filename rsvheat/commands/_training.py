# SPDX-License-Identifier: Apache-2.0
"""Command lines that train: Lightning's, around one data module, any task and a run's folder."""

import copy
import functools
import inspect
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from rsvheat import cli
from rsvheat._files import complete_file
from rsvheat.commands._parser import flag, one_line, texts
from rsvheat.commands._recipes import with_recipes
from rsvheat.data.datamodule import DataModule
from rsvheat.evaluation import SeedScores
from rsvheat.tasks import SupervisedTask
from rsvheat.tasks.supervised import Scores
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
        seed: Seed of one of several runs, instead of that of the options; None for the options'.
        output: Folder of this run, with ``seed``.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        task: Any,
        *,
        defaults: dict[str, Any],
        trainer: dict[str, Any],
        seed: int | None = None,
        output: Path | None = None,
    ) -> None:
        if not cli.debugging:
            quieten()
        self._is_one_of_several = seed is not None
        self._for_seed = functools.partial(
            type(self), name, arguments, task, defaults=defaults, trainer=trainer
        )
        if seed is not None:
            arguments = [*arguments, f"--seed_everything={seed}", f"--output={output}"]
        self._has_scores = inspect.isabstract(task) or issubclass(task, SupervisedTask)
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
        """Add the seed, and seeds where what is trained has scores."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            metavar="SEED",
            help="Seed of weights, order of samples, augmentation, masks and splits.",
        )
        if self._has_scores:
            parser.add_argument(
                "--seeds",
                type=int,
                nargs="+",
                default=None,
                metavar="SEED",
                help="Seeds to train with, one after the other, such as --seeds 0 1 2, instead of "
                "--seed_everything: mean and deviation of the scores over the seeds are written to "
                "seeds.json in the folder of the output, each run to its folder seed_N.",
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's options, links and defaults."""
        parser.add_class_arguments(Run, None, instantiate=False)
        parser.set_defaults(self._defaults)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build everything, unless it is built anew for each of several seeds."""
        if not self._seeds:
            super().instantiate_classes()

    @property
    def _seeds(self) -> list[int]:
        return [] if self._is_one_of_several else self.config.get("seeds") or []

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
            ValueError: If the checkpoint to resume from is of another network, or several seeds
                are to be trained in several processes.
        """
        if self._seeds:
            return self._fit_seeds()
        self._save_config()
        code = self.run.fit(self.trainer, self.model, self.datamodule)
        if code == 0 and isinstance(self.model, SupervisedTask):
            self._score()
        return code

    def _fit_seeds(self) -> int:
        """Train with each seed in a folder of its own; write the spread of the scores."""
        output, resume = Path(self.config.output), self.config.resume
        if len(set(self._seeds)) < len(self._seeds):
            raise ValueError(f"seeds must differ, got {self._seeds}")
        if not isinstance(resume, bool):
            raise ValueError("--seeds resumes each run from its own folder: give --resume alone")
        found: dict[int, Scores] = {}
        for seed in self._seeds:
            one = self._for_seed(seed=seed, output=output / f"seed_{seed}")
            if one.trainer.world_size > 1:
                raise ValueError(
                    f"--seeds trains in one process. In {one.trainer.world_size} processes train "
                    f"each seed by itself, --seed_everything N --output {output}/seed_N; then "
                    "--seeds with --resume and --trainer.devices 1 scores them"
                )
            if not isinstance(one.model, SupervisedTask):
                raise ValueError(
                    f"--seeds needs a task with scores, got {type(one.model).__name__}"
                )
            code = one.fit()
            if code:
                return code
            if one.model.scores is not None:
                found[seed] = one.model.scores
        if found:
            spread = SeedScores({seed: scores.to_dict() for seed, scores in found.items()})
            files = spread.save(output)
            print(f"{spread} ({files[0]})")
        return 0

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
        if self._has_scores:
            config.seeds = None
        with complete_file(self.run.folder / "config.yaml") as temporary:
            temporary.write_text(self.parser.dump(config, skip_unset=False))
