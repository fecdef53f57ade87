# SPDX-License-Identifier: Apache-2.0
"""What the commands that train have in common: Lightning's command line, and a run."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from rsvheat import cli
from rsvheat._files import complete_file
from rsvheat.commands._parser import flag, one_line, texts
from rsvheat.commands._recipes import with_recipes
from rsvheat.training.console import quieten, say
from rsvheat.training.run import Run


class _Parser(LightningArgumentParser):
    error = one_line


class TrainingCLI(LightningCLI):
    """Builds data, task, trainer and the run whose folder they fill.

    Args:
        name: Of the command's module.
        task: What builds the task; its annotations and docstring say what there is to set.
        data: The data module, or what it derives from.
        arguments: The command line's.
        run: Defaults of the options of :class:`Run`.
        trainer: Defaults of the Trainer's.
        link: Adds what follows from what to a parser.
        **options: Of LightningCLI.
    """

    def __init__(
        self,
        name: str,
        task: Callable[..., LightningModule],
        data: type[LightningDataModule],
        arguments: list[str],
        *,
        run: dict[str, Any],
        trainer: dict[str, Any],
        link: Callable[[LightningArgumentParser], None],
        **options: Any,
    ) -> None:
        if not cli.debugging:
            quieten()
        self._run_defaults, self._link = run, link
        super().__init__(
            task,
            data,
            save_config_callback=None,
            trainer_defaults=trainer,
            parser_kwargs=texts(name),
            parser_class=_Parser,
            args=with_recipes(flag(arguments, "--resume", text=True)),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            **options,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            metavar="SEED",
            help="Of weights, order of samples, augmentation, masks and splits.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's options, and what follows from what."""
        parser.add_class_arguments(Run, None, instantiate=False)
        parser.set_defaults(self._run_defaults)
        parser.link_arguments("seed_everything", "model.seed")
        self._link(parser)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the run and the trainer."""
        names = inspect.signature(Run).parameters
        self.run = Run(**{name: self.config_init[name] for name in names})
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
        """Train, and say how it ended.

        Returns:
            The exit code.

        Raises:
            ValueError: If the checkpoint to go on from is of something else.
        """
        self._save_config()
        run, trainer = self.run, self.trainer
        try:
            trainer.fit(self.model, self.datamodule, ckpt_path=run.checkpoint)
        except SystemExit:
            if run.last.signal is None:
                raise
            say(
                f"stopped by {run.last.signal.name} after step {trainer.global_step}; "
                f"{run.last.path} is where --resume goes on"
            )
            return 128 + run.last.signal
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            text = " ".join(str(error).split())
            raise ValueError(
                f"{run.checkpoint} is of another model than the one configured: {text[:300]}"
            ) from error
        if run.checkpoint is not None and trainer.global_step == run.step:
            say(f"{run.folder} was complete")
        return 0

    @rank_zero_only
    def _save_config(self) -> None:
        """Keep the configuration beside what comes of it, for ``--config``."""
        config = copy.deepcopy(self.config)
        config.resume = False
        with complete_file(self.run.folder / "config.yaml") as temporary:
            temporary.write_text(self.parser.dump(config, skip_unset=False))
