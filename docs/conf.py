"""How the documentation site is built: ``python -m sphinx -W docs OUT``."""

import os
import re
from importlib.metadata import version as installed

project = "sctag-tools"
author = "The sctag-tools team"
project_copyright = "2026, The sctag-tools team"
version = release = installed("sctag-tools")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
# Links into other packages' documentation need their inventories, which are fetched when the site is built: on demand.
if os.environ.get("SCTAG_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "sklearn": ("https://scikit-learn.org/stable/", None),
    }

templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "scverse"]
smartquotes = False  # names of slots are quoted as in code
nb_execution_mode = "off"  # notebooks are committed with their outputs; tests/test_notebooks.py runs them
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "literal"  # single backticks of the docstrings
autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = False
napoleon_use_rtype = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "sctag-tools"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "navbar_persistent": [],  # the sidebar has a search box already
}


def _plain_slots(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Napoleon sets what is returned in bold type, where backticks would show as they are."""
    lines[:] = [re.sub(r"^`(\S.*)` :", r"\1 :", line) for line in lines]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _plain_slots, priority=100)  # before napoleon
