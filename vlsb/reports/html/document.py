"""The viewer's files and a page's content joined into one HTML document.

No word of a stranger stands in the markup: all of them are in one JSON island, which the viewer reads. The
policy names the style and the script by their checksums, so that nothing else runs, whatever the content is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources

from vlsb.reports.encode import json_island

MODULES = (
    "dom.js",
    "words.js",
    "runs.js",
    "state.js",
    "difference.js",
    "list.js",
    "sample.js",
    "compare.js",
    "label.js",
    "live.js",
    "sort.js",
    "app.js",
)
"""The viewer's modules in the order of their imports."""

IMAGE_SOURCES = {"inline": "data:", "folder": "'self' file:", "own": "'self'", "none": "'none'"}
"""What a page may show images from: itself, the folder beside it, its own server, nothing."""

GENERATOR = '<meta name="generator" content="vlsb">'
"""What tells a page of ours from any other file, near its beginning."""

_IMPORT = re.compile(r"^import (?:[^;]*? from )?\"\./[a-z]+\.js\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=async|function|const|let|class)", re.MULTILINE)


def page_document(content: Mapping[str, object], *, images: str, is_served: bool = False) -> str:
    """The page as HTML. `images` is a key of IMAGE_SOURCES; one that is served may ask its own server."""
    style, script = _file("page.css"), viewer_script()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            f"img-src {IMAGE_SOURCES[images]}",
            *(["connect-src 'self'"] if is_served else []),
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    icon = '<link rel="icon" href="icon">' if is_served else ""
    parts = {
        "icon": icon,
        "policy": policy,
        "style": style,
        "script": script,
        "content": json_island(content),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def viewer_script() -> str:
    """The modules as one plain script: pages opened from a disk run no modules."""
    joined = "\n".join(_EXPORT.sub("", _IMPORT.sub("", _file(name))) for name in MODULES)
    return f'(() => {{\n"use strict";\n{joined}}})();\n'


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _file(name: str) -> str:
    return resources.files("vlsb.reports.html").joinpath("viewer", name).read_text("utf-8")
