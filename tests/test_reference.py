"""The reference page is what the program says of itself."""

from __future__ import annotations

from tests.reference import PAGE, page


def test_the_reference_page_is_what_the_program_says_of_itself() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run ./inv reference"
