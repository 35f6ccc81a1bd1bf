"""Windkessel and what a user would take instead, on the same job, with the same answers: `python3 benches/compare.py`.

    --only NAME[,NAME…]    some of the peers (duckdb runs anyway: its answers are the reference)
    --messages N           observations of the fastest peers; slower ones get a tenth or a hundredth (default 2,000,000)
    --cores 1,2            on how many cores each runs

Starts a Kafka broker (or uses WINDKESSEL_TEST_KAFKA=host:port), generates every load once, as a topic and as a file, runs the
peers in turn, and compares what each wrote with the reference, row by row. CPU time is user and system of a peer's whole process
tree, without the broker's; what a peer spends before its first message is left out. The broker shares the cores, so wall time is
not only the peer's own. Writes a dated result and a plot to benches/results. A peer that fails is shown so, and the exit code is 1;
the others' figures stand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import prepare

from harness import (
    KEY,
    RESULTS,
    Load,
    Measured,
    UnavailableError,
    broker,
    cores,
    engine_of,
    find_windkessel,
    generate,
    generate_topic,
    machine,
    measure,
    scratch,
    write_result,
)
from plot import bars

PEERS = Path(__file__).resolve().parent / "peers"
OBSERVATIONS = 2_000_000
OBSERVATIONS_MIN = 1_000
# Readings of each patient: one a minute, for 100 minutes of event time.
READINGS_PER_PATIENT = 100
# A run is marked if others took more than so much of a core, or if the calibration loop took so many times its best.
OTHERS_CORES_QUIET = 0.1
CALIBRATION_QUIET = 1.25
REFERENCE = "duckdb"


@dataclass(frozen=True)
class Places:
    """Where one run finds and leaves its things."""

    brokers: str
    topic: str
    file: Path
    output: Path
    key_file: Path
    windkessel: Path


@dataclass(frozen=True)
class Peer:
    """One row of the table."""

    name: str
    title: str
    # The command of a run, from its places and its number of cores.
    command: Callable[[Places, int], list[str | Path]]
    # Its load is this part of the whole: a slow peer would take hours.
    part: int = 1
    exactly_once: bool = False
    rows_to: str = "Parquet"
    # More cores are no use to it: it is one process with one thread.
    cores_max: int = 2


def python_peer(name: str, *options: str) -> Callable[[Places, int], list[str | Path]]:
    def command(places: Places, workers: int) -> list[str | Path]:
        program: list[str | Path] = [prepare.python(name), PEERS / name / "main.py", *options]
        return [*program, *common(places, workers)]

    return command


def common(places: Places, workers: int) -> list[str | Path]:
    where: list[str | Path] = ["--brokers", places.brokers, "--topic", places.topic, "--file", places.file]
    return [*where, "--output", places.output, "--workers", str(workers), "--key-file", places.key_file]


def flink(places: Places, workers: int) -> list[str | Path]:
    opens = ("java.base/java.lang", "java.base/java.util", "java.base/java.time", "java.base/java.util.concurrent")
    java = ["java", "-Xms2g", "-Xmx2g", *(f"--add-opens={package}=ALL-UNNAMED" for package in opens)]
    return [*java, "-cp", prepare.java("flink"), "Job", *common(places, workers), "--model", PEERS / "model.json"]


def windkessel(places: Places, workers: int) -> list[str | Path]:
    settings = {
        "source.brokers": json.dumps(places.brokers),
        "source.topics": json.dumps([places.topic]),
        "pseudonymise.key_file": json.dumps(str(places.key_file)),
        "model.file": json.dumps(str(PEERS / "model.json")),
        "sink.parquet.path": json.dumps(str(places.output)),
        "state.path": json.dumps(str(places.output / "state")),
    }
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [places.windkessel, "run", PEERS / "windkessel.toml", "--until", "end", "--workers", str(workers), *given]


def without_audit(places: Places, workers: int) -> list[str | Path]:
    return [*windkessel(places, workers), "--set", "audit.enabled=false"]


ALL = (
    Peer("windkessel", "Windkessel", windkessel, exactly_once=True),
    Peer("without_audit", "Windkessel without its audit", without_audit, exactly_once=True),
    Peer("duckdb", "DuckDB over the file (batch, no Kafka)", python_peer("duckdb")),
    Peer("best_python", "best Python, pseudonyms kept", python_peer("best_python")),
    Peer("best_python_each", "best Python, HMAC for each message", python_peer("best_python", "--hmac=each")),
    Peer("flink", "Flink 2.2", flink, exactly_once=True, rows_to="NDJSON"),
    Peer("bytewax", "bytewax 0.21", python_peer("bytewax"), part=10),
    Peer("plain_python", "plain Python, scikit-learn", python_peer("plain_python"), part=100, rows_to="NDJSON", cores_max=1),
)


# ---------------------------------------------------------------- runs


class Bench:
    """The loads of one comparison, each made when it is first wanted, and the runs over them."""

    def __init__(self, folder: Path, brokers: str, binary: Path, generator: Path, observations: int) -> None:
        self.folder = folder
        self.brokers = brokers
        self.binary = binary
        self.generator = generator
        self.observations = observations
        self.loads: dict[int, Load] = {}
        self.key_file = folder / "key"
        self.key_file.write_text(KEY)

    def load(self, part: int) -> Load:
        count = max(self.observations // part, min(self.observations, OBSERVATIONS_MIN))
        if part not in self.loads:
            load = Load(observations=count, patients=max(1, count // READINGS_PER_PATIENT))
            say(f"generating {count:,} observations of {load.patients:,} patients")
            generate_topic(self.generator, self.brokers, self.topic(load), load)
            generate(self.generator, "--output", self.file(load), load=load)
            self.loads[part] = load
        return self.loads[part]

    def topic(self, load: Load) -> str:
        return f"peers-{self.folder.name}-{load.name}"

    def file(self, load: Load) -> Path:
        return self.folder / f"{load.name}.ndjson"

    def places(self, load: Load, output: Path) -> Places:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        return Places(self.brokers, self.topic(load), self.file(load), output, self.key_file, self.binary)

    def reference(self, part: int) -> Path:
        """The right answers to a load."""
        load = self.load(part)
        folder = self.folder / f"reference-{load.name}"
        if not folder.exists():
            peer = next(one for one in ALL if one.name == REFERENCE)
            self.measure(peer, load, len(cores(2)), folder)
        return folder

    def measure(self, peer: Peer, load: Load, count: int, output: Path) -> Measured:
        command = peer.command(self.places(load, output), count)
        log = self.folder / f"{peer.name}.log"
        measured = measure(command, cores(count), log)
        if measured.exit_code != 0:
            raise UnavailableError(f"exit code {measured.exit_code}: {(measured.stdout + log.read_text())[-800:]}")
        return measured

    def run(self, peer: Peer, count: int) -> dict[str, Any]:
        """One row of the result."""
        row: dict[str, Any] = {"peer": peer.name, "title": peer.title, "cores": count}
        row |= {"exactly_once": peer.exactly_once, "rows_to": peer.rows_to}
        try:
            load, reference = self.load(peer.part), self.reference(peer.part)
            output = self.folder / "output"
            measured = self.measure(peer, load, count, output)
            row |= {"observations": load.observations} | figures(measured, load.observations)
            row["answers"] = check(reference, output, load.observations)
        except (UnavailableError, OSError) as error:
            row["error"] = str(error)
        return row


def figures(measured: Measured, observations: int) -> dict[str, Any]:
    steady_cpu = measured.cpu_seconds - measured.start_cpu_seconds
    steady_wall = max(measured.wall_seconds - measured.start_wall_seconds, 1e-3)
    values = {key: value for key, value in asdict(measured).items() if key not in ("stdout", "exit_code")}
    return values | {
        "cpu_seconds_per_million": steady_cpu / observations * 1e6,
        "observations_per_second": observations / steady_wall,
    }


def check(reference: Path, output: Path, observations: int) -> dict[str, Any]:
    """What `check.py` says of a peer's answers."""
    command = [prepare.python(REFERENCE), PEERS / "check.py", reference, output]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"the answers could not be read: {done.stderr[-800:]}")
    verdict: dict[str, Any] = json.loads(done.stdout)
    if verdict.get("readings_count", observations) != observations:
        verdict["readings"].append(f"{verdict['readings_count']} rows of {observations} observations")
    return verdict


# ---------------------------------------------------------------- what is shown


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def quiet_calibration(rows: Sequence[dict[str, Any]]) -> float:
    return min((min(row["calibration_seconds"]) for row in rows if "error" not in row), default=0.0)


def mark(rows: list[dict[str, Any]]) -> None:
    """Says of each row how many times Windkessel's CPU time it took on as many cores, and whether the machine was busy."""
    quiet = quiet_calibration(rows)
    ours = {row["cores"]: row for row in rows if row["peer"] == "windkessel" and "error" not in row}
    for row in (row for row in rows if "error" not in row):
        slow = max(row["calibration_seconds"]) > CALIBRATION_QUIET * quiet
        row["busy"] = slow or row["others_cores"] > OTHERS_CORES_QUIET
        if row["cores"] in ours:
            row["times_windkessel"] = row["cpu_seconds_per_million"] / ours[row["cores"]]["cpu_seconds_per_million"]


def part_of(row: dict[str, Any], part: str) -> str:
    """How a part of the answers compares, in a word."""
    answers = row["answers"]
    if part in answers["missing"]:
        return "cannot"
    return "equal" if not answers[part] else "DIFFERENT"


def table(rows: Sequence[dict[str, Any]]) -> str:
    head = f"{'':<40}{'cores':>6}{'messages':>11}{'CPU-s/M':>9}{'x ours':>8}{'msg/s':>11}{'MiB':>7}  {'readings':<10}{'windows':<10}"
    lines = [head]
    for row in rows:
        begin = f"{row['title']:<40}{row['cores']:>6}"
        if "error" in row:
            lines.append(f"{begin}  failed: {row['error'].strip().splitlines()[-1][:120]}")
            continue
        times = f"{row['times_windkessel']:.1f}" if "times_windkessel" in row else "-"
        lines.append(
            f"{begin}{row['observations']:>11,}{row['cpu_seconds_per_million']:>9.2f}{times:>8}"
            f"{row['observations_per_second']:>11,.0f}{row['peak_rss_bytes'] >> 20:>7,}  "
            f"{part_of(row, 'readings'):<10}{part_of(row, 'windows'):<10}{'(busy machine)' if row['busy'] else ''}"
        )
    return "\n".join(lines)


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What makes the exit code 1."""
    found = []
    for row in rows:
        name = f"{row['peer']} on {row['cores']} cores"
        if "error" in row:
            found.append(f"{name}: {row['error']}")
            continue
        answers = row["answers"]
        found += [f"{name}: {what}" for part in ("readings", "windows") for what in answers.get(part, [])]
        found += [f"{name}: no {part}" for part in answers["missing"]]
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(peer.name for peer in ALL))
    parser.add_argument("--messages", type=int, default=OBSERVATIONS)
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--windkessel", type=Path, help="the engine's binary; default target/release/windkessel")
    parser.add_argument("--generator", type=Path, help="the binary that makes the load; default the engine's")
    parser.add_argument("--scratch", type=Path, help="where topics, files and outputs lie meanwhile: 5 GB for 2,000,000")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    known = {peer.name for peer in ALL}
    given.only = given.only.split(",")
    given.cores = [int(count) for count in given.cores.split(",")]
    if not set(given.only) <= known:
        parser.error(f"no such peer: {', '.join(set(given.only) - known)}; there are {', '.join(sorted(known))}")
    return given


def compare(given: argparse.Namespace) -> list[dict[str, Any]]:
    binary = find_windkessel(given.windkessel)
    generator = find_windkessel(given.generator) if given.generator else binary
    rows = []
    with scratch(given.scratch) as folder, broker(folder) as brokers:
        bench = Bench(folder, brokers, binary, generator, given.messages)
        for peer in (peer for peer in ALL if peer.name in given.only):
            for count in (count for count in given.cores if count <= peer.cores_max):
                say(f"{peer.title}, {count} core(s)")
                rows.append(bench.run(peer, count))
                if "error" in rows[-1]:
                    say(f"  failed: {rows[-1]['error']}")
    mark(rows)
    return rows


def main() -> int:
    given, about = arguments(), machine()
    try:
        about["engine"] = engine_of(find_windkessel(given.windkessel))
        rows = compare(given)
    except UnavailableError as error:
        say(f"compare: {error}")
        return 1
    except KeyboardInterrupt:
        say("compare: stopped")
        return 130
    print(table(rows))
    path = write_result("peers", {"machine": about, "messages": given.messages, "rows": rows}, given.results)
    path.with_suffix(".svg").write_text(bars(rows, about))
    say(f"written: {path} and .svg")
    found = failures(rows)
    for failure in found:
        say(f"compare: {failure}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
