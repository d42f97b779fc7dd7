//! Writes those tables of docs/reference.md that the code knows best: flags, metrics, their labels, and files. `--check` changes
//! nothing and fails if the file is not current. Man pages and completions for shells go to `--out DIR`.

mod files;
mod flags;
mod metrics;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use apivip::config::{AuditArgs, Cli};
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
    let samples = metrics::samples()?;
    let mut after = replace(&before, "flags", &flags::table(&programs()))?;
    after = replace(&after, "metrics", &metrics::table(&samples)?)?;
    after = replace(&after, "labels", &metrics::labels(&samples))?;
    after = replace(&after, "files", &files::table())?;
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

/// All that are documented.
fn programs() -> [Command; 2] {
    [Cli::command(), AuditArgs::command()]
}

/// Man pages for each program and command, and completions for each shell.
fn manual(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for mut program in programs() {
        clap_mangen::generate_to(program.clone(), folder).context("write the man pages")?;
        let name = program.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut program, &name, folder)
                .with_context(|| format!("write the completions for {shell}"))?;
        }
    }
    Ok(())
}
