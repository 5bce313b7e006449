"""The few kinds of panels and the frame that all boards share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from grafana_foundation_sdk.builders import common as parts
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common, dashboard

TAG = "sluice"
DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
GOOD, WARN, BAD, PLAIN = "green", "orange", "red", "text"
ARM_COLOURS = {"champion": "blue", "challenger": "orange", "interleaved": "purple", "outside": "#808080"}
_ALL = dashboard.VariableOption(selected=True, text="All", value="$__all")

Steps = Sequence[tuple[float | None, str]]
"""Colours of a value, from each bound on; the first bound is None, below everything."""


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series are called: `{{label}}` is the label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Words:
    """What stands over a panel, and behind its (i): what it shows, and what to do about it."""

    title: str
    description: str


@dataclass
class Board:
    """A dashboard under way. question: what it answers, in its description."""

    uid: str
    title: str
    question: str
    variables: Sequence[str] = ("model",)
    since: str = "now-6h"
    panels: "list[stat.Panel | timeseries.Panel | statetimeline.Panel]" = field(default_factory=list)

    def add(self, *panels: "stat.Panel | timeseries.Panel | statetimeline.Panel") -> "Board":
        """Left to right, then the next line."""
        self.panels += panels
        return self

    def build(self) -> dashboard.Dashboard:
        """As Grafana reads it."""
        board = (
            build.Dashboard(f"Sluice: {self.title}")
            .uid(f"sluice-{self.uid}")
            .description(self.question)
            .tags([TAG])
            .timezone("browser")
            .readonly()
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .time(self.since, "now")
            .refresh("30s")
            .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
            .annotation(_annotation("plan changed", "changes(serving_plan_revision[1m]) > 0", "blue"))
            .annotation(_annotation("alert", 'ALERTS{alertstate="firing",severity="page"}', "red", hidden=True))
            .link(
                build.DashboardLink("Sluice")
                .type(dashboard.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .include_vars(True)
                .keep_time(True)
            )
        )
        for name in self.variables:
            board = board.with_variable(_variable(name))
        for place, panel in enumerate(self.panels, 1):
            board = board.with_panel(panel.id(place))
        return board.build()


def number(
    words: Words, unit: str, query: Query, steps: Steps = ((None, PLAIN),), span: int = 4, decimals: int | None = None
) -> stat.Panel:
    """One value, large, coloured by what it means, over its line."""
    panel = (
        _framed(stat.Panel(), words, [query], span, 4)
        .unit(unit)
        .thresholds(_thresholds(steps))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .reduce_options(parts.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .no_value("no data")
    )
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    words: Words,
    unit: str,
    *queries: Query,
    steps: Steps = (),
    span: int = 8,
    height: int = 8,
    bounds: tuple[float | None, float | None] = (0, None),
    stacked: bool = False,
) -> timeseries.Panel:
    """Series over time. steps: bounds that are drawn as dashed lines. bounds: of the axis, None: as the data is."""
    panel = (
        _framed(timeseries.Panel(), words, queries, span, height)
        .unit(unit)
        .line_width(2)
        .fill_opacity(40 if stacked else 0)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            parts.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull"])
        )
        .tooltip(parts.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .no_value("no data")
    )
    if stacked:
        panel = panel.stacking(parts.StackingConfig().mode(common.StackingMode.NORMAL))
    if steps:
        dashed = parts.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(dashed)
    low, high = bounds
    if low is not None:
        panel = panel.min(low)
    if high is not None:
        panel = panel.max(high)
    for arm, colour in ARM_COLOURS.items():
        fixed = dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
        panel = panel.override_by_regexp(f"/\\b{arm}\\b/", [fixed])
    dashes = dashboard.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 4]})
    return panel.override_by_regexp("/median|limit|bound/", [dashes])


def states(
    words: Words, query: Query, names: Sequence[tuple[str, str]], span: int = 12, height: int = 5, first: int = 0
) -> statetimeline.Panel:
    """What something was, over time. names: text and colour of the values from `first` on."""
    named = {
        str(value): dashboard.ValueMappingResult(text=text, color=colour, index=value - first)
        for value, (text, colour) in enumerate(names, first)
    }
    return (
        _framed(statetimeline.Panel(), words, [query], span, height)
        .mappings([dashboard.ValueMap(named)])
        .merge_values(True)
        .show_value(common.VisibilityMode.AUTO)
        .fill_opacity(70)
        .line_width(0)
        .no_value("no data")
    )


_Panel = TypeVar("_Panel", stat.Panel, timeseries.Panel, statetimeline.Panel)


def _framed(panel: _Panel, words: Words, queries: Sequence[Query], span: int, height: int) -> _Panel:
    for place, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + place)).range()
        panel = panel.with_target(target.legend_format(query.legend or "__auto"))
    described = panel.title(words.title).description(words.description)
    return described.datasource(DATASOURCE).span(span).height(height)


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    made = [dashboard.Threshold(value=bound, color=colour) for bound, colour in steps]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _variable(name: str) -> build.QueryVariable:
    of = {"model": "serving_plan_revision", "arm": "serving_arm_answers_total", "device": "serving_device_memory_bytes"}
    return (
        build.QueryVariable(name)
        .label(name.capitalize())
        .query(f"label_values({of[name]}, {name})")
        .datasource(DATASOURCE)
        .current(_ALL)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _annotation(name: str, expr: str, colour: str, hidden: bool = False) -> build.AnnotationQuery:
    query = build.AnnotationQuery().name(name).datasource(DATASOURCE).icon_color(colour).expr(expr)
    return query.enable(True).hide(hidden)
