# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that draws how large images are."""

from __future__ import annotations

DOCUMENTATION = r"""
name: size_chart
short_description: Draw how large images are, by their parts, beside earlier ones
description:
  - Answers an SVG picture with a bar for each image, as long as it is large, in the colours of its parts, and a thin one
    below for its compressed size.
positional: _input
options:
  _input:
    description:
      - The images by name, as the role P(truthgraph.platform.image_build#role) answers them. Their C(groups) are drawn in
        the order given; what the groups lack of the whole is drawn as C(other).
    type: dict
    required: true
  beside:
    description: What is drawn above them for comparison, each with C(name) and C(bytes).
    type: list
    elements: dict
    default: []
  title:
    description: The heading.
    type: str
    default: Images
author: The truthgraph.platform developers
"""

EXAMPLES = r"""
- name: Draw the images
  ansible.builtin.copy:
    content: "{{ image_build_images | truthgraph.platform.size_chart([{'name': 'before', 'bytes': 8030000000}]) }}"
    dest: images.svg
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The picture, a text in SVG.
  type: str
"""

import html
import typing as t

from ansible.errors import AnsibleFilterError

COLOURS = {
    "base": "#9aa5b1",
    "python": "#3e7cb1",
    "torch": "#e07a3f",
    "cuda": "#76b900",
    "weights": "#8e5ea2",
    "app": "#d1345b",
    "other": "#d8dee4",
}
EARLIER = "#e3e6ea"
INK = "#1f2933"
FAINT = "#616e7c"
LEFT = 170
WIDTH = 640
RIGHT = 150
ROW = 40
TOP = 64


def _size(count: float) -> str:
    """A size for people: MB up to one GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _text(x: float, y: float, text: str, size: int = 13, colour: str = INK, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">'
        f"{html.escape(str(text))}</text>"
    )


def _bar(x: float, y: float, width: float, height: int, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height}" fill="{colour}">'
        f"<title>{html.escape(title)}</title></rect>"
    )


def size_chart(images: dict[str, dict[str, t.Any]], beside: t.Iterable[dict[str, t.Any]] = (), title: str = "Images") -> str:
    """A picture of images by name, each with unpacked_bytes, compressed_bytes and groups."""
    try:
        largest = max([image["unpacked_bytes"] for image in images.values()] + [one["bytes"] for one in beside])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AnsibleFilterError(f"size_chart: there is nothing to draw, or a size is missing ({error})") from error
    scale = WIDTH / max(largest, 1)
    drawn = [_text(16, 28, title, 17)]
    used = []
    y = TOP
    for one in beside:
        drawn.append(_text(LEFT - 10, y + 15, one["name"], anchor="end", colour=FAINT))
        drawn.append(_bar(LEFT, y, one["bytes"] * scale, 20, EARLIER, f"{one['name']}: {_size(one['bytes'])}"))
        drawn.append(_text(LEFT + one["bytes"] * scale + 8, y + 15, _size(one["bytes"]), colour=FAINT))
        y += ROW - 8
    for name, image in images.items():
        whole, groups = image["unpacked_bytes"], dict(image.get("groups") or {})
        groups["other"] = max(0, whole - sum(groups.values()))
        drawn.append(_text(LEFT - 10, y + 15, name, anchor="end"))
        x = LEFT
        for group, count in groups.items():
            if not count:
                continue
            used.append(group)
            drawn.append(_bar(x, y, count * scale, 20, COLOURS.get(group, COLOURS["other"]), f"{group}: {_size(count)}"))
            x += count * scale
        packed = image["compressed_bytes"]
        drawn.append(_bar(LEFT, y + 22, packed * scale, 4, FAINT, f"compressed: {_size(packed)}"))
        drawn.append(_text(LEFT + whole * scale + 8, y + 15, f"{_size(whole)}, {_size(packed)} compressed"))
        y += ROW
    x = LEFT
    for group in (name for name in COLOURS if name in used):
        drawn.append(_bar(x, 40, 11, 11, COLOURS[group], group))
        drawn.append(_text(x + 16, 50, group, 12, FAINT))
        x += 32 + 8 * len(group)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {y + 12}" '
            'font-family="system-ui, sans-serif" role="img">',
            f"<title>{html.escape(title)}</title>",
            f'<rect width="{LEFT + WIDTH + RIGHT}" height="{y + 12}" fill="#ffffff"/>',
            *drawn,
            "</svg>\n",
        ]
    )


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Names and functions."""
        return {"size_chart": size_chart}
