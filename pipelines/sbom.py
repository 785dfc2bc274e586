"""The packages of constraints.txt as a bill of materials: CycloneDX 1.6, in JSON (ECMA-424).

python pipelines/sbom.py [sbom.json]
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def components(root: Path) -> list[dict[str, Any]]:
    """One for each line `name==version`, in their order."""
    found = []
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        name, version = line.split("==")
        place = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
        found.append(
            {
                "type": "library",
                "bom-ref": place,
                "name": name,
                "version": version,
                "purl": place,
            }
        )
    return found


def sbom(root: Path) -> dict[str, Any]:
    """The whole bill; equal files give equal bills."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = components(root)
    place = f"pkg:pypi/{project['name']}@{project['version']}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": place,
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": place,
            }
        },
        "components": parts,
        "dependencies": [{"ref": place, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


if __name__ == "__main__":
    text = json.dumps(sbom(ROOT), indent=2) + "\n"
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "sbom.json"
    target.write_text(text, encoding="utf-8")
