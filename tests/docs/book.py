"""The book's sources: every page is in the summary, every link and anchor resolves, every metric that is named exists."""
import re

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
METRIC = re.compile(r"\bmillstream_[a-z_]+\b")
# Suffixes of a histogram's samples.
SERIES = ("_bucket", "_sum", "_count")


def pages(root):
    return sorted((root / "docs").rglob("*.md")) + [root / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/README.md")]


def prose(path):
    """The page without its code."""
    return FENCED.sub("", path.read_text())


def anchors(path):
    """The anchors of headings, as GitHub and mdBook generate them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.M):
        plain = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(name if name not in found else f"{name}-1")
    return found


def every_page_is_listed(root):
    listed = {(root / "docs" / target).resolve() for target in LINK.findall((root / "docs/SUMMARY.md").read_text())}
    there = {path.resolve() for path in (root / "docs").rglob("*.md")} - {(root / "docs/SUMMARY.md").resolve()}
    assert listed == there, f"not in SUMMARY.md: {sorted(map(str, there - listed))}; not there: {sorted(map(str, listed - there))}"
    return f"{len(listed)} pages"


def links_lead_somewhere(root):
    count, dead = 0, []
    for path in pages(root):
        for target in LINK.findall(prose(path)):
            if re.match(r"[a-z]+:", target):
                continue
            count += 1
            name, _, anchor = target.partition("#")
            there = (path.parent / name).resolve() if name else path
            if not there.exists() or anchor and (there.suffix != ".md" or anchor not in anchors(there)):
                dead.append(f"{path.relative_to(root)}: {target}")
    assert not dead, "; ".join(dead)
    return f"{count} links"


def metrics_exist(root):
    """All names of metrics on any page are in the generated reference."""
    known = set(METRIC.findall((root / "docs/metrics.md").read_text().partition("<!-- generated: metrics -->")[2]))
    used = set()
    for path in pages(root):
        used |= {(path.name, name) for name in METRIC.findall(path.read_text()) if name not in ("millstream_client",)}

    def is_known(name):
        return name in known or any(name.removesuffix(end) in known for end in SERIES)

    unknown = sorted(f"{page}: {name}" for page, name in used if not is_known(name))
    assert not unknown, "; ".join(unknown)
    return f"{len({name for _, name in used})} names"
