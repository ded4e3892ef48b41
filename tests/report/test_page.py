"""The page: every section, also of damaged runs; nothing of a run can end an element; it stays small."""

import html.parser
import json
import re

import made_run
import pytest

from o1jax.report import page, summary
from o1jax.report.page_data import json_text
from o1jax.report.run_files import RunFiles


def written(run):
    """The page as text, its headline, and the faults."""
    files = RunFiles(run)
    said = page.write(run / "report.html", files, summary.of(files))
    return (run / "report.html").read_text(), said, files.faults


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


class Elements(html.parser.HTMLParser):
    """Counts start tags and finds what a browser would load."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href")]


def elements(text):
    parser = Elements()
    parser.feed(text)
    return parser


def test_a_whole_run_has_every_section(tmp_path):
    text, said, faults = written(made_run.whole(tmp_path))
    assert not faults and said.state == "better"
    sections = re.findall(r'<section id="([a-z-]+)"', text)
    assert sections == list(page.SECTIONS)
    assert "reward hacking" in text and "Calibration" in text and "False accepts" in text


def test_the_page_needs_nothing_else(tmp_path):
    found = elements(written(made_run.whole(tmp_path))[0])
    assert all(load.startswith(("#", "data:,")) for load in found.loads)
    assert found.tags.count("script") == 4 and "img" not in found.tags


def test_program_texts_cannot_leave_their_element(tmp_path):
    text, *_ = written(made_run.whole(tmp_path))
    assert elements(text).tags.count("script") == 4 and "</script><script>document" not in text
    data = data_of(text)
    assert made_run.HOSTILE in data["trees"]["trees"][0]["text"][2]
    assert made_run.HOSTILE in data["problems"]["rows"][0][3]


@pytest.mark.parametrize("value", ["</script>", "<!--", "\u2028\u2029", "\ud800", "]]>", "&amp;"])
def test_json_in_a_page_is_safe_and_exact(value):
    inside = json_text({"a": value})
    assert inside.isascii() and not set("<>&") & set(inside) and json.loads(inside) == {"a": value}


def test_numbers_that_json_has_not_are_null():
    assert json_text([float("nan"), {"a": float("inf")}, 1.5]) == '[null,{"a":null},1.5]'


def test_a_hostile_directory_name_is_text(tmp_path):
    text, *_ = written(made_run.whole(tmp_path / "<b>&"))
    assert "<b>&<" not in text and "&lt;b&gt;&amp;" in text


def test_faults_are_on_the_page_and_the_rest_is_shown(tmp_path):
    run = made_run.whole(tmp_path)
    (run / "round_00/search/trees/one.parquet").write_bytes(b"no")
    (run / "tcg/dpo_evaluate/manifest.json").write_text("{")
    (run / "round_00/policy_rl/fit/metrics.jsonl").write_text('{"update": 0, "outcome": 0.5}\n{"upd')
    text, said, faults = written(run)
    assert len(faults) == 3 and "3 damaged or missing" in text and said.state == "better"
    for name in ("one.parquet", "dpo_evaluate/manifest.json", "metrics.jsonl line 2"):
        assert name in text
    assert "Outcome" in text and "not finished: tcg/dpo_evaluate" in text


@pytest.mark.parametrize(
    "path", ["warm_up_evaluate", "tcg/dpo_evaluate", "prm/hard", "round_00/policy_rl", "round_00/search"]
)
def test_figures_of_another_shape_cost_their_part_only(tmp_path, path):
    run = made_run.whole(tmp_path)
    manifest = run / path / "manifest.json"
    manifest.write_text(
        json.dumps(
            json.loads(manifest.read_text()) | {"figures": {"held_out": [], "before": 3, "pseudocode": 1}}
        )
    )
    text, *_ = written(run)
    assert '<section id="cost">' in text and '<section id="problems">' in text


def test_where_the_time_of_training_went_is_a_mean_by_time(tmp_path):
    run = made_run.whole(tmp_path)
    rows = [
        {"at": 0, "seconds": 60, "tokens_per_s": 100, "mfu": 0.4, "sampling": 0.5, "waiting": 0.5},
        {"at": 1, "seconds": 20, "tokens_per_s": 300, "mfu": 0.2, "sampling": 0.1, "waiting": 0.9},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "round_00/policy_rl/fit/throughput.jsonl").write_text(lines)
    text, _, faults = written(run)
    table = text.partition("time went</h3>")[2].partition("</table>")[0].replace("\n", "")
    assert not faults and "<td>150</td><td>35 %</td><td>40 %</td><td></td>" in table and "60 %" in table


def test_an_empty_directory_has_a_page(tmp_path):
    run = made_run.epath.Path(tmp_path)
    text, said, faults = written(run)
    assert said.word == "Nothing measured yet" and not faults and "<section" in text


def test_a_large_run_stays_under_ten_mebibytes(tmp_path):
    run = made_run.epath.Path(tmp_path)
    made_run.problems(run, "pool", 3000)
    steps = (made_run.node(0, -1, "", 0), *(made_run.node(k, 0, "x<" * 1500) for k in range(1, 30)))
    for k in range(3):
        made_run.search(run, f"round_{k:02d}/search", [made_run.tree(f"pool/{i}", steps) for i in range(60)])
    text, *_ = written(run)
    assert len(text.encode()) < 10 * 2**20
    assert all(data_of(text)["trees"]["left_out"])
