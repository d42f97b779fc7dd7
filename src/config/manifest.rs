//! Arguments of `apivip manifest`, and which flags of `apivip run` are among them, as text.

use std::collections::BTreeMap;

use clap::{ArgMatches, Args, Command, ValueEnum};

use super::RunArgs;

/// Arguments of `apivip manifest`: what to print, and those of `apivip run` that go into it.
#[derive(Clone, Debug, Args)]
pub struct ManifestArgs {
    /// What to print
    #[arg(value_enum, value_name = "FORM")]
    pub form: FormArg,

    /// The container image of apivip, such as registry.example.com/apivip:0.1.0
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    pub image: Option<String>,

    /// What the daemon is run with.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Values of the argument of `apivip manifest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormArg {
    /// The Role of the daemon, and its binding
    Rbac,
    /// A DaemonSet and its service account
    Daemonset,
    /// A Pod for the kubelet's staticPodPath
    StaticPod,
    /// A systemd unit
    Systemd,
}

/// A flag of `apivip run` that was given, on the command line or by its environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenFlag {
    /// Without the dashes.
    pub name: String,
    /// As it was written; none for a switch. A flag with several values is given several times.
    pub value: Option<String>,
}

/// The flags of `apivip run` among the arguments of a command that takes them, in the order in which they were given.
///
/// # Errors
/// The name of a flag whose value is not UTF-8.
pub fn given_flags(matches: &ArgMatches) -> Result<Vec<GivenFlag>, String> {
    let mut given = BTreeMap::new();
    for arg in RunArgs::augment_args(Command::new("run")).get_arguments() {
        let (id, Some(name)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        let is_default =
            matches!(matches.value_source(id), None | Some(clap::parser::ValueSource::DefaultValue));
        if is_default || (!arg.get_action().takes_values() && !matches.get_flag(id)) {
            continue;
        }
        let raw = matches.get_raw(id).into_iter().flatten();
        for (index, value) in matches.indices_of(id).into_iter().flatten().zip(raw) {
            let value = value.to_str().ok_or_else(|| name.to_owned())?;
            let value = arg.get_action().takes_values().then(|| value.to_owned());
            given.insert(index, GivenFlag { name: name.to_owned(), value });
        }
    }
    Ok(given.into_values().collect())
}

/// The form of the OCI distribution specification: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
fn image(text: &str) -> Result<String, String> {
    let expected = || {
        "expected a container image, such as registry.example.com/apivip:0.1.0 or apivip@sha256:DIGEST"
            .to_owned()
    };
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[last..].split_once(':') {
        Some((end, tag)) => (&named[..last + end.len()], Some(tag)),
        None => (named, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
        _ => (None, name),
    };
    let is_right = host.is_none_or(is_host)
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if is_right { Ok(text.to_owned()) } else { Err(expected()) }
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b));
    let is_address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address = is_address.is_some_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok());
    !name.is_empty() && (is_name || is_address) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_component(text: &str) -> bool {
    let is_alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes.iter().all(|b| is_alphanumeric(b) || b"._-".contains(b))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_digest(text: &str) -> bool {
    let length = |algorithm: &str| match algorithm {
        "sha256" => Some(64),
        "sha512" => Some(128),
        _ => None,
    };
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        length(algorithm) == Some(hex.len())
            && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    #[test]
    fn image_is_a_reference_of_a_registry() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for good in [
            "apivip",
            "apivip:0.1.0",
            "team/apivip",
            "registry.example.com/team/apivip:v1_2",
            "localhost/apivip",
            "registry:5000/apivip:0.1.0",
            "[2001:db8::1]:5000/apivip",
            &format!("apivip@{digest}"),
            &format!("registry.example.com/apivip:0.1.0@{digest}"),
        ] {
            assert_eq!(image(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "Apivip",
            "apivip:",
            "apivip:a b",
            "apivip:-1",
            "/apivip",
            "apivip/",
            "https://registry.example.com/apivip",
            "registry:port/apivip",
            "apivip@sha256:0a",
            "apivip@md5:0a",
            "apivip\nimage: other",
        ] {
            assert!(image(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn flags_keep_their_order_and_their_words() {
        let words = [
            "apivip",
            "manifest",
            "--seed",
            "192.0.2.12:6443,api.Example.com:6443",
            "daemonset",
            "--dry-run",
            "--image",
            "apivip:1",
            "--ping-interval=60s",
            "--seed",
            "192.0.2.11:6443",
        ];
        let matches = Cli::command().try_get_matches_from(words).unwrap();
        let given = given_flags(matches.subcommand_matches("manifest").unwrap()).unwrap();
        let shown: Vec<String> = given
            .into_iter()
            .map(|flag| match flag.value {
                Some(value) => format!("{}={value}", flag.name),
                None => flag.name,
            })
            .collect();
        let expected = [
            "seed=192.0.2.12:6443",
            "seed=api.Example.com:6443",
            "dry-run",
            "ping-interval=60s",
            "seed=192.0.2.11:6443",
        ];
        assert_eq!(shown, expected);
    }
}
