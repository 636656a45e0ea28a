"""Optional packages: which of them are installed, and the command that adds others to this installation.

The command names every extra that is already installed: `uv tool install` and `pipx install` remove
those that they are not told, and so does `uv sync` without `--inexact`.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vlsb import strict_json
from vlsb.errors import ConfigError

MODULES = {
    "parquet": ("pyarrow",),
    "plot": ("matplotlib",),
    "batch": ("openai", "aiofiles"),
    "stats": ("numpy", "scipy", "statsmodels"),
    "import": ("openpyxl", "defusedxml"),
    "ray": ("ray",),
    "slurm": ("submitit",),
}
"""The modules that each extra brings, by the extra's name."""
_NAME = "vlsb"
_MARKER = re.compile(r"""([\w.-]+)[^;]*; *extra *== *["']([\w-]+)["']""")


def has_extra(extra: str) -> bool:
    """Tell whether everything that an extra brings can be imported."""
    return not _missing(extra)


def require_extra(extra: str, who: str) -> None:
    """Raise ConfigError where an extra is not installed; `who` needs it."""
    if missing := _missing(extra):
        raise lacks_extra(extra, f"{who} needs the extra `{extra}` ({', '.join(missing)} not found)")


def lacks_extra(extra: str, message: str) -> ConfigError:
    """Make the error for a missing extra, with the command that installs it here."""
    try:
        advice = Installation.of(distribution(_NAME)).advice(extra, Path.cwd())
    except (PackageNotFoundError, OSError, ValueError, LookupError, TypeError, AttributeError):
        # Not installed at all, or by a program that writes its records in a form of tomorrow.
        advice = f"Install vlsb with it: {_NAME}[{extra}]"
    return ConfigError(message, advice=advice)


def _missing(extra: str) -> list[str]:
    return [name for name in MODULES[extra] if find_spec(name) is None]


@dataclass(frozen=True, slots=True)
class Installation:
    """One vlsb: the environment it is in, and what it was installed from and by.

    `source` is what an installer takes: a folder, a wheel's path or address, a repository's, or the name.
    """

    environment: Path
    site_packages: Path
    source: str | Path
    is_editable: bool
    installer: str
    extras: tuple[str, ...]

    @classmethod
    def of(cls, installed: Distribution) -> Installation:
        """Read the metadata of an installed vlsb."""
        site_packages = Path(str(installed.locate_file("")))
        above = [each for each in site_packages.parents if (each / "pyvenv.cfg").is_file()]
        source: str | Path = _NAME
        is_editable = False
        if (direct_url := installed.read_text("direct_url.json")) is not None:
            origin: Any = strict_json.loads(direct_url)
            url, vcs = urlsplit(origin["url"]), origin.get("vcs_info")
            if url.scheme == "file" and vcs is None:
                source = Path(unquote(url.path))
                is_editable = origin.get("dir_info", {}).get("editable", False)
            else:
                source = _without_password(origin["url"])
                if vcs is not None:
                    revision = vcs.get("requested_revision")
                    source = f"{vcs['vcs']}+{source}" + (f"@{revision}" if revision else "")
        # Of each extra the packages, without those that only some Pythons need.
        packages: dict[str, list[str]] = {}
        for line in installed.requires or ():
            if match := _MARKER.fullmatch(line):
                packages.setdefault(match[2], []).append(match[1])

        def is_installed(name: str) -> bool:
            return any(distributions(name=name, path=[str(site_packages)]))

        return cls(
            environment=above[0] if above else Path(sys.prefix),
            site_packages=site_packages,
            source=source,
            is_editable=is_editable,
            installer=(installed.read_text("INSTALLER") or "").strip(),
            extras=tuple(extra for extra, names in packages.items() if all(map(is_installed, names))),
        )

    def advice(self, extra: str, here: Path) -> str:
        """Return the command that adds an extra and removes nothing, as it is typed in the folder `here`."""
        if isinstance(self.source, Path) and not self.source.exists():
            return f"In a clone of vlsb, install it: {shlex.join(self._command(extra, Path(), Path()))}"
        return f"Install it: {shlex.join(self._command(extra, self.source, here))}"

    def _command(self, extra: str, source: str | Path, here: Path) -> list[str]:
        extras = sorted({*self.extras, extra})
        requirement = f"[{','.join(extras)}]"
        if isinstance(source, Path):
            requirement = f"{'.' if source == here else source}{requirement}"
        else:
            requirement = f"{_NAME}{requirement}" + (f" @ {source}" if source != _NAME else "")
        editable = ["--editable"] if self.is_editable else []
        if (receipt := self.environment / "uv-receipt.toml").is_file():
            others = _others(receipt)
            return ["uv", "tool", "install", "--force", *others, *editable, requirement]
        if (metadata := self.environment / "pipx_metadata.json").is_file():
            pipx: Any = strict_json.loads(metadata.read_text("utf-8"))
            name_suffix = pipx["main_package"].get("suffix")
            suffix = ["--suffix", name_suffix] if name_suffix else []
            return ["pipx", "install", "--force", *suffix, *editable, requirement]
        settings = self.environment / "pyvenv.cfg"
        is_made_by_uv = settings.is_file() and re.search(r"^uv *=", settings.read_text(), re.MULTILINE)
        if is_made_by_uv and self.environment.name == ".venv":
            project = self.environment.parent
            where = [] if here.is_relative_to(project) else ["--project", str(project)]
            if self.is_editable and project == source:
                named = [word for each in extras for word in ("--extra", each)]
                return ["uv", "sync", "--inexact", *where, *named]
            lock = project / "uv.lock"
            # A project of uv that depends on us.
            if lock.is_file() and f'name = "{_NAME}"' in lock.read_text("utf-8"):
                return ["uv", "add", *where, *editable, requirement]
        if re.match(r"(archive|environments)-v\d", self.environment.parent.name):
            return ["uvx", "--from", requirement, _NAME]
        own_python = self.environment / "bin" / "python"
        python = str(own_python) if own_python.exists() else sys.executable
        if self.installer == "uv" or not (self.site_packages / "pip").is_dir():
            return ["uv", "pip", "install", "--python", python, *editable, requirement]
        return [python, "-m", "pip", "install", *editable, requirement]


def _without_password(address: str) -> str:
    """An address for the screen: whoever installed from a private place knows how to get in."""
    url = urlsplit(address)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def _others(receipt: Path) -> list[str]:
    """Return the options for the Python and the other packages that a tool's environment was asked for."""
    tool = tomllib.loads(receipt.read_text("utf-8"))["tool"]
    words = ["--python", tool["python"]] if "python" in tool else []
    for each in tool["requirements"]:
        if each["name"] == _NAME:
            continue
        if "editable" in each:
            words += ["--with-editable", each["editable"]]
            continue
        requirement = each["name"] + (f"[{','.join(each['extras'])}]" if "extras" in each else "")
        if "git" in each:
            revision = re.sub(r"\?(?:rev|tag|branch)=", "@", _without_password(each["git"]))
            requirement += f" @ git+{revision}"
        elif "url" in each:
            requirement += f" @ {_without_password(each['url'])}"
        elif place := each.get("directory") or each.get("path"):
            requirement += f" @ {Path(place).as_uri()}"
        words += ["--with", requirement + each.get("specifier", "")]
    return words
