"""Looks at the live page as people do: in a real browser, light and dark, wide and at phone width, with the keyboard.

    python page.py URL [FOLDER]    prints what it has seen as JSON; screenshots go into FOLDER

Exits with a message if the page logs an error, asks anybody but its own server, or is wider than the screen.
"""

import json
import os
import shutil
import sys

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
url = sys.argv[1].rstrip("/")
folder = sys.argv[2] if len(sys.argv) > 2 else None
faults = []
NOBODY = "0" * 32


def wait(page, what):
    """The page's own policy forbids what Playwright's waiting would evaluate in it."""
    for _ in range(300):
        if page.evaluate(what):
            return
        page.wait_for_timeout(100)
    sys.exit(f"never true: {what}")


def shot(page, name, **options):
    if folder:
        page.screenshot(path=os.path.join(folder, name), **options)


def complain(message):
    # That nothing is known of a patient is an answer, which the browser logs.
    if NOBODY not in message.location.get("url", ""):
        faults.append(f"console: {message.text}")


def look(browser, width, height, scheme):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB")
    page = context.new_page()
    page.on("console", lambda message: complain(message) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.on("request", lambda request: None if request.url.startswith(url + "/") else faults.append(f"asks {request.url}"))
    page.goto(url + "/")
    wait(page, "document.getElementById('connection').dataset.state === 'live'")
    wait(page, "document.querySelectorAll('#stage-list .part').length > 0")
    # The second look at the counters gives rates.
    wait(page, "[...document.querySelectorAll('#stage-list .part')].every((part) => part.textContent !== '–')")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        faults.append(f"{width} {scheme}: {wide} px wider than the screen")
    return page


def text(page, selector):
    return page.inner_text(selector).strip()


def table(page, selector):
    """A table's cells, read at one moment: the page replaces its rows when news come in."""
    return page.evaluate(f"({CELLS})({json.dumps(selector)})")


# What the page shows at one moment: between two calls from here its rows may have been replaced.
CELLS = """(selector) => [...document.querySelectorAll(selector + " tr")]
    .map((row) => [...row.querySelectorAll("td, th")].map((cell) => cell.innerText.trim()))"""
READ = """([names, tables]) => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const seen = Object.fromEntries(names.map((name) => [name, document.getElementById(name).innerText.trim()]));
    for (const name of tables) seen[name + "_rows"] = (CELLS)("#" + name + "-rows");
    seen.stages = all("#stage-list .stage strong").map((stage) => stage.innerText);
    const pictured = all("#drift-rows tr").filter((row) => row.querySelector("svg"));
    seen.histograms = Object.fromEntries(pictured.map((row) =>
        [row.querySelector("th").innerText.trim(), row.querySelector("svg").getAttribute("aria-label")]));
    seen.charts = all(".chart canvas").length;
    return seen;
}""".replace("CELLS", CELLS)


def read(page):
    names = ["flow", "readings", "patients", "alarms", "lag", "rejected", "inputs", "plumbing-note"]
    tables = ["outcome", "reason", "flaw", "category", "lag", "sink", "drift", "alert"]
    return page.evaluate(READ, [names, tables])


def patient(page):
    """Opens the newest alert's patient with the keyboard alone, and closes it again."""
    button = page.query_selector("#alert-rows button")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#patient[open] #patient-rows tr")
    page.wait_for_selector("#patient-chart canvas")
    seen = {"title": page.get_attribute("#patient-title", "title"), "rows": table(page, "#patient-rows")}
    seen["note"] = text(page, "#patient-note")
    shot(page, "live-page-patient.png")
    page.keyboard.press("Escape")
    seen["closed"] = not page.evaluate("document.getElementById('patient').open")
    seen["focus_is_back"] = page.evaluate("document.activeElement.matches('#alert-rows button')")
    page.fill("#pseudonym", "no pseudonym")
    page.keyboard.press("Enter")
    seen["refuses_what_is_none"] = not page.evaluate("document.getElementById('patient').open")
    page.fill("#pseudonym", NOBODY)
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('patient-note').textContent.startsWith('none of the last')")
    page.click("#patient-close")
    return seen


def first_tab(page):
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    return page.evaluate("document.activeElement.textContent")


with sync_playwright() as playwright:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
    page = look(browser, 1600, 1000, "light")
    seen = read(page)
    seen["first_tab"] = first_tab(page)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    shot(page, "live-page.png", full_page=True)
    seen["patient"] = patient(page) if page.query_selector("#alert-rows button") else None
    page.click("#pause")
    seen["paused"] = text(page, "#connection-text")
    page = look(browser, 1600, 1000, "dark")
    shot(page, "live-page-dark.png", full_page=True)
    page = look(browser, 390, 844, "light")
    shot(page, "live-page-phone.png", full_page=True)
    look(browser, 320, 640, "dark")
    browser.close()

if faults:
    sys.exit("\n".join(dict.fromkeys(faults)))
print(json.dumps(seen))
