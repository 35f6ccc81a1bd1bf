//! `windkessel top`: the live page for a terminal.
//!
//! ```text
//! /api/v1/snapshot ─┐
//! /metrics ─────────┼─> View (view.rs) ─> frame (frame.rs): lines of the terminal's width ─> screen
//! /ready ───────────┘
//! ```
//!
//! It asks a run that is there, and shows what the page and `/metrics` say; it computes nothing but shares. Where standard output is no
//! terminal it prints one frame and ends.
//!
//! Invariants: the terminal is put back however it ends (q, Esc, Ctrl-C, SIGTERM, an error, a panic); no line is wider than the terminal; a run that
//! goes away is said so and asked again.

mod frame;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};

use self::frame::{Line, Tone};
use self::view::View;
use super::{Failed, print_line};
use crate::runtime::stop::Stop;

/// What a terminal that does not say is taken to be.
const WIDTH_USUAL: usize = 80;
/// An answer may take this long.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Keys are looked for this often, and signals.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `top`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the run's live page is.
    #[arg(default_value = "http://127.0.0.1:9187", value_name = "URL")]
    pub url: String,
    /// Print one frame and end, as where standard output is no terminal.
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub every: u64,
}

/// Shows a run until it is told to end.
pub fn run(args: &Args) -> Result<(), Failed> {
    let source = Source::new(&args.url);
    let first = source.ask().map_err(Failed::unavailable)?;
    if args.once || !io::stdout().is_terminal() {
        let width = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH_USUAL);
        let lines = frame::frame(&first, width, usize::MAX);
        print_line(&lines.iter().map(|line| line.text().trim_end().to_owned()).collect::<Vec<_>>().join("\n"));
        return Ok(());
    }
    let stop = Stop::default();
    stop.on_signals().map_err(Failed::unavailable)?;
    let shown = follow(&source, first, Duration::from_secs(args.every), &stop);
    shown.map_err(|error| Failed::unavailable(format!("could not write to the terminal: {error}")))
}

/// The run that is asked.
struct Source {
    agent: ureq::Agent,
    url: String,
}

impl Source {
    fn new(url: &str) -> Source {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER_MAX)).build();
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        Source { agent: config.into(), url: url.trim_end_matches('/').to_owned() }
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let refused = |why: &dyn std::fmt::Display| {
            format!(
                "could not ask the run at {:?}: {why}; name its live page, the flow's http.listen, such as http://127.0.0.1:9187",
                self.url
            )
        };
        let mut answer = self.agent.get(format!("{}{path}", self.url)).call().map_err(|why| refused(&why))?;
        answer.body_mut().read_to_string().map_err(|why| refused(&why))
    }

    fn ask(&self) -> Result<View, String> {
        let (snapshot, metrics) = (self.get("/api/v1/snapshot")?, self.get("/metrics")?);
        // 503 is an answer as well: it says why.
        let ready = self.get("/ready")?;
        View::new(&snapshot, &metrics, &ready).ok_or_else(|| {
            format!("could not read the answer of {:?}: it is no windkessel, or of another version", self.url)
        })
    }
}

/// The terminal in another state, which is put back when this goes.
struct Screen;

impl Screen {
    fn open() -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        // From here on it is put back, whatever fails.
        let screen = Screen;
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            Screen::restore();
            usual(panic);
        }));
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn restore() {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Screen::restore();
    }
}

fn follow(source: &Source, mut view: View, every: Duration, stop: &Stop) -> io::Result<()> {
    let _screen = Screen::open()?;
    let mut asked = Instant::now();
    let mut stale = true;
    while !stop.drain() {
        if stale {
            draw(&view)?;
            stale = false;
        }
        if event::poll(LOOK)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match (key.code, key.modifiers) {
                    (KeyCode::Char('q') | KeyCode::Esc, _) => return Ok(()),
                    // Raw mode hands Ctrl-C over as a key.
                    (KeyCode::Char('c'), KeyModifiers::CONTROL) => return Ok(()),
                    _ => {}
                },
                Event::Resize(..) => stale = true,
                _ => {}
            }
        }
        if asked.elapsed() >= every {
            asked = Instant::now();
            match source.ask() {
                Ok(told) => view = told,
                Err(why) => view.lost(why),
            }
            stale = true;
        }
    }
    Ok(())
}

fn draw(view: &View) -> io::Result<()> {
    let (width, height) = terminal::size()?;
    let (width, height) = (usize::from(width), usize::from(height));
    let mut out = io::stdout().lock();
    queue!(out, cursor::MoveTo(0, 0))?;
    let lines = frame::frame(view, width, height);
    for (row, line) in (0_u16..).zip(&lines) {
        queue!(out, cursor::MoveTo(0, row))?;
        paint(&mut out, line)?;
        queue!(out, Clear(ClearType::UntilNewLine))?;
    }
    queue!(out, Clear(ClearType::FromCursorDown))?;
    out.flush()
}

fn paint(out: &mut impl io::Write, line: &Line) -> io::Result<()> {
    for (tone, text) in &line.0 {
        match tone {
            Tone::Plain => {}
            Tone::Head => queue!(out, SetAttribute(Attribute::Bold))?,
            Tone::Quiet => queue!(out, SetAttribute(Attribute::Dim))?,
            Tone::Good => queue!(out, SetForegroundColor(Color::Green))?,
            Tone::Watch => queue!(out, SetForegroundColor(Color::Yellow))?,
            Tone::Act => queue!(out, SetForegroundColor(Color::Red))?,
        }
        queue!(out, Print(text), ResetColor, SetAttribute(Attribute::Reset))?;
    }
    Ok(())
}
