//! The table of flags.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::{Arg, Command};

/// What a flag is in one command, and all in which it is the same.
struct Row {
    shown: String,
    help: String,
    default: String,
    environment: String,
    commands: Vec<String>,
}

/// One row for each flag, and one more where commands mean something else by it: help, default, environment and commands.
/// In: programs; of one without commands its own name stands for those.
pub fn table(programs: &[Command]) -> String {
    let mut flags: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let alone = programs.iter().filter(|program| !program.has_subcommands());
    let commands = programs.iter().flat_map(Command::get_subcommands).chain(alone);
    for command in commands.filter(|command| !command.is_hide_set()) {
        let shown = command.get_arguments().filter(|flag| !flag.is_hide_set());
        for flag in shown.filter(|flag| !matches!(flag.get_id().as_str(), "help" | "version")) {
            let Some(long) = flag.get_long() else { continue };
            let mut row = row(flag, long);
            let rows = flags.entry(long.to_owned()).or_default();
            let name = command.get_name().to_owned();
            match rows.iter_mut().find(|known| known.is_like(&row)) {
                Some(known) => known.commands.push(name),
                None => {
                    row.commands.push(name);
                    rows.push(row);
                }
            }
        }
    }
    let mut table =
        "| flag | meaning | default | environment | commands |\n|---|---|---|---|---|\n".to_owned();
    for Row { shown, help, default, environment, commands } in flags.into_values().flatten() {
        let help = help.replace('|', "\\|");
        let _ =
            writeln!(table, "| `{shown}` | {help} | {default} | {environment} | {} |", commands.join(", "));
    }
    table
}

impl Row {
    fn is_like(&self, other: &Self) -> bool {
        let told =
            |row: &Self| (row.shown.clone(), row.help.clone(), row.default.clone(), row.environment.clone());
        told(self) == told(other)
    }
}

fn row(flag: &Arg, long: &str) -> Row {
    let cell = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
    let environment = flag.get_env().map(|name| name.to_string_lossy().into_owned());
    let defaults: Vec<_> = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let mut help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let values = flag.get_possible_values();
    if flag.get_action().takes_values() && !values.is_empty() {
        let names: Vec<String> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(help, ": {}", names.join(", "));
    }
    let short = flag.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let shown = match flag.get_value_names() {
        Some(names) if flag.get_action().takes_values() => format!("{short}--{long} {}", names[0]),
        _ => format!("{short}--{long}"),
    };
    Row {
        shown,
        help,
        default: cell(defaults.join(",")),
        environment: cell(environment.unwrap_or_default()),
        commands: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_flag_that_means_several_things_has_several_rows() {
        let table = super::table(&crate::programs());
        let rows = |flag: &str| table.lines().filter(|row| row.contains(flag)).collect::<Vec<_>>();
        let outputs = rows("--output OUTPUT`");
        assert_eq!(
            outputs.iter().filter(|row| row.contains("`sarif`") && row.ends_with("| apivip-audit |")).count(),
            1
        );
        assert!(outputs.iter().any(|row| !row.contains("`sarif`") && row.contains("check")), "{outputs:?}");
        assert_eq!(rows("--mode MODE`").len(), 1, "{table}");
    }
}
