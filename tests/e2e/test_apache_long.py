"""The rest of what Nginx is asked: HTTPS, static files, several applications. The same tests on stacks with Apache."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import pytest

from harness.stack import Stack, free_port
from tests.e2e import test_apps as apps
from tests.e2e import test_static as static_files
from tests.e2e import test_tls as tls
from tests.e2e.steady import Steady
from tests.e2e.test_apps import SHOP
from tests.e2e.test_faults import slow_clients
from tests.e2e.test_static import BUILD

pytestmark = pytest.mark.long
# Collected here, in this order, they get the stacks below.
test_the_url_is_https_and_the_application_learns_so = tls.test_the_url_is_https_and_the_application_learns_so
test_clients_are_offered_tls_1_2_and_1_3_alone = tls.test_clients_are_offered_tls_1_2_and_1_3_alone
test_a_cipher_without_forward_secrecy_is_refused = tls.test_a_cipher_without_forward_secrecy_is_refused
test_http_leads_to_https_with_method_and_body_kept = tls.test_http_leads_to_https_with_method_and_body_kept
test_whoever_watches_the_health_path_needs_no_https = tls.test_whoever_watches_the_health_path_needs_no_https
test_browsers_are_told_to_come_by_https_from_the_page_of_maintenance_too = (
    tls.test_browsers_are_told_to_come_by_https_from_the_page_of_maintenance_too
)
test_nginx_has_nothing_to_warn_of_and_it_alone_reads_the_key = (
    tls.test_nginx_has_nothing_to_warn_of_and_it_alone_reads_the_key
)
test_the_operators_command_sees_when_the_certificate_ends = (
    tls.test_the_operators_command_sees_when_the_certificate_ends
)
test_a_given_certificate_and_the_one_that_renews_it_come_without_a_lost_request = (
    tls.test_a_given_certificate_and_the_one_that_renews_it_come_without_a_lost_request
)
test_a_certificate_that_nginx_would_not_take_leaves_the_one_that_serves = (
    tls.test_a_certificate_that_nginx_would_not_take_leaves_the_one_that_serves
)
test_a_site_without_tls_keeps_no_key_and_no_port = tls.test_a_site_without_tls_keeps_no_key_and_no_port
test_what_ends_tls_in_front_is_believed_about_the_client_once_it_is_named = (
    tls.test_what_ends_tls_in_front_is_believed_about_the_client_once_it_is_named
)
test_a_file_is_served_with_its_headers_and_the_application_is_not_asked = (
    static_files.test_a_file_is_served_with_its_headers_and_the_application_is_not_asked
)
test_what_is_no_file_of_the_release_is_not_found_by_the_balancer_itself = (
    static_files.test_what_is_no_file_of_the_release_is_not_found_by_the_balancer_itself
)
test_maintenance_goes_before_files_and_nginx_has_nothing_to_warn_of = (
    static_files.test_maintenance_goes_before_files_and_nginx_has_nothing_to_warn_of
)
test_every_page_finds_its_file_during_a_release_and_after_it_and_when_it_is_taken_back = (
    static_files.test_every_page_finds_its_file_during_a_release_and_after_it_and_when_it_is_taken_back
)
test_a_host_leads_to_the_application_that_names_it_and_every_other_to_the_one_that_names_none = (
    apps.test_a_host_leads_to_the_application_that_names_it_and_every_other_to_the_one_that_names_none
)
test_a_path_leads_there_as_script_name_or_whole_and_costs_no_release = (
    apps.test_a_path_leads_there_as_script_name_or_whole_and_costs_no_release
)
test_an_application_may_see_whole_paths_and_is_watched_by_its_own_during_maintenance = (
    apps.test_an_application_may_see_whole_paths_and_is_watched_by_its_own_during_maintenance
)
test_one_that_is_removed_goes_with_all_it_had_and_the_other_loses_nothing = (
    apps.test_one_that_is_removed_goes_with_all_it_had_and_the_other_loses_nothing
)


@pytest.fixture(scope="module")
def https(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create the fixture of test_tls.py with Apache and a gateway that speaks HTTP."""
    stack = make_module_stack("tls", fleet={"servers": 1}, gateway={"kind": "gunicorn"})
    stack.proxy = "apache"
    stack.settings["lxd"]["tls_port"] = free_port()
    stack.settings["balancer"] = {"tls": {"self_signed": True, "hsts_max_age_s": 77}}
    stack.app["health_path"] = "/well"
    stack.up()
    return stack


@pytest.fixture(scope="module")
def shop(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create the fixture of test_static.py with Apache."""
    static = {"folder": "out", "max_age_s": 77, "immutable_folders": ["deep"]}
    stack = make_module_stack(
        "static", source="tests/e2e/static_app", module="pages:app", build=BUILD, static=static,
        environment={"T_PLAIN": "plain"}, fleet={"servers": 2},
    )  # fmt: skip
    stack.proxy = "apache"
    stack.up()
    return stack


@pytest.fixture(scope="module")
def two_applications(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create the fixture of test_apps.py with Apache."""
    stack = make_module_stack("apps", fleet={"servers": 1}, rollout={"bake_s": 0})
    stack.proxy = "apache"
    shutil.copytree(stack.folder / "tests" / "e2e" / "app", stack.folder / "tests" / "e2e" / "shop")
    stack.settings["apps"]["shop"] = stack.app | {"source": "tests/e2e/shop", "hosts": [SHOP, f"*.{SHOP}"]}
    stack.up()
    return stack


def test_slow_clients_cost_others_nothing_where_each_server_has_an_nginx(
    make_module_stack: Callable[..., Stack],
) -> None:
    """Cover slow clients with an Nginx per server: Apache alone passes data on as it comes (docs/balancer.md)."""
    stack = make_module_stack(
        "slow",
        source="tests/e2e/faults_app",
        module="app:app",
        health_path="/healthz",
        fleet={"servers": 3, "local_proxy": True},
        gateway={"processes": 2, "threads": 4},
    )
    stack.proxy = "apache"
    stack.up()
    with Steady(stack.url) as before:
        time.sleep(4)
    with slow_clients(stack):
        # Until the responses that nobody reads are made.
        time.sleep(3)
        with Steady(stack.url) as load:
            time.sleep(6)
    assert load.seen.failed == []
    assert load.seen.p99_s <= 2 * before.seen.p99_s + 0.1, (before.seen.p99_s, load.seen.p99_s)
