"""Write the dashboards' JSON (`python -m scripts.dashboards`); with `--check` only say which is behind the code."""

import json
import sys
from pathlib import Path

from scripts.dashboards import draft_quality, fleet, service, speculation
from scripts.dashboards.panels import Dashboard, dashboard_json

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "aerie" / "dashboards"
DASHBOARDS: dict[str, Dashboard] = {
    "speculation": speculation.DASHBOARD,
    "service": service.DASHBOARD,
    "fleet": fleet.DASHBOARD,
    "draft-quality": draft_quality.DASHBOARD,
}


def main() -> int:
    """Write the files, or check them."""
    fresh = {FOLDER / f"{name}.json": _text(dashboard) for name, dashboard in DASHBOARDS.items()}
    old = set(FOLDER.glob("*.json")) - fresh.keys()
    behind = sorted(old | {path for path, text in fresh.items() if not path.exists() or path.read_text() != text})
    if "--check" not in sys.argv:
        for path in old:
            path.unlink()
        for path, text in fresh.items():
            path.write_text(text)
        return 0
    if behind:
        names = ", ".join(path.name for path in behind)
        print(f"dashboards: behind the code: {names}; run `python -m scripts.dashboards`", file=sys.stderr)
    return bool(behind)


def _text(dashboard: Dashboard) -> str:
    return json.dumps(dashboard_json(dashboard), indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
