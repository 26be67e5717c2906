"""Settings of the reviewer's page: Sphinx reads the generated sources; nothing is executed or fetched."""

import re

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

project = "Zero-shot cross-lingual transfer"
html_title = "What holds in zero-shot cross-lingual transfer"
extensions = ["myst_nb"]
exclude_patterns = ["fragments"]

nb_execution_mode = "off"  # the notebooks come executed
nb_merge_streams = True
nb_ipywidgets_js = {}  # the default loads scripts from outside
myst_enable_extensions = ["dollarmath", "amsmath"]
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
    "footer_content_items": "",
    "navbar_persistent": [],  # the search field stands in the sidebar
}
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_js_files = [("statements.js", {"defer": "defer"})]
html_extra_path = ["extra"]
html_copy_source = False
html_show_search_summary = False  # a page opened from a file cannot fetch another one
html_math_renderer = "mathml"  # MathJax would come from outside; browsers draw MathML themselves


def _mathml(translator, node, block):
    """Write a formula as MathML; one that cannot be converted stays as it was typed, with a warning."""
    latex = re.sub(r"\\(begin|end)\{(align|gather)\*?\}", r"\\\1{aligned}", node.astext())
    latex = re.sub(r"\\(begin|end)\{equation\*?\}", "", latex)
    try:
        markup = tex2mathml(latex, as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula not drawn (%s): %s", error, latex, location=node)
        markup = f"<code>{translator.encode(latex)}</code>"
    tag = "div" if block else "span"
    translator.body.append(f'<{tag} class="math notranslate">{markup}</{tag}>')
    raise SkipNode


def setup(app):
    """Register the renderer of formulas."""
    inline = (lambda translator, node: _mathml(translator, node, block=False), None)
    display = (lambda translator, node: _mathml(translator, node, block=True), None)
    app.add_html_math_renderer("mathml", inline, display)
