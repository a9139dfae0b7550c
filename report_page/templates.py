"""The HTML templates of the pages: everything that is put into them is escaped."""
from pathlib import Path

import jinja2
import markupsafe

PAGE = Path(__file__).parent


def template(name):
    """A template of this folder, to be rendered with all that it names."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGE), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # JavaScript cannot read NaN
    environment.filters["breakable"] = lambda text: markupsafe.escape(text).replace("_", markupsafe.Markup("_<wbr>"))
    return environment.get_template(name)
