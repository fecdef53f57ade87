# SPDX-License-Identifier: Apache-2.0
"""Pack folders of images into WebDataset shards, for millions of them."""

from typing import Literal

from rsvheat.cli import UsageError
from rsvheat.commands._parser import run_function

EXAMPLE = (
    "rsvheat shards packed --folders.optical images/optical --folders.sar images/sar "
    "--samples_per_shard 1000"
)
EXTRAS = ("train",)


def run(arguments: list[str]) -> None:
    """Run the command."""
    run_function(shards, arguments, __name__)


def shards(
    output: str,
    folders: dict[str, str] | None = None,
    paired: bool = True,
    stem_map: dict[str, tuple[str, str]] | None = None,
    unmatched: Literal["skip", "keep"] = "skip",
    tile: int | None = None,
    samples_per_shard: int = 1000,
    on_error: Literal["skip", "raise"] = "skip",
    part: tuple[int, int] = (0, 1),
) -> None:
    """Write shards; those that an interrupted call completed are kept.

    Args:
        output: Folder for the shards.
        folders: Folder of images by modality, at least one.
        paired: Whether files of the same name show the same ground.
        stem_map: Regular expression and its replacement by modality, for names that differ.
        unmatched: Whether files without a partner are left out or kept.
        tile: Side in pixels of the tiles that larger images are cut into.
        samples_per_shard: Number of samples in a shard.
        on_error: Whether damaged files are left out, or stop the command.
        part: Share [i, n] of the work: every n-th shard from the i-th on is written, so that n
            processes work side by side.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    from rsvheat.data import FolderSource, write_shards

    if not folders:
        raise UsageError("--folders: name at least one, such as --folders.optical DIR")
    source = FolderSource(folders, paired=paired, stem_map=stem_map, unmatched=unmatched, tile=tile)
    skipped = source.scan()
    with tqdm(unit="shard", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = write_shards(
            source,
            output,
            samples_per_shard=samples_per_shard,
            on_error=on_error,
            part=part,
            progress=progress,
        )
    report.add(skipped)
    print(f"{output}: {len(source)} samples found; {report}")
