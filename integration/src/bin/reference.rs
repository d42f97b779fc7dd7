//! Writes those tables of docs/reference.md that the code knows best: flags and metrics. `--check` changes nothing and fails if
//! the file is not current. Man pages and completions for shells go to `--out DIR`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use apivip::apiserver::{Connection, Expiry};
use apivip::config::Cli;
use apivip::metrics::{Metrics, Stage, classic};
use apivip::model::health::State;
use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

#[derive(Debug, Parser)]
struct Arguments {
    /// Change nothing, and fail if the file is not current
    #[arg(long)]
    check: bool,
    /// The folder of man pages and completions
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    let before = fs::read_to_string(&path).context("read docs/reference.md")?;
    let mut after = replace(&before, "flags", &flags(&Cli::command()))?;
    after = replace(&after, "metrics", &metrics()?)?;
    if arguments.check {
        ensure!(before == after, "docs/reference.md is not current: run scripts/docs");
    } else if before != after {
        fs::write(&path, after).context("write docs/reference.md")?;
    }
    arguments.out.map_or(Ok(()), |folder| manual(&folder))
}

/// Puts `table` between the marks of that name.
fn replace(text: &str, name: &str, table: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let parts = text.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let Some((head, tail)) = parts else { bail!("docs/reference.md has no marks for {name}") };
    Ok(format!("{head}{begin}\n{table}\n{end}{tail}"))
}

/// One row for each flag: environment, default, commands and help.
fn flags(cli: &Command) -> String {
    let mut rows: BTreeMap<String, (String, String, Vec<String>, String)> = BTreeMap::new();
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
        for flag in flags.filter(|flag| !matches!(flag.get_id().as_str(), "help" | "version")) {
            let Some(long) = flag.get_long() else { continue };
            let environment = flag.get_env().map(|name| name.to_string_lossy().into_owned());
            let defaults: Vec<_> = flag.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            let mut help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            let values = flag.get_possible_values();
            if flag.get_action().takes_values() && !values.is_empty() {
                let names: Vec<String> =
                    values.iter().map(|value| format!("`{}`", value.get_name())).collect();
                let _ = write!(help, ": {}", names.join(", "));
            }
            let shown = match flag.get_value_names() {
                Some(names) if flag.get_action().takes_values() => format!("--{long} {}", names[0]),
                _ => format!("--{long}"),
            };
            let row = rows.entry(long.to_owned()).or_insert_with(|| {
                let cell = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
                (
                    shown,
                    cell(environment.unwrap_or_default()),
                    Vec::new(),
                    cell(defaults.join(",")) + "|" + &help,
                )
            });
            row.2.push(command.get_name().to_owned());
        }
    }
    let mut table =
        "| flag | meaning | default | environment | commands |\n|---|---|---|---|---|\n".to_owned();
    for (shown, environment, commands, rest) in rows.into_values() {
        let (default, help) = rest.split_once('|').unwrap_or_default();
        let help = help.replace('|', "\\|");
        let _ =
            writeln!(table, "| `{shown}` | {help} | {default} | {environment} | {} |", commands.join(", "));
    }
    table
}

/// One row for each metric, with its labels and its help.
fn metrics() -> Result<String> {
    let expiry = Expiry { ca: Some(0), client_certificate: Some(0), token: Some(0) };
    let connection = Connection { heard: Some(Instant::now()), expiry, ..Connection::default() };
    let totals = BTreeMap::from([(([192, 0, 2, 11], 6443).into(), 0)]);
    let metrics = Metrics::new(Arc::default());
    // Families that have no sample before their first event would show no labels.
    metrics.changed(State::Up, None);
    metrics.stage(Stage::Told, Duration::ZERO);
    let text = classic(&metrics.encode(&connection, &totals)?);
    let mut rows: BTreeMap<&str, (&str, &str, String)> = BTreeMap::new();
    let mut helps: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name, help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            rows.insert(name, (kind, helps.get(name).copied().unwrap_or_default(), String::new()));
        } else if let Some((series, _)) = line.rsplit_once(' ') {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let name = family.filter(|family| rows.contains_key(family)).unwrap_or(name);
            let keys = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split('=').next());
            let keys: Vec<&str> = keys.filter(|key| !key.is_empty() && *key != "le").collect();
            if let Some(row) = rows.get_mut(name).filter(|_| !keys.is_empty()) {
                row.2 = format!("{{{}}}", keys.join(","));
            }
        }
    }
    let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    for (name, (kind, help, labels)) in rows {
        ensure!(!help.is_empty(), "{name} has no help");
        let help = help.trim_end_matches('.');
        let _ = writeln!(table, "| `{name}{labels}` | {kind} | {help} |");
    }
    Ok(table)
}

/// Man pages for each command, and completions for each shell.
fn manual(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder).context("write the man pages")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "apivip", folder)
            .with_context(|| format!("write the completions for {shell}"))?;
    }
    Ok(())
}
