//! Bad usage and bad files, at the level of the program: the exit code, and one line that says what, where and why.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::command::{self, COMMAND_LIMIT, Finished};
use integration::netns::Namespace;
use integration::refusal::{self, FAILED, MISUSED, apivip};
use serde_json::Value;

fn finish(command: Command, stdin: &str) -> Result<Finished> {
    command::finish(command, stdin, COMMAND_LIMIT)
}

/// Runs `apivip` with words and expects a refusal.
fn refused(words: &str, code: i32, says: &[&str]) -> Result<()> {
    let words: Vec<&str> = words.split(' ').collect();
    let finished = finish(apivip(&words)?, "")?;
    refusal::expect(&finished, code, says).with_context(|| format!("apivip {}", words.join(" ")))
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() -> Result<()> {
    let render = "render --from /nowhere/objects.yaml";
    for (words, says) in [
        ("run --frobnicate".to_owned(), &["--frobnicate"] as &[&str]),
        ("frobnicate".to_owned(), &["frobnicate"]),
        ("render".to_owned(), &["--from"]),
        ("run --kubeconfig".to_owned(), &["--kubeconfig", "value"]),
        ("run --context lab".to_owned(), &["--kubeconfig"]),
        ("status --output json --metrics".to_owned(), &["--output", "--metrics"]),
        ("status -o xml".to_owned(), &["--output", "xml", "table, wide, json, yaml"]),
        ("cleanup everything".to_owned(), &["everything"]),
        ("manifest".to_owned(), &["<FORM>"]),
        ("manifest pod".to_owned(), &["pod", "rbac, daemonset, static-pod, systemd"]),
        ("manifest rbac --seed 192.0.2.11:6443".to_owned(), &["--seed", "rbac"]),
        ("manifest daemonset --seed 192.0.2.11".to_owned(), &["--seed", "192.0.2.11", "ADDRESS:PORT"]),
        ("manifest static-pod --image Apivip".to_owned(), &["--image", "Apivip", "container image"]),
        ("run --log-format xml".to_owned(), &["--log-format", "xml", "text, json"]),
        ("run --log-level a=b=c".to_owned(), &["--log-level", "a=b=c"]),
        (format!("{render} --cluster-cidr 10.244.0.0/99"), &["--cluster-cidr", "10.244.0.0/99"]),
        (format!("{render} --cluster-cidr 10.244.0.0"), &["--cluster-cidr", "10.244.0.0"]),
        (format!("{render} --cluster-cidr 10.244.0.0/16,pods"), &["--cluster-cidr", "pods"]),
        (format!("{render} --service kubernetes"), &["--service", "kubernetes", "NAMESPACE/NAME"]),
        (format!("{render} --service a/b/c"), &["--service", "a/b/c"]),
        (format!("{render} --service /"), &["--service"]),
        (format!("{render} --masquerade sometimes"), &["--masquerade", "sometimes", "auto, always, never"]),
        (format!("{render} --source-address 192.0.2.11"), &["--source-address", "BACKEND=ADDRESS"]),
        (format!("{render} --source-address 192.0.2.11=2001:db8::1"), &["--source-address", "one family"]),
    ] {
        refused(&words, MISUSED, says)?;
    }
    let nothing = finish(apivip::<&str>(&[])?, "")?;
    refusal::expect(&nothing, MISUSED, &["--help"])
}

#[test]
fn bad_environment_is_bad_usage_too() -> Result<()> {
    let mut command = apivip(&["run"])?;
    command.env("APIVIP_CLUSTER_CIDR", "10.244.0.0/33");
    refusal::expect(&finish(command, "")?, MISUSED, &["10.244.0.0/33", "--cluster-cidr"])
}

#[test]
fn the_audit_is_a_program_of_its_own() -> Result<()> {
    let says = ["unrecognized subcommand 'audit'", "run the program apivip-audit"];
    refused("audit --explain all", MISUSED, &says)?;
    let help = finish(apivip(&["--help"])?, "")?;
    ensure!(!help.stdout.lines().any(|line| line.trim_start().starts_with("audit ")), "{}", help.stdout);

    let run = |words: &[&str]| {
        let mut audit = Command::new(command::program("apivip-audit")?);
        refusal::clean_environment(&mut audit);
        audit.args(words);
        finish(audit, "")
    };
    let help = run(&["--help"])?;
    ensure!(help.status.success() && help.stdout.contains("Usage: apivip-audit [OPTIONS]"), "{help:?}");
    is_version(&run(&["--version"])?, "apivip-audit")?;
    for (words, says) in [
        (&["--frobnicate"] as &[&str], &["--frobnicate", "see apivip-audit --help"]),
        (&["audit"], &["'audit'", "see apivip-audit --help"]),
        (&["--explain", "nothing"], &["nothing", "apivip-audit --explain all"]),
    ] {
        refusal::expect_of("apivip-audit", &run(words)?, MISUSED, says).with_context(|| words.join(" "))?;
    }
    Ok(())
}

#[test]
fn version_names_version_and_commit() -> Result<()> {
    is_version(&finish(apivip(&["--version"])?, "")?, "apivip")
}

fn is_version(finished: &Finished, program: &str) -> Result<()> {
    ensure!(finished.status.success() && finished.stderr.is_empty(), "{finished:?}");
    let words: Vec<&str> = finished.stdout.split_whitespace().collect();
    let [name, version, "(commit", commit] = words[..] else { anyhow::bail!("{finished:?}") };
    ensure!(name == program && version == env!("CARGO_PKG_VERSION"), "{finished:?}");
    let commit = commit.strip_suffix(')').context("no end")?;
    // A `+` or a word after the hash may say that the tree was changed since.
    ensure!(commit.len() >= 7 && commit.chars().take(7).all(|c| c.is_ascii_hexdigit()), "{finished:?}");
    Ok(())
}

/// A world-readable copy of the program, since nobody may not look into the folder that it was built in.
struct AsNobody {
    folder: tempfile::TempDir,
}

impl AsNobody {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        // By a process of its own: while this one has the copy open to write it, another scenario's child may inherit that,
        // and nobody could execute it.
        let mut copy = Command::new("cp");
        copy.arg(command::program("apivip")?).arg(folder.path());
        command::run(copy, "")?;
        Ok(Self { folder })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(self.folder.path().join("apivip")).args(words).current_dir(self.folder.path());
        refusal::clean_environment(&mut command);
        command
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.folder.path().join(name), text).with_context(|| format!("write {name}"))
    }
}

fn objects() -> Result<Vec<Value>> {
    let address = |text: &str| text.parse::<std::net::IpAddr>();
    let port = integration::sim::objects::Port::new;
    let vip = [address("10.96.0.1")?];
    let backends = [address("192.0.2.11")?, address("192.0.2.12")?];
    let mut all = vec![integration::sim::objects::service(&vip, &[port("https", 443)], false)];
    all.extend(integration::sim::objects::endpoint_slices(&backends, &[port("https", 6443)]));
    Ok(all)
}

fn endpoints() -> Value {
    let subset =
        serde_json::json!({"addresses": [{"ip": "192.0.2.13"}], "ports": [{"name": "https", "port": 6443}]});
    serde_json::json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default"}, "subsets": [subset]})
}

fn list() -> Result<Value> {
    Ok(
        serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects()?}),
    )
}

/// YAML as kubectl writes it, for plain objects: one key a line, strings quoted.
fn yaml(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                text.push_str(&format!("\n{pad}{key}:"));
                yaml(value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&format!("\n{pad}-"));
                yaml(item, indent + 2, text);
            }
        }
        scalar => text.push_str(&format!(" {scalar}")),
    }
}

fn as_yaml(value: &Value) -> String {
    let mut text = String::new();
    yaml(value, 0, &mut text);
    text.trim_start().to_owned() + "\n"
}

#[test]
fn render_reads_every_form_and_needs_no_privileges() -> Result<()> {
    let nobody = AsNobody::new()?;
    nobody.write("list.json", list()?.to_string())?;
    nobody.write("list.yaml", as_yaml(&list()?))?;
    nobody.write("documents.yaml", objects()?.iter().map(as_yaml).collect::<Vec<_>>().join("---\n"))?;
    // What else a cluster holds of the Service is no obstacle.
    let stream: String = objects()?.iter().chain(&[endpoints()]).map(Value::to_string).collect();
    let mut outputs = Vec::new();
    for (words, stdin) in [
        (&["render", "--from", "list.json"] as &[&str], ""),
        (&["render", "--from", "list.yaml"], ""),
        (&["render", "--from", "documents.yaml"], ""),
        (&["render", "--from", "-"], &stream),
        (&["render", "--from", "-"], &as_yaml(&list()?)),
    ] {
        let finished = finish(nobody.command(words), stdin)?;
        ensure!(finished.status.success() && finished.stderr.is_empty(), "{words:?}: {finished:?}");
        outputs.push(finished.stdout);
    }
    ensure!(outputs.iter().all(|text| *text == outputs[0]), "the forms differ: {outputs:#?}");
    ensure!(outputs[0].contains("dnat ip to 192.0.2.12:6443"), "{}", outputs[0]);
    let namespace = Namespace::create("render")?;
    namespace.nft_load(&outputs[0])
}

#[test]
fn render_refuses_what_it_cannot_use() -> Result<()> {
    let nobody = AsNobody::new()?;
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});
    let mut nameless = objects()?;
    nameless[0]["spec"]["ports"] = serde_json::json!("https");
    for (name, text, says) in [
        ("broken.yaml", "kind: [".to_owned(), &["broken.yaml", "not YAML or JSON"] as &[&str]),
        ("broken.json", "{\"kind\": \"Service\"".to_owned(), &["broken.json", "not YAML or JSON", "EOF"]),
        ("page.html", "<!DOCTYPE html><html>\n<body>&nbsp;</body></html>\n".to_owned(), &["page.html"]),
        ("words", "hello world\n".to_owned(), &["words", "has no kind"]),
        ("empty", String::new(), &["empty", "contains no object"]),
        ("kindless.yaml", "metadata: {name: kubernetes}\n".to_owned(), &["kindless.yaml", "has no kind"]),
        ("pod.yaml", as_yaml(&pod), &["pod.yaml", "Pod v1", "expected Service"]),
        ("type.json", nameless[0].to_string(), &["type.json", "Service kubernetes", "spec.ports"]),
        (
            "endpoints.json",
            objects()?[0].to_string() + &endpoints().to_string(),
            &["Endpoints objects are ignored", "kubectl get endpointslice -n default"],
        ),
        ("slices.json", objects()?[1].to_string(), &["no Service default/kubernetes", "--service"]),
    ] {
        nobody.write(name, text)?;
        let finished = finish(nobody.command(&["render", "--from", name]), "")?;
        refusal::expect(&finished, MISUSED, says).with_context(|| name.to_owned())?;
    }
    nobody.write("binary", [0xFF_u8, 0xFE, 0x00, 0xC3])?;
    nobody.write("good.json", list()?.to_string())?;
    for (words, says) in [
        (&["--from", "binary"] as &[&str], &["binary", "UTF-8"] as &[&str]),
        (&["--from", "missing.yaml"], &["missing.yaml", "No such file"]),
        (&["--from", "."], &["read .", "directory"]),
        (&["--from", "good.json", "--service", "kube-system/kubernetes"], &["kube-system/kubernetes"]),
        (&["--from", "-"], &["-", "contains no object"]),
    ] {
        let finished = finish(nobody.command(&[&["render"], words].concat()), "")?;
        refusal::expect(&finished, MISUSED, says).with_context(|| format!("{words:?}"))?;
    }
    Ok(())
}

#[test]
fn status_without_a_daemon_names_the_socket() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for form in [" -o json", " -o yaml", " --metrics"] {
        let run_dir = folder.path().join("run");
        let socket = run_dir.join("apivip.sock");
        let words = format!("status --run-dir {}{form}", run_dir.display());
        refused(&words, FAILED, &[&socket.display().to_string(), "is apivip running?", "No such file"])?;
    }
    let run_dir = folder.path().display().to_string();
    let mut for_people = finish(apivip(&["status", "--run-dir", &run_dir])?, "")?;
    ensure!(for_people.stdout.starts_with("no daemon answers, "), "{for_people:?}");
    for_people.stdout.clear();
    refusal::expect(&for_people, FAILED, &["is apivip running?"])
}

#[test]
fn status_tells_a_forbidden_and_a_silent_socket_from_none() -> Result<()> {
    let nobody = AsNobody::new()?;
    let socket = nobody.folder.path().join("apivip.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).context("listen")?;
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let forbidden = finish(nobody.command(&["status", "--run-dir", "."]), "")?;
    ensure!(
        forbidden.stdout.starts_with("the daemon did not answer, and the table of apivip cannot be read"),
        "{forbidden:?}"
    );
    let said = finish(nobody.command(&["status", "--run-dir", ".", "-o", "json"]), "")?;
    refusal::expect(&said, FAILED, &["apivip.sock", "run as root", "Permission denied"])?;
    let run_dir = nobody.folder.path().display().to_string();
    let silent = finish(apivip(&["status", "--run-dir", &run_dir])?, "")?;
    ensure!(silent.stdout.starts_with("the daemon did not answer, "), "{silent:?}");
    ensure!(!silent.stdout.contains("no daemon probes"), "{silent:?}");
    ensure!(
        silent.stderr.contains("a daemon listens on ") && silent.stderr.contains("within 10 s"),
        "{silent:?}"
    );
    ensure!(silent.status.code() == Some(FAILED), "{silent:?}");
    Ok(())
}

#[test]
fn without_the_capability_nothing_is_touched() -> Result<()> {
    let nobody = AsNobody::new()?;
    let authority = integration::pki::Authority::new(nobody.folder.path(), "ca")?;
    let verify = integration::kubeconfig::Authority::Inline(authority.pem().to_owned());
    let user = integration::kubeconfig::User::Token("token".to_owned());
    integration::kubeconfig::Kubeconfig::new("https://192.0.2.11:6443", verify, user)
        .write(&nobody.folder.path().join("kubeconfig"))?;
    for words in [
        &["run", "--kubeconfig", "kubeconfig", "--run-dir", "run"] as &[&str],
        &["cleanup", "--run-dir", "run"],
    ] {
        let finished = finish(nobody.command(words), "")?;
        refusal::expect(&finished, MISUSED, &["CAP_NET_ADMIN", "root"])?;
        ensure!(!Path::new(nobody.folder.path()).join("run").exists(), "{words:?} made the run folder");
    }
    Ok(())
}
