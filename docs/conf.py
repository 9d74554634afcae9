"""Settings of the documentation, read by Sphinx; `python docs/build.py` builds it."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

import ddim  # noqa: E402

project = "ddim"
author = "the authors of ddim"
copyright = author  # noqa: A001  (Sphinx's name)
version = release = ddim.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "generated_pages",
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["extensions", "static"]
smartquotes = False  # "--" is an option
default_role = "code"  # `x` in a docstring is code
# A link to a function of this package must resolve; types in signatures need not.
nitpicky = True
nitpick_ignore_regex = [("py:(class|data|exc)", ".*"), ("py:.*", r"(?!ddim\.).*")]

html_theme = "furo"
html_title = f"ddim {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    # The theme's fonts are those of the system; nothing is loaded from another host.
    "light_css_variables": {"color-brand-primary": "#0b5c8a", "color-brand-content": "#0b5c8a"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ee", "color-brand-content": "#7cc4ee"},
}
maximum_signature_line_length = 90

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

nb_execution_mode = "force"
nb_execution_excludepatterns = ["*.ipynb"]  # notebooks hold the outputs of one good run
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # no page has widgets, and their scripts come from other hosts

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = False  # edits have options that their source does not name one by one
autodoc_default_options = {"show-inheritance": False}
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

copybutton_prompt_text = "$ "
