"""A server on a loopback socket that does to each connection exactly what the test says, byte by byte."""

import contextlib
import datetime as dt
import ipaddress
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Act = Callable[["Visit"], None]

ORDER_ID = "1953341975595868160"
OK = b'{"status":"success","data":{"order_id":"1953341975595868160"}}'


class Visit:
    """One connection, in a thread of its own."""

    def __init__(self, sock: socket.socket, server: "Loopback", number: int) -> None:
        self.sock = sock
        self.server = server
        self.number = number
        self._rest = b""

    def request(self) -> bytes | None:
        """The next whole request; None when the peer has closed."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more():
                return None
        head, _, rest = self._rest.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        self._rest = rest
        while len(self._rest) < length:
            if not self._more():
                return None
        body, self._rest = self._rest[:length], self._rest[length:]
        whole = head + b"\r\n\r\n" + body
        self.server.requests.append(whole)
        self.server.came.put((self.number, whole))
        return whole

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(
        self, body: bytes = OK, *, status: str = "200 OK", kind: str | None = "application/json", more: str = ""
    ) -> None:
        content = "" if kind is None else f"Content-Type: {kind}\r\n"
        self.send(f"HTTP/1.1 {status}\r\n{content}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def reset(self) -> None:
        """Ends the connection the hard way."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.sock.close()

    def until_closed(self) -> bytes:
        """What still comes until the peer closes."""
        with contextlib.suppress(OSError):
            while self._more():
                pass
        return self._rest

    def _more(self) -> bool:
        got = self.sock.recv(65536)
        self._rest += got
        return bool(got)


def serving(body: bytes = OK, **how: Any) -> Act:
    """Answers every request of the connection so."""

    def act(visit: Visit) -> None:
        while visit.request() is not None:
            visit.answer(body, **how)

    return act


def hangs(visit: Visit) -> None:
    """Takes the request and never answers."""
    visit.request()
    visit.until_closed()


class Loopback:
    """The connections meet `acts` in their order, the last one for all that come after."""

    def __init__(self, *acts: Act, tls: ssl.SSLContext | None = None) -> None:
        self.acts = list(acts)
        self.requests: list[bytes] = []
        self.came: queue.Queue[tuple[int, bytes]] = queue.Queue()
        self.visits: list[Visit] = []
        self.troubles: list[BaseException] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    @property
    def root(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for visit in self.visits:
            with contextlib.suppress(OSError):
                visit.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            number = len(self.visits)
            act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
            visit = Visit(sock, self, number)
            self.visits.append(visit)
            thread = threading.Thread(target=self._visit, args=(visit, act), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _visit(self, visit: Visit, act: Act) -> None:
        try:
            if self._tls is not None:
                visit.sock = self._tls.wrap_socket(visit.sock, server_side=True)
            act(visit)
        except (OSError, ValueError) as error:
            self.troubles.append(error)  # the peer went away, or its handshake failed
        finally:
            with contextlib.suppress(OSError):
                visit.sock.close()


def proxy(*, status: str = "200 Connection established", hold: threading.Event | None = None) -> Act:
    """A proxy that answers CONNECT so (once `hold` is set), and then passes everything on."""

    def act(visit: Visit) -> None:
        head = visit.request()
        if head is None:
            return
        if hold is not None:
            hold.wait(20)
        visit.send(f"HTTP/1.1 {status}\r\n\r\n".encode())
        if not status.startswith("200"):
            return
        port = int(head.split()[1].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as there:
            back = threading.Thread(target=_pass_on, args=(there, visit.sock), daemon=True)
            back.start()
            _pass_on(visit.sock, there)
            back.join(5)

    return act


def _pass_on(come: socket.socket, go: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := come.recv(65536):
            go.sendall(data)
    with contextlib.suppress(OSError):
        go.shutdown(socket.SHUT_RDWR)


@contextmanager
def unreachable() -> Iterator[int]:
    """A port where connecting takes for ever: its queue is full and nobody accepts."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for 127.0.0.1, and the file of the certificate that it takes to trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public
