//! The program `apivip-audit`: audits the connection paths between control plane and node.

use std::process::ExitCode;

use anyhow::{Context, anyhow};

use super::{DEGRADED, Failure, OK, block_on, print, run_program, wants_colour};
use crate::audit::catalogue;
use crate::audit::report::{explain, sarif};
use crate::check::report::{Report, Severity, Style, Verdict, text};
use crate::config::{AuditArgs, FailOnArg, ReportArg};

/// The program.
pub fn main() -> ExitCode {
    run_program("apivip-audit", |args: AuditArgs, _| audit(&args))
}

/// Returns the exit code: what was found decides it.
fn audit(args: &AuditArgs) -> Result<u8, Failure> {
    if let Some(id) = &args.explain {
        let text = explained(id).map_err(Failure::Configuration)?;
        return print(&text).map(|()| OK).map_err(Failure::Runtime);
    }
    args.run.bootstrap.configured(args.run.table.allow_loopback_endpoints).map_err(Failure::configuration)?;
    let report = block_on(crate::audit::run(args))?;
    shown(&report, args.output).and_then(|shown| print(&shown)).map_err(Failure::Runtime)?;
    Ok(if counts(&report, args.fail_on) { DEGRADED } else { OK })
}

fn explained(id: &str) -> anyhow::Result<String> {
    if id == "all" {
        let all: Vec<String> = catalogue::all().map(explain).collect();
        return Ok(all.join("\n"));
    }
    let check = catalogue::find(id).ok_or_else(|| {
        anyhow!("--explain {id}: no check has this id; apivip-audit --explain all lists them")
    })?;
    Ok(explain(check))
}

fn counts(report: &Report, fail_on: FailOnArg) -> bool {
    let least = match fail_on {
        FailOnArg::Never => return false,
        FailOnArg::High => Severity::High,
        FailOnArg::Medium => Severity::Medium,
        FailOnArg::Low => Severity::Low,
        FailOnArg::Unknown => return report.findings.iter().any(|finding| finding.verdict != Verdict::Pass),
    };
    report.worst().is_some_and(|worst| worst >= least)
}

fn shown(report: &Report, output: ReportArg) -> anyhow::Result<String> {
    let json = |value: &serde_json::Value| -> anyhow::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(value).context("write JSON")?))
    };
    match output {
        ReportArg::Json => json(&serde_json::to_value(report).context("write JSON")?),
        ReportArg::Sarif => json(&sarif(report)),
        ReportArg::Yaml => serde_saphyr::to_string(report).context("write YAML"),
        ReportArg::Table | ReportArg::Wide => {
            let style = Style { colour: wants_colour(), wide: output == ReportArg::Wide };
            Ok(text(report, style))
        }
    }
}
