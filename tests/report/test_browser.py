"""The page in headless Chromium: it opens, its tree and its table work, and nothing goes out or wrong."""

import json
import shutil
import time

import made_run
import pytest
from etils import epath

from o1jax.report import page, summary
from o1jax.report.run_files import RunFiles

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOGS = {"browser": "ALL", "performance": "ALL"}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A driver of Debian's chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", LOGS)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(made_run.whole(tmp_path_factory.mktemp("runs") / "run"))


def written(run):
    files = RunFiles(run)
    page.write(run / "report.html", files, summary.of(files))
    return run / "report.html"


def opened(driver, path, width=1400):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    for log in LOGS:
        driver.get_log(log)  # forgets what was before
    driver.get(f"file://{path}")
    return driver


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def one(driver, selector):
    return driver.find_element("css selector", selector)


def until(is_so, seconds=30):
    """Waits for it."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def choose(driver, label, text):
    """An option of the list with that label."""
    for option in all_of(driver, f'select[aria-label="{label}"] option'):
        if option.text == text:
            return option.click()
    raise AssertionError(f"no {text!r} in the list {label!r}")


def requests(driver):
    """The addresses that the page asked for since it was opened."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in sent if not url.startswith("data:")]


def test_it_opens_without_an_error_and_without_the_network(chromium, whole):
    opened(chromium, whole)
    assert "It learned" in one(chromium, "h1").text and "run" in chromium.title
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
    assert requests(chromium) == [f"file://{whole}"]


def test_a_node_opens_and_shows_its_verdict_and_failing_test(chromium, whole):
    opened(chromium, whole)
    first = one(chromium, "#trees .node")
    assert first.get_attribute("open") and "PRM 0.250" in first.text  # on the best path
    failing = one(first, ".node.fails")
    assert not all_of(failing, "pre")
    one(failing, "summary").click()
    until(lambda: all_of(failing, ".verdict"))  # a <details> says a moment later that it was opened
    assert "Fails test 2: WA got 7" in one(failing, ".verdict").text and "expected: 4" in failing.text
    one(failing, "summary").click()
    assert not one(failing, "pre").is_displayed()


def test_the_tree_is_walked_by_keys(chromium, whole):
    opened(chromium, whole)
    chromium.execute_script("document.querySelector('#trees summary').focus()")
    keys = {"right": "\ue014", "down": "\ue015", "left": "\ue012"}
    for key in ("down", "down", "right"):
        chromium.switch_to.active_element.send_keys(keys[key])
    node = chromium.execute_script("return document.activeElement.parentElement.dataset.node")
    assert node == "3" and "Fails test 2" in one(chromium, '[data-node="3"]').text
    for _ in range(3):  # closes it, goes to its parent, closes that
        chromium.switch_to.active_element.send_keys(keys["left"])
    assert not one(chromium, '[data-node="1"]').get_attribute("open")


def test_the_table_is_filtered(chromium, whole):
    opened(chromium, whole)
    rows = "#problems tbody tr"
    assert len(all_of(chromium, rows)) == 14
    choose(chromium, "split", "held_out")
    choose(chromium, "difficulty", "rung 2")
    assert len(all_of(chromium, rows)) == 4 and "4 of 14" in one(chromium, "#problems .note").text
    choose(chromium, "solved", "newly solved")
    assert len(all_of(chromium, rows)) == 2
    for select in ("split", "difficulty", "solved"):
        choose(chromium, select, "all")
    one(chromium, "#problems input").send_keys("pool/3")
    assert len(all_of(chromium, rows)) == 1


def test_a_problem_opens_and_leads_to_its_tree(chromium, whole):
    opened(chromium, whole)
    one(chromium, "#problems input").send_keys("pool/4")
    one(chromium, "#problems .question").click()
    assert "round_00/search: 1 of 2" in one(chromium, "#problems .wide").text
    one(chromium, "#problems tbody tr td:last-child button").click()
    assert "pool/4" in one(chromium, "#trees .tree .note").text


def test_a_program_that_ends_a_script_is_text(chromium, whole):
    opened(chromium, whole)
    assert chromium.title != "taken"
    assert "</script><script>document.title" in one(chromium, "#trees .node.passes pre").text


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_screen(chromium, whole, width):
    opened(chromium, whole, width)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(chromium, whole, scheme):
    """The contrast that WCAG AA asks of small text: 4.5."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    opened(chromium, whole)
    names = ("ink", "quiet", "good", "bad", "warn", "link", "c0", "c1", "c2", "c3", "c5")
    grounds = ("ground", "raised", "faint")
    script = (
        "const style = getComputedStyle(document.documentElement);"
        "return arguments[0].map((name) => style.getPropertyValue('--' + name).trim())"
    )
    inks, backs = (chromium.execute_script(script, wanted) for wanted in (names, grounds))
    low = [(ink, back) for ink in inks for back in backs if contrast(ink, back) < 4.5]
    assert not low


def contrast(first, second):
    """Of two colours as #rrggbb."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_tree_of_ten_thousand_nodes_does_no_harm(chromium, tmp_path):
    run = epath.Path(tmp_path)
    made_run.problems(run, "pool", 1)
    wide = (made_run.node(0, -1, "", 0), *(made_run.node(k, k % 10, f"step {k}") for k in range(1, 10_000)))
    made_run.search(run, "search", [made_run.tree("pool/0", wide)])
    path = written(run)
    assert path.stat().length < 10 * 2**20
    opened(chromium, path)
    assert "10000 nodes" in one(chromium, "#trees .tree .note").text
    assert len(all_of(chromium, "#trees .node")) == 100  # of about a thousand
    one(chromium, "#trees [role=group] > button").click()
    assert len(all_of(chromium, "#trees .node")) == 200


def test_a_chain_of_ten_thousand_steps_does_no_harm(chromium, tmp_path):
    run = epath.Path(tmp_path)
    made_run.problems(run, "pool", 1)
    chain = [made_run.node(0, -1, "", 0), *(made_run.node(k, k - 1, f"step {k}") for k in range(1, 9_999))]
    last = made_run.node(9_999, 9_998, "end", 3, value=1.0, terminal=True, verdict=made_run.PASS)
    made_run.search(run, "search", [made_run.tree("pool/0", (*chain, last))])
    opened(chromium, written(run))
    assert 0 < len(all_of(chromium, "#trees .node")) <= 61
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
