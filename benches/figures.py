"""Figures that a comparison with others does not show: `python3 benches/figures.py shapes|state|catch-up [options]`.

    shapes     what messages of 16 and of 64 kinds, and with one in twenty unlike all others, cost against messages of one kind:
               CPU seconds of `windkessel run --until end` on one worker, medians of rounds in turn, as a ratio
    state      bytes of memory and of state files for each patient, at 100,000 and 1,000,000 patients (--patients)
    catch-up   seconds from the start after an outage of a minute until nothing waits, at half of what the engine can read

Starts a Kafka broker (or uses WINDKESSEL_TEST_KAFKA=host:port). The flow is benches/peers/windkessel.toml. Prints what was measured and
writes a dated result to benches/results.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import (
    KEY,
    PARTITIONS,
    RESULTS,
    Load,
    Tree,
    UnavailableError,
    broker,
    cores,
    end,
    engine_of,
    find_windkessel,
    free_port,
    generate_topic,
    machine,
    measure,
    metric,
    scratch,
    spawn,
    write_result,
)

FLOW = Path(__file__).resolve().parent / "peers" / "windkessel.toml"
WAIT_SECONDS = 1_200
POLL_SECONDS = 0.05
# How long memory is looked at after everything has come to rest; the least counts, since an allocator gives back late.
REST_SECONDS = 15
READINGS_PER_PATIENT = 3
# Few enough that they are nothing in the difference, and the buffers are the same.
PATIENTS_NONE = 1_000
OUTAGE_SECONDS = 60
LIVE_PATIENTS = 20_000
# Who has caught up claims as many as are sent, give or take this part, for so long (epochs are not even).
STEADY = 0.1
STEADY_SECONDS = 5


@dataclass
class Engine:
    """What runs share: where they read and what they are made of."""

    folder: Path
    brokers: str
    binary: Path
    generator: Path

    def command(self, topic: str, name: str, *options: str, **settings: Any) -> list[str | Path]:
        """A run of the flow that keeps its things in a folder of this name."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        (home / "key").write_text(KEY)
        all_settings = {
            "source.brokers": self.brokers,
            "source.topics": [topic],
            "pseudonymise.key_file": str(home / "key"),
            "model.file": str(FLOW.parent / "model.json"),
            "sink.parquet.path": str(home / "out"),
            "state.path": str(home / "state"),
        } | {key.replace("__", "."): value for key, value in settings.items()}
        given = [word for key, value in all_settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        return [self.binary, "run", FLOW, *options, *given]

    def fill(self, topic: str, load: Load) -> None:
        say(f"generating {load.observations:,} observations of {load.patients:,} patients")
        generate_topic(self.generator, self.brokers, topic, load)

    @contextmanager
    def running(self, topic: str, name: str, *options: str, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """A run that goes on, and where its metrics are."""
        address = f"127.0.0.1:{free_port()}"
        with (self.folder / f"{name}.log").open("a") as log:
            command = self.command(topic, name, *options, http__listen=address, **settings)
            process = spawn(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process, address
        finally:
            end(process)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def wait_until(what: str, so: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> float:
    """Waits, and says how long."""
    begun = time.monotonic()
    while not so():
        if process is not None and process.poll() is not None:
            raise UnavailableError(f"the engine ended with {process.returncode} before {what}")
        if time.monotonic() - begun > WAIT_SECONDS:
            raise UnavailableError(f"{what}: not within {WAIT_SECONDS} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - begun


def finished(process: subprocess.Popen[str]) -> None:
    """Asks a run to drain, and waits."""
    process.send_signal(signal.SIGTERM)
    code = process.wait(WAIT_SECONDS)
    if code != 0:
        raise UnavailableError(f"the engine ended with {code} after SIGTERM")


# ---------------------------------------------------------------- shapes


def shapes(engine: Engine, given: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds a million of each mixture."""
    uniform = Load(observations=given.messages, patients=max(1, given.messages // 100))
    loads = {
        "uniform": uniform,
        "16 kinds": replace(uniform, kinds=16),
        "64 kinds": replace(uniform, kinds=64),
        "5 % unlike": replace(uniform, unlike_percent=5),
    }
    topics = {name: f"shapes-{engine.folder.name}-{load.name}" for name, load in loads.items()}
    for name, load in loads.items():
        engine.fill(topics[name], load)
    taken: dict[str, list[float]] = {name: [] for name in loads}
    # The first round brings the topics into the page cache.
    for turn in range(given.rounds + 1):
        for name in loads:
            run = f"shapes-{turn}-{name.replace(' ', '')}"
            command = engine.command(topics[name], run, "--until", "end", "--quiet")
            measured = measure(command, cores(1), engine.folder / "shapes.log")
            if measured.exit_code != 0:
                raise UnavailableError((engine.folder / "shapes.log").read_text()[-1_000:])
            if turn > 0:
                taken[name].append(measured.cpu_seconds / given.messages * 1e6)
    base = statistics.median(taken["uniform"])
    rows = {
        name: {"cpu_seconds_per_million": statistics.median(each), "ratio": statistics.median(each) / base, "runs": each}
        for name, each in taken.items()
    }
    for name, row in rows.items():
        print(f"{name:<12}{row['cpu_seconds_per_million']:>8.2f} CPU-s a million{row['ratio']:>8.2f} x uniform")
    return rows


# ---------------------------------------------------------------- state


def state(engine: Engine, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory of a run that was started with the state of so many patients, against one with nearly none."""
    nobody = at_rest(engine, PATIENTS_NONE)
    rows = []
    for patients in given.patients:
        row = at_rest(engine, patients)
        more = row["patients"] - nobody["patients"]
        row["rss_bytes_per_patient"] = (row["rss_bytes"] - nobody["rss_bytes"]) / more
        row["state_bytes_per_patient"] = (row["state_bytes"] - nobody["state_bytes"]) / more
        rows.append(row)
        print(
            f"{row['patients']:>10,} patients, {row['contributions']:,} contributions: "
            f"{row['rss_bytes_per_patient']:.0f} bytes of memory a patient, {row['state_bytes_per_patient']:.0f} of state files"
        )
    return [nobody, *rows]


def at_rest(engine: Engine, patients: int) -> dict[str, Any]:
    """Reads some readings of each patient, further apart than the horizon, ends, starts again, and looks at what is held."""
    # Twelve hours apart: of the contributions, hardly any are left.
    load = Load(observations=patients * READINGS_PER_PATIENT, patients=patients, every="12h")
    topic, name = f"state-{engine.folder.name}-{patients}", f"state-{patients}"
    engine.fill(topic, load)
    log = engine.folder / "state.log"
    # One full checkpoint alone, so that the files hold each patient once.
    once = {"state__base_every": 1, "state__keep": 1}
    measured = measure(engine.command(topic, name, "--until", "end", "--quiet", **once), cores(2), log)
    if measured.exit_code != 0:
        raise UnavailableError(log.read_text()[-1_000:])
    with engine.running(topic, name, "--quiet", **once) as (process, address):
        wait_until("the state is back", lambda: (metric(address, "windkessel_patients") or 0) > 0, process)
        tree, least, until = Tree(process.pid), 1 << 62, time.monotonic() + REST_SECONDS
        while time.monotonic() < until:
            least = min(least, tree.rss_bytes())
            time.sleep(POLL_SECONDS)
        held, contributions = metric(address, "windkessel_patients"), metric(address, "windkessel_contributions")
        finished(process)
    files = [path.stat().st_size for path in (engine.folder / name / "state" / "state").iterdir()]
    return {
        "patients": int(held or 0),
        "contributions": int(contributions or 0),
        "rss_bytes": least,
        "rss_peak_reading_bytes": measured.peak_rss_bytes,
        "state_bytes": sum(files),
    }


# ---------------------------------------------------------------- catch-up


def catch_up(engine: Engine, given: argparse.Namespace) -> dict[str, Any]:
    """Kills a run at half load, waits, starts it, and watches how far its claims have come."""
    rate = given.rate or half_of_full(engine, given)
    say(f"half load is {rate:,} observations a second")
    topic, name = f"catch-up-{engine.folder.name}", "catch-up"
    live = Load(observations=0, patients=LIVE_PATIENTS)
    first = replace(live, observations=PARTITIONS * 1_000)
    engine.fill(topic, first)
    where = ["--brokers", engine.brokers, "--topic", topic, "--rate", str(rate)]
    producer = spawn(
        [engine.generator, "generate", *where, *live.options()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    options = ("--quiet", "--workers", str(given.workers))
    try:
        with engine.running(topic, name, *options) as (process, address):
            time.sleep(given.warm_seconds)
            before = metric(address, "windkessel_checkpoints_total") or 0.0
            wait_until("a checkpoint", lambda: (metric(address, "windkessel_checkpoints_total") or 0.0) > before, process)
        say(f"killed; {given.outage} s without an engine")
        time.sleep(given.outage)
        with engine.running(topic, name, *options) as (process, address):
            curve = watch(address, rate, process)
            finished(process)
    finally:
        end(producer)
    took, behind = caught_up(curve, rate)
    print(f"after {given.outage} s at {rate:,} a second, {behind:,.0f} records behind: caught up {took:.1f} s after the start")
    return {"rate": rate, "outage_seconds": given.outage, "records_behind": behind, "catch_up_seconds": took, "curve": curve}


def watch(address: str, rate: int, process: subprocess.Popen[str]) -> list[tuple[float, float]]:
    """Seconds since the start, and records claimed by then; until they have come as fast as they are sent for some seconds."""
    begun, curve = time.monotonic(), list[tuple[float, float]]()
    while True:
        now = time.monotonic() - begun
        claimed = metric(address, "windkessel_source_offset", 'stage="claimed"')
        if claimed is not None:
            curve.append((now, claimed))
            earlier = [at for at in curve if at[0] <= now - STEADY_SECONDS]
            if earlier and abs((claimed - earlier[-1][1]) / (rate * (now - earlier[-1][0])) - 1) < STEADY:
                return curve
        if process.poll() is not None or now > WAIT_SECONDS:
            raise UnavailableError("the engine did not catch up")
        time.sleep(POLL_SECONDS)


def caught_up(curve: Sequence[tuple[float, float]], rate: int) -> tuple[float, float]:
    """When the claims reached the line that they follow in the end, less half a second's records, and how far below it they began.

    The line is what had been sent by then: it rises at the rate, and lies through the steady end of the curve.
    """
    last = curve[-1][0]
    line = statistics.median(claimed - rate * at for at, claimed in curve if at >= last - STEADY_SECONDS)
    behind = line + rate * curve[0][0] - curve[0][1]
    return next(at for at, claimed in curve if claimed >= line + rate * at - rate / 2), behind


def half_of_full(engine: Engine, given: argparse.Namespace) -> int:
    """Half of what the engine reads a second from a topic that is there, the start included."""
    topic = f"full-{engine.folder.name}"
    engine.fill(topic, Load(observations=given.messages, patients=LIVE_PATIENTS))
    command = engine.command(topic, "full", "--until", "end", "--quiet", "--workers", str(given.workers))
    measured = measure(command, cores(2), engine.folder / "full.log")
    if measured.exit_code != 0:
        raise UnavailableError((engine.folder / "full.log").read_text()[-1_000:])
    return int(given.messages / measured.wall_seconds / 2)


# ---------------------------------------------------------------- the command


FIGURES: dict[str, Callable[[Engine, argparse.Namespace], Any]] = {"shapes": shapes, "state": state, "catch-up": catch_up}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--messages", type=int, default=1_000_000, help="shapes, catch-up: observations of a load")
    parser.add_argument("--rounds", type=int, default=3, help="shapes: runs of each, after one that is not counted")
    parser.add_argument("--patients", type=lambda text: [int(word) for word in text.split(",")], default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2, help="catch-up")
    parser.add_argument("--rate", type=int, default=0, help="catch-up: observations a second, instead of half of what is read")
    parser.add_argument("--outage", type=int, default=OUTAGE_SECONDS, help="catch-up: seconds")
    parser.add_argument("--warm-seconds", type=int, default=10, help="catch-up: how long the engine runs before it is killed, at least")
    parser.add_argument("--windkessel", type=Path, help="the engine's binary; default target/release/windkessel")
    parser.add_argument("--generator", type=Path, help="the binary that makes the load; default the engine's")
    parser.add_argument("--scratch", type=Path, help="where topics and outputs lie meanwhile")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    given, about = arguments(), machine()
    try:
        binary = find_windkessel(given.windkessel)
        generator = find_windkessel(given.generator) if given.generator else binary
        about["engine"] = engine_of(binary)
        with scratch(given.scratch) as folder, broker(folder) as brokers:
            found = FIGURES[given.figure](Engine(folder, brokers, binary, generator), given)
    except UnavailableError as error:
        say(f"figures: {error}")
        return 1
    except KeyboardInterrupt:
        say("figures: stopped")
        return 130
    path = write_result(given.figure, {"machine": about, "found": found}, given.results)
    say(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
