"""HTML pages as tests read them."""

import html.parser

_VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(html.parser.HTMLParser):
    """Text, elements and attributes of a page; fails if elements are not nested."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements = []
        self.words = []
        self._open = []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self._open)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.words += data.split()  # at no-break spaces, too

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag):
        return [(attrs, within) for name, attrs, within in self.elements if name == tag]
