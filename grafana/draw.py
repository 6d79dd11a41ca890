#!/usr/bin/env python3
"""Draws dashboards from what a Prometheus knows: one picture for each, laid out as Grafana would.

It is for looking at a change without a Grafana, and for the pictures in the documents. It asks Prometheus' HTTP
interface the dashboards' own questions; it does not know every option Grafana has, only those build.py uses.
Needs what requirements-draw.txt lists.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent

# Pixels: what Grafana gives a column's gap and a row of the grid, and what is above the panels.
GAP, ROW, HEADER = 8, 38, 46
DPI = 100
PAGE, PANEL, EDGE, TEXT, FAINT, GRID = "#111217", "#181b1f", "#2c3035", "#d8d9da", "#9fa3a8", "#26292e"
PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a",
           "#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#584477", "#b7dbab", "#f4d598", "#70dbed", "#f9ba8f"]
NAMED = {"green": "#73bf69", "light-green": "#96d98d", "yellow": "#fade2a", "orange": "#ff9830",
         "super-light-orange": "#ffcb7d",
         "dark-orange": "#fa6400", "red": "#f2495c", "light-red": "#ff7383", "dark-red": "#c4162a", "blue": "#5794f2",
         "super-light-blue": "#c0d8ff", "light-blue": "#8ab8ff", "dark-blue": "#1f60c4", "purple": "#b877d9"}


class Trouble(Exception):
    """Something the reader of the message can mend."""


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """From when to when, and how often Prometheus scrapes."""

    start: float
    end: float
    scrape: int

    def step(self, points: int) -> int:
        """Seconds between two points when there is room for so many."""
        least = max(self.scrape, (self.end - self.start) / max(points, 1))
        return next((step for step in (15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600) if step >= least),
                    math.ceil(least))


@dataclass(frozen=True)
class Series:
    """Labels, and values at times."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    """The HTTP interface, as far as it is needed."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of an answer."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            asked, why = parameters.get("query", path), error.read().decode()[:300]
            raise Trouble(f"{self.url} refuses {asked!r}: {why}") from error
        except (OSError, ValueError) as error:
            raise Trouble(f"{self.url} does not answer as a Prometheus does: {error}") from error

    def over(self, expr: str, span: Span, step: int) -> list[Series]:
        """Values over the range, on a common grid of times; where there is none, NaN."""
        start, end = math.ceil(span.start / step) * step, math.floor(span.end / step) * step
        grid = list(range(int(start), int(end) + 1, step))
        found = self.ask("query_range", query=expr, start=start, end=end, step=step)["result"]
        return [on_grid(one["metric"], one["values"], grid) for one in found]

    def at(self, expr: str, when: float) -> list[Series]:
        """Values of one moment."""
        found = self.ask("query", query=expr, time=when)["result"]
        return [Series(one["metric"], [one["value"][0]], [float(one["value"][1])]) for one in found]

    def label_values(self, query: str, span: Span) -> list[str]:
        """What `label_values(selector, label)` means in a variable."""
        matched = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query)
        if not matched:
            raise Trouble(f"the variable's query {query!r} is not label_values(selector, label)")
        return sorted(self.ask(f"label/{matched[2]}/values",
                               **{"match[]": matched[1], "start": span.start, "end": span.end}))


def on_grid(labels: dict[str, str], values: list[list[Any]], grid: list[int]) -> Series:
    """Fills what is missing with NaN, so that series can be stacked."""
    known = {int(when): float(value) for when, value in values}
    return Series(labels, [float(when) for when in grid], [known.get(when, math.nan) for when in grid])


def moment(text: str, of: float) -> float:
    """Seconds of `now`, `now-6h` or a plain number."""
    matched = re.fullmatch(r"now(?:-(\d+)([smhdw]))?", text)
    if matched:
        return of - int(matched[1] or 0) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[matched[2] or "s"]
    try:
        return float(text)
    except ValueError:
        raise Trouble(f"{text!r} is no time: say now, now-6h or seconds since 1970") from None


# --- words ------------------------------------------------------------------------------------------------------------


def worded(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as a person reads it."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f} %"
    if unit == "s":
        return seconds(value, decimals)
    if unit in ("bytes", "Bps"):
        return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"], decimals) + ("/s" if unit == "Bps" else "")
    suffix = {"cpm": " /min", "ops": " /s", "reqps": " /s", "cps": " /s"}.get(unit, "")
    return scaled(value, 1000, ["", "K", "M", "G"], decimals) + suffix


def seconds(value: float, decimals: int | None) -> str:
    """A duration in its natural unit."""
    for limit, size, word in ((0.001, 1e-6, "µs"), (1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"),
                              (172800, 3600, "h")):
        if abs(value) < limit:
            return f"{trimmed(value / size, decimals)} {word}"
    return f"{trimmed(value / 86400, decimals)} d"


def scaled(value: float, base: int, words: list[str], decimals: int | None) -> str:
    """A number with the prefix that keeps it short."""
    step = 0
    while abs(value) >= base and step + 1 < len(words):
        value, step = value / base, step + 1
    return f"{trimmed(value, decimals)} {words[step]}".strip()


def trimmed(value: float, decimals: int | None) -> str:
    """Three digits that count, or as many decimals as are asked for."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def named(series: Series, legend: str) -> str:
    """What the legend calls it."""
    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: series.labels.get(found[1], ""), legend)
    return text or ", ".join(f"{name}={value}" for name,
                             value in series.labels.items() if name != "__name__") or "value"


def colored(name: str) -> str:
    """A color of Grafana's as matplotlib knows it."""
    return NAMED.get(name, name)


def by_threshold(value: float, thresholds: Json) -> str:
    """The color of the last step that is reached."""
    reached = [step["color"] for step in thresholds["steps"] if step["value"] is None or value >= step["value"]]
    return colored(reached[-1])


def said(value: float, mappings: list[Json]) -> Json | None:
    """The word that stands for a number."""
    for mapping in mappings:
        found: Json | None = mapping["options"].get(f"{value:g}") if mapping["type"] == "value" else None
        if found:
            return found
    return None


# --- a page -----------------------------------------------------------------------------------------------------------


@dataclass
class Box:
    """A panel's place in pixels, from the top left."""

    x: float
    y: float
    w: float
    h: float


@dataclass
class Line:
    """A series as it is to be drawn: its name, color and style after all overrides."""

    name: str
    series: Series
    custom: Json
    unit: str
    decimals: int | None
    color: str


class Page:
    """One picture, in pixels from the top left."""

    def __init__(self, width: int, height: int) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        self.width, self.height = width, height
        self.figure = pyplot.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAGE)
        self.close: Callable[[], None] = lambda: pyplot.close(self.figure)
        canvas: Any = self.figure.canvas
        self.renderer = canvas.get_renderer()

    def box(self, box: Box, face: str, edge: str = EDGE) -> None:
        """A filled rectangle."""
        from matplotlib.patches import Rectangle

        self.figure.add_artist(Rectangle((box.x / self.width, 1 - (box.y + box.h) / self.height), box.w / self.width,
                                         box.h / self.height, facecolor=face, edgecolor=edge, linewidth=0.8, zorder=-1))

    def text(self, x: float, y: float, text: str, size: float = 8.5, color: str = TEXT, room: float | None = None,
             **more: Any) -> float:
        """Text whose top left is there, cut to the room it has; says how wide it came out."""
        artist = self.figure.text(x / self.width, 1 - y / self.height, text.replace("$", r"\$"), fontsize=size,
                                  color=color,
                                  va=more.pop("va", "top"), **more)
        wide = artist.get_window_extent(self.renderer).width
        while room is not None and wide > room and text.rstrip("…"):
            text = text.rstrip("…")[:-1] + "…"
            artist.set_text(text.replace("$", r"\$"))
            wide = artist.get_window_extent(self.renderer).width
        return wide

    def axes(self, box: Box, left: float = 52, right: float = 10, top: float = 30, bottom: float = 40) -> Any:
        """Axes inside a panel, as they look in all of them."""
        inner = Box(box.x + left, box.y + top, box.w - left - right, box.h - top - bottom)
        axes = self.figure.add_axes((inner.x / self.width, 1 - (inner.y + inner.h) / self.height, inner.w / self.width,
                                     inner.h / self.height), facecolor=PANEL)
        axes.tick_params(colors=FAINT, labelsize=7, length=0, pad=3)
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        return axes


class Drawing:
    """What is the same for all panels of a dashboard."""

    def __init__(self, page: Page, source: Prometheus, span: Span, values: dict[str, str]) -> None:
        self.page, self.source, self.span, self.values = page, source, span, values
        self.marks: list[tuple[float, str]] = []

    def expr(self, text: str, step: int, own: dict[str, str]) -> str:
        """The question with its variables replaced."""
        length = int(self.span.end - self.span.start)
        known = {"__rate_interval": f"{max(step + self.span.scrape, 4 * self.span.scrape)}s", "__range": f"{length}s",
                 "__interval": f"{step}s"} | self.values | own
        for name in sorted(known, key=len, reverse=True):
            text = text.replace(f"${{{name}}}", known[name]).replace(f"${name}", known[name])
        return text

    def asked(self, panel: Json, step: int) -> list[tuple[Json, Series]]:
        """Every series of a panel with the target it comes from."""
        found = []
        for target in panel["targets"]:
            expr = self.expr(target["expr"], step, panel.get("own", {}))
            answer = self.source.at(expr, self.span.end) if target.get("instant") else self.source.over(expr, self.span,
                                                                                                        step)
            found += [(target, one) for one in sorted(answer, key=lambda one: sorted(one.labels.items()))]
        return found

    def clock(self, axes: Any) -> None:
        """The axis of time."""
        axes.set_xlim(self.span.start, self.span.end)
        length = self.span.end - self.span.start
        wide = axes.get_window_extent(self.page.renderer).width
        every = next(step for step in (30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800)
                     if length / step * 46 <= wide or step == 604800)
        local = time.localtime(self.span.start).tm_gmtoff
        first = math.ceil((self.span.start + local) / every) * every - local
        ticks = [first + n * every for n in range(int((self.span.end - first) // every) + 1)]
        form = "%H:%M" if every < 86400 else "%m-%d"
        axes.set_xticks(ticks, [time.strftime(form, time.localtime(tick)) for tick in ticks])

    def lines(self, panel: Json, found: list[tuple[Json, Series]]) -> list[Line]:
        """Series with the panel's style, its overrides and a color."""
        defaults = panel["fieldConfig"]["defaults"]
        made = []
        for index, (target, one) in enumerate(found):
            name = named(one, target["legendFormat"])
            line = Line(name, one, dict(defaults.get("custom", {})), defaults["unit"], defaults.get("decimals"),
                        PALETTE[index % len(PALETTE)])
            for change in panel["fieldConfig"]["overrides"]:
                overridden(line, change)
            made.append(line)
        return made

    def annotate(self, axes: Any) -> None:
        """The moments that explain."""
        for when, color in self.marks:
            axes.axvline(when, color=color, linewidth=0.8, linestyle=(0, (3, 2)), alpha=0.8, zorder=1)


def overridden(line: Line, change: Json) -> None:
    """Applies what is different about this series."""
    matcher = change["matcher"]
    matches = matcher["options"] == line.name if matcher["id"] == "byName" else re.fullmatch(matcher["options"],
                                                                                             line.name)
    for entry in change["properties"] if matches else []:
        name, value = entry["id"], entry["value"]
        if name == "color":
            line.color = colored(value["fixedColor"])
        elif name == "unit":
            line.unit = value
        elif name == "decimals":
            line.decimals = value
        elif name.startswith("custom."):
            line.custom[name.removeprefix("custom.")] = value


# --- panels -----------------------------------------------------------------------------------------------------------


def draw_timeseries(on: Drawing, panel: Json, box: Box) -> None:
    """Lines, stacks and bars."""
    defaults, legend = panel["fieldConfig"]["defaults"], panel["options"]["legend"]
    at_right = legend["placement"] == "right"
    room = min(330.0, box.w * 0.45) if at_right else 0
    step = on.span.step(int((box.w - 60 - room) / 2))
    lines = on.lines(panel, on.asked(panel, step))
    on_right = any(line.custom.get("axisPlacement") == "right" for line in lines)
    axes = on.page.axes(box, right=(44 if on_right else 12) + room, bottom=24 if at_right else 44)
    second = axes.twinx() if on_right else None
    lay(axes, [line for line in lines if line.custom.get("axisPlacement") != "right"], step)
    if second is not None:
        lay(second, [line for line in lines if line.custom.get("axisPlacement") == "right"], step)
        second.tick_params(colors=FAINT, labelsize=7, length=0, pad=3)
        second.set_ylim(bottom=0)
        for side in second.spines.values():
            side.set_visible(False)
    scale(axes, defaults, [line for line in lines if line.custom.get("axisPlacement") != "right"])
    on.annotate(axes)
    on.clock(axes)
    if not any(known(line.series.values) for line in lines):
        axes.text(0.5, 0.5, defaults.get("noValue", "no data"), transform=axes.transAxes, ha="center", va="center",
                  color=FAINT, fontsize=9)
    (legend_table if at_right else legend_list)(on.page, box, lines, room)


def known(values: list[float]) -> list[float]:
    """Values that are any."""
    return [value for value in values if not math.isnan(value)]


def lay(axes: Any, lines: list[Line], step: int) -> None:
    """Draws the lines of one axis, those that stack on top of each other."""
    floor: list[float] = []
    for line in lines:
        times, values, custom = line.series.times, line.series.values, line.custom
        stacked = custom["stacking"]["mode"] == "normal"
        floor = floor or [0.0] * len(values)
        base = list(floor) if stacked else [0.0] * len(values)
        full = [0 if math.isnan(value) else value for value in values]
        if custom["drawStyle"] == "bars":
            axes.bar(times, full, width=step * 0.9, bottom=base, color=line.color, alpha=0.9, linewidth=0)
        else:
            top = [low + value for low, value in zip(base, full)] if stacked else values
            style = (0, (6, 4)) if custom.get("lineStyle") else "-"
            alone = [n for n, value in enumerate(values) if lonely(values, n) and not math.isnan(value)]
            axes.plot(times, top, color=line.color, linewidth=1.1, linestyle=style)
            axes.plot([times[n] for n in alone], [top[n] for n in alone], ".", color=line.color, markersize=3)
            if stacked or custom["fillOpacity"] > 6:
                axes.fill_between(times, base, top, color=line.color, alpha=custom["fillOpacity"] / 100, linewidth=0)
        if stacked:
            floor = [low + value for low, value in zip(base, full)]


def lonely(values: list[float], n: int) -> bool:
    """A value without neighbours makes no line."""
    return (n == 0 or math.isnan(values[n - 1])) and (n + 1 == len(values) or math.isnan(values[n + 1]))


def scale(axes: Any, defaults: Json, lines: list[Line]) -> None:
    """The axis of values, with its thresholds."""
    from matplotlib import ticker

    custom = defaults["custom"]
    positive = [value for line in lines for value in known(line.series.values) if value > 0]
    if custom["scaleDistribution"]["type"] == "log" and positive:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_ylim(min(positive) * 0.8, max(max(positive) * 1.25, min(positive) * 10))
    else:
        axes.margins(y=0.08)
        axes.set_ylim(bottom=defaults.get("min"), top=defaults.get("max"))
        if not positive and "max" not in defaults:
            axes.set_ylim(defaults.get("min"), 1)
        axes.yaxis.set_major_locator(round_ticks(axes, defaults["unit"]))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: worded(value, defaults["unit"])))
    if custom["thresholdsStyle"]["mode"] != "off":
        low, high = axes.get_ylim()
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is not None and low <= step["value"] <= high:
                axes.axhline(step["value"], color=colored(step["color"]), linewidth=1, linestyle="--", alpha=0.8)


def round_ticks(axes: Any, unit: str) -> Any:
    """Ticks that are round in the unit: minutes and hours, or powers of 1024."""
    from matplotlib import ticker

    low, high = axes.get_ylim()
    if unit in ("bytes", "Bps") and high > 1024:
        size = 1024 ** int(math.log(high, 1024))
        return ticker.MultipleLocator(next(n * size for n in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200,
                                                              500) if (high - low) / (n * size) <= 5))
    if unit == "s" and high > 120:
        return ticker.MultipleLocator(next((n for n in (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400,
                                                        43200) if (high - low) / n <= 6), 86400))
    return ticker.MaxNLocator(nbins=5)


def legend_list(page: Page, box: Box, lines: list[Line], _: float) -> None:
    """Names below the axes, in as many lines as there is room for."""
    x, y, right = box.x + 10, box.y + box.h - 22, box.x + box.w - 10
    for number, line in enumerate(lines):
        wide = page.text(x + 14, y, line.name, 7.5, FAINT, room=right - x - 40)
        page.box(Box(x, y + 4, 10, 3), line.color, line.color)
        x += wide + 28
        if number + 1 < len(lines) and x > right - 70:
            page.text(x, y, f"+{len(lines) - number - 1}", 7.5, FAINT)
            break


def legend_table(page: Page, box: Box, lines: list[Line], room: float) -> None:
    """Names with their last and largest values, the largest first."""
    x, y = box.x + box.w - room + 4, box.y + 30
    page.text(x + room - 112, y, "last", 7, FAINT)
    page.text(x + room - 58, y, "max", 7, FAINT)
    order = sorted(lines, key=lambda line: -max(known(line.series.values), default=0))
    for line in order[: int((box.h - 56) / 15)]:
        y += 15
        values = known(line.series.values)
        page.box(Box(x, y + 5, 10, 3), line.color, line.color)
        page.text(x + 14, y, line.name, 7.5, room=room - 130)
        for at, value in ((112, values[-1] if values else math.nan), (58, max(values, default=math.nan))):
            page.text(x + room - at, y, worded(value, line.unit, line.decimals).replace(" /min", "").replace(" /s", ""),
                      7.5)


def draw_stat(on: Drawing, panel: Json, box: Box) -> None:
    """One number, and the line that led to it."""
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    found = on.asked(panel, on.span.step(int(box.w / 2)))
    values = [value for _, one in found for value in known(one.values)[-1:]]
    face, text = PANEL, defaults["noValue"]
    color = by_threshold(-math.inf, defaults["thresholds"])
    for mapping in defaults["mappings"]:
        color = colored(mapping["options"]["result"]["color"]) if mapping["type"] == "special" else color
    if values:
        word = said(values[0], defaults["mappings"])
        text = word["text"] if word else worded(values[0], defaults["unit"], defaults.get("decimals"))
        color = colored(word["color"]) if word else by_threshold(values[0], defaults["thresholds"])
    if options["colorMode"] == "background":
        face = color
        on.page.box(box, face)
        on.page.text(box.x + 8, box.y + 7, panel["title"], 9, "#111217", room=box.w - 16, weight="bold")
    if options["graphMode"] == "area" and found:
        axes = on.page.axes(box, 1, 1, box.h * 0.62, 1)
        axes.axis("off")
        axes.fill_between(found[0][1].times, 0, found[0][1].values, color=color, alpha=0.3, linewidth=0)
        axes.plot(found[0][1].times, found[0][1].values, color=color, linewidth=1)
        axes.set_xlim(on.span.start, on.span.end)
    ink = "#111217" if options["colorMode"] == "background" else color
    on.page.text(box.x + box.w / 2, box.y + box.h * 0.56, text, 21 if len(text) < 9 else 16, ink, ha="center",
                 va="center", weight="bold")


def draw_heatmap(on: Drawing, panel: Json, box: Box) -> None:
    """Buckets over time; the classic ones are cumulative and are told apart first."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    step = on.span.step(min(panel["maxDataPoints"], int(box.w / 5)))
    found = sorted((float(one.labels["le"]), one) for _, one in on.asked(panel, step))
    axes = on.page.axes(box, bottom=24)
    axes.grid(False)
    on.clock(axes)
    rows = [[max(0.0, high - low) for low, high in zip(below, one.values)]
            for below, (_, one) in zip([[0.0] * 9_999] + [one.values for _, one in found], found)]
    rows = [[math.nan if not value > 1e-9 else value for value in row] for row in rows]
    filled = [n for n, row in enumerate(rows) if known(row)]
    if not filled:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=FAINT, fontsize=9)
        return
    first, last = max(0, filled[0] - 1), min(len(rows) - 1, filled[-1] + 1)
    times, most = found[0][1].times, max(value for row in rows for value in known(row))
    shades = LinearSegmentedColormap.from_list("heat", ["#3b2a17", "#a85511", "#ff9830", "#ffe8c2"])
    edges = [times[0] - step, *times]
    axes.pcolormesh(edges, list(range(first, last + 2)), rows[first:last + 1], cmap=shades,
                    norm=PowerNorm(0.5, 0, most),
                    edgecolors=PANEL, linewidth=0.4)
    every = max(1, math.ceil((last - first + 1) / ((box.h - 54) / 17)))
    ticks = [n for n in range(first, last + 1, every)]
    axes.set_yticks([n + 1 for n in ticks], ["∞" if math.isinf(found[n][0]) else worded(found[n][0],
                                                                                        "s") for n in ticks])
    axes.set_ylim(first, last + 1)


def draw_bargauge(on: Drawing, panel: Json, box: Box) -> None:
    """A bar for each name."""
    defaults = panel["fieldConfig"]["defaults"]
    found = [(named(one, target["legendFormat"]), one.values[-1]) for target, one in on.asked(panel, 60)]
    most = max((value for _, value in found), default=1) or 1
    if not found:
        on.page.text(box.x + box.w / 2, box.y + box.h / 2, defaults["noValue"], 9, FAINT, ha="center", va="center")
    high = min(30, (box.h - 40) / max(1, len(found)))
    for number, (name, value) in enumerate(found):
        y, left, wide = box.y + 34 + number * high, box.x + 90, box.w - 180
        on.page.text(box.x + 84, y + high / 2, name, 8, ha="right", va="center")
        on.page.box(Box(left, y + 3, wide, high - 6), GRID, GRID)
        on.page.box(Box(left, y + 3, wide * value / most, high - 6), by_threshold(value, defaults["thresholds"]), GRID)
        on.page.text(left + wide + 8, y + high / 2, worded(value, defaults["unit"], defaults.get("decimals")), 8,
                     va="center")


def draw_timeline(on: Drawing, panel: Json, box: Box) -> None:
    """A row of states for each name."""
    defaults = panel["fieldConfig"]["defaults"]
    step = on.span.step(int(box.w / 2))
    found = [(named(one, target["legendFormat"]), one) for target, one in on.asked(panel, step)]
    axes = on.page.axes(box, left=150, bottom=44)
    axes.grid(False)
    for number, (_, one) in enumerate(found):
        for when, value in zip(one.times, one.values):
            word = said(value, defaults["mappings"])
            if word:
                axes.broken_barh([(when - step, step)], (number - 0.42, 0.84), facecolors=colored(word["color"]),
                                 alpha=0.85, linewidth=0)
    axes.set_yticks(range(len(found)), [name for name, _ in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    on.clock(axes)
    x = box.x + 10
    for word in (word for mapping in defaults["mappings"] for word in mapping["options"].values()):
        on.page.box(Box(x, box.y + box.h - 18, 10, 3), colored(word["color"]), colored(word["color"]))
        x += on.page.text(x + 14, box.y + box.h - 22, word["text"], 7.5, FAINT) + 28


def draw_table(on: Drawing, panel: Json, box: Box) -> None:
    """Labels, a row for each series."""
    organize = next(one["options"] for one in panel["transformations"] if one["id"] == "organize")
    columns = sorted(organize["renameByName"], key=lambda name: organize["indexByName"][name])
    wide = (box.w - 20) / len(columns)
    for number, column in enumerate(columns):
        on.page.text(box.x + 10 + number * wide, box.y + 32, organize["renameByName"][column], 8, "#6e9fff",
                     room=wide - 10)
    for line, (_, one) in enumerate(on.asked(panel, 60)[: int((box.h - 54) / 22)]):
        for number, column in enumerate(columns):
            on.page.text(box.x + 10 + number * wide, box.y + 54 + line * 22, one.labels.get(column, ""), 8.5,
                         room=wide - 10)


KINDS = {"timeseries": draw_timeseries, "stat": draw_stat, "heatmap": draw_heatmap, "bargauge": draw_bargauge,
         "state-timeline": draw_timeline, "table": draw_table}


# --- a dashboard ------------------------------------------------------------------------------------------------------


def expanded(panels: list[Json], values: dict[str, list[str]]) -> list[Json]:
    """Panels with one for each value where they repeat; what is below moves down."""
    out: list[Json] = []
    down = 0
    for panel in panels:
        panel = copy.deepcopy(panel)
        panel["gridPos"]["y"] += down
        repeat = panel.get("repeat")
        if not repeat:
            out.append(panel)
            continue
        across = min(len(values[repeat]), panel["maxPerRow"]) or 1
        for number, value in enumerate(values[repeat]):
            one = copy.deepcopy(panel)
            place = one["gridPos"]
            place |= {"w": 24 // across, "x": number % across * (24 // across),
                      "y": place["y"] + number // across * place["h"]}
            out.append(one | {"own": {repeat: value}, "title": one["title"].replace(f"${repeat}", value)})
        down += (math.ceil(len(values[repeat]) / across) - 1) * panel["gridPos"]["h"]
    return out


def marks(on: Drawing, board: Json) -> list[tuple[float, str]]:
    """The annotations of the range: when, and in which color."""
    found = []
    step = on.span.step(400)
    for one in board["annotations"]["list"]:
        for series in on.source.over(on.expr(one["expr"], step, {}), on.span, step):
            if one.get("useValueForTime"):
                times = sorted({value / 1000 for value in known(series.values)})
            else:
                times = [when for n, when in enumerate(series.times) if not math.isnan(series.values[n])
                         and (n == 0 or math.isnan(series.values[n - 1]))]
            found += [(when, colored(one["iconColor"])) for when in times if on.span.start <= when <= on.span.end]
    return found


def chosen(board: Json, source: Prometheus, span: Span) -> dict[str, list[str]]:
    """All values of the variables that have a query."""
    values: dict[str, list[str]] = {}
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            query = one["query"]["query"]
            for name in ("job", "instance"):
                query = query.replace(f"${name}", ".+")
            values[one["name"]] = source.label_values(query, span)
    return values


def draw(board: Json, source: Prometheus, span: Span, width: int, path: Path) -> None:
    """One dashboard to one file."""
    values = chosen(board, source, span)
    if not values.get("instance"):
        raise Trouble(f"{source.url} knows no slugline_build_info in that time: is the daemon scraped?")
    panels = expanded(board["panels"], values)
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    page = Page(width, HEADER + bottom * ROW + GAP)
    on = Drawing(page, source, span, {name: ".+" for name in values})
    on.marks = marks(on, board)
    page.text(GAP + 4, 13, board["title"], 13, weight="bold")
    ends = " – ".join(time.strftime("%Y-%m-%d %H:%M", time.localtime(when)) for when in (span.start, span.end))
    page.text(width - GAP - 4, 16, f"{', '.join(values['instance'])}    {ends}", 9, FAINT, ha="right")
    column = (width - GAP) / 24
    for panel in panels:
        place = panel["gridPos"]
        box = Box(GAP + place["x"] * column, HEADER + place["y"] * ROW, place["w"] * column - GAP,
                  place["h"] * ROW - GAP)
        draw_panel(on, panel, box)
    page.figure.savefig(path, dpi=DPI, facecolor=PAGE)
    page.close()


def draw_panel(on: Drawing, panel: Json, box: Box) -> None:
    """The frame, and what is in it."""
    if panel["type"] == "row":
        on.page.text(box.x + 4, box.y + 8, panel["title"], 10.5, weight="bold")
        return
    if panel["type"] not in KINDS:
        raise Trouble(f"panel {panel['title']!r} is a {panel['type']}, which cannot be drawn")
    on.page.box(box, PANEL)
    on.page.text(box.x + 8, box.y + 7, panel["title"], 9, room=box.w - 16, weight="bold")
    KINDS[panel["type"]](on, panel, box)


def main() -> int:
    """0: drawn; 1: something to mend; 2: the command line is wrong or a part is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Example: draw.py --prometheus http://127.0.0.1:9090 --out docs/img")
    parser.add_argument("--prometheus", required=True, metavar="URL", help="where Prometheus answers")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR",
                        help="where the pictures go; each is named as its dashboard's file")
    parser.add_argument("--dashboard", type=Path, action="append", metavar="FILE",
                        help="only this one; may be said again (default: all)")
    parser.add_argument("--from", dest="since", metavar="TIME",
                        help="now-3h or seconds since 1970 (default: what the dashboard says)")
    parser.add_argument("--to", dest="until", default="now", metavar="TIME", help="(default: now)")
    parser.add_argument("--scrape", type=int, default=15, metavar="SECONDS",
                        help="how often Prometheus scrapes (default: 15)")
    parser.add_argument("--width", type=int, default=1600, metavar="PIXELS", help="(default: 1600)")
    arguments = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("matplotlib is not installed: pip install -r grafana/requirements-draw.txt", file=sys.stderr)
        return 2
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for path in arguments.dashboard or sorted((HERE / "dashboards").glob("*.json")):
            board = json.loads(path.read_text(encoding="utf-8"))
            end = moment(arguments.until, time.time())
            span = Span(moment(arguments.since or board["time"]["from"], end), end, arguments.scrape)
            picture = arguments.out / f"{path.stem}.png"
            draw(board, Prometheus(arguments.prometheus), span, arguments.width, picture)
            print(picture)
    except (Trouble, OSError, ValueError, KeyError) as error:
        print(f"draw.py: {error}" if not isinstance(error, KeyError) else f"draw.py: {path}: no {error}",
              file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
