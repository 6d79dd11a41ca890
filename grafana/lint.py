#!/usr/bin/env python3
"""Says what is wrong with dashboards. Without files: with all in grafana/dashboards, and which metrics are on none.

The rules named template-*, panel-* and target-* that the community's linter for dashboards has mean the same here; the
others are this house's own. `--list` names all, `--self-test` shows that each can fail.
Exit code 0: nothing to say; 1: something is wrong; 2: the question was.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# No directory of compiled modules beside the dashboards.
sys.dont_write_bytecode = True
import build  # noqa: E402

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
COLUMNS = 24
# What a screen of 1080 lines shows below the browser's and Grafana's own bars.
OVERVIEW_ROWS = 24

UNITS = {"none", "string", "short", "percent", "percentunit", "bytes", "decbytes", "Bps", "binBps", "s", "ms",
         "dtdurations",
         "dateTimeAsIso", "dateTimeFromNow", "ops", "reqps", "cps", "cpm", "opm", "bool", "bool_yes_no"}
LEGEND = "legend"
OPTIONS = {
    "timeseries": {LEGEND, "tooltip"},
    "stat": {"reduceOptions", "orientation", "textMode", "wideLayout", "colorMode", "graphMode", "justifyMode",
             "showPercentChange",
             "percentChangeColorMode", "text"},
    "heatmap": {"calculate", "calculation", "cellGap", "cellRadius", "cellValues", "color", "exemplars", "filterValues",
                LEGEND, "rowsFrame",
                "selectionMode", "showValue", "tooltip", "yAxis"},
    "bargauge": {"displayMode", "orientation", "valueMode", "namePlacement", "showUnfilled", "sizing", "minVizWidth",
                 "minVizHeight",
                 "maxVizHeight", "reduceOptions", LEGEND, "text"},
    "state-timeline": {"mergeValues", "showValue", "alignValue", "rowHeight", LEGEND, "tooltip", "perPage"},
    "table": {"showHeader", "cellHeight", "footer", "frameIndex", "sortBy"},
}
# Options with a fixed set of words; a wrong one is taken for the default without a sound.
WORDS = {
    "graphMode": {"none", "area"}, "colorMode": {"none", "value", "background", "background_solid"},
    "textMode": {"auto", "value", "value_and_name", "name", "none"}, "justifyMode": {"auto", "center"},
    "orientation": {"auto", "horizontal", "vertical"}, "displayMode": {"basic", "lcd", "gradient"},
    "valueMode": {"color", "text", "hidden"}, "showValue": {"auto", "never", "always"},
    "cellHeight": {"sm", "md", "lg"},
    "alignValue": {"left", "center", "right"},
}
# Fields of an annotation that belong to its source and not to the dashboard's schema.
ANNOTATION_FIELDS = {"titleFormat", "textFormat", "tagKeys", "step", "useValueForTime"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, by which rule, and where."""

    rule: str
    where: str
    what: str


@dataclass
class Context:
    """What is known beside the dashboards."""

    metrics: dict[str, str]
    labels: dict[str, set[str]] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)
    in_rules: set[str] = field(default_factory=set)
    raw: dict[str, str] = field(default_factory=dict)
    promtool: str | None = None

    def samples(self) -> dict[str, str]:
        """Every name a query may use, and the metric it belongs to."""
        known = {name: name for name in [*self.metrics, *self.recorded]}
        for name, kind in self.metrics.items():
            if kind == "histogram":
                known |= {f"{name}_{part}": name for part in ("bucket", "sum", "count")}
        return known


# --- PromQL, as far as the rules need it ------------------------------------------------------------------------------

KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
CLAUSE = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", re.IGNORECASE)
WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True)
class Selector:
    """A name in a query with what surrounds it."""

    name: str
    matchers: str
    span: str
    function: str
    after: str


def selectors(expr: str) -> list[Selector]:
    """Every metric a query reads, from left to right."""
    expr = CLAUSE.sub(" ", expr)
    found: list[Selector] = []
    functions: list[str] = []
    at, last = 0, ""
    while at < len(expr):
        word = WORD.match(expr, at)
        if word and (at == 0 or not (expr[at - 1].isalnum() or expr[at - 1] in "._$")):
            at, last = word.end(), word[0]
            follows = expr[at:].lstrip()
            if not follows.startswith("(") and last.lower() not in KEYWORDS:
                selector = selected(last, expr[at:], functions)
                at += len(selector.matchers) + len(selector.span)
                found.append(selector)
            continue
        if expr[at] == "(":
            functions.append(last)
        elif expr[at] == ")" and functions:
            functions.pop()
        elif expr[at] == "[":
            at = expr.find("]", at) if "]" in expr[at:] else len(expr) - 1
        if not expr[at].isspace():
            last = ""
        at += 1
    return found


def selected(name: str, rest: str, functions: list[str]) -> Selector:
    """A name with the braces and brackets behind it."""
    matchers = matched[0] if (matched := re.match(r"\{[^}]*\}", rest)) else ""
    rest = rest[len(matchers):]
    span = matched[0] if (matched := re.match(r"\[[^\]]*\]", rest)) else ""
    return Selector(name, matchers, span, functions[-1] if functions else "", rest[len(span):].lstrip())


def plain(expr: str) -> str:
    """A query with Grafana's variables replaced, so that Prometheus can read it."""
    expr = re.sub(r"\$__(?:rate_interval|interval|range)\b", "5m", expr)
    return re.sub(r"\$\{?\w+\}?", ".+", expr)


def unbalanced(expr: str) -> str:
    """What is wrong with the brackets, in words; nothing when they are right."""
    stack = []
    pairs = {")": "(", "]": "[", "}": "{"}
    for sign in re.sub(r'"(?:\\.|[^"\\])*"', '""', expr):
        if sign in "([{":
            stack.append(sign)
        elif sign in pairs and (not stack or stack.pop() != pairs[sign]):
            return f"{sign} closes nothing"
    return f"{stack[-1]} is not closed" if stack else ""


# --- what there is in a dashboard -------------------------------------------------------------------------------------


def panels(board: Json) -> Iterator[Json]:
    """Panels that show something, those in collapsed rows too."""
    for panel in board["panels"]:
        inner = panel.get("panels", []) if panel["type"] == "row" else [panel]
        yield from inner


def targets(board: Json) -> Iterator[tuple[str, Json]]:
    """Queries of panels, and where they are."""
    for panel in panels(board):
        for target in panel.get("targets", []):
            yield f"panel {panel['title']!r}, query {target.get('refId')}", target


def questions(board: Json) -> Iterator[tuple[str, str]]:
    """Every expression, of panels and of annotations."""
    for where, target in targets(board):
        yield where, target.get("expr", "")
    for one in board["annotations"]["list"]:
        yield f"annotation {one['name']!r}", one.get("expr", "")


def variable(board: Json, name: str) -> Json | None:
    """A variable by its name."""
    return next((one for one in board["templating"]["list"] if one["name"] == name), None)


# --- rules: variables -------------------------------------------------------------------------------------------------

Said = Iterator[tuple[str, str]]
Rule = Callable[[Json, Context], Said]


def template_datasource(board: Json, _: Context) -> Said:
    """The data source is chosen by the variable `datasource`, labelled so, of Prometheus' type."""
    found = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    wanted = {"name": "datasource", "label": "Data source", "query": "prometheus"}
    if len(found) != 1 or any(found[0][key] != value for key, value in wanted.items()):
        yield "variables", f"there has to be one of type datasource, with {wanted}"


def template(board: Json, name: str) -> Said:
    """What the variables of a target's labels have in common."""
    one = variable(board, name)
    if one is None:
        yield f"variable {name}", "is missing"
        return
    wanted = {"type": "query", "label": name.title(), "multi": True, "includeAll": True, "allValue": ".+",
              "datasource": build.DATASOURCE}
    for key, value in wanted.items():
        if one.get(key) != value:
            yield f"variable {name}", f"{key} has to be {value!r} and is {one.get(key)!r}"


def template_job(board: Json, _: Context) -> Said:
    """The variable `job` chooses among the scraped jobs, many or all."""
    yield from template(board, "job")


def template_instance(board: Json, _: Context) -> Said:
    """The variable `instance` chooses among the daemons, many or all."""
    yield from template(board, "instance")


def template_label_promql(board: Json, _: Context) -> Said:
    """A variable asks label_values(selector, label), with brackets that close."""
    for one in board["templating"]["list"]:
        query = one["query"]["query"] if one["type"] == "query" else "label_values(x, y)"
        if not re.fullmatch(r"label_values\([a-zA-Z_:][\w:]*(\{[^{}]*\})?, \w+\)", query):
            yield f"variable {one['name']}", f"{query!r} is not label_values(selector, label)"


def template_on_time_change_reload(board: Json, _: Context) -> Said:
    """Variables are asked again when the time changes."""
    for one in board["templating"]["list"]:
        if one["type"] == "query" and one.get("refresh") != 2:
            yield f"variable {one['name']}", f"refresh has to be 2, on time range change, and is {one.get('refresh')!r}"


# --- rules: panels ----------------------------------------------------------------------------------------------------


def panel_datasource(board: Json, _: Context) -> Said:
    """Panels and their queries use the chosen data source."""
    for panel in panels(board):
        for one in [panel, *panel.get("targets", [])]:
            if one.get("datasource") != build.DATASOURCE:
                source = one.get("datasource")
                yield f"panel {panel['title']!r}", f"its data source is {source!r} and not ${{datasource}}"


def panel_title_description(board: Json, _: Context) -> Said:
    """Panels have a title, and a description that says more."""
    for panel in panels(board):
        if not panel.get("title") or len(panel.get("description", "")) < 20:
            yield f"panel {panel.get('title')!r}", "needs a title, and a description that says what is normal"


def panel_units(board: Json, _: Context) -> Said:
    """Panels have a unit that Grafana knows."""
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        unit = panel["options"].get("yAxis", {}).get("unit") if panel["type"] == "heatmap" else defaults.get("unit")
        if unit not in UNITS:
            yield f"panel {panel['title']!r}", f"has the unit {unit!r}, which is not one of {', '.join(sorted(UNITS))}"


def panel_no_targets(board: Json, _: Context) -> Said:
    """Panels ask something."""
    for panel in panels(board):
        if not panel.get("targets"):
            yield f"panel {panel['title']!r}", "asks nothing"


def panel_type(board: Json, _: Context) -> Said:
    """Panels are of a type that is known here, so that a misspelt one is seen."""
    for panel in panels(board):
        if panel["type"] not in OPTIONS:
            yield f"panel {panel['title']!r}", f"is a {panel['type']!r}, and not one of {', '.join(OPTIONS)}"


def panel_options(board: Json, _: Context) -> Said:
    """Options of a panel are those its type has, with words it knows."""
    for panel in panels(board):
        known = OPTIONS.get(panel["type"], set(panel["options"]))
        for name, value in panel["options"].items():
            if name not in known:
                yield f"panel {panel['title']!r}", f"a {panel['type']} has no option {name!r}"
            elif name in WORDS and value not in WORDS[name]:
                yield f"panel {panel['title']!r}", f"the option {name} can not be {value!r}"


def panel_ids(board: Json, _: Context) -> Said:
    """Every panel and row has a number of its own."""
    seen: set[int] = set()
    for panel in board["panels"]:
        if not isinstance(panel.get("id"), int) or panel["id"] in seen:
            yield f"panel {panel['title']!r}", f"its id {panel.get('id')!r} is not a number of its own"
        seen.add(panel.get("id"))


def panel_grid(board: Json, _: Context) -> Said:
    """Panels fill the 24 columns without overlap and without gap."""
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] < 0 or place["x"] + place["w"] > COLUMNS:
            yield f"panel {panel['title']!r}", f"reaches over the {COLUMNS} columns"
        cells = [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"],
                                                                                           place["y"] + place["h"])]
        for other in sorted({taken[cell] for cell in cells if cell in taken}):
            yield f"panel {panel['title']!r}", f"overlaps {other!r}"
        taken |= {cell: panel["title"] for cell in cells}
    bottom = max((y for _, y in taken), default=-1) + 1
    gaps = [(x, y) for y in range(bottom) for x in range(COLUMNS) if (x, y) not in taken]
    if gaps:
        yield "panels", f"leave a gap at column {gaps[0][0]}, row {gaps[0][1]}"


def panel_titles(board: Json, _: Context) -> Said:
    """No two panels of a dashboard have the same title."""
    titles = [panel["title"] for panel in panels(board)]
    for title in sorted({title for title in titles if titles.count(title) > 1}):
        yield f"panel {title!r}", "is there more than once"


# --- rules: queries ---------------------------------------------------------------------------------------------------


def target_promql(board: Json, context: Context) -> Said:
    """Queries are PromQL: their brackets close, and with --promtool Prometheus itself can read them."""
    asked = list(questions(board))
    for where, expr in asked:
        wrong = unbalanced(expr) if expr.strip() else "is empty"
        if wrong:
            yield where, f"{wrong} in {expr!r}"
    if context.promtool:
        yield from unreadable(asked, context.promtool)


def unreadable(asked: list[tuple[str, str]], promtool: str) -> Said:
    """What promtool cannot read, as rules of a file made for it."""
    rules = [{"record": f"lint:query:{number}", "expr": plain(expr)} for number, (_, expr) in enumerate(asked)]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "rules.yaml")
        # JSON is YAML.
        path.write_text(json.dumps({"groups": [{"name": "lint", "rules": rules}]}), encoding="utf-8")
        done = subprocess.run([promtool, "check", "rules", "--lint=none", str(path)], capture_output=True, text=True,
                              check=False)
    wrong = re.findall(r'rule (\d+), "lint:query:\d+": (.*)', done.stdout + done.stderr)
    for number, what in wrong:
        yield asked[int(number) - 1][0], f"promtool: {what}"
    if done.returncode and not wrong:
        yield "queries", f"promtool: {(done.stderr or done.stdout).strip()[:300]}"


def target_rate_interval(board: Json, _: Context) -> Said:
    """Rates are over $__rate_interval; only a question about the present may be over the whole range."""
    for where, target in targets(board):
        allowed = {"[$__rate_interval]"} | ({"[$__range]"} if target.get("instant") else set())
        for selector in selectors(target.get("expr", "")):
            if selector.function in ("rate", "irate", "increase") and selector.span not in allowed:
                yield where, f"{selector.function}({selector.name}{selector.span}) has to be over $__rate_interval"


def target_label(board: Json, label: str) -> Said:
    """Every selector keeps to what is chosen."""
    for where, expr in questions(board):
        for selector in selectors(expr):
            if f'{label}=~"${label}"' not in selector.matchers:
                yield where, f'{selector.name} needs {label}=~"${label}"'


def target_job(board: Json, _: Context) -> Said:
    """Every selector has job=~"$job"."""
    yield from target_label(board, "job")


def target_instance(board: Json, _: Context) -> Said:
    """Every selector has instance=~"$instance"."""
    yield from target_label(board, "instance")


def target_counter_agg(board: Json, context: Context) -> Said:
    """Counters, and the parts of histograms, are read through rate, irate or increase."""
    histograms = {name for name, metric in context.samples().items() if name != metric}
    for where, expr in questions(board):
        for selector in selectors(expr):
            rises = selector.name.endswith("_total") or selector.name in histograms
            if rises and (selector.function not in ("rate", "irate", "increase") or not selector.span):
                yield where, f"{selector.name} only rises and needs rate or increase"


def target_timestamp(board: Json, _: Context) -> Said:
    """A time that is 0 for never is compared with 0 before it is reckoned with."""
    for where, target in targets(board):
        for selector in selectors(target.get("expr", "")):
            mayhap = selector.name.endswith("_timestamp_seconds")
            if mayhap and not selector.after.startswith("> 0"):
                yield where, f"{selector.name} is 0 for never and needs `> 0` behind it"


def target_division(board: Json, _: Context) -> Said:
    """What is divided by is a number, or is compared with 0, so that nothing is shown where nothing happened."""
    for where, target in targets(board):
        expr = target.get("expr", "")
        for found in re.finditer(r"/\s*((?:on|ignoring) \(.*?\) (?:group_(?:left|right) \(.*?\) )?)?(\S)", expr):
            divisor = bracketed(expr[found.start(2):]) if found[2] == "(" else ""
            if not found[2].isdigit() and not re.search(r"> 0\)$", divisor):
                yield where, f"what is divided by at {expr[found.start():][:40]!r} may be 0: write / (… > 0)"


def target_labels(board: Json, context: Context) -> Said:
    """Labels that are selected or grouped by are labels of the metric; a misspelt one finds nothing, silently."""
    samples = context.samples()
    for where, expr in questions(board):
        everywhere: set[str] = set()
        for selector in selectors(expr):
            own = labels_of(samples.get(selector.name, selector.name), context)
            everywhere |= own
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", selector.matchers):
                if own and label not in own:
                    yield where, f"{selector.name} has no label {label!r}"
        for label in grouped(expr):
            if everywhere and label not in everywhere:
                yield where, f"groups by {label!r}, which none of its metrics has"


def labels_of(metric: str, context: Context) -> set[str]:
    """A metric's labels as Prometheus has them; nothing when they are not known."""
    own = context.labels.get(metric)
    if own is None:
        return set()
    return {"job", "instance", "le"} | set(own)


def grouped(expr: str) -> list[str]:
    """What a query groups by."""
    return [label for found in re.findall(r"\bby\s*\(([^)]*)\)", expr) for label in re.findall(r"\w+", found)]


def target_legend(board: Json, _: Context) -> Said:
    """Series have a name, made of labels that are left."""
    for panel in panels(board):
        for target in panel.get("targets", []):
            legend = target.get("legendFormat", "")
            if not legend and panel["type"] in ("timeseries", "bargauge", "state-timeline"):
                yield f"panel {panel['title']!r}", "has a series without a name"
            for label in re.findall(r"\{\{(\w+)\}\}", legend):
                if label not in grouped(target.get("expr", "")):
                    yield f"panel {panel['title']!r}", f"names a series by {label!r}, which its query does not group by"


def bracketed(text: str) -> str:
    """From an opening bracket to the one that closes it."""
    depth = 0
    for at, sign in enumerate(text):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth == 0:
            return text[: at + 1]
    return text


# --- rules: dashboards ------------------------------------------------------------------------------------------------


def dashboard_uid(board: Json, _: Context) -> Said:
    """The uid is fixed and says whose it is; the id is Grafana's to give."""
    if not re.fullmatch(r"slugline-[a-z]+", board.get("uid") or ""):
        yield "uid", f"{board.get('uid')!r} is not slugline-<name>"
    if board.get("id", 0) is not None:
        yield "id", f"has to be null and is {board.get('id')!r}"


def dashboard_height(board: Json, _: Context) -> Said:
    """The overview fits on one screen."""
    bottom = max((panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]), default=0)
    if board.get("uid") == "slugline-overview" and bottom > OVERVIEW_ROWS:
        yield "panels", f"are {bottom} rows high; a screen has {OVERVIEW_ROWS}"


def dashboard_links(board: Json, _: Context) -> Said:
    """There is a way to the other dashboards, with choice and time, and to the daemon's console."""
    others = [one for one in board["links"] if one["type"] == "dashboards"]
    if not any(one["tags"] == ["slugline"] and one["includeVars"] and one["keepTime"] for one in others):
        yield "links", "none leads to the dashboards with the tag slugline and keeps variables and time"
    urls = [one["url"] for one in board["links"] if one["type"] == "link"]
    if "http://${console}/" not in urls or not variable(board, "console"):
        yield "links", "none leads to the daemon's console by the variable console"
    if board.get("tags") != ["slugline"]:
        yield "tags", "have to be slugline alone, or the links do not find it"


def metric_known(board: Json, context: Context) -> Said:
    """Every metric that is asked for is in docs/metrics.md or is recorded by a rule."""
    known = context.samples()
    for where, expr in questions(board):
        for selector in selectors(expr):
            if selector.name not in known and not (selector.name.startswith("slugline:") and not context.recorded):
                yield where, f"{selector.name} is not in docs/metrics.md and no rule records it"


RULES: dict[str, Rule] = {
    function.__name__.replace("_", "-"): function
    for function in (template_datasource, template_job, template_instance, template_label_promql,
                     template_on_time_change_reload,
                     panel_datasource, panel_title_description, panel_units, panel_no_targets, target_promql,
                     target_rate_interval,
                     target_job, target_instance, target_counter_agg, target_timestamp, target_division, target_labels,
                     target_legend, panel_type, panel_options,
                     panel_ids, panel_grid, panel_titles, dashboard_uid, dashboard_height, dashboard_links,
                     metric_known)
}
SHOWN, UNIQUE, SCHEMA = "metric-shown", "dashboard-unique", "dashboard-schema"
MORE_RULES = {SHOWN: "Every metric of docs/metrics.md is on a panel, in a rule, or on build.py's list RAW.",
              UNIQUE: "No two dashboards have the same uid or title.",
              SCHEMA: "With --schema: every field is one Grafana's own types know."}


def findings(name: str, board: Json, context: Context) -> list[Finding]:
    """What the rules for one dashboard say."""
    return [Finding(rule, f"{name}: {where}", what) for rule, said in RULES.items() for where,
            what in said(board, context)]


def unique(boards: dict[str, Json]) -> list[Finding]:
    """What only shows beside the others."""
    found = []
    for key in ("uid", "title"):
        values = [board.get(key) for board in boards.values()]
        found += [Finding(UNIQUE, name, f"another one has the {key} {board.get(key)!r}") for name,
                  board in boards.items()
                  if values.count(board.get(key)) > 1]
    return found


def shown(boards: dict[str, Json], context: Context) -> list[Finding]:
    """Metrics nobody would ever see."""
    samples = context.samples()
    used = {samples.get(selector.name) for board in boards.values() for _,
            expr in questions(board) for selector in selectors(expr)}
    used |= {"slugline_build_info"}
    found = [Finding(SHOWN, name, "is on no panel and in no rule; show it, or say in build.py's RAW why not")
             for name in context.metrics if name not in used | context.in_rules | set(context.raw)]
    found += [Finding(SHOWN, name, "is on the list RAW, but is on a panel or not in docs/metrics.md")
              for name in context.raw if name in used or name not in context.metrics]
    return found


# --- Grafana's own types ----------------------------------------------------------------------------------------------


def schema(name: str, board: Json) -> list[Finding]:
    """Reads a dashboard into Grafana's types and writes it again: what is lost is a field they do not know."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    try:
        again = json.loads(json.dumps(Dashboard.from_json(copy.deepcopy(board)), cls=JSONEncoder))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return [Finding(SCHEMA, name, f"cannot be read into Grafana's types: {error!r}")]
    return [Finding(SCHEMA, f"{name}: {path}", "is no field Grafana's types know") for path in lost(board, again, "")]


def lost(before: Any, after: Any, path: str) -> Iterator[str]:
    """Paths of what is in the first and not in the second."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            here = f"{path}.{key}".lstrip(".")
            of_source = re.fullmatch(r"annotations\.list\[\d+\]", path) and key in ANNOTATION_FIELDS
            if key in after:
                yield from lost(value, after[key], here)
            elif value is not None and not of_source:
                yield here
    elif isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}[{index}]")
        if len(before) > len(after):
            yield f"{path}[{len(after)}]"


# --- self-test --------------------------------------------------------------------------------------------------------


def changed(path: str, value: Any) -> Callable[[Json], None]:
    """A change of one place in a dashboard: names and numbers, separated by stops. No value: it is taken away."""

    def change(board: Json) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        at: Any = board
        for step in way:
            at = at[step]
        if value is None:
            del at[last]
        else:
            at[last] = value(at[last]) if callable(value) else value

    return change


def replaced(old: str, new: str) -> Callable[[Json], None]:
    """A change of the first query that has the text."""

    def change(board: Json) -> None:
        target = next(target for _, target in targets(board) if old in target["expr"])
        target["expr"] = target["expr"].replace(old, new, 1)

    return change


def without_job(board: Json) -> None:
    """The variable and nothing else goes."""
    board["templating"]["list"] = [one for one in board["templating"]["list"] if one["name"] != "job"]


BREAKS: dict[str, Callable[[Json], None]] = {
    "template-datasource": changed("templating.list.0.name", "source"),
    "template-job": without_job,
    "template-instance": changed("templating.list.2.multi", False),
    "template-label-promql": changed("templating.list.1.query.query", "label_values(slugline_build_info{, job)"),
    "template-on-time-change-reload": changed("templating.list.1.refresh", 1),
    "panel-datasource": changed("panels.0.datasource", {"type": "prometheus", "uid": "mine"}),
    "panel-title-description": changed("panels.0.description", ""),
    "panel-units": changed("panels.1.fieldConfig.defaults.unit", "shrt"),
    "panel-no-targets": changed("panels.0.targets", []),
    "target-promql": replaced("sum(slugline_claims_active", "(sum(slugline_claims_active"),
    "target-rate-interval": replaced("[$__rate_interval]", "[5m]"),
    "target-job": replaced('job=~"$job", ', ""),
    "target-instance": replaced(', instance=~"$instance"', ""),
    "target-counter-agg": replaced("increase(slugline_hangs_total", "max_over_time(slugline_hangs_total"),
    "target-timestamp": replaced("} > 0)", "})"),
    "target-division": replaced("[$__rate_interval])) > 0)", "[$__rate_interval])))"),
    "target-labels": replaced('temperature="warm"', 'temprature="warm"'),
    "target-legend": changed("panels.9.targets.0.legendFormat", "{{outcom}}"),
    "panel-type": changed("panels.0.type", "statt"),
    "panel-options": changed("panels.0.options.graphmode", "none"),
    "panel-ids": changed("panels.1.id", 1),
    "panel-grid": changed("panels.0.gridPos.w", 2),
    "panel-titles": changed("panels.0.title", "Critical incidents"),
    "dashboard-uid": changed("id", 7),
    "dashboard-height": changed("panels", lambda all_of_them: [*all_of_them, all_of_them[-1] | {
        "id": 99, "title": "One more", "gridPos": {"x": 0, "y": 23, "w": 24, "h": 6}}]),
    "dashboard-links": changed("links.0.keepTime", False),
    "metric-known": replaced("slugline_claims_active", "slugline_claims_activ"),
}
# A key that is added is no change of one that is there.
BREAKS["panel-options"] = lambda board: board["panels"][0]["options"].update(graphmode="none")


def self_test(context: Context) -> list[str]:
    """Breaks a good dashboard in one way for each rule; that rule has to speak, and no other."""
    good = build.overview()
    wrong = [f"the good dashboard is not: {one}" for one in findings("good", good, context)]
    for rule in RULES:
        broken = copy.deepcopy(good)
        BREAKS[rule](broken)
        spoke = {one.rule for one in findings("broken", broken, context)}
        if spoke != {rule}:
            wrong.append(f"{rule}: broken so that it should speak, and {', '.join(sorted(spoke)) or 'none'} did")
    return wrong + self_test_of_all(good, context)


def self_test_of_all(good: Json, context: Context) -> list[str]:
    """The rules that look at more than one dashboard, and the one that needs Grafana's types."""
    wrong = []
    nobody = Context({"slugline_nobody_asks": "gauge"})
    if [one.where for one in shown({"good": good}, nobody)] != ["slugline_nobody_asks"]:
        wrong.append(f"{SHOWN}: a metric on no panel is not found")
    if len(unique({"one": good, "other": good | {"title": "Other"}})) != 2:
        wrong.append(f"{UNIQUE}: a uid that is there twice is not found")
    if context.promtool:
        broken = copy.deepcopy(good)
        replaced("sum(slugline_claims_active", "summ(slugline_claims_active")(broken)
        if {one.rule for one in findings("broken", broken, context)} != {"target-promql"}:
            wrong.append("target-promql: promtool does not find a function that does not exist")
    try:
        misspelt = copy.deepcopy(good)
        misspelt["panels"][0]["targets"][0]["exprr"] = "up"
        if schema("good", good) or [one.where for one in schema("m", misspelt)] != ["m: panels[0].targets[0].exprr"]:
            wrong.append(f"{SCHEMA}: a misspelt field is not found, or a good one is")
    except ImportError:
        print(f"{SCHEMA}: not tested, grafana-foundation-sdk is not installed (grafana/requirements.txt)",
              file=sys.stderr)
    return wrong


# --- command line -----------------------------------------------------------------------------------------------------


def table_of(path: Path) -> list[tuple[str, str, set[str]]]:
    """Names, types and labels, from the table of the reference page."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", path.read_text(encoding="utf-8"), re.MULTILINE)
    if not rows:
        raise ValueError(f"{path} has no table of metrics")
    return [(name, kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows]


def context_of(metrics: Path, rules: Path, promtool: str | None) -> Context:
    """What is known beside the dashboards, from the files that say so."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(rules.glob("*.yaml"))] if rules.is_dir() else []
    names = {word for text in texts for word in WORD.findall(text)}
    rows = table_of(metrics)
    labels = {name: labels for name, _, labels in rows}
    context = Context({name: kind for name, kind, _ in rows}, labels, raw=build.RAW, promtool=promtool)
    context.recorded = {name for text in texts for name in re.findall(r"^\s*-?\s*record:\s*['\"]?([\w:]+)", text,
                                                                      re.MULTILINE)}
    context.in_rules = {metric for name, metric in context.samples().items() if name in names}
    return context


def command_line() -> argparse.ArgumentParser:
    """What can be asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Example: lint.py --promtool promtool --schema")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="dashboards to look at")
    parser.add_argument("--promtool", metavar="PATH", help="let Prometheus' promtool read every query")
    parser.add_argument("--schema", action="store_true",
                        help="let Grafana's own types read every dashboard (requirements.txt)")
    parser.add_argument("--metrics", type=Path, default=HERE.parent / "docs/metrics.md", metavar="FILE",
                        help="the table of metrics")
    parser.add_argument("--rules", type=Path, default=HERE / "prometheus", metavar="DIR",
                        help="where rules and alerts are")
    parser.add_argument("--self-test", action="store_true",
                        help="break a good dashboard once for every rule, and see it speak")
    parser.add_argument("--list", action="store_true", help="name the rules and what they want")
    return parser


def asked(arguments: argparse.Namespace) -> list[str]:
    """The lines to print; none when all is well."""
    context = context_of(arguments.metrics, arguments.rules, arguments.promtool)
    if arguments.self_test:
        return self_test(context)
    paths = arguments.files or sorted((HERE / "dashboards").glob("*.json"))
    if not paths:
        raise ValueError(f"{HERE / 'dashboards'} has no dashboards; run build.py")
    boards = {path.name: read(path) for path in paths}
    found = [one for name, board in boards.items() for one in findings(name, board, context)] + unique(boards)
    found += [] if arguments.files else shown(boards, context)
    found += [one for name, board in boards.items() for one in schema(name, board)] if arguments.schema else []
    return [f"{one.where}: {one.what} [{one.rule}]" for one in found]


def read(path: Path) -> Json:
    """A dashboard's file."""
    try:
        board: Json = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    parts = ("panels", "templating", "annotations", "links")
    missing = [part for part in parts if not isinstance(board, dict) or part not in board]
    if missing:
        raise ValueError(f"{path} is not a dashboard: it has no {', '.join(missing)}")
    return board


def main() -> int:
    """0, 1 or 2, as said above."""
    arguments = command_line().parse_args()
    if arguments.list:
        for rule, function in RULES.items():
            print(f"{rule:32} {' '.join((function.__doc__ or '').split())}")
        for rule, what in MORE_RULES.items():
            print(f"{rule:32} {what}")
        return 0
    try:
        lines = asked(arguments)
    except ImportError as error:
        print(f"lint.py: {error}; pip install -r grafana/requirements.txt", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"lint.py: {error}", file=sys.stderr)
        return 2
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
