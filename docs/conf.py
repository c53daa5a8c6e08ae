"""Sphinx settings. `docs/build.sh` builds the site; `-t quick` leaves out the API pages and the notebooks."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # mrict_core, pages

import pages  # noqa: E402

from mrict_core import __version__  # noqa: E402

project = "MRICT"
author = "The MRICT authors"
copyright = "The MRICT authors, MIT licence"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_design", "sphinx_copybutton"]
exclude_patterns = ["docker", "starter"]
nitpicky = False  # types are shown, not linked: torch's and numpy's inventories are on the net

smartquotes = False  # they would turn --option into –option
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
suppress_warnings = ["myst.header", "ref.python"]  # generated pages may begin at the second level; equal class names
add_module_names = False
modindex_common_prefix = ["mrict_core."]

html_theme = "furo"
html_title = "MRICT"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it would fetch the pages found, which browsers forbid to a file
html_math_renderer = "mathml"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b5c8a", "color-brand-content": "#0b5c8a"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ee", "color-brand-content": "#7cc4ee"},
}


def _mathml(writer, node) -> None:
    """Write a formula as MathML, which browsers draw themselves: no script, no fonts."""
    block = node.tagname == "math_block"
    formula = tex2mathml(node.astext(), as_block=block)
    writer.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))
    app.connect("builder-inited", pages.write)
    app.connect("source-read", pages.fill)
    app.connect("autodoc-process-docstring", pages.plain_docstring)
