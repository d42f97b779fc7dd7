//! `apivip manifest`: the files of docs/install, with the arguments of the operator.
//!
//! In: what to print, the image, and flags of `apivip run`. Out: the file. Nothing is asked of a cluster or of this node.
//! Each file is text with comments, of which only known places are changed.

use std::net::IpAddr;
use std::path::{Component, Path};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::ArgMatches;

use super::{Failure, print};
use crate::config::{FormArg, GivenFlag, ManifestArgs, given_flags};
use crate::process::log;

const RBAC: &str = include_str!("../../docs/install/rbac.yaml");
const DAEMON_SET: &str = include_str!("../../docs/install/daemonset.yaml");
const STATIC_POD: &str = include_str!("../../docs/install/static-pod.yaml");
const UNIT: &str = include_str!("../../docs/install/apivip.service");

/// The image and the seeds in the files. They are examples.
const IMAGE: &str = "apivip:0.1.0";
const SEEDS: [&str; 2] = ["192.0.2.11:6443", "192.0.2.12:6443"];
/// Begins the comment that says what to replace. No other comment follows it before the first object.
const INSTRUCTIONS: &str = "# Replace ";
/// Where the files read the kubeconfig, and its folder as the end of `path` and `mountPath`.
const KUBECONFIG: &str = "/etc/apivip/kubeconfig";
const KUBECONFIG_FOLDER: &str = "ath: /etc/apivip\n";
/// What precedes the daemon's flags.
const POD_COMMAND: &str = "- run\n";
const UNIT_COMMAND: &str = "ExecStart=/usr/local/bin/apivip run";
/// How long the daemon may take to stop: longer than `--drain-grace`, here than its default.
const POD_STOP: (&str, u64) = ("terminationGracePeriodSeconds: ", 40);
const UNIT_STOP: (&str, u64) = ("TimeoutStopSec=", 40);
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Where the probes of a Pod ask.
const PROBED_HOST: &str = "host: 127.0.0.1\n";
const PROBED_PORT: &str = "port: 10299\n";
/// What Pods mount already, and what the unit hides from the daemon.
const MOUNTED: [&str; 4] = ["/", "/run/apivip", "/var/lib/apivip", "/dev/net"];
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// `matches` are those of the whole command line.
pub(super) fn manifest(args: &ManifestArgs, matches: &ArgMatches) -> Result<(), Failure> {
    let Printed { text, notes } = printed(args, matches).map_err(Failure::Configuration)?;
    print(&text).map_err(Failure::Runtime)?;
    for note in notes {
        eprintln!("apivip: {note}");
    }
    Ok(())
}

/// A file, and what its reader must still replace in it.
struct Printed {
    text: String,
    notes: Vec<String>,
}

fn printed(args: &ManifestArgs, matches: &ArgMatches) -> anyhow::Result<Printed> {
    let (_, matches) = matches.subcommand().context("no command was given")?;
    let given = given_flags(matches).map_err(|name| anyhow!("--{name}: the value is not UTF-8"))?;
    validate(args, &given)?;
    let is_pod = matches!(args.form, FormArg::Daemonset | FormArg::StaticPod);
    let has_example_seeds = is_pod && args.run.bootstrap.seed.is_empty();
    let seeds: &[&str] = if has_example_seeds { &SEEDS } else { &[] };
    let mut boot = args.run.bootstrap.clone();
    for seed in seeds {
        boot.seed.push(seed.parse()?);
    }
    boot.configured(args.run.table.allow_loopback_endpoints)?;

    let has_kubeconfig = args.form != FormArg::Daemonset;
    let kubeconfig = (has_kubeconfig && args.run.kubeconfig.is_none()).then_some(("kubeconfig", KUBECONFIG));
    let defaults = kubeconfig.into_iter().chain(seeds.iter().map(|seed| ("seed", *seed)));
    let mut arguments: Vec<String> = defaults.map(|(name, value)| format!("--{name}={value}")).collect();
    arguments.extend(given.iter().map(|flag| match &flag.value {
        Some(value) => format!("--{}={value}", flag.name),
        None => format!("--{}", flag.name),
    }));
    let text = match args.form {
        FormArg::Rbac => RBAC.to_owned(),
        FormArg::Daemonset => pod(DAEMON_SET, args, &arguments)?,
        FormArg::StaticPod => pod(STATIC_POD, args, &arguments)?,
        FormArg::Systemd => unit(args, &arguments)?,
    };
    let mut notes = Vec::new();
    if is_pod && args.image.is_none() {
        notes.push(format!("the image {IMAGE} is an example: give yours with --image"));
    }
    if has_example_seeds {
        notes.push(format!(
            "the seeds {} are examples: give your API servers with --seed",
            SEEDS.join(" and ")
        ));
    }
    let text = if is_pod && notes.is_empty() { without_instructions(&text) } else { text };
    Ok(Printed { text, notes })
}

/// Refuses what the form has no place for, and what the daemon could not be run with there.
fn validate(args: &ManifestArgs, given: &[GivenFlag]) -> anyhow::Result<()> {
    for GivenFlag { name, value } in given {
        let has_control = value.as_deref().unwrap_or_default().contains(char::is_control);
        ensure!(!has_control, "--{name}: the value contains a control character");
        let why_not = match (args.form, name.as_str()) {
            (FormArg::Rbac, _) => "rbac starts no daemon",
            (_, "run-dir" | "state-dir") => {
                "every manifest has the default, so that only one daemon runs on a node"
            }
            (FormArg::Daemonset, "kubeconfig" | "context") => "a DaemonSet uses its service account",
            _ => continue,
        };
        bail!("--{name} cannot be used here: {why_not}");
    }
    match args.form {
        FormArg::Rbac => ensure!(args.image.is_none(), "--image cannot be used here: rbac has no Pod"),
        FormArg::Systemd => {
            ensure!(args.image.is_none(), "--image cannot be used here: the unit runs /usr/local/bin/apivip");
        }
        FormArg::Daemonset | FormArg::StaticPod => ensure!(
            args.run.admin.admin_listen.0.is_some(),
            "--admin-listen off cannot be used here: the kubelet's probes ask this address"
        ),
    }
    log::filter(&args.run.log_level)?;
    Ok(())
}

/// A file with a Pod, or with a template of Pods.
fn pod(text: &str, args: &ManifestArgs, arguments: &[String]) -> anyhow::Result<String> {
    let mut text = with_time_to_stop(text, POD_STOP, args.run.forwarder.drain_grace);
    if let Some(image) = &args.image {
        text = text.replace(&format!("image: {IMAGE}"), &format!("image: {}", scalar(image)));
    }
    if let Some(path) = &args.run.kubeconfig {
        let folder = mountable_folder(path)?;
        text = text.replace(KUBECONFIG, &path.to_string_lossy());
        text = text.replace(KUBECONFIG_FOLDER, &format!("ath: {}\n", scalar(folder)));
    }
    if let Some(listen) = args.run.admin.admin_listen.0 {
        let host = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V6(ip) if ip.is_unspecified() => "::1".to_owned(),
            ip => ip.to_string(),
        };
        let host = if listen.is_ipv4() { host } else { format!("\"{host}\"") };
        text = text.replace(PROBED_HOST, &format!("host: {host}\n"));
        text = text.replace(PROBED_PORT, &format!("port: {}\n", listen.port()));
    }
    // The last change: none of the others may touch what the operator wrote.
    let (head, rest) = text.split_once(POD_COMMAND).context("find the arguments in the file")?;
    let indent = head.rsplit('\n').next().unwrap_or_default();
    let is_argument = |line: &&str| line.trim_start().starts_with("- --");
    let length = rest.split_inclusive('\n').take_while(is_argument).map(str::len).sum();
    let tail = rest.get(length..).unwrap_or_default();
    let lines: String = arguments
        .iter()
        // The kubelet replaces $(NAME) in arguments.
        .map(|argument| format!("{indent}- {}\n", scalar(&argument.replace('$', "$$"))))
        .collect();
    Ok(format!("{head}{POD_COMMAND}{lines}{tail}"))
}

/// The systemd unit.
fn unit(args: &ManifestArgs, arguments: &[String]) -> anyhow::Result<String> {
    let mut text = with_time_to_stop(UNIT, UNIT_STOP, args.run.forwarder.drain_grace);
    if let Some(path) = &args.run.kubeconfig {
        let is_hidden = HIDDEN.iter().any(|folder| path.starts_with(folder));
        ensure!(path.is_absolute(), "--kubeconfig {}: expected an absolute path", path.display());
        ensure!(
            !is_hidden,
            "--kubeconfig {}: the unit hides {} from the daemon",
            path.display(),
            HIDDEN.join(", ")
        );
        text = text.replace(KUBECONFIG, &path.to_string_lossy());
    }
    let (head, rest) = text.split_once(UNIT_COMMAND).context("find the command in the unit")?;
    let (_, tail) = rest.split_once('\n').context("find the end of the command in the unit")?;
    let words: String = arguments.iter().map(|argument| format!(" {}", word(argument))).collect();
    Ok(format!("{head}{UNIT_COMMAND}{words}\n{tail}"))
}

/// The folder of the kubeconfig, which the Pod has at the same place as the node.
fn mountable_folder(path: &Path) -> anyhow::Result<&str> {
    let mut components = path.components();
    let is_absolute = components.next() == Some(Component::RootDir);
    let is_plain = is_absolute && components.all(|part| matches!(part, Component::Normal(_)));
    let folder = path.parent().and_then(Path::to_str);
    let folder = folder.filter(|folder| is_plain && !folder.contains(':') && !folder.is_empty());
    let folder = folder.with_context(|| {
        format!("--kubeconfig {}: expected an absolute path without .. and colons", path.display())
    })?;
    ensure!(
        !MOUNTED.contains(&folder),
        "--kubeconfig {}: put it into a folder of its own, such as {KUBECONFIG}",
        path.display()
    );
    Ok(folder)
}

fn with_time_to_stop(text: &str, (key, seconds): (&str, u64), drain_grace: Duration) -> String {
    let longer = (drain_grace + STOP_MARGIN).as_millis().div_ceil(1000);
    text.replace(&format!("{key}{seconds}\n"), &format!("{key}{longer}\n"))
}

/// The text without the comment that says what to replace.
fn without_instructions(text: &str) -> String {
    let Some((head, rest)) = text.split_once(INSTRUCTIONS) else { return text.to_owned() };
    let lines = rest.split_inclusive('\n').skip(1).skip_while(|line| line.starts_with('#'));
    format!("{head}{}", lines.collect::<String>())
}

/// A string as YAML, without quotes where nobody could read it as anything else.
fn scalar(text: &str) -> String {
    let is_safe = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@[]".contains(&b);
    let is_word = text.starts_with("--") || text.starts_with('/') || {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.contains(['/', ':'])
    };
    if is_word && text.bytes().all(is_safe) && !text.ends_with(':') {
        return text.to_owned();
    }
    // A JSON string is one in YAML.
    serde_json::Value::from(text).to_string()
}

/// A word of a command in a unit: systemd.service(5), "Command lines", and systemd.syntax(7), "Quoting".
fn word(text: &str) -> String {
    let text = text.replace('%', "%%").replace('$', "$$");
    let is_safe = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@[]%$".contains(&b);
    if text.bytes().all(is_safe) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};
    use serde_json::Value;

    use super::*;
    use crate::config::{Cli, Command};

    fn printed(words: &[&str]) -> anyhow::Result<Printed> {
        let matches = Cli::command().try_get_matches_from([&["apivip", "manifest"], words].concat())?;
        let Command::Manifest(args) = Cli::from_arg_matches(&matches)?.command else { bail!("{words:?}") };
        super::printed(&args, &matches)
    }

    fn objects(words: &[&str]) -> Vec<Value> {
        serde_saphyr::from_multiple(&printed(words).unwrap().text).unwrap()
    }

    fn container(words: &[&str]) -> Value {
        let objects = objects(words);
        let object = objects.last().unwrap();
        let pod = if object["kind"] == "Pod" { object } else { &object["spec"]["template"] };
        let mut container = pod["spec"]["containers"][0].clone();
        container["spec"] = pod["spec"].clone();
        container
    }

    #[test]
    fn each_form_is_its_file_unless_arguments_change_it() {
        for (form, file, notes) in [
            ("rbac", RBAC, 0),
            ("daemonset", DAEMON_SET, 2),
            ("static-pod", STATIC_POD, 2),
            ("systemd", UNIT, 0),
        ] {
            let printed = printed(&[form]).unwrap();
            assert_eq!(printed.text, file, "{form}");
            assert_eq!(printed.notes.len(), notes, "{form}: {:?}", printed.notes);
        }
    }

    #[test]
    fn each_place_that_is_changed_is_in_the_files() {
        for (file, place, times) in [
            (DAEMON_SET, POD_COMMAND, 1),
            (STATIC_POD, POD_COMMAND, 1),
            (DAEMON_SET, IMAGE, 1),
            (STATIC_POD, IMAGE, 1),
            (DAEMON_SET, INSTRUCTIONS, 1),
            (STATIC_POD, INSTRUCTIONS, 1),
            (DAEMON_SET, PROBED_HOST, 2),
            (STATIC_POD, PROBED_HOST, 2),
            (DAEMON_SET, PROBED_PORT, 2),
            (STATIC_POD, PROBED_PORT, 2),
            (STATIC_POD, KUBECONFIG_FOLDER, 2),
            (UNIT, KUBECONFIG, 2),
            (UNIT, UNIT_COMMAND, 1),
        ] {
            assert_eq!(file.matches(place).count(), times, "{place:?}");
        }
        for (file, (key, seconds)) in [(DAEMON_SET, POD_STOP), (STATIC_POD, POD_STOP), (UNIT, UNIT_STOP)] {
            assert_eq!(file.matches(&format!("{key}{seconds}\n")).count(), 1);
        }
    }

    #[test]
    fn arguments_are_in_the_manifest_in_their_order() {
        let given = [
            "--image",
            "registry.example.com:5000/apivip:1",
            "--seed",
            "192.0.2.21:6443,api.example.com:6443",
            "--service-cidr",
            "10.43.0.0/16",
            "--listen",
            "[::1]:7445",
            "--dry-run",
            "--log-level",
            "apivip=debug",
            "--probe-server-name",
            "a: \"b\" #$(c)",
        ];
        let flags = [
            "--seed=192.0.2.21:6443",
            "--seed=api.example.com:6443",
            "--service-cidr=10.43.0.0/16",
            "--listen=[::1]:7445",
            "--dry-run",
            "--log-level=apivip=debug",
            "--probe-server-name=a: \"b\" #$$(c)",
        ];
        for (form, own) in
            [("daemonset", vec!["run"]), ("static-pod", vec!["run", "--kubeconfig=/etc/apivip/kubeconfig"])]
        {
            let words = [&[form], &given[..]].concat();
            let container = container(&words);
            assert_eq!(container["args"], Value::from([own, flags.to_vec()].concat()), "{form}");
            assert_eq!(container["image"], "registry.example.com:5000/apivip:1");
            let printed = printed(&words).unwrap();
            assert!(printed.notes.is_empty() && !printed.text.contains("Replace"), "{}", printed.text);
            assert!(printed.text.starts_with("# apivip ") && printed.text.contains("\napiVersion: v1\n"));
        }
        let unit =
            printed(&["systemd", "--seed", "192.0.2.21:6443", "--probe-server-name", "a \"%b\\$c"]).unwrap();
        let command = format!(
            "\n{UNIT_COMMAND} --kubeconfig={KUBECONFIG} --seed=192.0.2.21:6443 {}\nRestart=always\n",
            r#""--probe-server-name=a \"%%b\\$$c""#
        );
        assert!(unit.text.contains(&command), "{}", unit.text);
    }

    #[test]
    fn seeds_of_the_file_stay_until_others_are_given() {
        let container = container(&["daemonset", "--image", "apivip:2", "--mode", "forwarder"]);
        assert_eq!(
            container["args"],
            Value::from(vec!["run", "--seed=192.0.2.11:6443", "--seed=192.0.2.12:6443", "--mode=forwarder"])
        );
        assert_eq!(container["image"], "apivip:2");
    }

    #[test]
    fn kubeconfig_is_mounted_from_its_folder() {
        let words =
            ["static-pod", "--seed", "192.0.2.21:6443", "--kubeconfig", "/etc/rancher/k3s/apivip.yaml"];
        let container = container(&words);
        let args =
            Value::from(vec!["run", "--seed=192.0.2.21:6443", "--kubeconfig=/etc/rancher/k3s/apivip.yaml"]);
        assert_eq!(container["args"], args);
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/rancher/k3s");
        assert_eq!(container["spec"]["volumes"][0]["hostPath"]["path"], "/etc/rancher/k3s");
        let text = printed(&words).unwrap().text;
        assert!(!text.contains("/etc/apivip"), "{text}");
        let unit = printed(&["systemd", "--kubeconfig", "/etc/kubernetes/apivip.conf"]).unwrap().text;
        assert!(
            !unit.contains("/etc/apivip") && unit.contains(" run --kubeconfig=/etc/kubernetes/apivip.conf\n")
        );
    }

    #[test]
    fn a_value_that_contains_a_default_stays_as_it_is() {
        let container = container(&["static-pod", "--kubeconfig", "/etc/apivip/kubeconfig.new"]);
        assert_eq!(container["args"][3], "--kubeconfig=/etc/apivip/kubeconfig.new");
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/apivip");
    }

    #[test]
    fn probes_and_time_to_stop_follow_the_arguments() {
        let words = ["daemonset", "--admin-listen", "[::]:9999", "--drain-grace", "1500ms"];
        let container = container(&words);
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["host"], "::1");
            assert_eq!(container[probe]["httpGet"]["port"], 9999);
        }
        assert_eq!(container["spec"]["terminationGracePeriodSeconds"], 12);
        let unit = printed(&["systemd", "--drain-grace", "1m"]).unwrap().text;
        assert!(unit.contains("\nTimeoutStopSec=70\n"), "{unit}");
    }

    #[test]
    fn a_string_stays_one() {
        for text in
            ["0x1f", "on", "12:30", "a:", "- a", "*a", "--a: b", "--a=b #c", "[::1]:5000/apivip", "--a=\"\\"]
        {
            let read: Vec<Value> = serde_saphyr::from_str(&format!("- {}\n", scalar(text))).unwrap();
            assert_eq!(read, [text], "{text}");
        }
    }

    #[test]
    fn what_the_form_has_no_place_for_is_refused() {
        for (words, says) in [
            (&["rbac", "--seed", "192.0.2.11:6443"][..], "--seed cannot be used here"),
            (&["rbac", "--image", "apivip:1"], "--image cannot be used here"),
            (&["systemd", "--image", "apivip:1"], "--image cannot be used here"),
            (&["daemonset", "--kubeconfig", "/etc/apivip/kubeconfig"], "service account"),
            (&["daemonset", "--run-dir", "/run/other"], "--run-dir cannot be used here"),
            (&["static-pod", "--admin-listen", "off"], "--admin-listen off cannot be used here"),
            (&["static-pod", "--kubeconfig", "kubeconfig"], "expected an absolute path"),
            (&["static-pod", "--kubeconfig", "/etc/../kubeconfig"], "expected an absolute path"),
            (&["static-pod", "--kubeconfig", "/kubeconfig"], "folder of its own"),
            (&["systemd", "--kubeconfig", "/root/.kube/config"], "the unit hides"),
            (&["systemd", "--log-level", "a=b=c"], "--log-level a=b=c"),
            (&["systemd", "--probe-server-name", "a\nb"], "control character"),
            (
                &["daemonset", "--seed", "10.96.0.1:6443", "--vip", "10.96.0.1:443"],
                "is the virtual IP itself",
            ),
            (&["daemonset", "--vip", "[fd00::1]:443"], "every --seed is of the other"),
            (&["daemonset", "--seed", "192.0.2.11"], "expected ADDRESS:PORT"),
            (&["daemonset", "--image", "a b"], "expected a container image"),
        ] {
            let said = printed(words).map(|printed| printed.text).unwrap_err().to_string();
            assert!(said.contains(says), "{words:?}: {said}");
        }
    }
}
