"""What the benchmarks in Python share: a broker, the generated load, processes that are measured, and dated results.

Needs nothing but Python 3.11 and util-linux on Linux, and Java and Maven if it is to start a broker.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
KEY = "03" * 32
PARTITIONS = 8
# The same as in tests/services/servers.rs, which shares the folder.
KAFKA_VERSION = "4.3.1"
KAFKA_CLUSTER_ID = "d2luZGtlc3NlbC10ZXN0cw"
KAFKA_DEPENDENCIES = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.1"),
    ("org.apache.logging.log4j", "log4j-core", "2.25.1"),
)
START_SECONDS = 180
SAMPLE_SECONDS = 0.1
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class UnavailableError(Exception):
    """Something outside is missing: a server, a registry, a binary."""


# ---------------------------------------------------------------- processes


@dataclass
class Measured:
    """One run of one process with all its children, as the system accounts for them."""

    cpu_seconds: float
    # Of them, until the process said `first`; 0 if it never did.
    start_cpu_seconds: float
    wall_seconds: float
    start_wall_seconds: float
    peak_rss_bytes: int
    # CPU-seconds of the same small loop right before and after: more than in other runs says that the cores were slower.
    calibration_seconds: tuple[float, float]
    # Cores that were busy with something else than the process and a broker of ours, on average; what the host stole included.
    others_cores: float
    load_before: float
    exit_code: int
    stdout: str = field(repr=False)


def spawn(command: Sequence[str | Path], on: Sequence[int] = (), **options: Any) -> subprocess.Popen[str]:
    """Starts a process in a group of its own, on the given cores; it ends when the harness ends, however that is."""
    wrapped = ["setpriv", "--pdeathsig", "KILL", "--"]
    if on:
        wrapped += ["taskset", "--cpu-list", ",".join(map(str, on))]
    return subprocess.Popen([*wrapped, *map(str, command)], text=True, start_new_session=True, **options)


def end(process: subprocess.Popen[str], how: int = signal.SIGKILL) -> None:
    """Ends a process that `spawn` started, and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    with contextlib.suppress(ChildProcessError):
        process.wait()


def cores(count: int) -> list[int]:
    """The last `count` of the cores that there are."""
    return sorted(os.sched_getaffinity(0))[-count:]


def calibrate() -> float:
    """CPU-seconds of a fixed piece of work."""
    begun, digest = time.thread_time(), b""
    for _ in range(100_000):
        digest = hashlib.sha256(digest).digest()
    return time.thread_time() - begun


class Tree:
    """A process and its descendants, read from /proc now and then."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.peak_rss_bytes = 0

    def members(self) -> list[list[str]]:
        """The fields of /proc/PID/stat from the parent's id on, of everyone in the tree."""
        stats: dict[int, list[str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    # The name in parentheses may hold anything; what follows it does not.
                    stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()[1:]
        family = {self.root}
        while True:
            more = {pid for pid, stat in stats.items() if int(stat[0]) in family} - family
            if not more:
                return [stats[pid] for pid in family if pid in stats]
            family |= more

    def cpu_seconds(self) -> float:
        # utime, stime, cutime, cstime: fields 14 to 17 of proc(5), which counts from 1.
        return sum(sum(int(ticks) for ticks in stat[10:14]) for stat in self.members()) / CLOCK_TICKS

    def rss_bytes(self) -> int:
        now = sum(int(stat[20]) for stat in self.members()) * PAGE_BYTES
        self.peak_rss_bytes = max(self.peak_rss_bytes, now)
        return now


# Processes that are part of every run: the broker.
BACKGROUND: list[Tree] = []


def busy_cpu_seconds() -> float:
    """Of the whole machine since it was started: user, nice, system, irq, softirq and steal of proc_stat(5)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(ticks[at] for at in (0, 1, 2, 5, 6, 7)) / CLOCK_TICKS


def not_ours() -> float:
    """CPU-seconds of the machine without those of the background and of the harness itself."""
    harness = sum(os.times()[:2])
    return busy_cpu_seconds() - harness - sum(tree.cpu_seconds() for tree in BACKGROUND)


def measure(command: Sequence[str | Path], on: Sequence[int], log: Path, timeout_seconds: float = 3_600, **options: Any) -> Measured:
    """Runs a command to its end. Its standard error goes to `log`."""
    calibration, load = calibrate(), os.getloadavg()[0]
    begun, others = time.monotonic(), not_ours()
    with log.open("w") as errors:
        process = spawn(command, on, stdout=subprocess.PIPE, stderr=errors, **options)
        tree, over = Tree(process.pid), threading.Event()

        def watch() -> None:
            while not over.wait(SAMPLE_SECONDS):
                tree.rss_bytes()
                if time.monotonic() - begun > timeout_seconds:
                    end(process)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            lines, first = [], (0.0, 0.0)
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == "first" and first == (0.0, 0.0):
                    first = (tree.cpu_seconds(), time.monotonic() - begun)
                lines.append(line)
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            over.set()
            watcher.join()
            end(process)
            if process.stdout is not None:
                process.stdout.close()
    cpu, wall = usage.ru_utime + usage.ru_stime, time.monotonic() - begun
    return Measured(
        cpu_seconds=cpu,
        start_cpu_seconds=first[0],
        wall_seconds=wall,
        start_wall_seconds=first[1],
        peak_rss_bytes=max(tree.peak_rss_bytes, usage.ru_maxrss * 1024),
        others_cores=max(not_ours() - others - cpu, 0.0) / wall,
        calibration_seconds=(calibration, calibrate()),
        load_before=load,
        exit_code=os.waitstatus_to_exitcode(status),
        stdout="".join(lines),
    )


# ---------------------------------------------------------------- broker


def maven(pom: Path, libraries: Path) -> None:
    """Copies what a pom names, and what that needs, into a folder."""
    if shutil.which("mvn") is None or shutil.which("java") is None:
        raise UnavailableError("mvn and java are needed (Debian: openjdk-17-jdk-headless, maven)")
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    done = subprocess.run([*command, f"-DoutputDirectory={libraries}"], text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"Maven could not fetch {pom.parent.name}: {done.stdout[-500:]}{done.stderr[-500:]}")


def kafka_libraries() -> Path:
    """The broker's jars; fetched once."""
    servers = Path(os.environ.get("WINDKESSEL_TEST_SERVERS", CACHE / "windkessel-test-servers"))
    folder = servers / f"kafka-{KAFKA_VERSION}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = ("groupId", "artifactId", "version")
        dependencies = "".join(
            f"<dependency>{''.join(f'<{n}>{v}</{n}>' for n, v in zip(names, one, strict=True))}</dependency>" for one in KAFKA_DEPENDENCIES
        )
        (folder / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            "<groupId>test</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>"
            f"<dependencies>{dependencies}</dependencies></project>"
        )
        maven(folder / "pom.xml", folder / "libs")
        (folder / "complete").touch()
    return folder / "libs"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The address of a broker: the one that WINDKESSEL_TEST_KAFKA names, else one of our own below `folder`."""
    given = os.environ.get("WINDKESSEL_TEST_KAFKA")
    if given:
        yield given
        return
    classes, port, controller = f"{kafka_libraries()}/*", free_port(), free_port()
    home = folder / "kafka"
    home.mkdir()
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(home / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
    }
    properties = home / "server.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    java = ["java", "-cp", classes]
    format_command = [*java, "kafka.tools.StorageTool", "format", "-t", KAFKA_CLUSTER_ID, "-c", str(properties)]
    subprocess.run(format_command, check=True, capture_output=True)
    with (home / "server.log").open("w") as log:
        command = ["java", "-Xms512m", "-Xmx512m", *java[1:], "kafka.Kafka", str(properties)]
        process = spawn(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for_port(port, process, home / "server.log")
        BACKGROUND.append(Tree(process.pid))
        yield f"127.0.0.1:{port}"
    finally:
        BACKGROUND.clear()
        end(process)


def wait_for_port(port: int, process: subprocess.Popen[str], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise UnavailableError(f"the broker ended while starting:\n{log.read_text()[-2_000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise UnavailableError(f"the broker did not answer within {START_SECONDS} s")


# ---------------------------------------------------------------- load


@dataclass(frozen=True)
class Load:
    """What is generated; the same numbers give the same bytes."""

    observations: int
    patients: int
    every: str = "1m"
    kinds: int = 1
    unlike_percent: int = 0
    seed: int = 1

    @property
    def name(self) -> str:
        return f"{self.observations}-{self.patients}-{self.every}-{self.kinds}-{self.unlike_percent}-{self.seed}"

    def options(self) -> list[str]:
        numbers = {
            "--observations": self.observations,
            "--patients": self.patients,
            "--every": self.every,
            "--kinds": self.kinds,
            "--unlike": self.unlike_percent,
            "--seed": self.seed,
        }
        return ["--late-only", *(str(word) for pair in numbers.items() for word in pair)]


def generate(windkessel: Path, *destination: str | Path, load: Load, options: Sequence[str] = ()) -> None:
    """Writes a load to a topic or a file."""
    command = [windkessel, "generate", *destination, *load.options(), *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"generate failed: {done.stderr[-1_000:]}")


def generate_topic(windkessel: Path, brokers: str, topic: str, load: Load, options: Sequence[str] = ()) -> None:
    where = ("--brokers", brokers, "--topic", topic, "--partitions", str(PARTITIONS), "--compression", "lz4")
    generate(windkessel, *where, load=load, options=options)


# ---------------------------------------------------------------- a running engine


def metric(address: str, name: str, label: str = "") -> float | None:
    """The sum of a metric's time series that have the label; nothing while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    values = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(name) and line[len(name) : len(name) + 1] in ("{", " ") and label in line
    ]
    return sum(values) if values else None


# ---------------------------------------------------------------- results


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False).stdout.strip()
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "commit": commit + ("-dirty" if dirty else ""),
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg(),
    }


def engine_of(binary: Path) -> dict[str, str]:
    """Which binary was measured: it need not be of the commit that lies here."""
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return {"version": version, "sha256": hashlib.sha256(binary.read_bytes()).hexdigest()}


def write_result(name: str, content: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Writes a dated file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y-%m-%d-%H%M}-{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


@contextlib.contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder that is gone afterwards, a Ctrl-C or a SIGTERM included."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="windkessel-bench-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def find_windkessel(given: Path | None) -> Path:
    """The engine's binary."""
    path = given or ROOT / "target" / "release" / "windkessel"
    if not path.exists():
        raise UnavailableError(f"{path} is not there: cargo build --release, or name it with --windkessel")
    return path.resolve()
