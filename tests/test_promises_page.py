"""Every promise stands where the list says, and has tests that are there."""

from __future__ import annotations

import re

import pytest

from tests.promises import (
    CHECKOUT,
    INTERFACE,
    PAGE,
    Promise,
    files,
    found,
    missing,
    page,
    promises,
    quotes,
    source,
)

every_promise = pytest.mark.parametrize("promise", promises(), ids=lambda each: each.title)


@every_promise
def test_a_promise_stands_so_in_its_file(promise: Promise) -> None:
    for file in promise.said:
        text = source(file)
        if text is None and file == INTERFACE:
            continue  # it lies beside the checkout, and not everywhere
        assert text is not None, f"{file} is gone"
        assert [quote for quote in quotes(file) if not found(quote, text)] == []


@pytest.mark.parametrize("file", list(files()))
def test_what_is_listed_of_a_file_stands_so_in_it(file: str) -> None:
    text = source(file)
    assert text is None or [quote for quote in quotes(file) if not found(quote, text)] == []


@every_promise
def test_a_promise_has_tests(promise: Promise) -> None:
    assert promise.tests
    for test in promise.tests:
        file, name = test.split("::")
        code = (CHECKOUT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", code, re.MULTILINE), f"no test {test}"


def test_every_test_that_the_security_page_names_is_there() -> None:
    text = (CHECKOUT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:fleet/)?test_\w+)(?:::(\w+))?`", text)
    assert len(named) > 20
    for file, name in named:
        code = (CHECKOUT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}" in code, f"no test {file}::{name}"


def test_every_sentence_that_promises_is_in_the_list() -> None:
    assert list(missing()) == [], "put it into tests/promises.yml"


def test_the_page_is_made_from_the_list() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run ./inv promises"
