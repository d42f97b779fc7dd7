//! Which arguments fit together, and what the others are told.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    boot: BootArgs,
}

fn configured(arguments: &[&str]) -> Result<SourceConfig, String> {
    let line = Line::try_parse_from([&["apivip"], arguments].concat()).map_err(|error| error.to_string())?;
    line.boot.configured(false).map_err(|error| error.to_string())
}

fn vips(arguments: &[&str]) -> Vec<String> {
    configured(arguments).unwrap().vips.iter().map(ToString::to_string).collect()
}

#[test]
fn the_first_address_of_a_range_is_the_virtual_ip_of_a_family_without_one() {
    assert_eq!(vips(&["--service-cidr", "10.96.0.0/12"]), ["10.96.0.1:443"]);
    assert_eq!(
        vips(&["--service-cidr", "10.96.7.9/12,fd00:10:96::/108"]),
        ["10.96.0.1:443", "[fd00:10:96::1]:443"]
    );
    let both = ["--vip", "10.96.0.9:6443", "--service-cidr", "10.96.0.0/12,fd00:10:96::/108"];
    assert_eq!(vips(&both), ["10.96.0.9:6443", "[fd00:10:96::1]:443"]);
    assert_eq!(vips(&["--vip", "10.96.0.1:443", "--vip", "10.96.0.1:443"]), ["10.96.0.1:443"]);
    assert!(vips(&["--seed", "192.0.2.11:6443"]).is_empty());
}

#[test]
fn seeds_of_both_families_and_names_are_taken() {
    let all = ["--vip", "10.96.0.1:443,[fd00::1]:443", "--seed", "192.0.2.11:6443,[2001:db8::11]:6443"];
    assert_eq!(configured(&all).unwrap().seeds.len(), 2);
    let name = ["--vip", "[fd00::1]:443", "--seed", "192.0.2.11:6443", "--seed", "api.example.com:6443"];
    assert_eq!(configured(&name).unwrap().seeds.len(), 2, "the name may stand for the other family");
}

#[test]
fn contradictions_are_told_in_one_line() {
    for (arguments, words) in [
        (&["--seed", "10.96.0.1:6443", "--vip", "10.96.0.1:443"][..], "is the virtual IP itself"),
        (&["--seed", "10.96.0.1:6443", "--service-cidr", "10.96.0.0/12"], "is the virtual IP itself"),
        (&["--seed", "127.0.0.1:6443"], "--allow-loopback-endpoints"),
        (&["--seed", "0.0.0.0:6443"], "unspecified"),
        (&["--seed", "192.0.2.11"], "expected ADDRESS:PORT or NAME:PORT"),
        (&["--seed", "192.0.2.11:0"], "expected ADDRESS:PORT or NAME:PORT"),
        (&["--vip", "10.96.0.1"], "expected ADDRESS:PORT"),
        (&["--vip", "10.96.0.1:0"], "expected ADDRESS:PORT"),
        (&["--vip", "127.0.0.1:443"], "loopback"),
        (&["--vip", "224.0.0.1:443"], "multicast"),
        (&["--vip", "[fd00::1]:443", "--seed", "192.0.2.11:6443"], "every --seed is of the other"),
        (
            &["--vip", "10.97.0.1:443", "--service-cidr", "10.96.0.0/16"],
            "outside of --service-cidr 10.96.0.0/16",
        ),
        (&["--service-cidr", "10.96.0.1/32"], "is one address"),
        (&["--service-cidr", "10.96.0.0/0"], "every address"),
        (&["--service-cidr", "127.0.0.0/8"], "loopback"),
    ] {
        let said = configured(arguments).unwrap_err();
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
