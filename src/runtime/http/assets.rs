//! The page's files, embedded: there is nothing to install beside the binary, and nothing to fetch.

/// A file of the page.
pub(super) struct Asset {
    /// Where it is served.
    pub(super) path: &'static str,
    /// Its media type.
    pub(super) kind: &'static str,
    /// Its text.
    pub(super) text: &'static str,
}

macro_rules! asset {
    ($path:literal, $kind:literal, $file:literal) => {
        Asset { path: $path, kind: $kind, text: include_str!(concat!("../page/", $file)) }
    };
}

/// All of them. uPlot 1.6.32 (MIT) is vendored with its licence, which is served as the licence asks.
pub(super) const ASSETS: [Asset; 7] = [
    asset!("/", "text/html; charset=utf-8", "index.html"),
    asset!("/page.css", "text/css; charset=utf-8", "page.css"),
    asset!("/page.js", "text/javascript; charset=utf-8", "page.js"),
    asset!("/icon.svg", "image/svg+xml", "icon.svg"),
    asset!("/uplot.css", "text/css; charset=utf-8", "vendor/uplot/uPlot.min.css"),
    asset!("/uplot.js", "text/javascript; charset=utf-8", "vendor/uplot/uPlot.iife.min.js"),
    asset!("/uplot.txt", "text/plain; charset=utf-8", "vendor/uplot/LICENSE"),
];
