"""From data to html: jinja2 templates, one file with its script, style and plotly inside."""

from __future__ import annotations

import base64
import gzip
import re
from typing import Any

import jinja2
from matplotlib import colormaps

from mrict_core import __version__, metrics
from mrict_core.evaluation import seeds_sd
from mrict_core.evaluation.dose_table import MAE
from mrict_core.evaluation.records import plain
from mrict_core.hu import ERROR_LIMIT_HU
from mrict_core.modalities import Modality
from mrict_core.reporting import style
from mrict_core.reporting.conclusion import bone_verdict, conclusion, headline
from mrict_core.reporting.page import plots, sections
from mrict_core.reporting.page.cells import number
from mrict_core.reporting.page.data import PageData
from mrict_core.reporting.text_tables import FEWEST, heading

SCRIPTS = ("base", "charts", "tables", "cards", "volumes", "view", "profile", "browser", "start")  # in this order
FOREIGN = re.compile(r"/\*!.*?\*/|https?://(?!www\.w3\.org/)[\w.-]+", re.DOTALL)  # w3.org: names of XML, not addresses


def render(data: PageData) -> str:
    """Return the page as html text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrict_core.reporting.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # best models stay first
    source = environment.loader.get_source
    found = sections.build(data)
    return environment.get_template("page.html.j2").render(
        data=data,
        sections=found,
        words=data.input.words,
        missing=sections.missing(data, found),
        bounded=sections.tested(data) >= FEWEST,
        headline=headline(data.records),
        bone=data.input.words(bone_verdict(data.records)),
        conclusion=data.input.words(conclusion(data.records, bone=False)),
        charts=_charts(data, found),
        css=source(environment, "page.css")[0],
        js=_scripts(environment, data.input),
        plotly=_plotly(),
        cards=_cards(data),
        card_labels=metrics.CARD_LABELS,
        metrics=metrics.TABLE,
        better=metrics.BETTER,
        colours=_colours(),
        window_names=style.WINDOW_NAMES,
        version=__version__,
    )


def _scripts(environment: jinja2.Environment, modality: Modality) -> str:
    """Return the page's own code; its slice browser names the input."""
    code = "\n".join(environment.loader.get_source(environment, f"{name}.js")[0] for name in SCRIPTS)
    return code.replace('title: "MR"', f'title: "{modality.word}"')


def _plotly() -> str:
    """Return plotly's code without the hosts it names (its cloud, maps, help pages), except in licence notices.

    No chart of ours requests them and the page's policy forbids it; this is a second safeguard. The code is gzipped, in
    base64: a third of its size.
    """
    from plotly.offline import get_plotlyjs

    code = FOREIGN.sub(lambda found: found[0] if found[0].startswith("/*") else "about:blank", get_plotlyjs())
    return base64.b64encode(gzip.compress(code.encode(), mtime=0)).decode("ascii")


def _charts(data: PageData, found: list[sections.Section]) -> dict[str, dict[str, Any]]:
    """Return {chart: figure} of the charts that the sections show and that have data."""
    wanted = [name for s in found for key in ("charts", "charts_after") for name in s.content.get(key, [])]
    charts = {}
    for name in wanted:
        alternative, make = plots.CHARTS[name]
        figure = make({"training": data.histories, "dose_ranges": data.dose}.get(name, data.records))
        if figure is not None:  # plain: no numpy arrays, null for NaN
            hidden = any(trace.get("visible") == "legendonly" for trace in figure["data"])
            charts[name] = {"figure": plain(figure), "alternative": alternative, "hidden": hidden}
    return charts


def _cards(data: PageData) -> dict[str, Any]:
    """Return {metric: {definition, heading, numbers {record: its part of the card}}} for the dialog."""
    cards: dict[str, Any] = {}
    for record in (*data.records, *data.controls):
        for metric, card in record["cards"].items():
            entry = cards.setdefault(
                metric,
                {key: card.get(key, "") for key in metrics.CARD_FIELDS} | {"heading": heading(metric), "numbers": {}},
            )
            own = {key: value for key, value in card.items() if key not in metrics.CARD_FIELDS}
            statistics = record["summary"]["all"].get(metric, {})
            own |= {"mean": statistics.get("mean"), "sd_over_seeds": seeds_sd(record, metric), "label": record["label"]}
            entry["numbers"][record["name"]] = own
    return cards | _dose_cards(data)


def _dose_cards(data: PageData) -> dict[str, Any]:
    """Return the cards of the dose measures; what identifies a model is as on the card of its MAE."""
    if (found := data.dose) is None:
        return {}
    identities = {
        record["name"]: {key: value for key, value in record["cards"][MAE].items() if key not in metrics.CARD_FIELDS}
        | {"label": record["label"]}
        for record in data.records
    }
    cards: dict[str, Any] = {}
    for key in metrics.keys("dose"):
        numbers: dict[str, Any] = {}
        for row in found.means.dropna(subset=key).to_dict(orient="records"):
            name, value = row["name"], f"{number(row[key], key)} ({row['modality']})"
            former = numbers.get(name, {}).get("mean", "")
            numbers[name] = identities.get(name, {}) | {
                "n": row["n"],
                "mean": f"{former}, {value}" if former else value,
            }
        cards[key] = metrics.metric(key).card() | {"heading": heading(key), "numbers": numbers}
    return cards


def _colours() -> dict[str, Any]:
    table = colormaps[style.ERROR_MAP]
    return {
        "error": [[round(255 * channel) for channel in table(k / 255)[:3]] for k in range(256)],
        "errorLimit": ERROR_LIMIT_HU,
        "windows": style.WINDOWS_HU,
    }
