"""Write the cubes of docs/explain.md: python docs/make_cubes.py"""

from __future__ import annotations

from pathlib import Path

import normwise as nw

IMAGES = Path(__file__).with_name("images")

if __name__ == "__main__":
    for name in ("batch", "layer", "instance", "group"):
        nw.explain(name).save(IMAGES / f"cube_{name}.svg")
