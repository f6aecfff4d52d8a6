"""Open pages in Debian's Chromium, headless, and end with an error if one is not in order.

A page is in order that writes no warning or error to the console, asks for nothing but itself,
shows all of its images, each with an alternative text, and fits on wide and narrow screens.

    python .ci/browse.py report.html [--pictures FOLDER]
"""

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

# Those of the network are for machines without one, where Chromium would wait for its own services.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
IMAGES = """() => [...document.images].flatMap(image => [
    ...(image.naturalWidth ? [] : [`broken image: ${image.alt}`]),
    ...(image.alt.length > 20 ? [] : [`image without words: ${image.outerHTML.slice(0, 80)}`]),
])"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def faults(browser: Browser, path: Path, width: int, scheme: str, picture: Path | None) -> set[str]:
    """Open a page on a screen of some width, light or dark, and return what is not in order."""
    found = set()
    address = path.resolve().as_uri()
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)

    def hear(message):
        if message.type in ("error", "warning"):
            found.add(f"console {message.type}: {message.text}")

    def see(request):
        if request.url != address and not request.url.startswith("data:"):
            found.add(f"request: {request.url}")

    page.on("console", hear)
    page.on("pageerror", lambda error: found.add(f"thrown: {error}"))
    page.on("request", see)
    page.on("requestfailed", lambda request: found.add(f"failed: {request.url[:80]}"))
    page.goto(address, wait_until="load")
    page.wait_for_timeout(300)  # for what asks later
    found.update(page.evaluate(IMAGES))
    if page.evaluate(OVERFLOW) > 0:
        found.add(f"wider than {width} pixels")
    if picture is not None:
        page.screenshot(path=picture, full_page=True)
    page.close()
    return found


def main() -> None:
    """Check the pages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the pages")
    options = parser.parse_args()
    found = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        for path in options.pages:
            for width, scheme in ((1200, "light"), (400, "light"), (1200, "dark"), (400, "dark")):
                picture = options.pictures
                if picture is not None:
                    picture = picture / f"{path.stem}_{width}_{scheme}.png"
                seen = faults(browser, path, width, scheme, picture)
                found |= {f"{path}: {fault}" for fault in seen}
        version = browser.version
        browser.close()
    if found:
        sys.exit("\n".join(sorted(found)))
    print(f"{len(options.pages)} pages in order, in Chromium {version}")


if __name__ == "__main__":
    main()
