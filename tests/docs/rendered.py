"""The book as mdBook renders it: no content is lost, every link resolves, nothing is loaded from other sites, and it is readable."""
import html.parser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/page")]
from book import FENCED, LINK, prose  # noqa: E402
from browser import Browser  # noqa: E402
from broker import cache_dir  # noqa: E402

BUILD_SECONDS_MAX = 60
# Attributes that a browser loads by itself, by element; an `a` is only followed.
LOADED = {"script": ("src",), "link": ("href",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src",), "object": ("data",)}
# Pages that cover all kinds of content, and the narrowest and widest windows that are tested.
SHOWN = ("index", "tutorial", "configuration", "performance")
WIDTHS = {"wide": 1280, "phone": 390}


class Page(html.parser.HTMLParser):
    """One rendered page: its anchors, its links, what it loads, and its numbers of headings, tables and code blocks."""

    def __init__(self, path):
        super().__init__()
        self.names, self.links, self.loads, self.base = set(), [], [], None
        self.inside, self.shown = False, {"headings": 0, "tables": 0, "blocks": 0}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.names |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "base":
            self.base = values["href"]
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        self.loads += [values[name] for name in LOADED.get(tag, ()) if values.get(name)]
        if tag == "main":
            self.inside = True
        kind = "headings" if re.fullmatch("h[1-6]", tag) else {"table": "tables", "pre": "blocks"}.get(tag)
        if self.inside and kind:
            self.shown[kind] += 1

    def handle_endtag(self, tag):
        if tag == "main":
            self.inside = False


def tool():
    """The mdBook that tests/install builds."""
    program = cache_dir() / "tools/bin/mdbook"
    assert program.exists(), f"{program} is missing; tests/install builds it"
    return program


def build(docs, out):
    """Builds the book; a warning is a failure."""
    done = subprocess.run([tool(), "build", str(docs), "--dest-dir", str(out)], capture_output=True, text=True, timeout=BUILD_SECONDS_MAX,
                          env=os.environ | {"RUST_LOG": "info"})
    said = done.stdout + done.stderr
    assert done.returncode == 0 and not re.search(r"\b(WARN|ERROR)\b", said), said.strip()
    pages = sorted(out.rglob("*.html"))
    return f"{len(pages)} pages, {sum(page.stat().st_size for page in pages) // 1024} KiB"


def rendered_path(docs, out, page):
    """The rendered path of a source page: a README becomes its folder's index."""
    path = out / page.relative_to(docs).with_suffix(".html")
    return path.with_name("index.html") if path.stem == "README" else path


def nothing_is_lost(docs, out):
    """As many headings, tables and code blocks as in the source: a malformed table would become text."""
    wrong, total = [], {"headings": 0, "tables": 0, "blocks": 0}
    for page in sorted(docs.rglob("*.md")):
        if page.name == "SUMMARY.md":
            continue
        text = prose(page)
        written = {"headings": len(re.findall(r"^#{1,6} ", text, re.M)), "tables": len(re.findall(r"^\|(?: ?:?-+:? ?\|)+$", text, re.M)),
                   "blocks": len(FENCED.findall(page.read_text()))}
        shown = Page(rendered_path(docs, out, page)).shown
        total = {kind: count + shown[kind] for kind, count in total.items()}
        if shown != written:
            wrong.append(f"{page.relative_to(docs)}: written {written}, shown {shown}")
    assert not wrong and all(total.values()), "; ".join(wrong) or f"nothing is shown: {total}"
    return ", ".join(f"{count} {kind}" for kind, count in total.items())


def links_are_alive(out):
    """Relative links, their anchors and loaded files, in every file, including those of the navigation and the print page."""
    pages = {path.resolve(): Page(path) for path in out.rglob("*.html")}
    dead, count = [], 0
    for path, page in pages.items():
        for target in page.links + page.loads:
            at = urllib.parse.urlsplit(target)
            if at.scheme or at.netloc:
                continue
            count += 1
            # The page for missing addresses is shown at any address, and declares its base URL.
            folder = out.resolve() if page.base == "/" else path.parent
            there = (folder / urllib.parse.unquote(at.path)).resolve() if at.path else path
            name = urllib.parse.unquote(at.fragment)
            if not there.is_file() or name and name not in pages[there].names:
                dead.append(f"{path.relative_to(out.resolve())}: {target}")
    assert not dead and count, "; ".join(sorted(set(dead))) or "no links"
    return f"{count} links"


def nothing_comes_from_elsewhere(out):
    """All files loaded by pages and style sheets are local."""
    found = []
    for path in out.rglob("*"):
        if path.suffix == ".html":
            loads = Page(path).loads
        elif path.suffix == ".css":
            loads = re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')\s]+)", path.read_text())
        else:
            continue
        found += [f"{path.relative_to(out)}: {target}" for target in loads if re.match(r"(?!data:)[a-z]+:|//", target)]
    assert not found, "; ".join(sorted(set(found)))


def can_be_read(docs, out, screenshots):
    """A few pages in a browser, in a wide and a narrow window: navigation in the order of the summary, tables that fit."""
    listed = LINK.findall((docs / "SUMMARY.md").read_text())
    wanted = [rendered_path(docs, out, docs / page).relative_to(out).as_posix() for page in listed]
    with Browser() as browser:
        for name in SHOWN:
            for kind, width in WIDTHS.items():
                page = out / f"{name}.html"
                browser.open(page, width)
                _looks_right(browser, page, out, wanted, kind == "wide")
                if screenshots:
                    browser.screenshot(screenshots / f"book-{name}-{kind}.png")
    return f"{len(wanted)} pages listed, {len(SHOWN)} looked at"


def _looks_right(browser, page, out, wanted, is_wide):
    seen = browser.value("""(() => {
      const visible = (part) => part.getClientRects().length > 0;
      const main = document.querySelector("main");
      const empty = (part) => part.textContent.trim() === "" || !visible(part);
      return {
        listed: [...document.querySelectorAll("#mdbook-sidebar ol.chapter a[href]:not(.header-in-summary)")].map((link) => link.href),
        sidebar: document.querySelector("#mdbook-sidebar").getBoundingClientRect().right > 0,
        here: document.querySelector("#mdbook-sidebar a.active")?.href,
        heading: main.querySelector("h1")?.textContent,
        empty: [...main.querySelectorAll("h1, h2, h3, table, pre code")].filter(empty).length,
        plain: [...main.querySelectorAll("pre code")].filter((code) => !code.classList.contains("hljs")).length,
        wide: [...main.querySelectorAll("table")].filter((table) => table.scrollWidth > table.parentElement.clientWidth).length,
        over: document.documentElement.scrollWidth > innerWidth,
      };
    })()""")
    listed = [pathlib.Path(urllib.parse.unquote(urllib.parse.urlsplit(link).path)).relative_to(out.resolve()).as_posix()
              for link in seen["listed"] if "#" not in link]
    where = f"{page.name}{'' if is_wide else ', narrow'}"
    assert listed == wanted, f"{where}: navigation {listed}"
    assert seen["heading"] and not seen["empty"] and not seen["plain"], f"{where}: {seen}"
    assert not seen["over"] and seen["sidebar"] == is_wide, f"{where}: {seen}"
    assert not (is_wide and seen["wide"]), f"{where}: {seen['wide']} tables are wider than the page"
    assert seen["here"] == page.resolve().as_uri(), f"{where}: the navigation is at {seen['here']}"
    assert not browser.problems, f"{where}: {browser.problems}"
    outside = [url for url in browser.requests if not url.startswith((out.resolve().as_uri(), "data:"))]
    assert not outside, f"{where}: asked for {outside}"


def faults_are_found(docs):
    """The control: a copy of the book with one fault of each kind, which its check must find."""
    faults = {
        links_are_alive: "[nowhere](tutorial.md#no-such-heading)",
        nothing_comes_from_elsewhere: "![picture](https://example.org/picture.png)",
        nothing_is_lost: "| a | b |\n| --- |\n| one column is missing | above |",
    }
    for check, fault in faults.items():
        with tempfile.TemporaryDirectory(prefix="millstream-book-") as folder:
            copy, out = pathlib.Path(folder) / "docs", pathlib.Path(folder) / "book"
            shutil.copytree(docs, copy)
            page = copy / "sizing.md"
            page.write_text(f"{page.read_text()}\n{fault}\n")
            build(copy, out)
            try:
                check(*((copy, out) if check is nothing_is_lost else (out,)))
            except AssertionError as reason:
                assert "sizing" in str(reason), f"{check.__name__} finds something else: {reason}"
                continue
            raise AssertionError(f"{check.__name__} does not see: {fault}")
    return f"{len(faults)} kinds"


def cases(report, root, screenshots):
    """All of the above, as cases of a report."""
    docs = root / "docs"
    with tempfile.TemporaryDirectory(prefix="millstream-book-") as folder:
        out = pathlib.Path(folder) / "book"
        report.case("book: built without a warning", build, docs, out)
        if not (out / "index.html").exists():
            return
        report.case("book: headings, tables and code of every page", nothing_is_lost, docs, out)
        report.case("book: links and anchors", links_are_alive, out)
        report.case("book: nothing from elsewhere", nothing_comes_from_elsewhere, out)
        report.case("book: read in a browser", can_be_read, docs, out, screenshots)
        report.case("book: faults are found", faults_are_found, docs)
