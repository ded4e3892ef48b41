"""A run as one HTML page that needs nothing else: no network, no other file.

Gathers what the other files of this room read and draw; a part that cannot be made of what is there is named
on the page and left out.
"""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from etils import epath

from o1jax.report import markup, tree_rows
from o1jax.report import tree_rows as problem_rows
from o1jax.report.headline import Headline, headline, tiles
from o1jax.report.learning import main_arm
from o1jax.report.run_files import RunFiles
from o1jax.report.sections.cost import cost
from o1jax.report.sections.learning import learning, search
from o1jax.report.sections.models import generator, reward_model
from o1jax.report.sections.training import losses, reinforcement

T = TypeVar("T")
NOTHING = Headline("none", "Not known", "the figures that would say it are damaged")
HERE = pathlib.Path(__file__).parent
MOST_FAULTS = 50  # in full
STYLE = "page.css"
SCRIPTS = ("page_problems.js", "page_trees.js", "page.js")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
SECTIONS = {
    "learning": ("Did it learn?", learning),
    "search": ("Search", search),
    "generator": ("Test-case generator", generator),
    "reward-model": ("Process reward model", reward_model),
    "rl": ("Reinforcement learning", reinforcement),
    "cost": ("Cost by stage", cost),
    "losses": ("Losses", losses),
}
BROWSED = {"problems": "Problems", "trees": "Trees"}  # what the scripts fill
ORDER = ("learning", "search", "generator", "reward-model", "rl", "problems", "trees", "cost", "losses")


def write(path: epath.Path, files: RunFiles, summary: Mapping[str, Any]) -> Headline:
    """Writes the page, whole or not at all, and returns its headline. Adds to the faults what it finds."""
    said = _guarded(files, "what it came to", lambda: headline(files, summary), NOTHING)
    part = path.parent / f"{path.name}.part"
    part.write_bytes(html(files, summary, said).encode("utf-8", "replace"))
    part.replace(path)
    return said


def html(files: RunFiles, summary: Mapping[str, Any], said: Headline) -> str:
    """The page."""
    parts = {
        id: _section(id, title, _guarded(files, title, lambda make=make: make(files, summary), ""))
        for id, (title, make) in SECTIONS.items()
    }
    data = _guarded(files, "problems and trees", lambda: _data(files, summary), "")
    parts |= {id: _section(id, title, "<div></div>") for id, title in BROWSED.items() if data}
    shown = {id: parts[id] for id in ORDER if parts.get(id)}
    top = _guarded(files, "the first numbers", lambda: _tiles(files, summary), "")
    name = markup.escape(files.workdir.resolve().name)
    scripts = "".join(f"<script>{(HERE / script).read_text()}</script>" for script in SCRIPTS)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1"><link rel=icon href="data:,">'
        f"<title>{name}: o1jax</title><style>{(HERE / STYLE).read_text()}</style></head><body>"
        f"<header><p class=run><strong>{name}</strong> {_state(files)}</p>{_headline(said)}{top}"
        f"{_faults(files)}</header>{_nav(shown)}<main>{''.join(shown.values())}</main>{data}{scripts}</body></html>\n"
    )


def _guarded(files: RunFiles, what: str, make: Callable[[], T], otherwise: T) -> T:
    """What `make` makes, or `otherwise` and a fault where a record is not as its stage writes it."""
    try:
        return make()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        kind = type(error).__name__
        files.fault(f"{files.workdir}: no section on {what}: a record is not as expected ({kind}: {error})")
        return otherwise


def _data(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """Problems and trees as JSON for the scripts; nothing without problems."""
    searches, problems = tree_rows.read_searches(files), problem_rows.read_problems(files)
    played_on = {
        place: problems.of(files.of_input(files.stages[place].input("problems"))) for place in searches
    }
    rows = problem_rows.problem_rows(
        files, problems, problem_rows.results(files, searches), main_arm(summary)
    )
    if not rows["rows"]:
        return ""
    return markup.json_script("data", {"problems": rows, "trees": tree_rows.search_rows(searches, played_on)})


def _section(id: str, title: str, body: str) -> str:
    return f'<section id="{id}"><h2>{markup.escape(title)}</h2>{body}</section>' if body else ""


def _nav(shown: Mapping[str, str]) -> str:
    titles = {id: title for id, (title, _) in SECTIONS.items()} | BROWSED
    links = (f'<a href="#{id}">{markup.escape(titles[id])}</a>' for id in shown)
    return f"<nav aria-label=Sections>{''.join(links)}</nav>"


def _state(files: RunFiles) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    begun = f"; not finished: {', '.join(files.unfinished)}" if files.unfinished else ""
    return f"{len(files.manifests)} stages finished{markup.escape(begun)}; written {now}"


def _headline(said: Headline) -> str:
    more = "".join(f"<li>{markup.escape(line)}</li>" for line in said.more)
    first = f"<h1>{markup.escape(said.word)}</h1><p>{markup.escape(said.text)}</p>"
    return f'<div class="headline {said.state}">{first}{f"<ul>{more}</ul>" if more else ""}</div>'


def _tiles(files: RunFiles, summary: Mapping[str, Any]) -> str:
    shown = "".join(
        f"<li{' class=warning' if tile.is_warning else ''}><span>{markup.escape(tile.name)}</span>"
        f"<strong>{markup.escape(tile.value)}</strong><span>{markup.escape(tile.below)}</span></li>"
        for tile in tiles(files, summary)
    )
    return f"<ul class=tiles>{shown}</ul>"


def _faults(files: RunFiles) -> str:
    if not files.faults:
        return ""
    left = len(files.faults) - MOST_FAULTS
    shown = [*files.faults[:MOST_FAULTS], *([f"and {left} more"] if left > 0 else [])]
    lines = "".join(f"<li>{markup.escape(fault)}</li>" for fault in shown)
    title = f"<summary>{len(files.faults)} damaged or missing</summary>"
    return f'<details class="box warning" open id=faults>{title}<ul>{lines}</ul></details>'
