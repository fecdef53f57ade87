# SPDX-License-Identifier: Apache-2.0
"""The base class of tasks whose networks give logits of classes, with their calibration."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Self

from rsvheat.checkpoint import TrainedModel
from rsvheat.data.spec import IGNORE_INDEX, DataSpec
from rsvheat.evaluation import Calibration, ConfidenceBins, LogitSample
from rsvheat.tasks.supervised import SupervisedTask


class CalibratedTask(SupervisedTask):
    """Base of tasks that give probabilities of classes, to images or to their pixels.

    Each validation fits the temperature by which predictions are as certain as they are right, see
    ``rsvheat.evaluation.fit_temperature``; checkpoints hold it, and predictions apply it. A
    test measures the calibration with and without it.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, see ``rsvheat.tasks.SupervisedTask``.
        **options: Further arguments of ``rsvheat.tasks.SupervisedTask``.

    Attributes:
        ignored: Label of what does not count.
        temperature: Temperature of the last validation, or of the checkpoint that was loaded.
        calibration: Calibration in the last test.
        uncalibrated: Calibration in the last test without the temperature.

    Raises:
        ValueError: As for ``rsvheat.tasks.SupervisedTask``.
    """

    ignored: ClassVar[int] = IGNORE_INDEX

    def __init__(self, spec: DataSpec, variant: str | None = None, **options: Any) -> None:
        super().__init__(spec, variant, **options)
        self.temperature = 1.0
        self.calibration: Calibration | None = None
        self.uncalibrated: Calibration | None = None
        self._bins = ConfidenceBins(ignore_index=self.ignored)
        self._plain_bins = ConfidenceBins(ignore_index=self.ignored)
        self._sample = LogitSample(ignore_index=self.ignored)

    @classmethod
    def around(cls, trained: TrainedModel) -> Self:
        """See ``rsvheat.tasks.SupervisedTask.around``."""
        task = super().around(trained)
        task.temperature = trained.temperature
        return task

    def update_scores(self, output: Any, batch: Mapping[str, Any]) -> None:
        """See ``rsvheat.tasks.SupervisedTask.update_scores``.

        Raises:
            FloatingPointError: If the output is not finite: its largest value would be some class.
        """
        finite = output.isfinite().flatten(1).all(1)
        if not finite.all():
            keys = [
                key for key, good in zip(batch["keys"], finite.tolist(), strict=True) if not good
            ]
            raise FloatingPointError(
                f"the network's result for {keys[0]} is not finite: the image holds extreme "
                "values, the precision is too narrow, or the weights are damaged"
            )
        super().update_scores(output, batch)

    def on_validation_epoch_start(self) -> None:
        """Start to collect logits."""
        self._sample = LogitSample(ignore_index=self.ignored)

    def add_validation(self, output: Any, batch: Mapping[str, Any], batch_idx: int) -> None:
        """See ``rsvheat.tasks.SupervisedTask.add_validation``."""
        super().add_validation(output, batch, batch_idx)
        self._sample.add(output, batch[self.target], self.step_seed(batch_idx, 2))

    def on_validation_epoch_end(self) -> None:
        """Log the scores, and fit the temperature."""
        super().on_validation_epoch_end()
        fitted = self._sample.fit()
        # The few batches before training are no validation, and a resumed run has them, too.
        if fitted is not None and not self.trainer.sanity_checking:
            self.temperature = fitted
            self.log("val/temperature", fitted)

    def test_output(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the logits of a test batch.

        Args:
            batch: Batch, see ``rsvheat.data.sample``.
        """
        logits: Tensor = self(batch)
        return logits

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Add a batch to the scores and the calibration."""
        self.add_test(self.test_output(batch), batch)

    def add_test(self, output: Tensor, batch: Mapping[str, Any]) -> None:
        """Add a test batch to the scores and the calibration.

        Args:
            output: Logits of the batch.
            batch: Batch, see ``rsvheat.data.sample``.
        """
        self.update_scores(output, batch)
        labels, logits = batch[self.target], output.float()
        self._plain_bins.update(logits.softmax(1), labels)
        self._bins.update((logits / self.temperature).softmax(1), labels)

    def on_test_epoch_end(self) -> None:
        """Set and log the scores and the calibration."""
        super().on_test_epoch_end()
        self.calibration = Calibration.of(self._bins)
        self.uncalibrated = Calibration.of(self._plain_bins)
        self._bins.reset()
        self._plain_bins.reset()
        self.log("test/calibration_error", self.calibration.expected_error)

    def save_test(
        self,
        folder: str | PathLike[str],
        name: str = "scores",
        about: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """See ``rsvheat.tasks.SupervisedTask.save_test``; adds the calibration."""
        files = super().save_test(folder, name, about)
        assert self.calibration is not None
        assert self.uncalibrated is not None
        more = {
            **(about or {}),
            "temperature": self.temperature,
            "without_temperature": self.uncalibrated.to_dict(),
        }
        return files + self.calibration.save(folder, f"{name}_calibration", more)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the temperature to the description of the network."""
        super().on_save_checkpoint(checkpoint)
        if "rsvheat" in checkpoint:
            checkpoint["rsvheat"]["temperature"] = self.temperature

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the temperature, which a run that resumes within an epoch saves again."""
        super().on_load_checkpoint(checkpoint)
        self.temperature = checkpoint.get("rsvheat", {}).get("temperature", 1.0)
