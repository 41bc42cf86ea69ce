# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates for tests: of an authority of their own, or of the fleet's, whose key lies on the control node."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib
import typing as t

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USES = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}
# Python 3.13 takes no authority that does not say that it may sign.
SIGNS = x509.KeyUsage(
    **dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False),
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as PEM text."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


class Authority:
    """Signs certificates. Without a directory to read key and certificate from, it makes them."""

    def __init__(self, directory: pathlib.Path | None = None, name: str = "an authority of tests") -> None:
        if directory:
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
            self.key = t.cast(ec.EllipticCurvePrivateKey, key)
            self.certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        else:
            self.key = ec.generate_private_key(ec.SECP256R1())
            self.certificate = self._sign(self.key, name, 3650, [x509.BasicConstraints(True, 0), SIGNS])

    @property
    def text(self) -> str:
        """Its certificate as PEM text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def write(self, directory: pathlib.Path, name: str, days: float = 1, use: str = "server") -> tuple[str, str]:
        """Write a certificate for a name or address that ends after so many days, and its key; return their paths."""
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = [x509.SubjectAlternativeName([alternative]), x509.ExtendedKeyUsage([USES[use]])]
        certificate = self._sign(key, name, days, [x509.BasicConstraints(False, None), *extensions])
        directory.mkdir(parents=True, exist_ok=True)
        paths = directory / "certificate.pem", directory / "key.pem"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(pem(key))
        paths[1].chmod(0o600)
        return str(paths[0]), str(paths[1])

    def _sign(
        self, key: ec.EllipticCurvePrivateKey, name: str, days: float, extensions: list[x509.ExtensionType]
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = getattr(self, "certificate", None)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(own.subject if own else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=400))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, isinstance(extension, x509.BasicConstraints | x509.KeyUsage))
        return builder.sign(self.key, hashes.SHA256())
