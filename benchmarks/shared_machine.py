# SPDX-License-Identifier: Apache-2.0
"""Rate of training beside another process, by number of threads and how long they spin.

One process for each setting, all of them ready; they take turns of some seconds, alone and beside
processes that only compute.
"""

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from operator_tables import RESULTS

NAME = "shared_machine"
COLUMNS = ("setting", "threads", "competitors", "turns", "images_per_s", "low", "high", "cores")
# Values of GOMP_SPINCOUNT; "" leaves it to torch. So does None, with threads as in rsvheat's runs.
SETTINGS: dict[str, str | None] = {
    "rsvheat's training": None,
    "torch alone": "",
}
# Ends with the process that started it, also when that is killed.
COMPETE = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10_000))"
BUSY = [sys.executable, "-c", COMPETE]
BATCH, SIDE = 32, 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--competitor", type=int, nargs="+", default=[0, 1], metavar="N")
    parser.add_argument("--spin-counts", type=int, nargs="+", default=[], metavar="N")
    parser.add_argument("--threads", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--seconds", type=float, default=4, help="of a turn; default: 4")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each row; default: 5")
    parser.add_argument("--write", action="store_true", help=f"store results/{NAME}.csv and .md")
    parser.add_argument("--trainer", metavar="SPIN_COUNT", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.trainer is not None:
        return _train(arguments.threads[0])
    rows, header = _measure(arguments)
    text = _markdown(rows, header)
    print(text)
    if arguments.write:
        _write(rows, header, text)
    return 0


def _train(threads: int) -> int:
    """Train for as many seconds as each line of the input says, and print rate and cores."""
    import torch

    import rsvheat
    from rsvheat.training.threads import SharedCores

    torch.set_num_threads(threads)
    shared: SharedCores | None = None
    torch.manual_seed(0)
    model = rsvheat.create_model("rsvheat_nano", num_classes=10)
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(10, (BATCH,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        if shared is not None:
            shared.update()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        if os.environ.get("SHARED"):
            torch.set_num_threads(threads)
            shared = SharedCores()  # that knows nothing of the turns of others
        step()  # brings the weights back into the cache
        begin, cpu, steps = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begin < float(line):
            step()
            steps += 1
        seconds = time.perf_counter() - begin
        rate, cores = steps * BATCH / seconds, (time.process_time() - cpu) / seconds
        print(f"{rate:.2f} {cores:.3f}", flush=True)
    return 0


class _Trainer:
    def __init__(self, spin_count: str | None, threads: int) -> None:
        environ = {
            k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))
        }
        if spin_count is None:
            environ["SHARED"] = "1"
        elif spin_count:
            environ["GOMP_SPINCOUNT"] = spin_count
        command = [sys.executable, __file__, "--trainer", "x", "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.output, self.input = self.process.stdout, self.process.stdin

    def wait(self) -> None:
        line = self.output.readline()
        if line != "ready\n":
            raise RuntimeError(f"a training process ended before its first turn: {line!r}")

    def turn(self, seconds: float) -> tuple[float, float]:
        print(seconds, file=self.input, flush=True)
        rate, cores = map(float, self.output.readline().split())
        return rate, cores


def _measure(arguments: argparse.Namespace) -> tuple[list[dict[str, str]], dict[str, str]]:
    header = {
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "cores": str(len(os.sched_getaffinity(0))),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": " ".join(["python benchmarks/shared_machine.py", *sys.argv[1:]]),
        "step": f"rsvheat_nano, {BATCH} images of {SIDE} x {SIDE}, float32, AdamW",
    }
    settings = SETTINGS | {f"{count:,} rounds": str(count) for count in arguments.spin_counts}
    trainers: dict[tuple[str, int], _Trainer] = {}
    competitors: list[subprocess.Popen[bytes]] = []
    turns: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    try:
        for name, count in settings.items():
            for threads in arguments.threads:
                trainers[name, threads] = _Trainer(count, threads)
        for trainer in trainers.values():
            trainer.wait()
        competitors = [subprocess.Popen(BUSY) for _ in range(max(arguments.competitor))]
        for process in competitors:
            process.send_signal(signal.SIGSTOP)
        for _ in range(arguments.rounds):
            for number in arguments.competitor:
                for (name, threads), trainer in trainers.items():
                    for process in competitors[:number]:
                        process.send_signal(signal.SIGCONT)
                    turn = trainer.turn(arguments.seconds)
                    for process in competitors[:number]:
                        process.send_signal(signal.SIGSTOP)
                    turns.setdefault((name, threads, number), []).append(turn)
    finally:
        for process in [*competitors, *(trainer.process for trainer in trainers.values())]:
            process.kill()
            process.wait()
    rows = []
    for (name, threads, number), values in turns.items():
        rates = sorted(rate for rate, _ in values)
        cells = (name, threads, number, len(values), f"{statistics.median(rates):.1f}")
        cores = statistics.median(used for _, used in values)
        cells += (f"{rates[0]:.1f}", f"{rates[-1]:.1f}", f"{cores:.2f}")
        rows.append(dict(zip(COLUMNS, map(str, cells), strict=True)))
    return rows, header


def _markdown(rows: list[dict[str, str]], header: dict[str, str]) -> str:
    alone = {
        (row["setting"], row["threads"]): float(row["high"])
        for row in rows
        if row["competitors"] == "0"
    }
    lines = [
        "# Training beside another process",
        "",
        "; ".join(f"{key}: {value}" for key, value in header.items()),
        "",
        "Median (least to most) of the turns in images/s. A part is the most of a row over the "
        "most of the same setting without a competitor.",
        "",
        "| waits by | threads | competitors | images/s | part | cores used |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        base = alone.get((row["setting"], row["threads"]))
        part = f"{float(row['high']) / base:.0%}" if base else "-"
        lines.append(
            f"| {row['setting']} | {row['threads']} | {row['competitors']} | {row['images_per_s']} "
            f"({row['low']} to {row['high']}) | {part} | {row['cores']} |"
        )
    return "\n".join(lines)


def _write(rows: list[dict[str, str]], header: dict[str, str], text: str) -> None:
    with (RESULTS / f"{NAME}.csv").open("w", newline="") as file:
        for key, value in header.items():
            file.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (RESULTS / f"{NAME}.md").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
