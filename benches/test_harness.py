"""Proves the arithmetic of the benchmarks, and that a figure cannot look right when a run was not. `python3 -m unittest` in this folder."""

from __future__ import annotations

import sys
import tempfile
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from compare import failures, figures, mark, table
from figures import caught_up
from harness import Measured, measure
from plot import bars

EQUAL = {"missing": [], "readings": [], "windows": []}


def row(peer: str, cpu: float, **other: Any) -> dict[str, Any]:
    measured = Measured(cpu * 2, 0.0, 4.0, 0.0, 1 << 20, (0.030, 0.031), 0.0, 0.0, 0, "")
    begin = {"peer": peer, "title": peer.title(), "cores": 1, "exactly_once": False, "rows_to": "Parquet", "observations": 2_000_000}
    return begin | figures(measured, 2_000_000) | {"answers": EQUAL} | other


class Compared(unittest.TestCase):
    def test_a_figure_is_per_million_and_without_the_start(self) -> None:
        found = figures(Measured(7.0, 1.0, 5.0, 1.0, 1, (0.03, 0.03), 0.0, 0.0, 0, ""), 2_000_000)
        self.assertEqual((found["cpu_seconds_per_million"], found["observations_per_second"]), (3.0, 500_000.0))

    def test_ratios_are_to_our_own_run_on_as_many_cores(self) -> None:
        rows = [row("windkessel", 2.0), row("flink", 20.0), row("flink", 30.0, cores=2), {"peer": "bytewax", "cores": 1, "error": "broken"}]
        mark(rows)
        self.assertEqual([one.get("times_windkessel") for one in rows], [1.0, 10.0, None, None])

    def test_a_busy_machine_is_marked(self) -> None:
        rows = [row("windkessel", 2.0), row("flink", 20.0, others_cores=0.5), row("duckdb", 4.0, calibration_seconds=(0.03, 0.05))]
        mark(rows)
        self.assertEqual([one["busy"] for one in rows], [False, True, True])

    def test_what_failed_or_differs_is_shown_and_fails_the_command(self) -> None:
        wrong = {"missing": ["windows"], "readings": ["3 rows missing"]}
        rows = [row("windkessel", 2.0), row("flink", 20.0, answers=wrong)]
        rows.append({"peer": "bytewax", "title": "bytewax", "cores": 1, "error": "no such module"})
        mark(rows)
        shown = table(rows)
        for words in ("equal     equal", "DIFFERENT cannot", "failed: no such module"):
            self.assertIn(words, shown)
        self.assertEqual(len(failures(rows)), 3)
        self.assertEqual(failures(rows[:1]), [])

    def test_the_plot_is_well_formed_and_names_every_peer(self) -> None:
        rows = [row("windkessel", 2.0), row("a<b", 20.0), row("windkessel", 2.2, cores=2)]
        mark(rows)
        about = {"processor": "P", "cores": 2, "kernel": "k", "began": "2026-11-26T00:00:00", "commit": "c"}
        text = "".join(ET.fromstring(bars(rows, about)).itertext())
        for words in ("Windkessel", "A<B", "10.0 × ours"):
            self.assertIn(words, text)


class Ran(unittest.TestCase):
    def measure(self, program: str) -> Measured:
        with tempfile.TemporaryDirectory() as folder:
            return measure([sys.executable, "-c", program], [], Path(folder) / "log")

    def test_children_are_in_the_figure_and_what_comes_before_first_is_the_start(self) -> None:
        burn = "import time\nwhile time.process_time() < 0.4: pass\n"
        program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint('first', flush=True)\n{burn}"
        found = self.measure(program)
        self.assertEqual(found.exit_code, 0)
        self.assertGreater(found.cpu_seconds, 0.75)
        self.assertTrue(0.35 < found.start_cpu_seconds < found.cpu_seconds - 0.3, found)

    def test_memory_and_exit_code_are_those_of_the_process(self) -> None:
        found = self.measure("import sys\nheld = bytearray(200 << 20)\nsys.exit(3)")
        self.assertEqual(found.exit_code, 3)
        self.assertTrue(200 << 20 < found.peak_rss_bytes < 300 << 20, found)


class CaughtUp(unittest.TestCase):
    def test_it_is_when_the_line_of_the_steady_end_is_reached(self) -> None:
        # 1,000 behind at 100 a second, 300 a second read: 50, half a second's, are left after 950 / 200 s.
        curve = [(at / 20, min(300 * at / 20, 1_000 + 100 * at / 20)) for at in range(400)]
        self.assertEqual(caught_up(curve, 100), (4.75, 1_000.0))


if __name__ == "__main__":
    unittest.main()
