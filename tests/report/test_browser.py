"""report.html in a real browser: opened from disk, clicked, and never on the network."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pst_fast.files import write_json
from pst_fast.manifest import MANIFEST
from pst_fast.report.html import write_html

pytestmark = pytest.mark.browser

Page = Any
SETUP = "run `make test-browser`, which installs it"
HOSTILE = [
    '</script><script>document.title = "ran"</script>',
    '<img src="x" onerror="document.title = \'ran\'">',
    "frog",
    "ship",
]
ACCURACIES = {
    ("lsp", "erm"): (0.20, 0.24), ("lsp", "pst"): (0.50, 0.50), ("lsp", "pst-plus"): (0.60, 0.64),
    ("em", "erm"): (0.30, 0.30), ("em", "pst"): (0.40, 0.40), ("em", "pst-plus"): (0.35, 0.35),
    ("<b>ops</b>", "erm"): (0.10, 0.10), ("<b>ops</b>", "pst"): (0.70, 0.70),
}  # fmt: skip
"""Last accuracies of two seeds; one cell is missing, one of its seeds has failed."""


def executable(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.fail(f"expected {' or '.join(names)} on the PATH, but there is none: {SETUP}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    try:
        from selenium import webdriver
    except ImportError:
        pytest.fail(f"expected the package selenium, but it is not there: {SETUP}")
    options = webdriver.ChromeOptions()
    options.binary_location = executable("chromium", "chromium-browser", "google-chrome")
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable("chromedriver")))
    driver.implicitly_wait(5)
    yield driver
    driver.quit()


@pytest.fixture
def path(tmp_path: Path, make_run: Callable[..., list[dict[str, Any]]]) -> Path:
    """A page of three attacks and the clean data, three defenses and two seeds; some names are markup."""
    attacks, defenses = ("lsp", "em", "<b>ops</b>"), ("erm", "pst", "pst-plus")
    rows = make_run(tmp_path, attacks=attacks, defenses=defenses, seeds=(0, 1), epochs=9)
    rows = [
        row | {"last_accuracy": ACCURACIES[row["attack"], row["defense"]][row["seed"]], "clean_accuracy": 0.8}
        for row in rows
        if (row["attack"], row["defense"]) in ACCURACIES
    ]
    rows += [
        row | {"attack": "none", "last_accuracy": 0.8, "folder": f"train/none/erm-seed{row['seed']}"}
        for row in rows
        if (row["attack"], row["defense"]) == ("lsp", "erm")
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    failure = {"attack": "<b>ops</b>", "defense": "pst-plus", "seed": 0, "error": "<i>diverged</i>"}
    write_json(tmp_path / "results.json", results | {"rows": rows, "failures": [failure]})
    manifest = json.loads((tmp_path / "clean" / MANIFEST).read_text())
    manifest["facts"]["classes"] = HOSTILE
    write_json(tmp_path / "clean" / MANIFEST, manifest)
    write_html(tmp_path / "report.html", tmp_path, rows)
    return tmp_path / "report.html"


@pytest.fixture
def page(browser: Page, path: Path) -> Iterator[Page]:
    """The page, opened and watched."""
    with watched(browser, path):
        yield browser


@contextmanager
def watched(browser: Page, path: Path) -> Iterator[None]:
    """Open a page; afterwards it has said nothing on the console and asked for nothing but itself."""
    browser.get_log("performance"), browser.get_log("browser")
    browser.get("about:blank")
    browser.get(path.as_uri())
    yield
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert path.as_uri() in [url.partition("#")[0] for url in asked], "requests are seen at all"
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}
    assert {url.partition("#")[0] for url in asked if url.startswith("file:")} == {path.as_uri()}
    assert browser.get_log("browser") == []


def all_of(page: Page, selector: str) -> list[Any]:
    return page.find_elements("css selector", selector)


def one(page: Page, selector: str) -> Any:
    return page.find_element("css selector", selector)


def words(elements: list[Any]) -> list[str]:
    return [element.text.strip() for element in elements]


def attacks(page: Page) -> list[str]:
    return words(all_of(page, ".board tbody th"))


def defenses(page: Page) -> list[str]:
    return words(all_of(page, ".board thead th[scope=col]"))


def header(page: Page, name: str) -> Any:
    (found,) = [th for th in all_of(page, ".board th[aria-sort]") if th.text.strip() == name]
    return found.find_element("tag name", "button")


def cell(page: Page, attack: str, defense: str) -> Any:
    row = all_of(page, ".board tbody tr")[attacks(page).index(attack)]
    return row.find_elements("css selector", "td")[defenses(page).index(defense)]


def test_a_defense_sorts_the_attacks(page: Page) -> None:
    assert attacks(page) == ["lsp", "em", "<b>ops</b>"]
    header(page, "pst").click()
    assert attacks(page) == ["<b>ops</b>", "lsp", "em"], "70, 50, 40"
    assert header(page, "pst").find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    header(page, "pst").click()
    assert attacks(page) == ["em", "lsp", "<b>ops</b>"]
    header(page, "pst-plus").click()
    assert attacks(page) == ["lsp", "em", "<b>ops</b>"], "62, 35, and what is missing goes last"
    header(page, "pst-plus").click()
    assert attacks(page) == ["em", "lsp", "<b>ops</b>"], "35, 62, and what is missing goes last again"
    header(page, "pst-plus").click()
    assert attacks(page) == ["lsp", "em", "<b>ops</b>"], "the run's order"


def test_an_attack_sorts_the_defenses(page: Page) -> None:
    header(page, "em").click()
    assert defenses(page) == ["pst", "pst-plus", "erm"], "40, 35, 30"
    assert cell(page, "em", "pst").text.startswith("40.0")
    header(page, "lsp").click()
    assert defenses(page) == ["pst-plus", "pst", "erm"], "62, 50, 22"
    header(page, "worst attack").click()
    assert defenses(page) == ["pst", "pst-plus", "erm"], "40 (em), 35 (em), 10 (ops)"
    header(page, "clean data").click()
    assert defenses(page) == ["erm", "pst", "pst-plus"], "80, not run, not run"


def test_cells_say_what_is_known(page: Page) -> None:
    assert cell(page, "lsp", "erm").text.split("\n")[:2] == ["22.0 ± 2.8", "28 %"]
    assert "best" in cell(page, "lsp", "pst-plus").get_attribute("class")
    assert "worst" in cell(page, "em", "pst").get_attribute("class")
    assert cell(page, "<b>ops</b>", "pst-plus").text == "failed"
    assert words(all_of(page, ".board tfoot tr:first-child td")) == [
        "80.0 ± 0.0\n100 %",
        "not run",
        "not run",
    ]
    assert one(page, ".baseline td").text == "80.0 ± 0.0 % by erm on the clean data, last epoch"
    assert "pst, 40.0 ± 0.0 % under em" in one(page, ".headline").text
    worst = words(all_of(page, ".worst-row td"))
    assert [text.split("\n")[2:] for text in worst] == [["<b>ops</b>"], ["em"], ["em", "met 2 of 3"]]


def test_other_figures_are_shown_on_demand(page: Page) -> None:
    one(page, "input[name=metric][value=craft_seconds]").click()
    assert cell(page, "lsp", "erm").text.split("\n")[0] == "2 ± 0"
    one(page, "input[name=metric][value=images_per_second]").click()
    assert cell(page, "lsp", "erm").text.split("\n")[0] == "800 ± 0"


def test_a_cell_shows_its_curves_and_events(page: Page) -> None:
    cell(page, "em", "pst-plus").find_element("tag name", "button").click()
    assert one(page, "dialog h2").text == "em met by pst-plus"
    accuracy, acm = all_of(page, "dialog .charts figure.chart:not(.strip)")
    assert len(accuracy.find_elements("css selector", ".series path")) == 3, (
        "two seeds and the clean baseline"
    )
    assert len(acm.find_elements("css selector", ".series path")) == 5, "five depths"
    for line in all_of(page, "dialog .series path"):
        assert line.get_attribute("d").count("L") == 8, "nine epochs"
        assert line.size["height"] > 0
    kinds = [event.get_attribute("data-kind") for event in acm.find_elements("css selector", ".event")]
    assert kinds == ["view", "rollback", "rollback"]
    events = words(all_of(page, "dialog .events li"))
    assert events[0] == "epoch 0 view trapped at layer2, so views by measure: grey .70, jpeg10 .31, down2 .22"
    assert events[1] == "epoch 3.6 rollback stem, layer1, layer2 slowed"
    assert page.current_url.endswith("#em/pst-plus")
    one(page, "dialog input[name=seed][value='1']").click()
    assert "ACM by depth, seed 1" in words(all_of(page, "dialog figcaption"))
    one(page, "dialog .close").click()
    assert not one(page, "dialog").is_displayed()


def test_the_keyboard_is_enough(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    header(page, "pst").send_keys(Keys.ENTER)
    assert attacks(page) == ["<b>ops</b>", "lsp", "em"]
    page.switch_to.active_element.send_keys(Keys.TAB)  # pst-plus
    cell(page, "<b>ops</b>", "erm").find_element("tag name", "button").send_keys(Keys.ARROW_RIGHT, Keys.NULL)
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert one(page, "dialog h2").text == "lsp met by pst"
    chart = one(page, "dialog svg")
    chart.send_keys(Keys.ARROW_LEFT)
    assert one(page, "dialog .reading").text.startswith("epoch 8: seed 0")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not one(page, "dialog").is_displayed()
    assert page.switch_to.active_element.get_attribute("data-key") == "cell-0-1", "back where it was opened"


def test_an_address_opens_its_cell(page: Page, path: Path) -> None:
    page.get("about:blank")
    page.get(f"{path.as_uri()}#%3Cb%3Eops%3C%2Fb%3E/pst-plus")
    assert one(page, "dialog h2").text == "<b>ops</b> met by pst-plus"
    assert "Seed 0: <i>diverged</i>" in one(page, "dialog").text


def test_pictures_are_there(page: Page) -> None:
    assert words(all_of(page, ".samples figcaption b")) == ["lsp", "em", "<b>ops</b>"]
    sizes = page.execute_script("return [...document.images].map((i) => [i.complete, i.naturalWidth, i.alt])")
    assert len(sizes) == 3 * 3 * 8
    assert all(complete and width == 16 for complete, width, _ in sizes)
    assert sizes[0][2] == f"{HOSTILE[0]}, clean"


def test_the_baseline_has_its_curves(page: Page) -> None:
    one(page, ".baseline button").click()
    assert one(page, "dialog h2").text == "clean baseline: erm on the clean data"
    assert words(all_of(page, "dialog .runs th")) == ["seed", "last epoch"]
    assert len(all_of(page, "dialog .charts > figure .series path")) == 2


def test_names_are_text(page: Page) -> None:
    assert page.title == "demo, resnet10 of width 16, 9 epochs, seeds 0, 1 - pst_fast"
    assert len(all_of(page, "script")) == 2
    cell(page, "<b>ops</b>", "pst-plus").find_element("tag name", "button").click()
    assert "<i>diverged</i>" in one(page, "dialog").text
    made = "return document.querySelectorAll('main b b, .board th b, dialog h2 b, main i').length"
    assert page.execute_script(made) == 0


def test_the_command_can_be_copied(page: Page) -> None:
    button = one(page, ".command button")
    button.click()
    assert button.text in ("copied", "selected: press Ctrl+C")
    assert "python -m pst_fast.run --attacks" in one(page, "#command").text


def test_the_pointer_reads_values_off(page: Page) -> None:
    from selenium.webdriver import ActionChains

    cell(page, "em", "pst-plus").find_element("tag name", "button").click()
    points = all_of(page, "dialog .charts > figure .series circle")
    ActionChains(page).move_to_element(points[4]).perform()
    assert one(page, "dialog .reading").text.startswith("epoch 5: seed 0")
    ActionChains(page).move_to_element(points[8]).perform()
    ends = one(page, "dialog svg").get_attribute("aria-label").partition("At the end: ")[2]
    reading = one(page, "dialog .reading").text.replace("\u00a0", " ")
    assert reading.startswith("epoch 9: seed 0") and ends.startswith(reading.removeprefix("epoch 9: "))


def test_a_run_of_the_clean_data_alone(browser: Page, tmp_path: Path, make_run: Callable[..., Any]) -> None:
    (row,) = make_run(tmp_path, attacks=("lsp",), defenses=("erm",), seeds=(0,), epochs=1)
    settings = json.loads((tmp_path / "results.json").read_text())["settings"] | {"attacks": ["none"]}
    write_json(tmp_path / "results.json", {"settings": settings, "environment": {}})
    write_html(
        tmp_path / "report.html", tmp_path, [row | {"attack": "none", "folder": "train/none/erm-seed0"}]
    )
    with watched(browser, tmp_path / "report.html"):
        assert attacks(browser) == []
        assert words(all_of(browser, ".board tfoot th")) == ["clean data", "clean baseline"]


def test_a_telephone_shows_it_all(page: Page) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        cell(page, "em", "pst-plus").find_element("tag name", "button").click()
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
        assert one(page, "dialog svg").size["width"] <= 390
        one(page, "dialog .close").click()
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
