"""The documentation site: ``make docs`` builds it into docs/_build/html."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "hepfm"
author = "the hepfm developers"
copyright = "the hepfm developers, MIT licence"
release = metadata.version("hepfm")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "attribute_docstrings",
    "repository_pages",
    "command_pages",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = "hepfm"
html_static_path = ["static"]
html_css_files = ["hepfm.css"]
html_show_sphinx = False
html_copy_source = False

# Links between pages, and to headings in them, are checked: `-W` makes a broken one fail the build.
myst_enable_extensions = ["deflist", "html_admonition"]
myst_heading_anchors = 3

# Notebooks are run from top to bottom at every build; a cache keeps what has not changed since.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "notebooks")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_exclude = ".linenos, .gp, .go"
