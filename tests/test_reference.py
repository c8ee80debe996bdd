"""The reference page is what the program says of itself."""

from __future__ import annotations

from ontpush.facts import limits
from tests.reference import PAGE, bounds, page


def test_the_reference_page_is_what_the_program_says_of_itself() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run ./inv reference"


def test_every_bound_is_on_the_reference_page() -> None:
    assert len(bounds().splitlines()) == sum(name.isupper() for name in vars(limits))
