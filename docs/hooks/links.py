"""Links of pages to files outside ``docs/``: pictures come along, others are named.

Names of tests get the file that has them.

So pages can be read in the repository and on the site. A link to a file that is not
there is a warning, which ``--strict`` makes an error.
"""

import functools
import logging
import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_log = logging.getLogger("mkdocs.plugins.links")
# [text](../path), but no web address and no place on the page itself.
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")
_TEST = re.compile(r"`(test_\w+)`")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_PICTURES = (".png", ".svg", ".jpg")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures outside ``docs/`` that pages show (an event of MkDocs)."""
    docs = pathlib.Path(config.docs_dir)
    for file in list(files.documentation_pages()):
        if file.abs_src_path is None:
            continue
        text = pathlib.Path(file.abs_src_path).read_text(encoding="utf-8")
        for sign, _, link, _ in _LINK.findall(text):
            inside = _inside_repository(file.src_uri, link)
            if sign and inside and files.get_file_from_path(inside) is None:
                path = docs.parent / inside
                added = File.generated(config, inside, abs_src_path=str(path))
                files.append(added)
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Rewrites the links that leave ``docs/`` (an event of MkDocs)."""
    root = pathlib.Path(config.docs_dir).parent
    tests = _tests(root) if _TEST.search(markdown) else {}

    def place(match: re.Match[str]) -> str:
        file = tests.get(match[1])  # a source archive has no tests
        if file is None:
            return match[0]
        if config.repo_url:
            return f"[{match[0]}]({config.repo_url.rstrip('/')}/blob/HEAD/{file})"
        return f'{match[0]}{{ title="{file}" }}'

    def rewrite(match: re.Match[str]) -> str:
        sign, label, link, anchor = match.groups()
        inside = _inside_repository(page.file.src_uri, link)
        if inside is None:
            return match[0]
        if not (root / inside).exists():
            _log.warning("%s links to %s, which is not there", page.file.src_uri, link)
        if sign:
            here = posixpath.dirname(page.file.src_uri)
            return f"![{label}]({posixpath.relpath(inside, here)})"
        if config.repo_url:
            base = f"{config.repo_url.rstrip('/')}/blob/HEAD"
            return f"[{label}]({base}/{inside}{anchor or ''})"
        bare = label.strip("`")
        if bare == inside:
            return label
        in_brackets = match.string[: match.start()].endswith("(")
        return f"{label}: `{inside}`" if in_brackets else f"{label} (`{inside}`)"

    parts = _FENCE.split(markdown)
    parts[::2] = [_TEST.sub(place, _LINK.sub(rewrite, p)) for p in parts[::2]]
    return "".join(parts)


@functools.cache
def _tests(root: pathlib.Path) -> dict[str, str]:
    """Returns the file of each test, by its name."""
    return {
        name: path.relative_to(root).as_posix()
        for path in sorted((root / "tests").rglob("*_test.py"))
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }


def _inside_repository(page: str, link: str) -> str | None:
    """Returns a link's path in the repository if it leaves ``docs/``, else None.

    Args:
        page: the page that has it, by its path below ``docs/``.
        link: as the page has it.
    """
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith(("docs/", "..")) else path
