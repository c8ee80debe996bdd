"""A mail server on loopback that keeps what it is given, as a process of its own."""

from __future__ import annotations

import email
import email.policy
import socket
import subprocess
import sys
import time
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.lab.cluster import free_port

HOST: Final = "127.0.0.1"
PATIENCE: Final = 60.0


class Mailbox:
    """Takes any mail into a directory; use it in a `with` block."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._seen: set[str] = set()

    def __enter__(self) -> Mailbox:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What to put under `notify`."""
        return f"smtp://{HOST}:{self.port}/?to=lab@example.org"

    def start(self) -> None:
        """Take mail, on the same port as before."""
        if self._server is not None:
            return
        place = f"{HOST}:{self.port}"
        keeper = ["-c", "aiosmtpd.handlers.Mailbox", str(self.directory)]
        self._server = subprocess.Popen([sys.executable, "-m", "aiosmtpd", "-nl", place, *keeper])
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > deadline or self._server.poll() is not None:
                self.stop()
                raise RuntimeError("the mail server does not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """Refuse mail from now on."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def empty(self) -> None:
        """Forget what has come."""
        for path in (self.directory / "new").iterdir():
            path.unlink()
        self._seen.clear()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=PATIENCE) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def mails(self) -> list[EmailMessage]:
        """What has come since the last call, by subject."""
        found = []
        for path in (self.directory / "new").iterdir():
            if path.name not in self._seen:
                self._seen.add(path.name)
                message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                assert isinstance(message, EmailMessage)
                found.append(message)
        return sorted(found, key=lambda each: str(each["Subject"]))

    def subjects(self) -> list[str]:
        """The subjects of what has come since the last call, without what all begin with."""
        return [str(each["Subject"]).removeprefix("[ontpush] ") for each in self.mails()]


def content(mail: EmailMessage, kind: str) -> str:
    """The body of a mail: `plain` or `html`."""
    body = mail.get_body([kind])
    assert body is not None
    text: str = body.get_content()
    return text
