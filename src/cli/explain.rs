//! `windkessel explain`: what a flow does.

use std::path::PathBuf;

use super::{Failed, print_line};
use crate::config::{Flow, OutcomeInputs, SourceKind};
use crate::pseudonymise::Key;
use crate::runtime::memory::Bound;

/// Arguments of `explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The flow file.
    #[arg(required_unless_present = "rules")]
    pub flow: Option<PathBuf>,
    /// How to draw the graph.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Override a setting, as for `run`.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// List the rule sets with their sources.
    #[arg(long)]
    pub rules: bool,
    /// List the files of a flow with the topic names that stand for them in every output (needs the key).
    #[arg(long)]
    pub files: bool,
}

/// How the graph is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text, with every setting.
    Text,
    /// Mermaid.
    Mermaid,
    /// Graphviz DOT.
    Dot,
}

/// Explains.
pub fn run(args: Args) -> Result<(), Failed> {
    if args.rules {
        for set in crate::score::rule_sets() {
            print_line(&format!("{:<28} {}", set.name, set.source));
        }
    }
    let Some(path) = &args.flow else { return Ok(()) };
    let flow = Flow::read(path, &args.overrides).map_err(Failed::configuration)?;
    if args.files {
        return list_files(&flow);
    }
    match args.format {
        Format::Text => {
            let settings = toml::to_string(&flow.spec).map_err(Failed::other)?;
            let memory = Bound::of(&flow, 1);
            print_line(&format!("{}\nmemory of a process with one worker: {memory}\n\n{settings}", picture(&flow)));
        }
        Format::Mermaid => print_line(&mermaid(&flow)),
        Format::Dot => print_line(&dot(&flow)),
    }
    Ok(())
}

fn list_files(flow: &Flow) -> Result<(), Failed> {
    let key = Key::read(&flow.spec.pseudonymise).map_err(Failed::configuration)?;
    let files =
        crate::source::files::list(&flow.spec.source, &|name| key.name_hash(name)).map_err(Failed::configuration)?;
    for (path, topic) in files {
        print_line(&format!("{topic}  {}", path.display()));
    }
    Ok(())
}

fn source_name(flow: &Flow) -> String {
    let source = &flow.spec.source;
    let outcomes = match &source.outcomes {
        None => String::new(),
        Some(OutcomeInputs::Topics(topics)) => format!(", outcomes {}", topics.join(", ")),
        Some(OutcomeInputs::Paths(paths)) => format!(", outcomes {} paths", paths.len()),
    };
    match source.kind {
        SourceKind::Kafka => format!("kafka {}{outcomes} ({})", source.topics.join(", "), source.brokers),
        SourceKind::Files => format!("files ({} paths{outcomes})", source.paths.len()),
        SourceKind::Generator => format!("generator ({} patients)", source.patients),
    }
}

fn sink_names(flow: &Flow) -> Vec<String> {
    let sink = &flow.spec.sink;
    let mut names = Vec::new();
    names.extend(sink.parquet.as_ref().map(|parquet| format!("parquet {}", parquet.path.display())));
    names.extend(sink.ndjson.as_ref().map(|ndjson| format!("ndjson {}", ndjson.path.display())));
    names.extend(sink.elasticsearch.as_ref().map(|spec| format!("elasticsearch {}/{}", spec.url, spec.index)));
    names.extend(sink.kafka.as_ref().map(|kafka| {
        let topics: Vec<&str> =
            [&*kafka.topic, &kafka.alerts_topic].into_iter().filter(|topic| !topic.is_empty()).collect();
        format!("kafka {} ({})", topics.join(", "), kafka.brokers)
    }));
    names.extend(sink.webhook.as_ref().filter(|webhook| webhook.is_on()).map(|webhook| match &webhook.url_file {
        Some(file) => format!("webhook (as {} says)", file.display()),
        None => format!("webhook {}", webhook.url),
    }));
    names.extend(sink.postgres.as_ref().filter(|spec| spec.is_on()).map(|spec| format!("postgres {}", spec.url)));
    names
}

/// The stages right of the source with what they do in this flow.
fn stages(flow: &Flow) -> Vec<(&'static str, String)> {
    let spec = &flow.spec;
    let mut stages = vec![
        ("decode", format!("signals {}", spec.decode.signals.join(", "))),
        ("pseudonymise", "HMAC-SHA-256, before the first exchange".to_owned()),
        (
            "patient",
            format!(
                "windows of {} every {}, late by up to {}",
                spec.patient.window, spec.patient.hop, spec.patient.lateness
            ),
        ),
        (
            "score",
            format!(
                "{}, {}",
                spec.score.rules,
                spec.model.file.as_ref().map_or("no model".to_owned(), |file| format!("model {}", file.display()))
            ),
        ),
    ];
    if spec.audit.enabled {
        let outcomes = &spec.audit.outcomes;
        let labels = match outcomes.inputs() {
            Some(_) => format!("; scores against {:?} within {}", outcomes.outcome, outcomes.horizon),
            None => String::new(),
        };
        let reference = match &flow.reference {
            Some(reference) => format!("the profile {}", reference.digest),
            None => format!("the {} windows before", spec.audit.reference_windows),
        };
        stages.push(("audit", format!("{} against {reference}{labels}", spec.audit.window)));
    }
    stages
}

/// The graph as text.
pub fn picture(flow: &Flow) -> String {
    let mut lines =
        vec![format!("flow {}", flow.spec.name), String::new(), format!("  source        {}", source_name(flow))];
    lines.extend(stages(flow).into_iter().map(|(name, what)| format!("    ↓\n  {name:<13} {what}")));
    lines.push("    ↓".to_owned());
    lines.extend(sink_names(flow).into_iter().map(|name| format!("  sink          {name}")));
    lines.push(String::new());
    lines.join("\n")
}

fn mermaid(flow: &Flow) -> String {
    let mut lines = vec!["flowchart LR".to_owned(), format!("  source[\"source: {}\"] --> decode", source_name(flow))];
    lines.push("  decode --> pseudonymise --> patient --> score".into());
    lines.push("  decode --> rejected".into());
    if flow.spec.audit.enabled {
        lines.push("  score --> audit".into());
    }
    for (index, name) in sink_names(flow).iter().enumerate() {
        lines.push(format!("  sink{index}[\"{name}\"]"));
        lines.push(format!("  score --> sink{index}"));
        lines.push(format!("  rejected --> sink{index}"));
        if flow.spec.audit.enabled {
            lines.push(format!("  audit --> sink{index}"));
        }
    }
    lines.join("\n")
}

fn dot(flow: &Flow) -> String {
    let mut lines = vec![format!("digraph \"{}\" {{", flow.spec.name), "  rankdir=LR; node [shape=box];".to_owned()];
    lines.push(format!("  source [label=\"source\\n{}\"];", source_name(flow)));
    lines.push("  source -> decode -> pseudonymise -> patient -> score;\n  decode -> rejected;".into());
    if flow.spec.audit.enabled {
        lines.push("  score -> audit;".into());
    }
    for (index, name) in sink_names(flow).iter().enumerate() {
        lines.push(format!("  sink{index} [label=\"{name}\"];\n  score -> sink{index};\n  rejected -> sink{index};"));
        if flow.spec.audit.enabled {
            lines.push(format!("  audit -> sink{index};"));
        }
    }
    lines.push("}".into());
    lines.join("\n")
}
