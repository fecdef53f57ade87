# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: checkpoints of any content are loaded, or refused by a CheckpointError.

    python tests/fuzz/fuzz_checkpoints.py CORPUS -max_total_time=600

libFuzzer's options follow the folder of its corpus, which `make fuzz` keeps in build/fuzz. An input
is, after a byte of 0, the whole file. After any other byte it is the pickle of a torch checkpoint,
which is put into a valid zip archive beside the tensors' data: otherwise almost every change would
end at a checksum.
"""

import io
import os
import pickle
import sys
import tempfile
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris
import torch
from torch import _weights_only_unpickler

with atheris.instrument_imports(include=["rsvheat.checkpoint", "rsvheat.models"]):
    import rsvheat
    from rsvheat.checkpoint import TrainedModel
    from rsvheat.data import Normalizer
    from rsvheat.data.spec import DataSpec
    from rsvheat.models import CheckpointError, RSVHeat
    from rsvheat.models.classification import Classifier

# To instrument this module by its import would be to instrument all of torch.
_unpickler = _weights_only_unpickler.Unpickler
_unpickler.load = atheris.instrument_func(_unpickler.load)

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-checkpoints-"))
MARK = FOLDER / "code-has-run"


class Attack:
    """Tells that code has run."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a call that leaves a file."""
        return Path.touch, (MARK,)


def _whole() -> bytes:
    encoder = RSVHeat((4,), (1,), 8, {"optical": 1}, num_classes=2)
    spec = DataSpec({"optical": 1}, "label", ("a", "b"), (8, 8))
    model = TrainedModel(Classifier(encoder, 2), spec, {"optical": Normalizer((0.0,), (1.0,), 5.0)})
    path = FOLDER / "whole.ckpt"
    model.save(path)
    return path.read_bytes()


WHOLE = _whole()
with zipfile.ZipFile(io.BytesIO(WHOLE)) as _archive:
    MEMBERS = {name: _archive.read(name) for name in _archive.namelist()}
PICKLE = next(name for name in MEMBERS if name.endswith("data.pkl"))


def load(data: bytes) -> None:
    """Load one input."""
    path = FOLDER / "a.ckpt"
    if data[:1] == b"\0":
        path.write_bytes(data[1:])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, data[1:] if name == PICKLE else content)
    with suppress(CheckpointError):
        rsvheat.load(path, device="cpu")
    if MARK.exists():
        os.unlink(MARK)
        raise AssertionError("a checkpoint ran code")


def main() -> None:
    """Run libFuzzer."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    corpus = next((Path(word) for word in sys.argv[1:] if not word.startswith("-")), None)
    if corpus is not None:
        corpus.mkdir(parents=True, exist_ok=True)
        attack = pickle.dumps({"state_dict": Attack()}, 2)
        seeds = (b"\x01" + MEMBERS[PICKLE], b"\x01" + attack, b"\0" + WHOLE)
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, load)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
