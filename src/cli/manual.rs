//! Proves that README and docs say what the code does: the picture, the commands, the exit codes, the links, the tests of failures, the alerts.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::Arguments;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|why| panic!("{}: {why}", path.as_ref().display()))
}

/// Every page of the manual.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "schemas/README.md", "benches/README.md"].map(PathBuf::from).into();
    for folder in ["docs", "docs/decisions"] {
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages.sort();
    pages
}

/// The picture in a text: its four lines, without what a comment puts in front.
fn picture(text: &str) -> Vec<String> {
    let plain = |line: &str| line.trim_start_matches("//!").trim().to_owned();
    let mut lines = text.lines().map(plain).skip_while(|line| !line.starts_with("Kafka ─┐"));
    let picture: Vec<_> = lines.by_ref().take(4).collect();
    assert_eq!(picture.len(), 4, "there is a picture");
    picture
}

#[test]
fn the_picture_is_that_of_the_graph() {
    let graph = picture(&read("src/graph.rs"));
    for page in ["README.md", "docs/architecture.md"] {
        assert_eq!(picture(&read(page)), graph, "{page}");
    }
}

/// The commands of a page's shell blocks, continued lines joined.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(|line| line.trim().to_owned()).collect()
}

/// Splits as a shell does, as far as the manual needs it: blanks, and single quotes around a word.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut quoted, mut word) = (Vec::new(), false, String::new());
    for letter in command.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            letter => word.push(letter),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[test]
fn every_command_of_the_manual_is_one_that_the_binary_takes() {
    let mut seen = 0;
    for page in pages() {
        for command in commands(&read(&page)) {
            let command = command.replace("cargo run --release --", "windkessel");
            if command.starts_with("windkessel ") {
                let parsed = Arguments::try_parse_from(words(&command));
                assert!(parsed.is_ok(), "{}: {command}: {}", page.display(), parsed.unwrap_err());
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "{seen} commands");
}

#[test]
fn the_readme_begins_with_two_commands_each_alone_on_its_line() {
    let commands = commands(&read("README.md"));
    assert_eq!(commands.get(..2), Some(&["cargo run --release -- demo".to_owned(), "cargo test".to_owned()][..]));
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let rows = |text: &str| -> Vec<String> {
        let rows = text.lines().map(|line| line.trim_start_matches("//!").trim());
        let is_code = |line: &&str| line.split('|').nth(1).is_some_and(|cell| cell.trim().parse::<u8>().is_ok());
        rows.filter(is_code).map(str::to_owned).collect()
    };
    let code = rows(&read("src/cli/mod.rs"));
    assert!(code.len() >= 6, "{code:?}");
    assert_eq!(rows(&read("README.md")), code);
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = read(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let path = page.parent().unwrap().join(file);
            assert!(path.exists(), "{}: {target}", page.display());
        }
    }
}

/// `file::name`, or `::name` in the file that was named last. A file is one of `src`, or of the tests.
#[test]
fn every_test_of_the_failures_is_there() {
    let (text, mut file, mut seen) = (read("docs/failures.md"), String::new(), 0);
    for named in text.split('`').skip(1).step_by(2) {
        let (path, test) = named.split_once("::").unwrap_or((named, ""));
        if path.ends_with(".rs") {
            path.clone_into(&mut file);
        }
        if !path.is_empty() && !path.ends_with(".rs") {
            continue;
        }
        let places = ["src", "tests", "tests/services"].map(|folder| Path::new(folder).join(&file));
        let found = places.iter().filter(|path| path.exists()).any(|path| read(path).contains(&format!("fn {test}")));
        assert!(found, "docs/failures.md names {file}::{test}, and there is no such test");
        seen += 1;
    }
    assert!(seen > 60, "{seen} tests");
}

/// What to do at night is under the name of what rings.
#[test]
fn every_alert_has_a_chapter_of_its_own() {
    let manual = read("docs/operations.md");
    let headings: String = manual.lines().filter(|line| line.starts_with("### ")).collect();
    let rules = read("docker/alerts.yml");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let tried = read("docker/alerts.test.yml");
    for alert in &alerts {
        assert!(headings.contains(alert), "docs/operations.md has no chapter on {alert}");
        assert!(
            tried.contains(&format!("        alertname: {alert}\n        exp_alerts:")),
            "{alert} is not tried out"
        );
    }
    assert!(alerts.len() >= 10, "{alerts:?}");
    // An alert on a metric that nobody exports never rings.
    let metrics = crate::runtime::metrics::Metrics::new().reference();
    for word in rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        assert!(!word.starts_with("windkessel_") || metrics.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn a_decision_fits_on_a_page() {
    for page in pages().iter().filter(|page| page.starts_with("docs/decisions")) {
        let lines = read(page).lines().count();
        assert!(lines <= 60, "{}: {lines} lines", page.display());
    }
}

/// What the first stage of the Dockerfile copies.
fn copied() -> Vec<String> {
    let text = read("docker/Dockerfile");
    let build = text.split("\nFROM ").nth(1).unwrap_or_default();
    let copies = build.lines().filter_map(|line| line.strip_prefix("COPY "));
    copies
        .flat_map(|line| line.rsplit_once(' ').map(|(sources, _)| sources).unwrap_or_default().split(' '))
        .map(str::to_owned)
        .collect()
}

/// Every Rust file below a folder.
fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_container_is_built_from_everything_that_the_code_includes() {
    let copied = copied();
    assert!(copied.iter().any(|name| name == "src"), "{copied:?}");
    let mut files = Vec::new();
    rust_files(Path::new("src"), &mut files);
    for file in files {
        for include in read(&file).split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let ups = include.matches("../").count();
            let depth = file.components().count() - 1;
            let top = include.trim_start_matches("../").split('/').next().unwrap_or_default();
            assert!(ups < depth || copied.iter().any(|name| name == top), "{}: {include}", file.display());
        }
    }
    let ignore = read("docker/Dockerfile.dockerignore");
    let kept: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(kept, copied);
    for bench in read("Cargo.toml").split("[[bench]]").skip(1).filter_map(|rest| rest.split('"').nth(1)) {
        assert!(Path::new(&format!("benches/{bench}.rs")).exists(), "{bench}");
    }
}
