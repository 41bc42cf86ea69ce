#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module: take out of a registry the images that nothing needs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_prune
short_description: Take the images out of a registry that nothing needs
version_added: 0.1.0
description:
  - Deletes the manifests of tagged images of the given repositories that are known to the caller and not to stay. Images
    that it does not know, such as another fleet's, and other repositories are left alone.
  - Of the images that are known and stay, tags that begin with O(tag_prefix) and are not in O(keep_tags) are taken away.
  - What cannot be deleted is no failure but a warning, since the images that are needed are none the worse for it.
  - The room on the disk becomes free when the registry collects its garbage, which is not done here.
options:
  repositories:
    description: The repositories, without the registry.
    type: list
    elements: str
    required: true
  keep:
    description: Digests of the images that stay. It must not be empty, as nothing would be left.
    type: list
    elements: str
    required: true
  known:
    description: Digests of the images that may be deleted.
    type: list
    elements: str
    required: true
  tag_prefix:
    description: What the tags begin with that are taken away from images that stay; empty for none.
    type: str
    default: ""
  keep_tags:
    description: The tags of these that stay all the same.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - truthgraph.platform.registry
attributes:
  check_mode:
    description: Says what would be deleted, and deletes nothing.
    support: full
author:
  - TruthGraph platform (@truthgraph)
"""

EXAMPLES = r"""
- name: Take out what no release needs
  truthgraph.platform.registry_prune:
    address: 192.0.2.11:5000
    repositories: [truthgraph/core, truthgraph/ml]
    keep: ["sha256:4f0c…"]
    known: ["sha256:4f0c…", "sha256:a1b2…"]
    tag_prefix: release-
    keep_tags: [release-0f3a5c77d2e1]
"""

RETURN = r"""
deleted:
  description: What was deleted, as repository@digest.
  returned: success
  type: list
  elements: str
untagged:
  description: Which tags were taken away from images that stay, as repository:tag.
  returned: success
  type: list
  elements: str
kept:
  description: How many images stay.
  returned: success
  type: int
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.truthgraph.platform.plugins.module_utils.registry import CONNECTION, RegistryError, connect


def outdated(tags: t.Sequence[str], prefix: str, keep: t.Collection[str]) -> list[str]:
    """Return which of an image's tags go. One has to stay, or nobody would find the image when it is to go itself."""
    old = sorted(tag for tag in tags if prefix and tag.startswith(prefix) and tag not in keep)
    return old if len(old) < len(tags) else old[1:]


def main() -> None:
    """Compare, and delete."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "repositories": {"type": "list", "elements": "str", "required": True},
            "keep": {"type": "list", "elements": "str", "required": True},
            "known": {"type": "list", "elements": "str", "required": True},
            "tag_prefix": {"type": "str", "default": ""},
            "keep_tags": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    wrong = [digest for digest in params["keep"] if not digest.startswith("sha256:")]
    if wrong or not params["keep"]:
        module.fail_json(msg=f"keep has to list the digests of the images that stay, not {wrong or 'nothing'}.")
    deleted, untagged, kept = [], [], 0
    spare, staying = set(params["known"]) - set(params["keep"]), set(params["known"]) & set(params["keep"])
    try:
        registry = connect(params)
        for repository in params["repositories"]:
            tags = {tag: registry.digest(repository, tag) for tag in registry.tags(repository)}
            found = set(tags.values()) - {""}
            kept += len(found - spare)
            for digest in sorted(found & spare):
                if not module.check_mode:
                    registry.delete(repository, digest)
                deleted.append(f"{repository}@{digest}")
            for digest in sorted(found & staying):
                old = outdated([tag for tag, named in tags.items() if named == digest], params["tag_prefix"], params["keep_tags"])
                if not module.check_mode:
                    registry.untag(repository, old)
                untagged += [f"{repository}:{tag}" for tag in old]
    except RegistryError as error:
        module.warn(
            f"Not all could be taken out of the registry {params['address']} ({error.reason}): {error.detail}. The next "
            "deploy that builds something tries again; the registry has to allow deleting (storage.delete.enabled)."
        )
    module.exit_json(changed=bool(deleted or untagged), deleted=deleted, untagged=untagged, kept=kept)


if __name__ == "__main__":
    main()
