"""The page in a real headless Chromium: quiet, offline, visible, readable, usable by keyboard."""

import shutil

import pytest

from ctxext.api.report import make_report
from support.lab_samples import lab_document
from support.report_samples import every_kind, write_run

LONG = ("org/base", "runs/a-rather-long-name-of-a-checkpoint-that-somebody-chose/yarn", "lora")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None
)
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
# Luminance contrast of every text against what lies behind it; chart cells bring their own ground.
CONTRAST = """
() => {
  const parse = (c) => {
    const m = c.match(/[\\d.]+/g).map(Number);
    return m.length > 3 ? m : [...m, 1];
  };
  const lum = ([r, g, b]) => {
    const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c;
    }
    throw new Error("a page without a ground");
  };
  const found = [];
  const cells = [...document.querySelectorAll("svg g[id*='cell-'] path")].map(
    (p) => [p.getBoundingClientRect(), parse(getComputedStyle(p).fill)]);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || e.closest("title, desc, style")) continue;
    const svg = e.closest("svg");
    const style = getComputedStyle(e);
    let back = ground(svg ? svg.parentElement : e);
    if (svg) {
      const b = e.getBoundingClientRect(), x = b.x + b.width / 2, y = b.y + b.height / 2;
      const cell = cells.find(([r]) => r.left < x && x < r.right && r.top < y && y < r.bottom);
      if (cell) back = cell[1];
    }
    const both = [lum(parse(svg ? style.fill : style.color)), lum(back)];
    const [one, other] = both.sort((a, b) => b - a);
    const text = walker.currentNode.textContent.trim().slice(0, 40);
    found.push([(one + 0.05) / (other + 0.05), text]);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    path = root / "report.html"
    laboratory = write_run(root / "lab", "lab", lab_document())
    make_report([*every_kind(root / "runs", LONG), laboratory], output=path)
    return path


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip(
        "playwright.sync_api", reason="the page is not tried in a browser: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("the page is not tried in a browser: apt-get install chromium")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(s, c) for s in SIZES for c in ("light", "dark")], ids="-".join)
def shown(request, chromium, page_file):
    """The page at a size and in a scheme; what it said and asked for."""
    size, scheme = request.param
    width, height = SIZES[size]
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asking: asked.append(asking.url))
    page.goto(page_file.as_uri())
    yield page, said, asked, width
    context.close()


def test_the_page_logs_nothing_and_fetches_nothing(shown, page_file):
    page, said, asked, _ = shown
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.wait_for_timeout(100)
    assert said == []
    assert asked == [page_file.as_uri()]


def test_every_chart_is_seen_and_nothing_overflows(shown):
    page, _, _, width = shown
    charts = page.locator("svg")
    assert charts.count() > 10
    for chart in charts.all():
        box = chart.bounding_box()
        assert chart.is_visible()
        assert box["width"] > 200
        assert box["height"] > 60
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        drawn = chart.evaluate(
            "s => { const b = s.getBBox(); return [b.width, b.height, s.viewBox.baseVal.width] }"
        )
        assert drawn[0] > 0.7 * drawn[2]  # something fills it
        inside = chart.evaluate(
            "s => { const o = s.getBoundingClientRect(); return [...s.querySelectorAll('text')]"
            ".filter(t => { const b = t.getBoundingClientRect(); return b.left < o.left - 2"
            " || b.right > o.right + 2 || b.top < o.top - 2 || b.bottom > o.bottom + 2 })"
            ".map(t => t.textContent) }"
        )
        assert inside == []
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    sizes = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert sizes[0] <= sizes[1]


def test_verdicts_configs_and_tasks_are_whole_on_a_phone(shown):
    page, _, _, width = shown
    for section in ("verdict", "config", "harness") if width < 480 else ("verdict",):
        for table in page.locator(f"section[aria-labelledby={section}] .scroll").all():
            assert table.evaluate("e => e.scrollWidth <= e.clientWidth"), section
    verdict = page.locator("section[aria-labelledby=verdict] .scroll").first
    cell = verdict.locator("td").nth(1)
    assert (
        "far against near" in cell.evaluate("e => getComputedStyle(e, '::before').content")
    ) == (width < 480)


def test_text_stands_out_from_its_ground(shown):
    page = shown[0]
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    found = page.evaluate(CONTRAST)
    assert len(found) > 300
    low = [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5]
    assert low == []


def test_tab_reaches_everything_and_shows_where_it_is(shown):
    """Tab goes to the skip link, the sections, the details and the tables; each shows its focus."""
    page = shown[0]
    kinds, seen = set(), []
    for at in range(60):
        page.keyboard.press("Tab")
        kind, text, outline = page.evaluate(
            "(() => { const e = document.activeElement; const s = getComputedStyle(e);"
            "return [e.tagName, e.textContent.slice(0, 20), s.outlineStyle] })()"
        )
        if kind == "BODY":
            break
        kinds.add(kind)
        seen.append(text)
        if at == 0:
            assert text == "To the content"
            box = page.locator(".skip").bounding_box()
            assert box["x"] >= 0
        assert outline != "none", text
    assert {"A", "SUMMARY", "DIV"} <= kinds
    page.locator("summary").first.focus()
    assert not page.locator("details").first.evaluate("d => d.open")
    page.keyboard.press("Enter")
    assert page.locator("details").first.evaluate("d => d.open")
    assert page.locator("details table").first.is_visible()


def test_a_link_leads_to_its_section(shown):
    page = shown[0]
    page.locator("nav a", has_text="Retrieval").click()
    page.wait_for_timeout(700)
    assert page.locator("#retrieval").bounding_box()["y"] < page.viewport_size["height"] / 2
