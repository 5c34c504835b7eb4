"""Print the NOTICE of an image: every installed package with its licence, those with duties of their own first.

    python deploy/notice.py > NOTICE

rayrec itself is Apache-2.0 and imports none of the copyleft packages; they come with its dependencies. Whoever passes
the image on must pass on their licences, and the source of the GPL and LGPL ones or an offer of it.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

COPYLEFT = re.compile(r"\b(A?GPL|LGPL|MPL|EPL|CDDL|EUPL)|GNU|Mozilla|Affero", re.IGNORECASE)
PROPRIETARY = re.compile(r"Proprietary|NVIDIA|Intel End User|EULA", re.IGNORECASE)
DEBIAN = Path("/usr/share/doc")
_HEAD = """NOTICE of the image of rayrec

rayrec is licensed under the Apache License 2.0 (LICENSE). The packages below come with it, each under its own licence;
their texts are in the packages (*.dist-info) and, for Debian's, in /usr/share/doc/*/copyright.
"""
_DEBIAN = """
Debian packages of the base image, and gcc, g++ and wget: among them GPL and LGPL software (bash, coreutils, gcc, glibc,
wget and others). Sources: https://sources.debian.org, by the versions below.
"""


def licence_of(package: Distribution) -> str:
    """The licence that the package's metadata states."""
    metadata = package.metadata
    classifiers = [
        text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier", []) if text.startswith("License")
    ]
    stated = metadata.get("License-Expression") or (metadata.get("License") or "").strip().split("\n")[0][:100]
    return stated or ", ".join(classifiers) or "not stated"


def needed_by(name: str, packages: list[Distribution]) -> list[str]:
    """The installed packages that require `name` themselves."""
    wanted = _normal(name)
    return sorted(
        str(package.metadata["Name"])
        for package in packages
        if any(_normal(re.split(r"[\s;\[<>=!~(]", need)[0]) == wanted for need in package.requires or [])
    )


def groups(packages: list[Distribution]) -> dict[str, list[str]]:
    """Lines by kind of licence."""
    found: dict[str, list[str]] = {"copyleft": [], "proprietary": [], "other": []}
    for package in sorted(packages, key=lambda package: _normal(package.metadata["Name"])):
        licence = licence_of(package)
        said = " ".join([licence, *package.metadata.get_all("Classifier", [])])
        kind = "copyleft" if COPYLEFT.search(said) else "proprietary" if PROPRIETARY.search(said) else "other"
        line = f"{package.metadata['Name']} {package.version}: {licence}"
        if kind != "other" and (users := needed_by(package.metadata["Name"], packages)):
            line += f" (needed by {', '.join(users)})"
        found[kind].append(line)
    return found


def main() -> None:
    by_kind = groups(list({_normal(package.metadata["Name"]): package for package in distributions()}.values()))
    print(_HEAD)
    for title, kind in (
        ("Copyleft: GPL, LGPL, MPL and their like", "copyleft"),
        ("Proprietary: redistribution under the vendor's terms", "proprietary"),
        ("Other licences", "other"),
    ):
        print(f"{title}\n{'-' * len(title)}")
        print("\n".join(by_kind[kind]) or "none", end="\n\n")
    if Path("/var/lib/dpkg/status").is_file():
        print(_DEBIAN)
        status = Path("/var/lib/dpkg/status").read_text(encoding="utf8", errors="replace")
        for package, version in re.findall(r"^Package: (\S+)$.*?^Version: (\S+)$", status, re.MULTILINE | re.DOTALL):
            print(f"{package} {version}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
