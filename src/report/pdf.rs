//! HTML to PDF, by a browser that is installed: none is better at it, and every hospital has one.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What browsers that print without a window are called.
pub const BROWSERS: [&str; 7] = [
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "chrome",
    "microsoft-edge-stable",
    "microsoft-edge",
];

/// A browser that has not printed after this long is stopped.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Why there is no PDF.
#[derive(Debug, thiserror::Error)]
pub enum PdfError {
    /// No browser.
    #[error(
        "could not print the PDF: no browser found; install Chromium (Debian: apt-get install chromium), name one with --browser, or print {html:?} yourself"
    )]
    NoBrowser {
        /// The page, which is there.
        html: PathBuf,
    },
    /// It could not be started or waited for.
    #[error("could not print the PDF with {browser:?}: {source}")]
    Io {
        /// The browser.
        browser: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It ended without a PDF, or did not end.
    #[error("could not print the PDF: {browser:?} {how}; open {html:?} in a browser and print it from there")]
    Failed {
        /// The browser.
        browser: PathBuf,
        /// How it ended.
        how: String,
        /// The page, which is there.
        html: PathBuf,
    },
}

/// The first of [`BROWSERS`] in the folders of a search path.
pub fn find(path: &std::ffi::OsStr) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    let all = BROWSERS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    all.into_iter().find(|path| path.is_file())
}

/// Prints a page.
///
/// # Errors
/// The browser cannot be started, fails, or does not end.
pub fn print(browser: Option<PathBuf>, html: &Path, pdf: &Path) -> Result<(), PdfError> {
    let browser = browser.ok_or_else(|| PdfError::NoBrowser { html: html.to_owned() })?;
    let io = |source| PdfError::Io { browser: browser.clone(), source };
    let page = std::path::absolute(html).and_then(|path| path.canonicalize()).map_err(io)?;
    let target = std::path::absolute(pdf).map_err(io)?;
    // A PDF of an earlier report must not pass for this one.
    match std::fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let profile = Profile::new().map_err(io)?;
    let mut command = command(&browser, &profile.0, &page, &target);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(io)?;
    let how = wait(child).map_err(io)?;
    match how {
        Some(how) if !target.exists() => Err(PdfError::Failed { browser, how, html: html.to_owned() }),
        None if !target.exists() => {
            Err(PdfError::Failed { browser, how: "ended without one".to_owned(), html: html.to_owned() })
        }
        _ => Ok(()),
    }
}

fn command(browser: &Path, profile: &Path, page: &Path, target: &Path) -> Command {
    let with = |flag: &str, path: &Path| {
        let mut argument = std::ffi::OsString::from(flag);
        argument.push(path);
        argument
    };
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--disable-gpu",
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
    ]);
    // The page asks for nothing; nor shall the browser.
    command.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--no-pdf-header-footer", "--disable-dev-shm-usage"]);
    if is_root() {
        // Chromium's sandbox refuses to run as root. The page has no script, and its policy forbids any.
        command.arg("--no-sandbox");
    }
    command.arg(with("--user-data-dir=", profile)).arg(with("--print-to-pdf=", target)).arg(with("file://", page));
    command
}

/// A profile of its own: one that is in use would hand the page to the running browser.
struct Profile(PathBuf);

impl Profile {
    fn new() -> io::Result<Self> {
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("windkessel-report-{:016x}", u64::from_ne_bytes(name)));
        std::fs::create_dir(&path)?;
        Ok(Profile(path))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // What cannot be removed is a few files in the folder for temporary ones.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for the end; returns how it failed, if it did.
fn wait(mut child: Child) -> io::Result<Option<String>> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| format!("ended with {status}")));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("did not end within {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(target_os = "linux")]
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

#[cfg(not(target_os = "linux"))]
fn is_root() -> bool {
    false
}
