"""A real browser logs in to Django's admin, at a port that is not the scheme's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from harness.stack import ROOT, Stack
from tests.e2e.test_applications import FOLDER, SUPERUSER

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
