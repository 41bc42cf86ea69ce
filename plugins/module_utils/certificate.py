"""When a certificate ends. The hosts have no library for certificates, so the one field is read from its encoding.

Source of the encoding: RFC 5280, section 4.1 (the fields of a certificate) and X.690 (DER).
"""

from __future__ import annotations

import base64
import datetime
import re

PEM = re.compile("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
EXPLICIT_VERSION, UTC_TIME, GENERALIZED_TIME = 0xA0, 0x17, 0x18


def _element(data: bytes, start: int) -> tuple[int, int, int]:
    """Return the tag of the element at a place, and where its contents begin and end."""
    tag, length, begin = data[start], data[start + 1], start + 2
    if length & 0x80:
        size = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + size], "big"), begin + size
    if begin + length > len(data):
        raise IndexError("an element is longer than what holds it")
    return tag, begin, begin + length


def ends(pem: str) -> float:
    """Return when the first certificate of a PEM text ends, in seconds since the epoch; ValueError if there is none."""
    found = PEM.search(pem)
    if not found:
        raise ValueError("there is no certificate in it")
    try:
        data = base64.b64decode(found.group(1))
        _tag, place, _end = _element(data, 0)  # Certificate
        _tag, place, _end = _element(data, place)  # TBSCertificate
        tag, _begin, after = _element(data, place)
        place = after if tag == EXPLICIT_VERSION else place
        for _part in ("serial number", "signature algorithm", "issuer"):
            _tag, _begin, place = _element(data, place)
        _tag, place, _end = _element(data, place)  # Validity
        _tag, _begin, place = _element(data, place)  # not before
        tag, place, after = _element(data, place)
        text = data[place:after].decode("ascii")
        # Two digits of a year belong to 1950-2049.
        century = "" if tag == GENERALIZED_TIME else "20" if int(text[:2]) < 50 else "19"
        # Z is UTC.
        when = datetime.datetime.strptime(f"{century}{text}+0000", "%Y%m%d%H%M%SZ%z")
    except (IndexError, ValueError) as error:
        raise ValueError(f"it is no certificate that can be read: {error}") from error
    return when.timestamp()
