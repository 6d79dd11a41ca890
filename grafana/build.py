#!/usr/bin/env python3
"""Writes the dashboards: grafana/dashboards/*.json is made from this file and from nothing else.

In an expression `{@}` stands for the selector every query has, `{@, phase="gates"}` for that and more, and `[@]` for
Grafana's rate interval. One function is one dashboard; `flow` lays its panels out in reading order.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

HERE = Path(__file__).resolve().parent
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
SELECTOR = 'job=~"$job", instance=~"$instance"'
COLUMNS = 24
# The dashboard schema of Grafana 11.0; every later one reads it.
SCHEMA_VERSION = 39
# Share of runs that may be bad: 99 % of thirty days are good.
BUDGET = 0.01
WINDOWS = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]

# Metrics that are on no panel and in no rule on purpose: raw material for questions nobody asks every day.
RAW = {
    "process_virtual_memory_bytes": "address space that is reserved; what is used is the resident size",
    "process_virtual_memory_max_bytes": "a limit that is hardly ever set",
    "tokio_parks_total": "how often workers went to sleep; means something only beside a trace",
}

GOOD, WARN, BAD, CALM, DIM = "green", "orange", "red", "blue", "#8e8e8e"
OUTCOMES = {"success": GOOD, "ok": GOOD, "failure": "yellow", "failed": "yellow", "nonzero": "yellow", "error": BAD,
            "timeout": "purple", "hung": "purple", "cancellation": DIM, "cancelled": DIM, "killed": "dark-red",
            "signal": "light-red", "spawn_error": BAD}
DECISIONS = {"run": WARN, "skip": GOOD, "join": CALM, "defer": "purple", "fail": BAD}
STAGES = {"ready": CALM, "build": "yellow", "review": "purple", "fix": WARN, "integrate": "light-green", "blocked": BAD}
CLAIMS = {"granted": GOOD, "empty": DIM, "conflict": "yellow", "breaker_open": BAD, "lane_full": CALM, "invalid": WARN}
SEVERITIES = {"critical": BAD, "warning": WARN}
VERDICTS = {0: ("GO", GOOD), 1: ("UNKNOWN", WARN), 2: ("NO_GO", BAD)}


# --- queries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """One question to Prometheus. `now` asks for the present value only, so that nothing old is shown as current."""

    expr: str
    legend: str = ""
    now: bool = False
    form: str = "time_series"

    def target(self, index: int) -> Json:
        """As Grafana writes it."""
        target: Json = {"datasource": DATASOURCE, "editorMode": "code", "expr": full(self.expr), "format": self.form,
                        "legendFormat": self.legend, "refId": chr(ord("A") + index)}
        return target | ({"instant": True, "range": False} if self.now else {"range": True})


def full(expr: str) -> str:
    """Writes out the two abbreviations."""
    expr = re.sub(r"\s+", " ", expr).strip()
    return expr.replace("{@", "{" + SELECTOR).replace("[@]", "[$__rate_interval]")


def q(expr: str, legend: str = "") -> Query:
    """A question about the whole range."""
    return Query(expr, legend)


def now(expr: str, legend: str = "") -> Query:
    """A question about the present."""
    return Query(expr, legend, now=True)


def quantile(p: int, metric: str, by: str = "", labels: str = "") -> str:
    """A percentile of a histogram; nothing where nothing happened."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({p / 100:g}, sum by ({groups}) (rate({metric}_bucket{{@{labels}}}[@]))) >= 0"


def percentiles(metric: str, labels: str = "", prefix: str = "", of: tuple[int, ...] = (50, 95, 99)) -> list[Query]:
    """The usual three."""
    return [q(quantile(p, metric, labels=labels), f"{prefix}p{p}") for p in of]


def per_minute(metric: str, by: str, labels: str = "", legend: str = "") -> Query:
    """Events of a counter in a minute."""
    shown = legend or " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return q(f"sum by ({by}) (rate({metric}{{@{labels}}}[@])) * 60", shown)


def seldom(metric: str, by: str, labels: str = "", legend: str = "") -> Query:
    """Events that hardly ever happen: only what did, so that the legend names nothing else."""
    query = per_minute(metric, by, labels, legend)
    return q(f"{query.expr} > 0", query.legend)


def verdict(by: str, labels: str = "") -> str:
    """0 for GO, 1 for UNKNOWN, 2 for NO_GO; the worst of all that are selected."""
    no_go, unknown = (f'slugline_readiness{{@{labels}, verdict="{word}"}}' for word in ("NO_GO", "UNKNOWN"))
    return f"max by ({by}) (2 * {no_go} + on (job, instance, criterion) {unknown})"


def budget_left() -> str:
    """Of the runs that may be bad in thirty days, the share that is left. Every run is in as many windows."""
    bad, runs = (f"sum(sum_over_time(slugline:ready_{what}:increase1h{{@}}[30d:5m]))" for what in ("bad", "runs"))
    return f"1 - ({bad} / ({runs} > 0)) / {BUDGET}"


# --- panels -----------------------------------------------------------------------------------------------------------


@dataclass
class Panel:
    """A panel and its size; where it stands is decided by `flow`."""

    kind: str
    title: str
    about: str
    width: int
    queries: list[Query]
    defaults: Json
    options: Json
    overrides: list[Json] = field(default_factory=list)
    extra: Json = field(default_factory=dict)

    def made(self, number: int, x: int, y: int, height: int) -> Json:
        """As Grafana writes it."""
        config = {"defaults": self.defaults, "overrides": self.overrides}
        return {"id": number, "type": self.kind, "title": self.title, "description": self.about,
                "datasource": DATASOURCE, "gridPos": {"h": height, "w": self.width, "x": x, "y": y},
                "targets": [query.target(index) for index, query in enumerate(self.queries)],
                "fieldConfig": config, "options": self.options} | self.extra


@dataclass
class Band:
    """Panels side by side, or with no panels the title of a section."""

    height: int
    panels: list[Panel]
    title: str = ""


def band(height: int, *panels: Panel) -> Band:
    """Panels side by side, one screen wide."""
    return Band(height, list(panels))


def section(title: str) -> Band:
    """A title over what follows."""
    return Band(1, [], title)


def steps(*limits: tuple[float | None, str]) -> Json:
    """Thresholds, from the lowest; the first has no limit."""
    return {"mode": "absolute", "steps": [{"color": color, "value": limit} for limit, color in limits]}


def line_at(*limits: tuple[float, str]) -> Json:
    """Lines across a panel."""
    return steps((None, "transparent"), *limits)


def bounds(low: float | None, high: float | None) -> Json:
    """The ends of the axis that are fixed."""
    return {name: value for name, value in (("min", low), ("max", high)) if value is not None}


def colored(colors: dict[str, str]) -> list[Json]:
    """One color for a name, wherever it is."""
    return [override("byName", name, {"color": {"mode": "fixed", "fixedColor": color}}) for name,
            color in colors.items()]


def override(by: str, what: str, properties: Json) -> Json:
    """What is different about some series."""
    return {"matcher": {"id": by, "options": what},
            "properties": [{"id": name, "value": value} for name, value in properties.items()]}


def dashed(pattern: str) -> Json:
    """A limit, drawn so that it is not taken for a measurement."""
    style = {"custom.lineStyle": {"fill": "dash", "dash": [8, 6]}, "custom.fillOpacity": 0, "custom.lineWidth": 1,
             "custom.stacking": {"group": "A", "mode": "none"}}
    return override("byRegexp", pattern, style)


def series(title: str, about: str, width: int, *queries: Query, unit: str = "short", style: str = "lines",
           log: bool = False, low: float | None = 0, high: float | None = None, decimals: int | None = None,
           limits: Json | None = None, colors: dict[str, str] | None = None, many: bool = False,
           overrides: list[Json] | None = None) -> Panel:
    """Values over time: as `lines`, as a `stack` or as `bars`."""
    custom: Json = {
        "drawStyle": "bars" if style == "bars" else "line", "lineInterpolation": "linear",
        "lineWidth": 0 if style == "bars" else 1, "fillOpacity": {"lines": 6, "stack": 45, "bars": 85}[style],
        "gradientMode": "none", "showPoints": "auto" if style == "lines" else "never", "pointSize": 4,
        "spanNulls": False,
        "axisPlacement": "auto", "axisLabel": "", "barAlignment": 0,
        "stacking": {"group": "A", "mode": "none" if style == "lines" else "normal"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if limits else "off"},
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    }
    defaults: Json = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom,
                "thresholds": limits or steps((None, GOOD))} | bounds(None if log else low, high)
    if all(query.expr.endswith(") > 0") or query.expr.endswith("* 60 > 0") for query in queries):
        defaults["noValue"] = "none"
    if decimals is not None:
        defaults["decimals"] = decimals
    legend: Json = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    if many:
        legend = {"displayMode": "table", "placement": "right", "showLegend": True, "calcs": ["lastNotNull", "max"],
                  "sortBy": "Max", "sortDesc": True}
    options = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return Panel("timeseries", title, about, width, list(queries), defaults, options,
                 colored(colors or {}) + (overrides or []))


def stat(title: str, about: str, width: int, query: Query, limits: Json | None = None, unit: str = "short",
         decimals: int | None = 0, none: str = "–", mappings: list[Json] | None = None, text: str = "value",
         high: float | None = None, empty: str = "") -> Panel:
    """One number. One that is asked over the range has a line below it; one that can be bad has its color behind it."""
    defaults: Json = {"unit": unit, "noValue": none, "mappings": (mappings or []) + nothing(none, empty),
                      "thresholds": limits or steps((None, CALM)), "color": {"mode": "thresholds"}} | bounds(None, high)
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "orientation": "auto",
               "textMode": text, "wideLayout": True, "colorMode": "background" if limits else "value",
               "graphMode": "none" if query.now else "area", "justifyMode": "auto", "showPercentChange": False,
               "percentChangeColorMode": "standard"}
    return Panel("stat", title, about, width, [query], defaults, options)


def heat(title: str, about: str, width: int, metric: str, labels: str = "", repeat: str = "") -> Panel:
    """Where the observations of a histogram lie over time."""
    query = Query(f"sum by (le) (increase({metric}_bucket{{@{labels}}}[@]))", "{{le}}", form="heatmap")
    options = {
        "calculate": False, "cellGap": 1, "cellValues": {"unit": "short", "decimals": 0}, "showValue": "never",
        "color": {"mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "scale": "exponential", "exponent": 0.5,
                  "steps": 64, "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9}, "legend": {"show": False},
        "rowsFrame": {"layout": "auto"}, "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    defaults = {"custom": {"scaleDistribution": {"type": "linear"},
                           "hideFrom": {"legend": False, "tooltip": False, "viz": False}}}
    extra: Json = {"repeat": repeat, "repeatDirection": "h", "maxPerRow": 4} if repeat else {}
    return Panel("heatmap", title, about, width, [query], defaults, options, extra=extra | {"maxDataPoints": 120})


def nothing(text: str, color: str) -> list[Json]:
    """What is shown for no data, where the lowest threshold's color would say something else."""
    if not color:
        return []
    return [{"type": "special", "options": {"match": "null", "result": {"text": text, "color": color, "index": 9}}}]


def bars(title: str, about: str, width: int, query: Query, unit: str, limits: Json, none: str) -> Panel:
    """One bar for each name, of now."""
    defaults = {"unit": unit, "min": 0, "noValue": none, "decimals": 0, "thresholds": limits,
                "color": {"mode": "thresholds"}}
    options = {"displayMode": "basic", "orientation": "horizontal", "valueMode": "color", "namePlacement": "auto",
               "showUnfilled": True, "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
               "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []}}
    return Panel("bargauge", title, about, width, [query], defaults, options)


def states(title: str, about: str, width: int, query: Query, words: dict[int, tuple[str, str]]) -> Panel:
    """Which of a few states each name was in."""
    defaults = {"unit": "none", "mappings": mapped(words), "color": {"mode": "thresholds"},
                "thresholds": steps((None, DIM)),
                "custom": {"fillOpacity": 80, "lineWidth": 0,
                           "hideFrom": {"legend": False, "tooltip": False, "viz": False}}}
    options = {"mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.85,
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
               "tooltip": {"mode": "single", "sort": "none"}}
    return Panel("state-timeline", title, about, width, [query], defaults, options)


def mapped(words: dict[int, tuple[str, str]]) -> list[Json]:
    """Numbers that stand for words."""
    said = {str(value): {"text": word, "color": color, "index": index}
            for index, (value, (word, color)) in enumerate(words.items())}
    return [{"type": "value", "options": said}]


def table(title: str, about: str, width: int, expr: str, columns: dict[str, str], links: Json) -> Panel:
    """Labels of now, a row for each series. `columns` are the labels that are shown, and their titles."""
    query = Query(expr, now=True, form="table")
    defaults = {"unit": "string", "custom": {"align": "left", "cellOptions": {"type": "auto"}, "inspect": False},
                "thresholds": steps((None, GOOD)), "color": {"mode": "thresholds"}}
    options = {"showHeader": True, "cellHeight": "sm",
               "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""}}
    order = {name: index for index, name in enumerate(columns)}
    chosen = {"include": {"names": list(columns)}}
    transformations = [{"id": "filterFieldsByName", "options": chosen},
                       {"id": "organize", "options": {"indexByName": order, "renameByName": columns,
                                                      "excludeByName": {}}}]
    links_of = [override("byName", name, {"links": [link]}) for name, link in links.items()]
    return Panel("table", title, about, width, [query], defaults, options, links_of,
                 {"transformations": transformations})


# --- dashboards -------------------------------------------------------------------------------------------------------


def flow(bands: list[Band]) -> list[Json]:
    """Panels from left to right and from top to bottom, each with its number."""
    made: list[Json] = []
    y = 0
    for row in bands:
        x = 0
        if row.title:
            made.append({"id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                         "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y}})
        for panel in row.panels:
            made.append(panel.made(len(made) + 1, x, y, row.height))
            x += panel.width
        if row.panels and x != COLUMNS:
            raise ValueError(f"the band that begins with {row.panels[0].title!r} is {x} columns wide and not {COLUMNS}")
        y += row.height
    return made


def chosen(name: str, query: str, hidden: bool = False) -> Json:
    """A variable whose values come from a label. A hidden one is the first that fits what is chosen."""
    variable: Json = {"name": name, "label": name.title(), "type": "query", "datasource": DATASOURCE, "refresh": 2,
                      "sort": 1, "regex": "", "query": {"query": query, "refId": name},
                      "multi": not hidden, "includeAll": not hidden, "hide": 2 if hidden else 0, "skipUrlSync": hidden,
                      "options": []}
    if not hidden:
        variable |= {"allValue": ".+", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return variable


def variables(more: list[Json]) -> list[Json]:
    """What is chosen on top: where the data comes from, and whose it is."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "",
              "refresh": 1, "hide": 0, "multi": False, "includeAll": False, "skipUrlSync": False, "options": [],
              "current": {}}
    return [source, chosen("job", "label_values(slugline_build_info, job)"),
            chosen("instance", 'label_values(slugline_build_info{job=~"$job"}, instance)'), *more,
            chosen("console", f"label_values(slugline_build_info{{{SELECTOR}}}, instance)", hidden=True)]


def annotation(name: str, color: str, expr: str, text: str, **more: Any) -> Json:
    """A moment that explains what is seen around it."""
    return {"name": name, "datasource": DATASOURCE, "enable": True, "hide": False, "iconColor": color,
            "expr": full(expr),
            "titleFormat": name, "textFormat": text, "step": "60s"} | more


def moments() -> list[Json]:
    """What explains most breaks in a line: another process, another version, something that was restarted or hung."""
    versions = "count by (version, revision) (slugline_build_info{@}"
    return [
        annotation("Daemon started", CALM, "process_start_time_seconds{@} * 1000", "{{instance}}",
                   useValueForTime=True),
        annotation("New version", "purple", f"{versions}) unless {versions} offset 5m)", "{{version}} {{revision}}"),
        annotation("Actor restarted", WARN, "sum by (kind, reason) (increase(slugline_actor_restarts_total{@}[@])) > 0",
                   "{{kind}}: {{reason}}"),
        annotation("Hang", BAD, "sum by (kind) (increase(slugline_hangs_total{@}[@])) > 0", "{{kind}}"),
    ]


def links() -> list[Json]:
    """To the other dashboards, with what is chosen, and to the daemon."""
    common = {"tooltip": "", "url": "", "tags": [], "asDropdown": False, "targetBlank": False}
    others = {"title": "Slugline", "type": "dashboards", "icon": "external link", "tags": ["slugline"],
              "asDropdown": True,
              "includeVars": True, "keepTime": True, "tooltip": "The other dashboards, with the same choice and time"}
    console = {"title": "Console", "type": "link", "icon": "dashboard", "url": "http://${console}/",
               "targetBlank": True,
               "includeVars": False, "keepTime": False, "tooltip": "The daemon itself: the first of the chosen "
                                                                   "instances"}
    return [common | others, common | console]


CONSOLE_LINK: Json = {"title": "Console of this daemon", "url": "http://${__value.text}/", "targetBlank": True}


def dashboard(name: str, title: str, about: str, bands: list[Band], *more_variables: Json,
              since: str = "now-6h") -> Json:
    """Everything around the panels."""
    return {
        "id": None, "uid": f"slugline-{name}", "title": title, "description": about, "tags": ["slugline"],
        "schemaVersion": SCHEMA_VERSION, "version": 1, "editable": True, "graphTooltip": 1, "timezone": "browser",
        "refresh": "30s", "time": {"from": since, "to": "now"}, "timepicker": {}, "fiscalYearStartMonth": 0,
        "liveNow": False, "weekStart": "", "links": links(), "annotations": {"list": moments()},
        "templating": {"list": variables(list(more_variables))}, "panels": flow(bands),
    }


def overview() -> Json:
    """Is it well, and if not, where? On one screen."""
    run, http = "slugline_run_duration_seconds", "http_server_request_duration_seconds"
    answered = ', outcome=~"success|failure"'
    ready_colors = {"warm p50": "super-light-blue", "warm p95": "blue", "warm p99": "dark-blue",
                    "cold p50": "super-light-orange", "cold p95": "orange", "cold p99": "dark-orange"}
    errors = f'(sum(rate({http}_count{{@, http_response_status_code=~"5.."}}[@])) or vector(0))'
    return dashboard("overview", "Slugline / Overview", "Is the daemon well, and if not, where?", [
        band(4,
             stat("Readiness",
                  "What the daemon says of itself; the worst of the chosen instances. GO is normal. Otherwise look at "
                  "the criteria below and run `slugline health`. No answer: it is down or not scraped.", 3,
                  now('max(' + verdict("instance", ', criterion="all"') + ')'), steps((None, BAD)), "none",
                  none="No answer",
                  mappings=mapped(VERDICTS)),
             stat("Critical incidents",
                  "Open incidents that block. None is normal. `GET /incidents` says what is wrong and since when.", 3,
                  now('sum(slugline_incidents{@, severity="critical"})'), steps((None, GOOD), (1, BAD))),
             stat("Work waiting",
                  "Todos that could be claimed now. A steady number is normal; one that only rises wants more workers, "
                  "or a lane is paused.", 3, q("sum(slugline_queue_depth{@})", "waiting")),
             stat("Oldest wait",
                  "How long the todo that waits longest could have been claimed. When it grows and lanes have room, no "
                  "worker asks; look at claims by result.", 3,
                  now("time() - min(slugline_queue_oldest_timestamp_seconds{@} > 0)"),
                  steps((None, GOOD), (300, "yellow"), (900, WARN)),
                  "s", None, "none"),
             stat("Claims active", "Todos that a worker holds. It should be about the number of workers.", 3,
                  q("sum(slugline_claims_active{@})", "active")),
             stat("Lanes not open",
                  "Lanes that are paused or probing. None is normal. `GET /lanes` says why each is; a todo was filed "
                  "to mend what repeats.", 3, now("sum(1 - slugline_lane_open{@})"), steps((None, GOOD), (1, WARN)),
                  none="none"),
             stat("Hangs and meltdowns",
                  "In the time shown: hangs of the runtime or of an actor, and actors that were given up. None is "
                  "normal. `GET /hangs` shows what was in flight.", 3,
                  now("sum(increase(slugline_hangs_total{@}[$__range])) + "
                      "sum(increase(slugline_actor_meltdowns_total{@}[$__range]))"),
                  steps((None, GOOD), (0.5, BAD))),
             stat("Error budget left",
                  "Of the 1 % of runs that may be bad in thirty days, what is left. Below zero the objective is "
                  "missed; look at Storage & SLO for how quickly it goes.", 3, now(budget_left()),
                  steps((None, BAD), (0, WARN), (0.25, GOOD)), "percentunit", none="no runs", empty=DIM)),
        band(7,
             series("Ready time",
                    "From the call to the worktree being ready, of runs that were answered. Warm is milliseconds; cold "
                    "is as long as the repository's prepare and gates. When warm rises, look at Phases for what is no "
                    "longer skipped.", 8,
                    *percentiles(run, f'{answered}, temperature="warm"', "warm "),
                    *percentiles(run, f'{answered}, temperature="cold"', "cold "),
                    unit="s", log=True, colors=ready_colors),
             series("Runs per minute by outcome",
                    "failure is the repository's own command, error and timeout are the daemon's and spend the error "
                    "budget. Mostly success is normal; look at Phases for which phase ends badly.", 8,
                    per_minute(run + "_count", "outcome"), unit="cpm", style="bars", colors=OUTCOMES),
             series("Work items by state",
                    "Todos that are not done, by stage. A stage that only grows is where work gets stuck; blocked ones "
                    "need a person.", 8, q('sum by (state) (slugline_work_items{@, state!="done"})', "{{state}}"),
                    style="stack", colors=STAGES)),
        band(6,
             states("Readiness by criterion",
                    "Where it is not well: the criterion that is not GO. docs/health.md says when each fails.", 8,
                    q(verdict("criterion", ', criterion!="all"'), "{{criterion}}"), VERDICTS),
             series("Claims asked for per minute, by result",
                    "granted is work given out, empty is a lane with nothing to do. conflict and breaker_open that "
                    "last mean workers ask in vain; lane_full means the lane is at its limit.", 8,
                    per_minute("slugline_claims_total", "result"), unit="cpm", style="stack", colors=CLAIMS),
             series("Lanes: claims held and limit",
                    "Claims a lane holds, and dashed what it may hold; lanes without limit have no dashed line. At the "
                    "limit while work waits: raise it or expect waits.", 8,
                    q("sum by (lane) (slugline_lane_in_use{@})", "{{lane}}"),
                    q("sum by (lane) (slugline_lane_capacity{@} < Inf)", "{{lane}} limit"),
                    overrides=[dashed(".* limit")])),
        band(6,
             series("HTTP requests",
                    "Requests answered in a second, by status. 2xx and 304 are normal, 409 and 429 are workers that "
                    "have to wait; 5xx is ours.", 6,
                    q(f"sum by (http_response_status_code) (rate({http}_count{{@}}[@]))",
                      "{{http_response_status_code}}"),
                    unit="reqps", style="stack"),
             series("HTTP errors",
                    "Share of answers that are 5xx. Zero is normal; the log has a line for each, and Storage & SLO "
                    "says whether the ledger is why.", 6, q(f"{errors} / (sum(rate({http}_count{{@}}[@])) > 0)", "5xx"),
                    unit="percentunit",
                    limits=line_at((0.01, BAD)), colors={"5xx": BAD}),
             series("HTTP duration",
                    "Time to an answer; streams are left out. Calls that wait for work raise p99 and that is normal. "
                    "When p50 rises, look at Runtime & actors.", 6, *percentiles(http), unit="s", log=True),
             series("Event listeners",
                    "Clients on the event stream. A sudden fall is a proxy or a limit; Runtime & actors says why they "
                    "left.", 6,
                    q("sum(slugline_sse_clients{@})", "clients"), decimals=0)),
    ])


def phases() -> Json:
    """What runs do, why, and how long it takes."""
    took, decided = "slugline_phase_duration_seconds", "slugline_phase_decisions_total"
    chosen_phase = ', phase=~"$phase"'
    spent = f"(rate({took}_sum{{@{chosen_phase}}}[@]))"
    skipped = f'sum by (phase) (rate({decided}{{@{chosen_phase}, decision="skip"}}[@]))'
    calls = "slugline_singleflight_calls_total"
    return dashboard("phases", "Slugline / Phases", "What runs do, why they do it, and how long it takes.", [
        section("Where the time goes"),
        band(8,
             series("Time of a phase, p95",
                    "Phases that were carried out; skips are not counted. prepare and gates are as long as the "
                    "repository makes them, the others take seconds. See the heatmaps for the whole picture.", 8,
                    q(quantile(95, took, "phase", chosen_phase), "{{phase}}"), unit="s", log=True),
             series("Share of time by phase",
                    "Of all the time spent in phases. The largest is where making something quicker pays.", 8,
                    q(f"sum by (phase) {spent} / on () group_left () (sum {spent} > 0)", "{{phase}}"),
                    unit="percentunit", style="stack", high=1),
             series("Phases being carried out",
                    "A phase that stays while none ends hangs: `GET /operations` and `GET /hangs` say what it does.", 8,
                    q(f"sum by (phase) (slugline_phase_active{{@{chosen_phase}}})", "{{phase}}"), style="stack",
                    decimals=0)),
        section("What was decided"),
        band(8,
             series("Decisions per minute",
                    "skip is the normal one: nothing had changed. Much run means something changes all the time; fail "
                    "cannot be carried out, or was and failed.", 8, per_minute(decided, "decision", chosen_phase),
                    unit="cpm",
                    style="stack", colors=DECISIONS),
             series("Skip ratio",
                    "Of the phases looked at, the share with nothing to do. Near 1 when agents ask again and again. A "
                    "fall that lasts means work is done twice; the reasons are below.", 8,
                    q(f'{skipped} / (sum by (phase) (rate({decided}{{@{chosen_phase}, decision=~"run|skip"}}[@])) > 0)',
                      "{{phase}}"),
                    unit="percentunit", high=1),
             series("Callers that joined a run",
                    "Share of work calls that waited for a run somebody else had begun, and how many wait now (right "
                    "axis). High when several agents ask for one todo.", 8,
                    q(f'sum(rate({calls}{{@, role="joined"}}[@])) / (sum(rate({calls}{{@}}[@])) > 0)', "joined"),
                    q("sum(slugline_singleflight_waiters{@})", "waiting now"), unit="percentunit",
                    overrides=[override("byName", "waiting now",
                                        {"unit": "short", "decimals": 0, "custom.axisPlacement": "right"})])),
        band(8,
             series("Why phases ran, per minute",
                    "inputs_changed, behind, due and created are the day's work. last_attempt_failed and "
                    "outputs_missing that come back are a prepare that does not hold.", 12,
                    seldom(decided, "phase, reason", f'{chosen_phase}, decision="run"'), unit="cpm", style="stack",
                    many=True),
             series("Why phases were skipped, joined or failed, per minute",
                    "local_changes, held_by_other and conflict are worktrees that do not follow the base; failed gates "
                    "are the worker's to mend.", 12,
                    seldom(decided, "phase, decision, reason", f'{chosen_phase}, decision!="run"'), unit="cpm",
                    style="stack", many=True)),
        section("How phases ended"),
        band(7,
             series("Ends per minute",
                    "By outcome. failure is the repository's, error is the daemon's or the machine's, timeout and "
                    "cancellation were cut off.", 8, per_minute(took + "_count", "outcome", chosen_phase), unit="cpm",
                    style="bars", colors=OUTCOMES),
             series("Ends that were not success, per minute",
                    "Which phase, and how. None is normal; `GET /failures` has what failed and how often.", 8,
                    seldom(took + "_count", "phase, outcome", f'{chosen_phase}, outcome!="success"'), unit="cpm",
                    style="bars"),
             bars("Since the last success",
                  "How long ago each phase last ended well. Long is normal where nothing has to be done; together with "
                  "failures it is not.", 8,
                  now(f"time() - max by (phase) (slugline_phase_last_success_timestamp_seconds{{@{chosen_phase}}} > 0)",
                      "{{phase}}"),
                  "s", steps((None, CALM)), "never")),
        section("Every duration"),
        band(7, heat("$phase", "How long this phase took, each time it was carried out. Two bands are normal where "
                               "there is a cache. A band that wanders up gets slower.", 24, took, ', phase="$phase"',
                               repeat="phase")),
        section("Waiting to begin"),
        band(8,
             heat("Wait for the worktree",
                  "From the call to having the worktree. Milliseconds are normal; seconds mean that runs of one todo "
                  "stand in line, or the registry is busy.", 12, "slugline_queue_wait_seconds"),
             series("Wait for the worktree by lane, p95",
                    "Which lane waits. See git lock waits on Claims, git & commands.", 12,
                    q(quantile(95, "slugline_queue_wait_seconds", "lane"), "{{lane}}"), unit="s", log=True)),
    ], chosen("phase", f"label_values(slugline_phase_decisions_total{{{SELECTOR}}}, phase)"))


def runtime() -> Json:
    """Utilisation, saturation and errors of what carries the daemon."""
    lag, http = "slugline_runtime_lag_seconds", "http_server_request_duration_seconds"
    restarts = "slugline_actor_restarts_total"
    route = "{{http_request_method}} {{http_route}}"
    return dashboard("runtime", "Slugline / Runtime & actors", "Utilisation, saturation and errors of what carries the "
                                                               "daemon.", [
        band(5,
             table("What runs",
                   "Version, revision and storage of each instance; its name leads to its console. Two versions are "
                   "normal only while one is being replaced.", 9, "slugline_build_info{@}",
                   {"instance": "Instance", "version": "Version", "revision": "Revision", "storage": "Storage"},
                   {"Instance": CONSOLE_LINK}),
             stat("Up for",
                  "Since the process began; the youngest of the chosen instances. Short again and again: it is "
                  "restarted; the log says why.", 3, now("time() - max(process_start_time_seconds{@})"),
                  steps((None, "yellow"), (300, GOOD)), "s", None, "down"),
             stat("Watchdog asked",
                  "Since the runtime last answered the watchdog. A few seconds are normal; more means that it hangs "
                  "now.", 3,
                  now("time() - min(slugline_watchdog_last_ping_timestamp_seconds{@} > 0)"),
                  steps((None, GOOD), (30, WARN), (60, BAD)), "s",
                  0, "never"),
             stat("Last hang dump",
                  "How long ago a dump was written, of a hang or by hand. `GET /hangs` lists them.", 3,
                  now("time() - max(slugline_hang_last_dump_timestamp_seconds{@} > 0)"), unit="s", decimals=None,
                  none="never"),
             stat("Restarts of actors",
                  "In the time shown. None is normal; a few are mended by supervision, many are a fault. See restarts "
                  "by kind below.", 3, now(f"sum(increase({restarts}{{@}}[$__range]))"),
                  steps((None, GOOD), (0.5, "yellow"), (10, BAD))),
             stat("Actors given up",
                  "Parked actors: they failed more often than their budget allows. None is normal. `GET /actors` says "
                  "which; restart the daemon once the cause is mended.", 3,
                  now('sum(slugline_actors{@, state="parked"})'), steps((None, GOOD), (1, BAD)))),
        section("The runtime"),
        band(8,
             heat("Lateness of timers",
                  "How late a timer of the runtime fired. Below 5 ms is normal. Above 250 ms something holds a worker: "
                  "`POST /debug/hang-dump` says what.", 8, lag, ', runtime="main"'),
             heat("Lateness of blocking tasks",
                  "How late a task for blocking work began: how full the blocking pool is. Below 10 ms is normal.", 8,
                  lag, ', runtime="blocking"'),
             series("Lateness, p99",
                    "The dashed line is where readiness and the alert begin to mind.", 8,
                    q(quantile(99, lag, "runtime"), "{{runtime}}"),
                    unit="s", log=True, limits=line_at((0.25, BAD)))),
        band(7,
             series("Workers busy",
                    "Share of the time the runtime's workers had something to do. Below 0.5 is normal; near 1 "
                    "everything gets late.", 6,
                    q("sum(rate(tokio_busy_seconds_total{@}[@])) / (sum(tokio_workers{@}) > 0)", "busy"),
                    unit="percentunit",
                    high=1, limits=line_at((0.8, BAD))),
             series("Tasks", "Tasks that live. It follows runs and connections; one that only rises is a leak.", 6,
                    q("sum(tokio_live_tasks{@})", "alive"), decimals=0),
             series("Tasks in line, and workers",
                    "Tasks that wait for a worker, and how many workers there are. Zero or a few is normal.", 6,
                    q("sum(tokio_global_queue_depth{@})", "in line"), q("sum(tokio_workers{@})", "workers"),
                    decimals=0,
                    overrides=[dashed("workers")]),
             series("Hangs and dumps",
                    "Hangs seen, and dumps written of them or by hand. None is normal; docs/health.md tells how to "
                    "read a dump.", 6, q("sum by (kind) (increase(slugline_hangs_total{@}[@]))", "hang of {{kind}}"),
                    q("sum(increase(slugline_hang_dumps_total{@}[@]))", "dumps"), style="bars", decimals=0)),
        section("Actors"),
        band(7,
             series("Actors by state",
                    "busy handles a message now, idle waits, parked was given up. Slugs come and go with use; many "
                    "that stay busy wait for a disk.", 6, q("sum by (state) (slugline_actors{@})", "{{state}}"),
                    style="stack", decimals=0,
                    colors={"idle": DIM, "busy": GOOD, "starting": "yellow", "parked": BAD}),
             series("Actors by kind",
                    "How many of each kind. One of most; as many slugs as todos were asked for lately.", 6,
                    q("sum by (kind) (slugline_actors{@})", "{{kind}}"), decimals=0),
             series("Messages waiting, all mailboxes",
                    "By kind. Below ten is normal; a rise that stays is an actor that cannot follow.", 6,
                    q("sum by (kind) (slugline_actor_mailbox_messages{@})", "{{kind}}"), style="stack", decimals=0),
             series("Messages waiting, fullest mailbox",
                    "The worst single actor of each kind. Towards a thousand, messages are soon dropped and callers "
                    "told to wait.", 6, q("max by (kind) (slugline_actor_mailbox_max_messages{@})", "{{kind}}"),
                    decimals=0)),
        band(8,
             series("Wait in a mailbox, p95",
                    "Below 10 ms is normal. One kind that waits long while its handling is short has too much to do.",
                    8,
                    q(quantile(95, "slugline_actor_message_wait_seconds", "kind"), "{{kind}}"), unit="s", log=True),
             series("Handling a message, p95",
                    "Below 10 ms is normal, since no handler awaits work. A slow one holds up everything behind it.", 8,
                    q(quantile(95, "slugline_actor_handle_seconds", "kind"), "{{kind}}"), unit="s", log=True),
             series("Messages dropped per minute",
                    "None is normal. dead: sent to an actor that is down; full: its mailbox was at its bound.", 8,
                    seldom("slugline_actor_dropped_messages_total", "kind, reason"), unit="cpm", style="bars")),
        band(7,
             series("Restarts by kind and reason",
                    "None is normal. panic and error are faults, hang is a handler that took too long; the log has one "
                    "line for each.", 12,
                    q(f"sum by (kind, reason) (increase({restarts}{{@}}[@])) > 0", "{{kind}}: {{reason}}"),
                    style="bars", decimals=0),
             series("Meltdowns by kind",
                    "Actors that were given up. None is normal; a critical one ends the process so that it begins "
                    "anew.", 12,
                    q("sum by (kind) (increase(slugline_actor_meltdowns_total{@}[@])) > 0", "{{kind}}"), style="bars",
                    decimals=0)),
        section("The process"),
        band(7,
             series("Processors",
                    "Processors the daemon itself keeps busy; commands are on Claims, git & commands. Below one is "
                    "normal.", 6,
                    q("sum by (instance) (rate(process_cpu_seconds_total{@}[@]))", "{{instance}}")),
             series("Memory",
                    "Resident. A level that depends on the number of worktrees is normal; a slope over days is not.", 6,
                    q("sum by (instance) (process_resident_memory_bytes{@})", "{{instance}}"), unit="bytes"),
             series("Open files",
                    "Share of the limit. Below a half is normal; at 1 no connection is taken and no command begun. "
                    "Raise the limit of open files.", 6,
                    q("max by (instance) (process_open_fds{@} / (process_max_fds{@} > 0))", "{{instance}}"),
                    unit="percentunit", high=1, limits=line_at((0.8, BAD))),
             series("Threads", "A level is normal; a rise that stays is blocking work that does not end.", 6,
                    q("sum by (instance) (process_threads{@})", "{{instance}}"), decimals=0)),
        section("Doors and log"),
        band(8,
             series("HTTP duration by route, p95",
                    "Work calls take as long as a cold run; the others below 100 ms. One route that rises alone is "
                    "that route's; all together are the runtime's or the ledger's.", 12,
                    q(quantile(95, http, "http_request_method, http_route"), route), unit="s", log=True, many=True),
             series("HTTP requests by route", "Which door is used how often.", 12,
                    q(f"sum by (http_request_method, http_route) (rate({http}_count{{@}}[@]))", route), unit="reqps",
                    style="stack", many=True)),
        band(7,
             series("Requests and connections now",
                    "Requests being answered, by method, and open connections (dashed). Long polls stay, and that is "
                    "normal.", 6,
                    q("sum by (http_request_method) (http_server_active_requests{@})", "{{http_request_method}}"),
                    q("sum(slugline_http_connections{@})", "connections"), decimals=0,
                    overrides=[dashed("connections")]),
             series("Turned away per minute",
                    "Before a handler saw them. auth is a wrong token; host and origin are a page in a browser that "
                    "should not talk to the daemon.", 6, seldom("slugline_http_rejected_total", "reason"), unit="cpm",
                    style="bars"),
             series("Log lines per minute", "By level. error wants somebody to act: read the log.", 6,
                    per_minute("slugline_log_messages_total", "level"), unit="cpm", style="stack",
                    colors={"error": BAD, "warn": WARN, "info": GOOD, "debug": DIM, "trace": "purple"}),
             series("Spans of traces per minute",
                    "By whether the collector of traces took them; none when there is no collector. Dropped ones found "
                    "too many waiting: it is slow or away, and only traces are lost.", 6,
                    per_minute("slugline_trace_spans_total", "result"), unit="cpm", style="stack")),
        band(7,
             series("Events sent",
                    "Events a second, counted for every client. It follows what happens and who listens.", 8,
                    q("sum(rate(slugline_sse_events_total{@}[@]))", "events"), unit="cps"),
             series("Listeners that left, per minute",
                    "client is normal; slow could not follow and was let go; limit is one too many.", 8,
                    per_minute("slugline_sse_disconnects_total", "reason"), unit="cpm", style="bars",
                    colors={"client": DIM, "slow": WARN, "limit": BAD, "shutdown": CALM}),
             series("Listeners that came back, per minute",
                    "replayed got what they had missed; reset had been away too long and had to read everything again.",
                    8, per_minute("slugline_sse_resumes_total", "result"), unit="cpm", style="bars",
                    colors={"replayed": GOOD, "reset": WARN})),
    ])


def work() -> Json:
    """Who holds what, and what git and the commands do for it."""
    hold, op = "slugline_claim_hold_seconds", "slugline_git_operation_seconds"
    oldest, exits = "slugline_queue_oldest_timestamp_seconds", "slugline_subprocess_exits_total"
    cache = "slugline_git_cache_requests_total"
    return dashboard("work", "Slugline / Claims, git & commands", "Who holds what, and what is done for it.", [
        section("Work and lanes"),
        band(8,
             series("Work waiting by lane",
                    "Todos that could be claimed now. A lane that only rises needs workers, or is paused.", 8,
                    q("sum by (lane) (slugline_queue_depth{@})", "{{lane}}"), style="stack", decimals=0),
             series("Oldest wait",
                    "Since when the oldest todo of a lane could have been claimed, and (dashed) the oldest that is "
                    "ready at all. Minutes are normal. The line at 15 minutes is where the alert begins to mind.", 8,
                    q(f"time() - min by (lane) ({oldest}{{@}} > 0)", "{{lane}}"),
                    q("time() - min(slugline_work_oldest_ready_timestamp_seconds{@} > 0)", "ready at all"), unit="s",
                    limits=line_at((900, BAD)), overrides=[dashed("ready at all")]),
             series("Lanes in use",
                    "Claims held of those a lane may hold; lanes without limit are left out. At 1 while work waits, "
                    "the limit is what holds it up.", 8,
                    q("sum by (lane) (slugline_lane_in_use{@} and slugline_lane_capacity{@} < Inf) / "
                      "(sum by (lane) (slugline_lane_capacity{@} < Inf) > 0)", "{{lane}}"), unit="percentunit",
                    high=1)),
        band(7,
             series("Breakers by state",
                    "One for each lane. Only closed is normal; open ones paused themselves because one failure "
                    "repeated: `GET /lanes` and `GET /failures`.", 8,
                    q("sum by (state) (slugline_breakers{@})", "{{state}}"), style="stack", decimals=0,
                    colors={"closed": GOOD, "half_open": "yellow", "open": BAD}),
             series("Breakers that changed",
                    "open, half_open, closed in a row is one that mends itself; open again and again is not.", 8,
                    q("sum by (to) (increase(slugline_breaker_transitions_total{@}[@]))", "to {{to}}"), style="bars",
                    decimals=0,
                    colors={"to closed": GOOD, "to half_open": "yellow", "to open": BAD}),
             series("Failures per minute by source",
                    "Where failures were seen. A few gates are normal work; a burst of one source pauses its lane.", 8,
                    per_minute("slugline_failures_total", "source"), unit="cpm", style="bars")),
        section("Claims and leases"),
        band(7,
             series("Claims granted per minute by lane", "How quickly work goes out.", 8,
                    per_minute("slugline_claims_total", "lane", ', result="granted"'), unit="cpm", style="stack"),
             series("Claims refused per minute by lane",
                    "By lane and why. empty is normal for idle workers; the others say what to look at.", 8,
                    seldom("slugline_claims_total", "lane, result", ', result!="granted"'), unit="cpm", style="stack"),
             series("Todos done",
                    "How many are. A line that no longer rises while claims are active: nothing gets through.", 8,
                    q('sum(slugline_work_items{@, state="done"})', "done"), decimals=0, low=None,
                    colors={"done": GOOD})),
        band(7,
             series("Claims that ended, per minute",
                    "done is normal. expired ones were workers that died or fell silent; failed and blocked ones come "
                    "back or need a person.", 8, per_minute(hold + "_count", "outcome"), unit="cpm", style="bars",
                    colors={"done": GOOD, "failed": "yellow", "blocked": WARN, "released": CALM, "expired": BAD}),
             series("How long claims were held",
                    "As long as agents work on a todo. Very short ones are agents that give up at once.", 8,
                    *percentiles(hold, of=(50, 95)), unit="s", log=True),
             series("Heartbeats per minute",
                    "fenced ones came from a worker whose claim is over: it works for nothing and should stop.", 8,
                    per_minute("slugline_lease_renewals_total", "result"), unit="cpm", style="stack",
                    colors={"ok": GOOD, "fenced": BAD})),
        band(7,
             series("Leases that ran out",
                    "Workers that died or hung. Few are normal; many mean that leases are too short or workers do not "
                    "send heartbeats.", 8, q("sum(increase(slugline_lease_expirations_total{@}[@]))", "expired"),
                    style="bars", decimals=0,
                    colors={"expired": BAD}),
             series("Changes that were refused",
                    "They came with a token that is no longer the live one, and changed nothing. Rare after an expiry; "
                    "many at once are two workers who think they hold one todo.", 8,
                    q("sum by (op) (increase(slugline_fenced_writes_total{@}[@]))", "{{op}}"), style="bars",
                    decimals=0),
             series("Results that came too late",
                    "They are kept beside the todo. Each is work that was done and does not count; see leases.", 8,
                    q("sum(increase(slugline_parked_results_total{@}[@]))", "kept"), style="bars", decimals=0)),
        section("git"),
        band(8,
             series("Time of git, p95",
                    "By operation and by which means. Worktrees are added in seconds, the rest below one; a network is "
                    "in fetch. All slow at once is the disk.", 12,
                    q(quantile(95, op, "op, backend"), "{{op}} ({{backend}})"), unit="s", log=True, many=True),
             series("git operations",
                    "How often. libgit2 reads in the process; the command line is used for what writes.", 12,
                    q(f"sum by (op, backend) (rate({op}_count{{@}}[@])) > 0", "{{op}} ({{backend}})"), unit="ops",
                    style="stack", many=True)),
        band(7,
             series("git errors per minute",
                    "None is normal, but for a merge that conflicts. The log names repository and message.", 6,
                    seldom(op + "_count", "op, backend", ', outcome="error"', "{{op}} ({{backend}})"), unit="cpm",
                    style="bars"),
             series("Cache hits",
                    "Share of questions to a cache of git's facts that it could answer. Near 1 is normal once warm.", 6,
                    q(f'sum by (cache) (rate({cache}{{@, result="hit"}}[@])) / '
                      f"(sum by (cache) (rate({cache}{{@}}[@])) > 0)", "{{cache}}"),
                    unit="percentunit", high=1),
             series("Wait for a lock, p95",
                    "worktree: runs of one todo in line. repo: one writer of the registry at a time. Seconds in repo "
                    "mean that many worktrees are made at once.", 6,
                    q(quantile(95, "slugline_git_lock_wait_seconds", "lock"), "{{lock}}"), unit="s", log=True),
             series("Stale locks of git",
                    "Left by a git that died. removed was proven dead; left was not, and keeps git from writing until "
                    "somebody looks.", 6,
                    q("sum by (action) (increase(slugline_git_stale_locks_total{@}[@]))", "{{action}}"), style="bars",
                    decimals=0, colors={"removed": GOOD, "left": BAD})),
        section("Worktrees"),
        band(7,
             series("Worktrees by state",
                    "Of the repositories somebody looks at. fresh is normal; stale ones are being looked at again, "
                    "error and missing ones want a look.", 6, q("sum by (state) (slugline_worktrees{@})", "{{state}}"),
                    style="stack", decimals=0,
                    colors={"fresh": GOOD, "stale": "yellow", "error": BAD, "missing": DIM}),
             series("Looks per minute",
                    "At the files of a worktree by how they ended, and at registries (dashed). They follow changes; "
                    "many with nobody working is a directory that something writes to.", 6,
                    per_minute("slugline_worktree_scans_total", "outcome"),
                    q("sum(rate(slugline_worktree_surveys_total{@}[@])) * 60", "registry"), unit="cpm",
                    overrides=[dashed("registry")]),
             series("Time of a look",
                    "At the files of one worktree. Below a second is normal; it grows with the number of files.", 6,
                    *percentiles("slugline_worktree_scan_seconds"), unit="s", log=True),
             series("Watches and overflows",
                    "Directories the system tells changes of, and (bars, right axis) how often it had too many to "
                    "tell. Overflows are rare; everything is looked at again.", 6,
                    q("sum(slugline_watches{@})", "watches"),
                    q("sum(increase(slugline_watch_overflows_total{@}[@]))", "overflows"), decimals=0,
                    overrides=[override("byName", "overflows",
                                        {"custom.drawStyle": "bars", "custom.axisPlacement": "right",
                                                                "color": {"mode": "fixed", "fixedColor": BAD}})])),
        section("Commands"),
        band(7,
             series("Commands running",
                    "By phase. As many as runs that do something; one that stays for hours hangs until its deadline.",
                    8,
                    q("sum by (phase) (slugline_subprocesses{@})", "{{phase}}"), style="stack", decimals=0),
             series("Commands that ended, per minute",
                    "ok and nonzero are the repository's own word. timeout, killed and signal were cut off; "
                    "spawn_error could not begin.", 8, per_minute(exits, "result"), unit="cpm", style="bars",
                    colors=OUTCOMES),
             series("Bad ends per minute by phase", "Which phase's commands do not end well.", 8,
                    seldom(exits, "phase, result", ', result!="ok"'), unit="cpm", style="bars")),
        band(7,
             series("Processors of commands",
                    "How many processors commands keep busy, by phase. This is where the machine's time goes.", 8,
                    q("sum by (phase) (rate(slugline_subprocess_cpu_seconds_total{@}[@]))", "{{phase}}"),
                    style="stack"),
             series("Output of commands",
                    "What they print, and (bars, right axis) how often it was cut at the limit. A flood is a command "
                    "in a loop.", 8, q("sum(rate(slugline_subprocess_output_bytes_total{@}[@]))", "printed"),
                    q("sum(increase(slugline_subprocess_output_truncated_total{@}[@]))", "cut"), unit="Bps",
                    overrides=[override("byName", "cut",
                                        {"unit": "short", "decimals": 0, "custom.drawStyle": "bars",
                                         "custom.axisPlacement": "right",
                                                          "color": {"mode": "fixed", "fixedColor": WARN}})]),
             series("Processes ended by force, and orphans",
                    "Signalled to end a command, and left behind by one and collected. Few are normal; orphans that "
                    "come back are a command that leaves daemons behind.", 8,
                    q("sum(increase(slugline_subprocess_kills_total{@}[@]))", "signalled"),
                    q("sum(increase(slugline_subprocess_orphans_reaped_total{@}[@]))", "orphans"), style="bars",
                    decimals=0)),
    ])


def storage() -> Json:
    """The objective, the ledger, the disk and the daemon's own jobs."""
    op, jobs = "slugline_store_operation_seconds", "slugline_job_runs_total"
    burn = [q(f"max(slugline:ready_bad:ratio_rate{window}{{@}}) / {BUDGET}", window) for window in WINDOWS]
    runs = [q(f"sum(slugline:ready_runs:increase{window}{{@}})", window) for window in WINDOWS]
    at_pace = "max(slugline:ready_bad:ratio_rate1h{@}) / " + str(BUDGET)
    return dashboard("storage", "Slugline / Storage & SLO", "The objective, the ledger, the disk and the jobs.", [
        band(4,
             stat("Error budget left",
                  "Of the 1 % of runs that may be bad in thirty days. Below zero the objective is missed.", 3,
                  now(budget_left()), steps((None, BAD), (0, WARN), (0.25, GOOD)), "percentunit", none="no runs",
                  empty=DIM),
             stat("Burn in the last hour",
                  "How many times quicker than allowed the budget goes. Below 1 is normal; at 14.4 all of it is gone "
                  "in two days.", 3, now(at_pace), steps((None, GOOD), (1, "yellow"), (6, WARN), (14.4, BAD)),
                  decimals=1, none="no runs"),
             stat("Runs in three days",
                  "What the ratios rest on. With few, one bad run weighs much.", 3,
                  now("sum(slugline:ready_runs:increase3d{@})"),
                  none="none"),
             stat("Store errors",
                  "In the time shown. None is normal; the kind is below. Nothing that could not be written was "
                  "answered as done.", 3, now("sum(increase(slugline_store_errors_total{@}[$__range]))"),
                  steps((None, GOOD), (0.5, BAD))),
             stat("Commit, p99",
                  "Of the time shown. Below 50 ms is normal: it is one sync to disk, and every claim waits for one.", 3,
                  now(f'histogram_quantile(0.99, sum by (le) (rate({op}_bucket{{@, op="commit"}}[$__range]))) >= 0'),
                  steps((None, GOOD), (0.1, "yellow"), (0.5, WARN)), "s", 1, "none"),
             stat("Ledger",
                  "Size of the database and its log.", 3, q("sum(slugline_store_bytes{@})", "bytes"), unit="bytes",
                  decimals=1),
             stat("Least disk free",
                  "The fuller of the disks of data and worktrees. Below 5 % the daemon soon says NO_GO: remove "
                  "worktrees or logs.", 3, now("min(slugline_disk_free_bytes{@} / (slugline_disk_size_bytes{@} > 0))"),
                  steps((None, BAD), (0.05, WARN), (0.1, GOOD)), "percentunit", high=1, empty=DIM),
             stat("Jobs that failed",
                  "Runs of the daemon's own jobs that failed or hung, in the time shown. One now and then mends "
                  "itself; `GET /jobs` says why.", 3,
                  now(f'sum(increase({jobs}{{@, result=~"failed|hung"}}[$__range]))'),
                  steps((None, GOOD), (0.5, "yellow"), (3, WARN)))),
        section("Objective: 99 % of runs are good in thirty days"),
        band(9,
             series("Burn rate by window",
                    "How many times quicker than allowed the budget goes; the worst instance. Both windows of a pair "
                    "above its line is an alert: 14.4 (5m and 1h), 6 (30m and 6h), 3 (2h and 1d), 1 (6h and 3d).", 12,
                    *burn,
                    limits=line_at((1, "yellow"), (3, WARN), (6, "dark-orange"), (14.4, BAD))),
             series("Runs by window",
                    "What the burn rates rest on. Below ten in the shorter windows there is no fast alert.", 6, *runs,
                    log=True),
             series("Error budget over time",
                    "A slope is runs that are bad; a cliff is a time when all were. Overview and Phases say what went "
                    "wrong then.", 6,
                    q(budget_left(), "left"), unit="percentunit", low=None, high=1, limits=line_at((0, BAD)))),
        section("The ledger"),
        band(8,
             heat("Commits",
                  "How long a commit took. One band is normal; a second, higher one is a disk that is busy with "
                  "something else.", 8, op,
                  ', op="commit"'),
             series("Time of an operation, p99",
                    "Below 50 ms is normal. Commits that rise alone are the disk, reads that rise a ledger that has "
                    "grown.", 8, q(quantile(99, op, "op"), "{{op}}"), unit="s", log=True),
             series("Operations",
                    "How many in a second, by how they ended. One commit carries all the writes that waited for it.", 8,
                    q(f"sum by (op, outcome) (rate({op}_count{{@}}[@]))", "{{op}} {{outcome}}"), unit="ops",
                    style="stack")),
        band(7,
             series("Errors by kind",
                    "None is normal. full: free some disk; io: the disk; busy: another process holds the ledger; "
                    "corrupt: stop and restore.", 8,
                    q("sum by (kind) (increase(slugline_store_errors_total{@}[@]))", "{{kind}}"), style="bars",
                    decimals=0),
             series("Size of the files",
                    "db grows slowly and is trimmed by ledger_upkeep; wal is folded in by it. A wal that only grows: "
                    "the job does not run.", 8, q("sum by (file) (slugline_store_bytes{@})", "{{file}}"),
                    unit="bytes"),
             series("Disk free",
                    "Share that is free, by directory. A straight line down reaches zero: work out when.", 8,
                    q("min by (dir) (slugline_disk_free_bytes{@} / (slugline_disk_size_bytes{@} > 0))", "{{dir}}"),
                    unit="percentunit", high=1,
                    limits=line_at((0.05, BAD)))),
        section("Jobs and incidents"),
        band(8,
             series("Runs of jobs that were not ok",
                    "failed and hung are mended by the next run, or open an incident after three; held means another "
                    "daemon had the lock.", 8,
                    q(f'sum by (name, result) (increase({jobs}{{@, result!="ok"}}[@])) > 0',
                      "{{name}} {{result}}"),
                    style="bars", decimals=0),
             series("Time of a job, p95",
                    "Seconds are normal; fetch waits for a network. Over its budget a job is shown by `GET /jobs`, "
                    "after twice that it is ended.", 8,
                    q(quantile(95, "slugline_job_duration_seconds", "name"), "{{name}}"), unit="s", log=True),
             series("Runs of jobs per minute",
                    "Every job has its period; one that stops coming is switched off or held up.", 8,
                    per_minute(jobs, "name"), unit="cpm", style="stack")),
        band(8,
             states("Jobs running",
                    "When each was being done. Short marks are normal; one that does not end hangs.", 12,
                    q("max by (name) (slugline_job_running{@})", "{{name}}"),
                    {0: ("waits", "#5f6570"), 1: ("runs", CALM)}),
             series("Incidents",
                    "Open ones, by severity. None is normal. `GET /incidents` tells each from its first sign.", 12,
                    q("sum by (severity) (slugline_incidents{@})", "{{severity}}"), style="stack", decimals=0,
                    colors=SEVERITIES)),
    ], since="now-24h")


DASHBOARDS = {"overview": overview, "phases": phases, "runtime": runtime, "work": work, "storage": storage}


# --- command line -----------------------------------------------------------------------------------------------------


def rendered(board: Json) -> str:
    """The text of a file; the same for the same dashboard."""
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """0: written, or all is as it should be; 1: a file is not what this script makes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Example: change a function, run build.py, then lint.py, and look at "
                                            "draw.py's pictures.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not what this script "
                                                             "makes")
    parser.add_argument("--out", type=Path, default=HERE / "dashboards", metavar="DIR", help="where the files are "
                                                                                             "(default: %(default)s)")
    arguments = parser.parse_args()
    texts = {arguments.out / f"{name}.json": rendered(make()) for name, make in DASHBOARDS.items()}
    if arguments.check:
        return check(arguments.out, texts)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return 0


def check(out: Path, texts: dict[Path, str]) -> int:
    """Names every file that differs, is missing or has no function."""
    wrong = [f"{path}: not what build.py makes; run it and look at the difference" for path, text in texts.items()
             if not path.is_file() or path.read_text(encoding="utf-8") != text]
    wrong += [f"{path}: no function in build.py makes it" for path in sorted(out.glob("*.json")) if path not in texts]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
