"""Certificates of an encrypted connection."""

from dataclasses import dataclass
from pathlib import Path

from reeltint._errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files of one end of a connection; `deploy/tls/make_certificates.sh` makes a set.

    Attributes:
        ca: Whose signature the other end's certificate must bear. A client without it trusts the public authorities;
            a server without it lets in clients that show no certificate.
        certificate: This end's certificate, the chain below the authority included. A server needs one; a client
            only where the server asks for it (mTLS).
        key: The private key of `certificate`, not encrypted.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("tls: a certificate and its key come together")
        self.read()

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return what is in `ca`, `key` and `certificate`: gRPC's order.

        Raises:
            InvalidRequest: A file cannot be read, or is not PEM of that kind.
        """
        return (
            _pem("ca", self.ca, b"CERTIFICATE-----"),
            _pem("key", self.key, b"PRIVATE KEY-----"),
            _pem("certificate", self.certificate, b"CERTIFICATE-----"),
        )


def _pem(field: str, path: Path | str | None, mark: bytes) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"tls: {field} {path}: {error.strerror}") from error
    if mark not in content or b"ENCRYPTED" in content:
        kind = "an unencrypted private key" if field == "key" else "a certificate"
        raise InvalidRequest(f"tls: {field} {path} is not {kind} in PEM")
    return content
