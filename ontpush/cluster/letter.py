"""Makes letters of messages: subject, plain text and HTML.

A letter that tells much tells it of one instrument alone: none is crowded out by another.
"""

import html
from typing import Dict, Iterable, Iterator, List, NamedTuple, Tuple

from ontpush.cluster.messages import Message
from ontpush.facts.names import plural, shortened

# More of a kind at once come in one letter: an outage must not bury its reader.
_MOST_LETTERS = 5
# A mail server takes no letter of any size: of more than these only a list comes, and the start.
_IN_FULL = 50
_LISTED = 500


class Letter(NamedTuple):
    """A letter that tells one message, or many of one kind; `kind` is for filters."""

    kind: str
    subject: str
    text: str
    html: str


def letters(messages: Iterable[Message]) -> Iterator[Tuple[Letter, List[Message]]]:
    """Letters for `messages`, each with the messages that it tells.

    What an instrument has very much of comes last: it may take all the time that there is.
    """
    groups: Dict[Tuple[str, str], List[Message]] = {}
    for message in messages:
        groups.setdefault((message.title, message.instrument), []).append(message)
    few: Dict[str, List[Message]] = {}
    for (title, _), alike in groups.items():
        if len(alike) <= _MOST_LETTERS:
            few.setdefault(title, []).extend(alike)
    for title, alike in few.items():
        if len(alike) <= _MOST_LETTERS:
            for message in alike:
                yield _of_one(message), [message]
        else:
            yield _of_many(title, alike), alike
    for (title, _), alike in groups.items():
        if len(alike) > _MOST_LETTERS:
            yield _of_many(title, alike), alike


def by_instrument(messages: Iterable[Message]) -> List[List[Message]]:
    """The messages of each instrument."""
    found: Dict[str, List[Message]] = {}
    for message in messages:
        found.setdefault(message.instrument, []).append(message)
    return list(found.values())


def _of_one(message: Message) -> Letter:
    return Letter(message.kinds[0], message.subject, _text(message), _page([_block(message)]))


def _of_many(title: str, messages: List[Message]) -> Letter:
    subject = "{}: {}".format(title, plural(len(messages), "message"))
    if len(by_instrument(messages)) == 1 and messages[0].instrument:
        subject += f" ({messages[0].instrument})"
    # That there is more than was told one by one must be in what is shown of many.
    messages = sorted(messages, key=lambda each: bool(each.run))
    listed = [shortened(f"{each.where}: {each.what}") for each in messages[:_LISTED]]
    if len(messages) > _LISTED:
        listed.append(f"and {len(messages) - _LISTED:,} more: `ontpush status` shows them")
    in_full = messages[:_IN_FULL]
    text = "\n".join([subject, "", *(f"- {each}" for each in listed), "", *map(_text, in_full)])
    page = _page([*map(_block, in_full), *_items(listed[_IN_FULL:])])
    return Letter(messages[0].kinds[0], subject, text, page)


def _text(message: Message) -> str:
    lines = [f"What:  {message.what}"]
    lines += [f"       {each}" for each in message.details]
    lines.append(f"Where: {message.instrument or 'the cluster'}")
    lines += [f"       {message.run}"] * bool(message.run)
    lines.append(f"To do: {message.todo}")
    if message.facts:
        width = max(len(label) for label, _ in message.facts)
        lines += ["", *(f"{label.ljust(width)}  {value}" for label, value in message.facts)]
    return "\n".join(lines) + "\n"


def _block(message: Message) -> str:
    rows = [("What", message.what), *(("", each) for each in message.details)]
    rows.append(("Where", message.instrument or "the cluster"))
    rows += [("", message.run)] * bool(message.run)
    rows += [("To do", message.todo), *message.facts]
    cells = [
        f'<tr><th align="left">{html.escape(label)}</th><td>{html.escape(value)}</td></tr>'
        for label, value in rows
    ]
    return "<h3>{}</h3>\n<table>\n{}\n</table>".format(
        html.escape(message.subject), "\n".join(cells)
    )


def _items(lines: List[str]) -> List[str]:
    return ["<ul>", *(f"<li>{html.escape(each)}</li>" for each in lines), "</ul>"] if lines else []


def _page(blocks: List[str]) -> str:
    head = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head><body>'
    return "\n".join([head, *blocks, "</body></html>", ""])
