"""The file: one HTML page with all that it needs, which asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from cerebro.report import sections
from cerebro.report.axes import varying
from cerebro.report.contents import Contents
from cerebro.report.data import packed
from cerebro.report.markup import Markup, element, joined
from cerebro.version import __version__

MARK = "<!doctype html>\n<!-- cerebro report -->\n"
"""How every page starts, so that a file can be told to be one."""

SCRIPTS = ("common.js", "curves.js", "hyperparameters.js", "schedule.js", "tables.js", "start.js")
"""In this order, in one scope."""

CURVES = Markup("""
<div class="controls">
<label>metric <select id="metric"><option value="error">error</option>
<option value="loss">loss</option></select></label>
<label>axis <select id="scale"><option value="linear">linear</option>
<option value="log">logarithmic</option></select></label>
<span class="colours"></span></div>
<div class="pair"><figure><figcaption>training</figcaption><div id="train-curves"></div></figure>
<figure><figcaption>validation</figcaption><div id="valid-curves"></div></figure></div>
<p class="hint screen">Point at a line to see its model, click to keep it marked in all drawings
and in the table; Escape lets it go.</p>
""")

SCHEDULE = Markup("""
<div class="controls"><button type="button" id="whole">whole run</button>
<button type="button" id="closer">zoom in</button><button type="button" id="wider">zoom out</button>
<button type="button" id="earlier">earlier</button><button type="button" id="later">later</button>
<span class="colours"></span></div>
<div id="gantt"><canvas tabindex="0" role="img"></canvas></div>
<p class="legend"><span><i class="tall"></i>training</span>
<span><i class="low"></i>validating</span>
<span><i class="cross">×</i>failed, or lost</span><span><i class="pale"></i>does not count</span>
<span><i class="idle"></i>waits: nothing to start</span><span><i class="loading"></i>loading
data</span><span><i class="away"></i>away</span><span class="restart"><i class="line"></i>resumed
by another driver</span></p>
<p class="hint screen">Drag over a stretch of time to zoom in, double-click for the whole run; the
arrow keys move, + and − zoom.</p>
""")
NO_SCRIPTS = Markup(
    "<noscript><p class='note'>The drawings need JavaScript; the tables do not.</p></noscript>"
)


def page(contents: Contents) -> str:
    """The whole file's text."""
    parts = [
        ("Learning curves", "curves", CURVES),
        ("Models", "table-of-models", sections.models(contents)),
        ("Hyperparameters", "hyperparameters", _hyperparameters(contents)),
        ("Schedule", "schedule", SCHEDULE),
        ("What went wrong", "what-went-wrong", sections.troubles(contents)),
        ("Utilisation of workers", "utilisation", sections.utilisation(contents)),
        ("Where the time went", "phases", sections.phases(contents)),
        ("Provenance", "provenance", sections.provenance(contents)),
    ]
    if contents.methods is not None:
        parts.append(("For a methods section", "methods", _methods(contents.methods)))
    left_out = set()
    if not any(model.epochs for model in contents.models):
        left_out = {"curves", "hyperparameters"}
    elif not varying([model.config for model in contents.models]):
        left_out = {"hyperparameters"}
    parts = [part for part in parts if part[1] not in left_out]
    body = [
        element("section", element("h2", title), content, id=name) for title, name, content in parts
    ]
    links = [element("a", title, href=f"#{name}") for title, name, _ in parts]
    main = [NO_SCRIPTS, sections.summary(contents), *body]
    code = Markup(f"(() => {{\n{''.join(map(_asset, SCRIPTS))}}})();")
    whole = [
        Markup(f"{MARK}<html lang='en'><head><meta charset='utf-8'>"),
        _policy(code),
        element("title", f"{contents.name}: report"),
        Markup(
            "<meta name='viewport' content='width=device-width, initial-scale=1'>"
            f"<meta name='generator' content='cerebro-dl {__version__}'>"
            f"<style>{_asset('page.css')}</style></head><body>"
        ),
        element("header", element("h1", contents.name), element("nav", *links, class_="screen")),
        element("main", *main),
        element("div", id="tip", role="status", hidden=True),
        element("script", Markup(packed(contents)), type="application/json", id="data"),
        element("script", code),
        Markup("</body></html>\n"),
    ]
    return joined(whole)


def _policy(code: str) -> Markup:
    """What the page may do: run this code and no other, and load nothing."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'"
    content = f"{allowed}; base-uri 'none'; form-action 'none'"
    return Markup(f'<meta http-equiv="Content-Security-Policy" content="{content}">')


def _hyperparameters(contents: Contents) -> Markup:
    said = (
        f"The {contents.metric_name} of each model at its best epoch. Where three or more models "
        "share a value, a dash is their median."
    )
    return joined([element("p", said), element("div", id="axes")])


def _methods(paragraph: str) -> Markup:
    said = (
        "Made from what the run recorded; say where the data come from, and check it before you "
        "use it."
    )
    return joined([element("p", said, class_="hint"), element("blockquote", paragraph)])


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
