//! OpenMetrics rewritten as the older text format 0.0.4, for those who do not ask for OpenMetrics. Pure.

use std::fmt::Write;

/// The same metrics: a counter's family carries the name of its samples there, infos are gauges, and there are no units and
/// no end mark.
pub fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        // Help comes ahead of the type, and only the type says how the family is called.
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            // Writing to a string does not fail.
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {words}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_called_as_their_samples() {
        let open = "# HELP a_commits Transactions.\n# TYPE a_commits counter\na_commits_total{x=\"y\"} 3\n\
                    # HELP a_commit_seconds Time.\n# TYPE a_commit_seconds histogram\n# UNIT a_commit_seconds seconds\n\
                    a_commit_seconds_sum 1.5\n# HELP a_build What.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_commits_total Transactions.\n# TYPE a_commits_total counter\na_commits_total{x=\"y\"} 3\n\
                        # HELP a_commit_seconds Time.\n# TYPE a_commit_seconds histogram\na_commit_seconds_sum 1.5\n\
                        # HELP a_build_info What.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n";
        assert_eq!(classic(open), expected);
    }
}
