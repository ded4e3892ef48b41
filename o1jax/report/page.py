"""A run as one HTML page. templates/ hold its markup, sections.py the values that they show.

A part that cannot be made of what is there is named on the page and left out.
"""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jinja2
import markupsafe
from etils import epath

from o1jax.buckets import absolute
from o1jax.report import charts, sections
from o1jax.report.learning import NOT_KNOWN, Headline, headline, main_arm, percent, with_interval
from o1jax.report.page_data import json_text, page_data
from o1jax.report.run_files import RunFiles
from o1jax.writing import write_whole

T = TypeVar("T")
HERE = pathlib.Path(__file__).parent
LONGEST_RECORD = 20_000  # characters of a stage's record
SECTIONS = {  # id -> title, and what makes the values of its template; None: page.js fills it
    "learning": ("Did it learn?", sections.learning),
    "search": ("Search", sections.search),
    "generator": ("Test-case generator", sections.generator),
    "reward-model": ("Process reward model", sections.reward_model),
    "rl": ("Reinforcement learning", sections.reinforcement),
    "problems": ("Problems", None),
    "trees": ("Trees", None),
    "cost": ("Cost by stage", sections.cost),
    "losses": ("Losses", sections.losses),
}


def write(path: epath.Path, files: RunFiles, summary: Mapping[str, Any]) -> Headline:
    """Writes the page, whole or not at all, and returns its headline. Adds to the faults what it finds."""
    said = _guarded(files, "what it came to", lambda: headline(files, summary), NOT_KNOWN)
    write_whole(path, html(files, summary, said))
    return said


def html(files: RunFiles, summary: Mapping[str, Any], said: Headline) -> str:
    """The page."""
    nothing = markupsafe.Markup("")

    def part(what: str, template: str, make: sections.Make) -> markupsafe.Markup:
        return _guarded(files, what, lambda: _rendered(template, make(files, summary)), nothing)

    bodies = {id: part(title, id, make) for id, (title, make) in SECTIONS.items() if make is not None}
    data = _guarded(files, "problems and trees", lambda: page_data(files, main_arm(summary)), None)
    has_data = data is not None and data["problems"]["rows"]
    bodies |= dict.fromkeys(("problems", "trees"), markupsafe.Markup("<div></div>") if has_data else nothing)
    values = {
        "name": absolute(files.workdir).name,
        "files": files,
        "now": datetime.datetime.now(datetime.UTC),
        "headline": said,
        "tiles": part("the first numbers", "tiles", sections.tiles),
        "sections": [(id, title, bodies[id]) for id, (title, _) in SECTIONS.items() if bodies[id]],
        "data": markupsafe.Markup(json_text(data)) if has_data else nothing,
    }
    return f"{_rendered('page', values)}\n"


def _guarded(files: RunFiles, what: str, make: Callable[[], T], otherwise: T) -> T:
    """What `make` makes, or `otherwise` and a fault where a record is not as its stage writes it."""
    try:
        return make()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, jinja2.UndefinedError) as error:
        kind = type(error).__name__
        files.fault(f"{files.workdir}: no section on {what}: a record is not as expected ({kind}: {error})")
        return otherwise


def _rendered(template: str, values: Mapping[str, Any]) -> markupsafe.Markup:
    return markupsafe.Markup(ENVIRONMENT.get_template(f"{template}.jinja").render(values).strip())


def _pretty(record: Mapping[str, Any]) -> str:
    """JSON to read, its first LONGEST_RECORD characters."""
    text = json.dumps(record, indent=1)
    return text if len(text) <= LONGEST_RECORD else f"{text[:LONGEST_RECORD]} …"


# Whatever a run holds is escaped, for only what is Markup already is not. A figure that is not there is an
# error, which `_guarded` names: without StrictUndefined it would be an empty cell.
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# A style sheet or a script of this directory.
ENVIRONMENT.globals["source"] = lambda name: markupsafe.Markup((HERE / name).read_text(encoding="utf-8"))
ENVIRONMENT.filters |= {
    "percent": percent,
    "pretty": _pretty,
    "short": charts.short,
    "thousands": lambda value: f"{+value:,}",  # by its +, a value that is not there says its name
    "with_interval": with_interval,
}
