"""Sends letters by whatever service the Apprise library speaks to, where it is installed."""

import logging
from typing import Any

from ontpush.cluster.letter import Letter
from ontpush.cluster.mail import NotTold


def can_send(url: str) -> str:
    """What keeps a URL from being used; empty where nothing does."""
    library = _library()
    if library is None:
        return "needs the Python package apprise here: pip install --user apprise"
    if not library.Apprise().add(url):
        return "is no URL that the Apprise library knows"
    return ""


def send_by_apprise(url: str, letter: Letter) -> None:
    """Hand a letter to the service. NotTold."""
    library = _library()
    sender = library.Apprise() if library else None
    if sender is None or not sender.add(url):
        raise NotTold(can_send(url))
    if not sender.notify(title=f"[ontpush] {letter.subject}", body=letter.text):
        raise NotTold(f"{url.partition(':')[0]}: the service did not take the message")


def _library() -> Any:
    try:
        import apprise
    except ImportError:
        return None
    # What it has to say of trouble would go to standard error, past our one line.
    logging.getLogger("apprise").addHandler(logging.NullHandler())
    logging.getLogger("apprise").propagate = False
    return apprise
