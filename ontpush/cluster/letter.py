"""Makes letters of messages: subject, plain text and HTML."""

import html
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

from ontpush.cluster.messages import Message
from ontpush.facts.names import plural

# More of a kind at once come in one letter: an outage must not bury its reader.
_MOST_LETTERS = 5


class Letter(NamedTuple):
    """A letter that tells one message, or many of one kind; `kind` is for filters."""

    kind: str
    subject: str
    text: str
    html: str


def letters(messages: Sequence[Message]) -> Iterator[Tuple[Letter, List[int]]]:
    """Letters for `messages`, each with the places of the messages that it tells."""
    groups: Dict[str, List[int]] = {}
    for place, message in enumerate(messages):
        groups.setdefault(message.title, []).append(place)
    for title, places in groups.items():
        if len(places) <= _MOST_LETTERS:
            for place in places:
                yield _of_one(messages[place]), [place]
        else:
            yield _of_many(title, [messages[place] for place in places]), places


def _of_one(message: Message) -> Letter:
    return Letter(message.kinds[0], message.subject, _text(message), _page([_block(message)]))


def _of_many(title: str, messages: List[Message]) -> Letter:
    subject = "{}: {}".format(title, plural(len(messages), "message"))
    listed = [f"- {each.where}: {each.what}" for each in messages]
    text = "\n".join([subject, "", *listed, "", *map(_text, messages)])
    return Letter(messages[0].kinds[0], subject, text, _page([_block(each) for each in messages]))


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


def _page(blocks: List[str]) -> str:
    head = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head><body>'
    return "\n".join([head, *blocks, "</body></html>", ""])
