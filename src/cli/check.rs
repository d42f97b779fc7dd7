//! `apivip check`: looks at this node and at the API, and says what stands in the way.

use anyhow::Context;

use super::{DEGRADED, Failure, OK, looked, status};
use crate::check::finding::{Report, Verdict};
use crate::check::text::{Style, text};
use crate::config::{CheckArgs, OutputArg};

/// Returns the exit code: what was found decides it.
pub(super) fn check(args: &CheckArgs) -> Result<u8, Failure> {
    args.run.boot.configured(args.run.table.allow_loopback_endpoints).map_err(Failure::configuration)?;
    let report = looked(|ask| crate::check::run(&args.run, ask))?;
    shown(&report, args.output).and_then(|shown| status::print(&shown)).map_err(Failure::Runtime)?;
    let worst = if args.strict { Verdict::Warning } else { Verdict::Fail };
    Ok(if report.verdict >= worst { DEGRADED } else { OK })
}

fn shown(report: &Report, output: OutputArg) -> anyhow::Result<String> {
    Ok(match output {
        OutputArg::Json => format!("{}\n", serde_json::to_string_pretty(report).context("write JSON")?),
        OutputArg::Yaml => serde_saphyr::to_string(report).context("write YAML")?,
        OutputArg::Table | OutputArg::Wide => {
            text(report, Style { colour: status::wants_colour(), wide: output == OutputArg::Wide })
        }
    })
}
