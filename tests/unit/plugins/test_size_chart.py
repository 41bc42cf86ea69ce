"""The picture of the images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.truthgraph.platform.plugins.filter.size_chart import size_chart

SVG = "{http://www.w3.org/2000/svg}"
IMAGES = {
    "core": {
        "unpacked_bytes": 200_000_000,
        "compressed_bytes": 60_000_000,
        "groups": {"base": 100_000_000, "python": 90_000_000, "torch": 0, "app": 10_000_000},
    }
}


def bars(picture: ElementTree.Element) -> dict[str, float]:
    return {
        bar.findtext(f"{SVG}title", ""): float(bar.attrib["width"])
        for bar in picture.iter(f"{SVG}rect")
        if bar.find(f"{SVG}title") is not None and bar.get("height") != "11"
    }


def test_bars_are_as_long_as_images_are_large() -> None:
    picture = ElementTree.fromstring(size_chart(IMAGES, [{"name": "before & after", "bytes": 400_000_000}]))
    drawn = bars(picture)
    whole = drawn["before & after: 400 MB"]
    assert drawn["base: 100 MB"] == pytest.approx(whole / 4, abs=0.1)
    assert drawn["python: 90 MB"] + drawn["app: 10 MB"] == pytest.approx(whole / 4, abs=0.2)
    assert drawn["compressed: 60 MB"] == pytest.approx(whole * 0.15, abs=0.1)
    assert not any(name.startswith(("torch", "other")) for name in drawn)


def test_what_no_part_accounts_for_is_drawn() -> None:
    image = {"unpacked_bytes": 100_000_000, "compressed_bytes": 1, "groups": {"base": 60_000_000}}
    assert "other: 40 MB" in bars(ElementTree.fromstring(size_chart({"core": image})))


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(AnsibleFilterError, match="nothing to draw"):
        size_chart({})
    with pytest.raises(AnsibleFilterError, match="unpacked_bytes"):
        size_chart({"core": {}})
