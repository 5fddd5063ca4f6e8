"""The configuration of the site: Markdown pages, and a reference from docstrings. `make docs` needs no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import normwise

project = "normwise"
author = "the normwise authors"
release = version = normwise.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_interactive"]
# What `docs/make_interactive.py` has made: pages of their own.
html_extra_path = ["_interactive"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "normwise"
html_show_copyright = False  # LICENSE says it
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4


default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"


def _mathml(node: nodes.Element, block: bool = False) -> str:
    """A formula as MathML, without commands that docutils does not know: \\big changes only a size."""
    return tex2mathml(re.sub(r"\\[bB]igg?[lr]?(?![a-zA-Z])", "", node.astext()), as_block=block)


def _write_inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_mathml(node))
    raise nodes.SkipNode


def _write_block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f"<div class='math'>{_mathml(node, block=True)}</div>")
    raise nodes.SkipNode


def _keep_together(_app: Any, tree: nodes.document) -> None:
    """No line of a narrow table ends before or after a ±."""
    for text in list(tree.findall(nodes.Text)):
        if " ± " in text:
            text.parent.replace(text, nodes.Text(text.replace(" ± ", "\u00a0±\u00a0")))


def setup(app: Any) -> None:
    """Write formulas as MathML, which browsers render without a script."""
    app.connect("doctree-read", _keep_together)
    app.add_html_math_renderer("mathml", (_write_inline, None), (_write_block, None))
