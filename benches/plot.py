"""The comparison as a picture: two bars for each peer, on a logarithmic scale. SVG by hand: nothing to install."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

WIDTH = 960
LEFT = 270
RIGHT = 190
TOP = 92
BAR = 15
GAP = 4
BETWEEN = 18
FOOT = 74
OURS = ("#0b6e6e", "#5fb3b0")
THEIRS = ("#5b6472", "#b3bac6")
INK, FAINT, GRID = "#1c2330", "#667085", "#e4e7ec"


def text(x: float, y: float, words: str, size: int = 13, colour: str = INK, **more: str) -> str:
    extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{extra}>{escape(words)}</text>'


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 … within the range."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [step * 10.0**decade for decade in decades for step in (1, 2, 5) if low <= step * 10.0**decade <= high]


def grouped(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Each peer's rows together, the cheapest peer first."""
    peers: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            peers.setdefault(row["peer"], []).append(row)
    return sorted(peers.values(), key=lambda group: min(row["cpu_seconds_per_million"] for row in group))


def bars(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """CPU seconds a million observations of each peer; those that failed are left out."""
    groups = grouped(rows)
    values = [row["cpu_seconds_per_million"] for group in groups for row in group]
    if not values:
        return '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>\n'
    low, high = 10 ** floor(log10(min(values)) - 1e-9), max(values) * 1.05
    plot_width = WIDTH - LEFT - RIGHT

    def across(value: float) -> float:
        return LEFT + plot_width * (log10(value) - log10(low)) / (log10(high) - log10(low))

    parts, y = [], float(TOP)
    for group in groups:
        block, height = group_of(group, y, across)
        parts += block
        y += height + BETWEEN
    bottom = y - BETWEEN + 8
    grid = [
        f'<line x1="{across(tick):.1f}" y1="{TOP - 8}" x2="{across(tick):.1f}" y2="{bottom:.1f}" stroke="{GRID}"/>'
        + text(across(tick), bottom + 18, f"{tick:g}", 12, FAINT, text_anchor="middle")
        for tick in ticks(low, high)
    ]
    height = bottom + FOOT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
        f'font-family="Inter, Helvetica, Arial, sans-serif">'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    )
    return "\n".join([head, *title(rows), *grid, *parts, *foot(rows, about, bottom), "</svg>", ""])


def title(rows: Sequence[dict[str, Any]]) -> list[str]:
    parts = [
        text(24, 36, "The same job, the same answers: CPU seconds a million observations", 19, font_weight="600"),
        text(24, 60, "Kafka to windows and scored rows; less is better; the scale is logarithmic", 13, FAINT),
    ]
    x = WIDTH - RIGHT - 10
    for cores, (ours, theirs) in enumerate(zip(OURS, THEIRS, strict=True), start=1):
        if any(row["cores"] == cores for row in rows):
            for at, colour in enumerate((ours, theirs)):
                parts.append(f'<rect x="{x + at * 13:.1f}" y="50" width="11" height="11" rx="2" fill="{colour}"/>')
            parts.append(text(x + 32, 60, "1 core" if cores == 1 else f"{cores} cores", 12, FAINT))
            x += 92
    return parts


def group_of(group: list[dict[str, Any]], y: float, across: Any) -> tuple[list[str], float]:
    """One peer: its name, and a bar for each number of cores."""
    height = max(len(group), 2) * (BAR + GAP) - GAP
    ours = group[0]["peer"] == "windkessel"
    middle = y + height / 2
    weight = "600" if ours else "400"
    parts = [
        text(LEFT - 16, middle - 1, group[0]["title"].partition(" (")[0], 13, text_anchor="end", font_weight=weight),
        text(LEFT - 16, middle + 14, note(group[0]), 11, FAINT, text_anchor="end"),
    ]
    y += (height - len(group) * (BAR + GAP) + GAP) / 2
    for row in group:
        value = row["cpu_seconds_per_million"]
        colour = (OURS if ours else THEIRS)[min(row["cores"], 2) - 1]
        parts.append(f'<rect x="{LEFT}" y="{y:.1f}" width="{max(across(value) - LEFT, 1):.1f}" height="{BAR}" rx="3" fill="{colour}"/>')
        times = row.get("times_windkessel")
        label = f"{value:.1f}" + (f"  ·  {times:.1f} × ours" if times and not ours else "")
        parts.append(text(across(value) + 8, y + BAR - 3, label, 12, INK if ours else FAINT))
        y += BAR + GAP
    return parts, height


def note(row: dict[str, Any]) -> str:
    """What a reader must know to compare a row."""
    notes = ["exactly once" if row["exactly_once"] else "no recovery"]
    if row["peer"] == "duckdb":
        notes = ["batch, reads a file"]
    answers = row["answers"]
    wrong = [part for part in ("readings", "windows") if answers.get(part) or part in answers["missing"]]
    notes += [f"{', '.join(wrong)} differ"] if wrong else []
    notes += [f"on {row['observations']:,}"]
    return ", ".join(notes)


def foot(rows: Sequence[dict[str, Any]], about: dict[str, Any], bottom: float) -> list[str]:
    busy = any(row.get("busy") for row in rows)
    machine = f"{about['processor']}, {about['cores']} cores shared with the broker, Linux {about['kernel']}"
    when = f"{about['began'][:10]}, commit {about['commit'][:12]}"
    return [
        text(24, bottom + 44, f"{machine}; {when}", 11, FAINT),
        text(24, bottom + 60, "Measured on a busy machine: the ratios are to be taken again." if busy else "", 11, "#b42318"),
    ]
