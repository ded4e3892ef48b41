"""What the documents name is there, and their tables are the code's (commands: test_readme.py)."""

import dataclasses
import enum
import importlib
import importlib.util
import inspect
import json
import re
import types
import typing

import pytest
from documents import DOCUMENTS, ROOT, inline, json_lines, python_blocks, tables, text_of
from etils import epath
from test_layers import FLOORS
from test_pages import pages

from o1jax.problems.load import SETS, load_problems
from o1jax.report import summary
from o1jax.report.run_files import RunFiles
from o1jax.stages import manifest, run
from tests.report import made_run

ROOMS = {path.name for directory in (ROOT, ROOT / "o1jax") for path in directory.iterdir()}
RESULTS = "tests/benchmarks/RESULTS.md"
FIGURES = "| figure | value | interval | seeds | command | commit | machine | state |"
INTERVAL = re.compile(r"\[-?\.\d+, -?\.\d+\]")
RECORDS = [title for title in tables("o1jax/FORMATS.md") if re.fullmatch("([A-Z][a-z]+)+", title)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """With a run in runs/demo."""
    directory = tmp_path_factory.mktemp("directory")
    made_run.whole(directory / "runs" / "demo")
    return directory


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_links_that_are_named_exist(document):
    names = {word for code in inline(document) for word in code.split() if is_file_name(word)}
    links = re.findall(r"\]\((?!http|#)([^)#]+)", text_of(document))
    missing = [name for name in names if not any((ROOT / room / name).exists() for room in ("", "o1jax"))]
    missing += [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


def is_file_name(word):
    """Of a file here: of what a run writes there is nothing to find."""
    return re.fullmatch(r"[\w./-]+", word) and (
        word.endswith(".py") or ("/" in word and word.split("/")[0] in ROOMS)
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_and_variables_of_the_package_exist(document):
    for code in inline(document):
        for name in re.findall(r"o1jax(?:\.\w+)+", code):
            module, _, attribute = name.rpartition(".")
            assert importlib.util.find_spec(name) if module == "o1jax" else name_in(module, attribute), name
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "o1jax").rglob("*.py"))
    assert all(name in sources for name in re.findall(r"O1JAX_[A-Z]+", text_of(document)))


def name_in(module, attribute):
    return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_that_are_named_are_keys_of_a_page(document):
    filled = [
        pages.with_stage_defaults(pages.loaded(str(path))) for path in sorted(pages.CONFIGS.glob("*.py"))
    ]
    for code in inline(document):
        for key in re.findall(r"--config\.([\w.]+)", code):
            assert any(has_key(page, key.split(".")) for page in filled) or key == "key", key


def has_key(page, keys):
    return not keys or (isinstance(page, dict) and keys[0] in page and has_key(page[keys[0]], keys[1:]))


def test_the_floors_of_the_house_are_as_documented():
    rows = tables("o1jax/README.md")["The house"]
    assert {room: int(floor) for floor, room, _ in rows} == FLOORS


def test_decisions_that_the_code_names_are_documented_with_a_test():
    decisions = re.findall(r"^\*\*(D\d+) (.*?)\n\n", text_of("o1jax/README.md"), re.DOTALL | re.MULTILINE)
    assert all("`tests/" in said for _, said in decisions)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "o1jax").rglob("*.py"))
    assert set(re.findall(r"\b(D\d+)\b[,):]", sources)) <= {number for number, _ in decisions}


@pytest.mark.parametrize("stage", run.STAGES)
def test_a_stage_is_made_as_documented(stage):
    module = run.module_of(stage)
    assert dataclasses.is_dataclass(module.Settings) and module.Settings.__dataclass_params__.frozen
    assert list(inspect.signature(module.run).parameters) == ["out", "settings", "inputs", "seed"]


@pytest.mark.parametrize("name", SETS)
def test_a_data_set_has_its_licence_and_a_page_that_prepares_it(name):
    assert f"`{name}" in text_of("third_party/README.md")
    assert pages.loaded(f"{ROOT}/configs/prepare.py:{name}")["check_problems"]["source"].startswith(name)


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 200 and len(text_of("README.md").split()) <= 1800


def test_the_readmes_figures_are_among_the_results():
    rows = [row for rows in tables(RESULTS, FIGURES).values() for row in rows]
    figures = {(value, interval) for _, value, interval, *_ in rows}
    headline = tables("README.md")["What was measured"]
    assert len(headline) == 8 and all(INTERVAL.fullmatch(interval) for _, _, interval in headline)
    assert {(value, interval) for _, value, interval in headline} <= figures


def test_every_figure_has_its_commit_machine_and_state():
    machines = {machine for machine, _ in tables(RESULTS)["Machines"]}
    claims = tables(RESULTS, FIGURES)
    headings = re.findall(r"^## (.*)$", text_of(RESULTS), re.MULTILINE)
    assert set(headings) - {"Machines"} == set(claims)
    for *_, commit, machine, state in (row for rows in claims.values() for row in rows):
        assert re.search(r"\b[0-9a-f]{7}\b", commit) or commit in ("as above", "tested at every commit")
        assert set(machine.split(", ")) <= machines and state in ("same", "older", "biased")


@pytest.mark.parametrize("name", RECORDS)
def test_the_columns_of_a_record_are_as_documented(name):
    module = re.search(rf"`(o1jax[\w.]+)\.{name}`", text_of("o1jax/FORMATS.md"))[1]
    cls = getattr(importlib.import_module(module), name)
    columns = [[name, spelled(hint)] for name, hint in typing.get_type_hints(cls).items()]
    assert [[row[0].strip("`"), row[1]] for row in tables("o1jax/FORMATS.md")[name]] == columns


def spelled(hint):
    """A field's type in the words of FORMATS.md."""
    if isinstance(hint, types.UnionType):
        return f"{spelled(typing.get_args(hint)[0])} or null"
    if typing.get_origin(hint) is tuple:
        return f"list of {spelled(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is typing.Literal or issubclass(hint, enum.StrEnum):
        return "text"
    return {str: "text", int: "int64", float: "double", bool: "bool"}.get(hint) or hint.__name__


def test_the_keys_of_json_files_are_as_documented(directory, tmp_path):
    spec = manifest.StageSpec("search", {}, 0, {})
    manifest.begin(epath.Path(tmp_path), spec)
    manifest.finish(epath.Path(tmp_path), spec, manifest.StageResult({}, {}))
    found = {
        name: json.loads((tmp_path / name).read_text(encoding="utf-8"))
        for name in ("manifest.json", "spec.json")
    }
    found["summary.json"] = summary.of(RunFiles(epath.Path(directory / "runs" / "demo")))
    for name, value in found.items():
        assert {row[0].strip("`") for row in tables("o1jax/FORMATS.md")[name]} == set(value), name


@pytest.mark.parametrize("document", ["README.md", "o1jax/FORMATS.md"])
def test_problems_that_are_shown_can_be_read(document, tmp_path):
    for number, line in enumerate(json_lines(document)):
        (tmp_path / f"{number}.jsonl").write_text(line, encoding="utf-8")
        (problem,) = load_problems(str(tmp_path / f"{number}.jsonl")).problems
        assert problem.tests


def test_python_that_is_shown_runs(directory, monkeypatch):
    monkeypatch.chdir(directory)
    for document in DOCUMENTS:
        for block in python_blocks(document):
            names = {}
            exec(compile(block, document, "exec"), names)  # noqa: S102
            assert names["trees"]
