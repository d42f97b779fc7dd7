//! `apivip check`: checks this node and the API.

use anyhow::Context;

use super::{DEGRADED, Failure, OK, block_on, print, wants_colour};
use crate::check::report::{Report, Style, Verdict, text};
use crate::config::{CheckArgs, OutputArg};

/// Returns the exit code: what was found decides it.
pub(super) fn check(args: &CheckArgs) -> Result<u8, Failure> {
    args.run.bootstrap.configured(args.run.table.allow_loopback_endpoints).map_err(Failure::configuration)?;
    let report = block_on(crate::check::run(&args.run))?;
    shown(&report, args.output).and_then(|shown| print(&shown)).map_err(Failure::Runtime)?;
    let worst = if args.strict { Verdict::Warning } else { Verdict::Fail };
    Ok(if report.has(worst) { DEGRADED } else { OK })
}

fn shown(report: &Report, output: OutputArg) -> anyhow::Result<String> {
    Ok(match output {
        OutputArg::Json => format!("{}\n", serde_json::to_string_pretty(report).context("write JSON")?),
        OutputArg::Yaml => serde_saphyr::to_string(report).context("write YAML")?,
        OutputArg::Table | OutputArg::Wide => {
            text(report, Style { colour: wants_colour(), wide: output == OutputArg::Wide })
        }
    })
}
