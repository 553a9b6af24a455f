"""What is wrong with certificates before anything is sent."""

from pathlib import Path

import pytest
from reeltint._cli import main
from reeltint._errors import InvalidRequest
from reeltint._tls import Tls
from reeltint_local import LocalTriton
from reeltint_local._server import _restricted
from typer.testing import CliRunner

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n"


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_files_are_read_in_grpcs_order(tmp_path: Path) -> None:
    """`grpc.ssl_channel_credentials(root_certificates, private_key, certificate_chain)`."""
    certificate, key = _file(tmp_path / "a.pem", CERTIFICATE), _file(tmp_path / "a.key", KEY)
    assert Tls(ca=certificate).read() == (CERTIFICATE.encode(), None, None)
    assert Tls(certificate=certificate, key=key).read() == (None, KEY.encode(), CERTIFICATE.encode())


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="a certificate and its key come together"):
        Tls(certificate=_file(tmp_path / "a.pem", CERTIFICATE))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"tls: ca .*nowhere\.pem: No such file"):
        Tls(ca=tmp_path / "nowhere.pem")
    certificate = _file(tmp_path / "a.pem", CERTIFICATE)
    with pytest.raises(InvalidRequest, match=r"tls: key .*a\.pem is not an unencrypted private key"):
        Tls(certificate=certificate, key=certificate)
    locked = _file(tmp_path / "a.key", KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"))
    with pytest.raises(InvalidRequest, match=r"tls: key .*a\.key is not an unencrypted private key"):
        Tls(certificate=certificate, key=locked)


def test_a_server_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="a server needs a certificate"):
        LocalTriton(tls=Tls(ca=_file(tmp_path / "ca.pem", CERTIFICATE)))


@pytest.mark.parametrize("key", ["", "short", "0123456789 abcdef", "0123456789abcdef,health:x=y"])
def test_an_admin_key_that_triton_would_misread(key: str) -> None:
    with pytest.raises(InvalidRequest, match="admin_key: at least 16"):
        LocalTriton(admin_key=key)


def test_controls_are_closed_to_other_hosts() -> None:
    assert _restricted(None, "127.0.0.1") == _restricted(None, "localhost") == []
    once, again = _restricted(None, "0.0.0.0"), _restricted(None, "0.0.0.0")
    assert once != again  # a key that nobody knows
    assert once[0].startswith("--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:admin-key=")
    assert all(option.endswith("=0123456789abcdef") for option in _restricted("0123456789abcdef", "127.0.0.1"))


def test_the_commands_say_what_is_missing(tmp_path: Path) -> None:
    certificate = str(_file(tmp_path / "a.pem", CERTIFICATE))
    done = CliRunner().invoke(main, ["serve", "--tls-cert", certificate])
    assert (done.exit_code, done.stderr) == (2, "reeltint: tls: a certificate and its key come together\n")


def test_certificates_are_for_a_server_that_is_named(tmp_path: Path) -> None:
    certificate = str(_file(tmp_path / "a.pem", CERTIFICATE))
    (tmp_path / "a.png").touch()
    done = CliRunner().invoke(main, ["colorize", str(tmp_path / "a.png"), "b.png", "--tls-ca", certificate])
    assert (done.exit_code, done.stderr) == (2, "reeltint: --tls-ca, --tls-cert and --tls-key are for --server\n")
