# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests want to know of certificates on a host."""

from __future__ import annotations

import typing as t

import testinfra.host
from cryptography import x509
from cryptography.hazmat.primitives import serialization


def certificate(host: testinfra.host.Host, path: str) -> x509.Certificate:
    """Return the first certificate of a file."""
    return x509.load_pem_x509_certificate(host.file(path).content)


def days(found: x509.Certificate) -> int:
    """Return for how many days it is valid from the day on which it was made; the day before it is for wrong clocks."""
    return (found.not_valid_after_utc - found.not_valid_before_utc).days - 1


def names(found: x509.Certificate) -> set[str]:
    """Return the names and addresses that it is valid for."""
    extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(one.value) for one in extension}


def usage(found: x509.Certificate) -> set[str]:
    """Return what it may be used for."""
    extension = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return {str(one._name) for one in extension}


def public(key: t.Any) -> bytes:
    """Return a public key as it is compared."""
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def check_pair(host: testinfra.host.Host, certificate_path: str, key_path: str) -> None:
    """Check that a key on a host belongs to a certificate there."""
    key = serialization.load_pem_private_key(host.file(key_path).content, None)
    assert public(key.public_key()) == public(certificate(host, certificate_path).public_key())
