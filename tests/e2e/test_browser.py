"""A real browser logs in to Django's admin, at a port that is not the scheme's own, and opens the page of a release."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from harness.load import Load
from harness.stack import ROOT, Stack
from tests.e2e.test_applications import FOLDER, SUPERUSER
from tests.e2e.test_client_watch import APP, FAILS_CLIENTS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="install Debian's packages chromium and chromium-driver"),
]


@pytest.fixture
def browser() -> Generator[WebDriver]:
    """Start Chromium without a window, and end it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"):
        options.add_argument(argument)
    # What pages print as an error, and what they ask for.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.implicitly_wait(10)
        yield driver
    finally:
        driver.quit()


def sign_in(browser: WebDriver, url: str, password: str) -> None:
    """Fill Django's form and follow it to the page behind, as a person does."""
    browser.delete_all_cookies()
    browser.get(f"{url}/admin/")
    assert browser.current_url == f"{url}/admin/login/?next=/admin/"
    browser.find_element(By.NAME, "username").send_keys("ann")
    browser.find_element(By.NAME, "password").send_keys(password)
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    assert browser.find_element(By.CSS_SELECTOR, "#user-tools strong").text == "ANN"
    assert browser.current_url == f"{url}/admin/"


def test_a_browser_logs_in_to_djangos_admin_and_adds_a_group(
    browser: WebDriver, make_stack: Callable[..., Stack]
) -> None:
    stack = make_stack("browser", **yaml.safe_load((ROOT / FOLDER / "django/stack.yaml").read_text()))
    for proxy in ("nginx", "apache"):
        stack.proxy = proxy
        stack.up()
        made = stack.fleet("exec", "--", "sh", "-c", SUPERUSER)
        assert "created successfully" in made.stdout or "already taken" in made.stdout, made
        sign_in(browser, stack.url, stack.fleet("exec", "--", "printenv", "SECRET_KEY").stdout.strip())
        # A style sheet that the balancer serves.
        styled = "return getComputedStyle(document.getElementById('header')).display"
        assert browser.execute_script(styled) == "flex"  # pyright: ignore[reportUnknownMemberType]
        browser.get(f"{stack.url}/admin/auth/group/add/")
        browser.find_element(By.NAME, "name").send_keys(f"editors of {proxy}")
        browser.find_element(By.NAME, "_save").click()
        assert "was added successfully" in browser.find_element(By.CSS_SELECTOR, ".messagelist .success").text
        assert browser.current_url == f"{stack.url}/admin/auth/group/"


def log_of(browser: Any, name: str) -> list[dict[str, Any]]:
    """Return what Chromium logged since it was asked this last. Selenium has no type of it."""
    return browser.get_log(name)


def requests_of(browser: WebDriver) -> list[str]:
    """Return the URLs that the browser asked for since it was asked this last."""
    messages = [json.loads(each["message"])["message"] for each in log_of(browser, "performance")]
    return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]


def test_the_page_of_a_release_shows_what_happened_and_loads_and_runs_nothing(
    browser: WebDriver, make_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stack = make_stack("report", health_path="/healthz", rollout={"bake_s": 4})
    stack.up()
    stack.edit(APP, FAILS_CLIENTS)
    who = "<script>document.title='run'</script><img src=http://127.0.0.1:9/x.png>"
    monkeypatch.setenv("LOGNAME", who)
    with Load(stack.url) as load:
        stack.up(fails=True)
        load.wait_for(200)
    file = tmp_path / "page.html"
    made = stack.fleet("report", "--output", str(file))
    assert made.stdout.endswith(" failed\n"), made
    requests_of(browser)
    browser.get(file.as_uri())
    assert browser.find_element(By.TAG_NAME, "h1").text.endswith(": failed")
    assert browser.find_element(By.TAG_NAME, "h1").is_displayed()
    text = browser.find_element(By.TAG_NAME, "body").text
    for words in (
        who,
        "probe-1, probe-2, probe-3",
        "max_error_percent (10)",
        "servers beside it",
        "went back",
        "all servers",
    ):
        assert words in text
    bands = [each.get_attribute("class") for each in browser.find_elements(By.TAG_NAME, "rect")]
    assert sorted(str(each) for each in bands) == ["back", "stage", "stage", "stage", "switch"]
    # Of all servers and each one, in three charts.
    assert len({each.get_attribute("class") for each in browser.find_elements(By.TAG_NAME, "polyline")}) == 4
    assert {url.partition(":")[0] for url in requests_of(browser)} <= {"file", "data"}
    assert log_of(browser, "browser") == []
    assert browser.title.endswith(": failed")
    colours: set[str] = set()
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)  # pyright: ignore[reportUnknownMemberType]
        colours.add(str(browser.execute_script("return getComputedStyle(document.body).backgroundColor")))  # pyright: ignore[reportUnknownMemberType]
    assert colours == {"rgb(255, 255, 255)", "rgb(20, 24, 30)"}
