"""What people see, in headless Chromium on the built page. The scenarios are in `js/`."""

import os
from pathlib import Path

import pytest

from tests.browser.scenario import Stage

# A scenario that takes too long says itself how far it came.
pytestmark = pytest.mark.timeout(240)


async def test_two_people_talk_with_ticks_unread_counts_typing_and_presence(stage: Stage) -> None:
    await stage.play("flow")


async def test_a_killed_server_and_a_reload_lose_double_and_reorder_nothing(stage: Stage) -> None:
    await stage.play("outage")


async def test_without_websocket_the_page_works_over_polling_says_so_and_returns(stage: Stage) -> None:
    await stage.play("polling")


async def test_ten_thousand_messages_scroll_without_jumps_and_live_ones_do_not_pile_up(stage: Stage) -> None:
    await stage.play("history")


async def test_no_state_of_the_page_has_a_serious_accessibility_finding(stage: Stage) -> None:
    await stage.play("access")


async def test_what_is_pushed_is_shown_once_and_taken_away_when_it_was_read_elsewhere(stage: Stage) -> None:
    await stage.play("push")


async def test_screenshots_of_the_main_states_can_be_taken(stage: Stage, tmp_path: Path) -> None:
    """`make images` names the directory of those in the README."""
    await stage.play("screenshots", {"PARLEY_IMAGES": os.environ.get("PARLEY_IMAGES", str(tmp_path))})
